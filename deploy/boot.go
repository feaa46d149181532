package deploy

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// held is a tower that a job supplies.
type held struct {
	*tower
	by *supplier
}

// towers returns the towers of a plan's disks, which the job supplies until down is called.
func (j *Job) towers(ctx context.Context, p *Plan) (all []held, down func(), err error) {
	var undo []func()
	down = func() {
		for _, f := range slices.Backward(undo) {
			f()
		}
	}
	for i := range p.Disks {
		t, err := j.Store.tower(ctx, &p.Disks[i])
		if err != nil {
			down()
			return nil, nil, err
		}
		s := &supplier{job: j, runs: true}
		undo = append(undo, t.release, t.supply(s))
		all = append(all, held{t, s})
	}
	return all, down, nil
}

// boot fetches the blocks first that a VM reads when it starts, of all layers that give them. What cannot be had now is left for later.
func (j *Job) boot(ctx context.Context, towers []held) error {
	ctx, stop := context.WithCancel(ctx)
	var media sync.WaitGroup
	defer media.Wait()
	defer stop()
	media.Go(func() {
		j.follow(ctx, func() {
			for _, t := range towers {
				t.renew(t.by)
			}
		})
	})
	for _, t := range towers {
		d, ok := j.Manifest.Manifest().Disk(t.dp.Role)
		if !ok || len(d.Boot) == 0 || len(t.sites) == 0 {
			continue
		}
		j.Tally.begin(StageTransfer, d.Role, 0)
		if err := t.boot(ctx, d.Boot); err != nil {
			return err
		}
	}
	return nil
}

// boot brings blocks in about that order. Whatever somebody waits for comes before them.
func (t *tower) boot(ctx context.Context, blocks []int) error {
	g, some := errgroup.WithContext(ctx)
	g.SetLimit(bootAtOnce)
	for _, b := range blocks {
		if some.Err() != nil {
			break
		}
		g.Go(func() error {
			if err := t.ensureBlock(some, len(t.sites), b, false); isOwnFault(err) {
				return err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// bootAtOnce is how many blocks of the boot set are fetched at once, so that a line with long round trips is not waited for one by one.
const bootAtOnce = 4
