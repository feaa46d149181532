package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"disksync/image"
)

// Early are disks that are read while they are being fetched.
type Early struct {
	// Disks are in the order of the manifest, without those that the job leaves alone.
	Disks []*EarlyDisk

	job  *Job
	ctx  context.Context //nolint:containedctx // ends with Close
	stop context.CancelFunc
	work sync.WaitGroup

	planning sync.Mutex
}

// EarlyDisk is one disk of Early. It is safe for concurrent use.
type EarlyDisk struct {
	Role  image.Role
	Size  int64 // bytes
	State image.StateID

	e        *Early
	mu       sync.RWMutex // held to change tower, and shared by who uses it
	tower    *tower
	supplier *supplier
	remove   func()
}

// OpenEarly opens the disks of a plan for reading before they are here. A block that is read and is not here is fetched at once, from the
// same sources in the same order as all others, checked, and put where the one who installs the disk looks for it: that is another Job
// of the same manifest, which may run at the same time or not. What it fetches makes way. A read waits until its block is here, or its
// context ends; it never gives anything else than the disk's content, and fails by itself only when this machine's own disk does. The
// Tally says what is waited for.
//
// The job is the Early's from then on, with its media, until Close; it is not run.
func (j *Job) OpenEarly(ctx context.Context, p *Plan) (*Early, error) {
	e := &Early{job: j}
	e.ctx, e.stop = context.WithCancel(context.WithoutCancel(ctx))
	j.Store.gate.read(len(p.Disks))
	for i := range p.Disks {
		dp := &p.Disks[i]
		e.Disks = append(e.Disks, &EarlyDisk{Role: dp.Role, Size: dp.Size, State: dp.State, e: e})
	}
	for i, d := range e.Disks {
		if err := d.climb(ctx, &p.Disks[i]); err != nil {
			e.Close()
			return nil, fmt.Errorf("read the %s disk while it is fetched: %w", d.Role, err)
		}
	}
	e.work.Go(e.attend)
	return e, nil
}

// Close ends all reads, and lets go of the disks.
func (e *Early) Close() {
	e.stop()
	e.work.Wait()
	for _, d := range e.Disks {
		d.mu.Lock()
		d.descend()
		d.mu.Unlock()
	}
	e.job.Store.gate.read(-len(e.Disks))
	e.job.CloseMedia()
}

// Disk returns the disk with the role r.
func (e *Early) Disk(r image.Role) (*EarlyDisk, bool) {
	i := slices.IndexFunc(e.Disks, func(d *EarlyDisk) bool { return d.Role == r })
	if i < 0 {
		return nil, false
	}
	return e.Disks[i], true
}

// attend takes notice of media that come and go.
func (e *Early) attend() {
	e.job.follow(e.ctx, func() {
		for _, d := range e.Disks {
			d.renew()
		}
	})
}

// follow takes notice of media that come and go, and tells, until ctx ends.
func (j *Job) follow(ctx context.Context, tell func()) {
	for {
		news, more := j.visits.take()
		for _, v := range news {
			j.accept(v)
		}
		if len(news) > 0 {
			tell()
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

func (d *EarlyDisk) renew() {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.tower != nil {
		d.tower.renew(d.supplier)
	}
}

// climb takes the tower of the disk, or makes it by a plan.
func (d *EarlyDisk) climb(ctx context.Context, dp *DiskPlan) error {
	t, err := d.e.job.Store.tower(ctx, dp)
	if err != nil {
		return err
	}
	d.tower, d.supplier = t, &supplier{job: d.e.job, rank: 1}
	d.remove = t.supply(d.supplier)
	return nil
}

// descend lets go of the tower.
func (d *EarlyDisk) descend() {
	if d.tower != nil {
		d.remove()
		d.tower.release()
		d.tower = nil
	}
}

// again climbs the tower that has taken the place of one that was retired.
func (d *EarlyDisk) again(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tower != nil && d.tower.ctx.Err() == nil {
		return nil
	}
	d.descend()
	d.e.planning.Lock()
	p, err := d.e.job.Plan(ctx)
	d.e.planning.Unlock()
	if err != nil {
		return err
	}
	for i := range p.Disks {
		if p.Disks[i].Role == d.Role {
			return d.climb(ctx, &p.Disks[i])
		}
	}
	return fmt.Errorf("deploy: internal error: a plan without the %s disk", d.Role)
}

// Reader returns the disk's content, of which a read waits as long as ctx.
func (d *EarlyDisk) Reader(ctx context.Context) io.ReaderAt { return earlyReader{d, ctx} }

type earlyReader struct {
	*EarlyDisk
	ctx context.Context //nolint:containedctx // an io.ReaderAt has no room for it
}

// ReadAt implements io.ReaderAt.
func (r earlyReader) ReadAt(p []byte, off int64) (int, error) {
	ctx, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.e.ctx, func() { cancel(errClosed) })()
	for {
		n, err := r.read(ctx, p, off)
		if !errors.Is(err, errRetired) {
			return n, err
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if err := r.again(ctx); err != nil {
			return 0, err
		}
	}
}

var errClosed = errors.New("the disk is closed")

func (d *EarlyDisk) read(ctx context.Context, p []byte, off int64) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.tower == nil || d.tower.ctx.Err() != nil {
		return 0, errRetired
	}
	return level{d.tower, ctx, len(d.tower.sites)}.ReadAt(p, off)
}

// rest is what is still to be installed of a tower.
func (t *tower) rest() DiskPlan {
	dp := t.dp
	for i := len(t.sites) - 1; i >= 0; i-- {
		if t.sites[i].done.Load() {
			dp.Start, dp.StartVersion, dp.Steps = dp.Steps[i].To, dp.Steps[i].ToVersion, dp.Steps[i+1:]
			break
		}
	}
	dp.Steps = slices.Clone(dp.Steps)
	for i := range dp.Steps {
		dp.Steps[i].Bytes = map[string]int64{}
	}
	return dp
}

// allows reports whether a path has no layer that turned out to be of no use.
func (j *Job) allows(dp *DiskPlan) bool {
	return !slices.ContainsFunc(dp.Steps, func(st Step) bool { return j.banned.of(st.Layer) != nil })
}

// leavePath takes down the towers of a plan that stand on layers which turned out to be of no use, and has whoever reads there keep off
// these layers, too.
func (j *Job) leavePath(p *Plan) {
	for i := range p.Disks {
		t := j.Store.standing(p.Disks[i].State)
		if t == nil {
			continue
		}
		if dp := t.rest(); !j.allows(&dp) {
			t.mu.Lock()
			for _, p := range t.suppliers {
				p.job.banned.join(&j.banned)
			}
			t.mu.Unlock()
			t.retire()
		}
		t.release()
	}
}

// bans are layers that turned out to be of no use, and why. They are safe for concurrent use.
type bans struct {
	mu  sync.Mutex
	why map[image.LayerID]error
}

// of returns why a layer is of no use; nil: it may be.
func (b *bans) of(id image.LayerID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.why[id]
}

func (b *bans) add(id image.LayerID, why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.why == nil {
		b.why = map[image.LayerID]error{}
	}
	b.why[id] = why
}

// join adds all of others.
func (b *bans) join(others *bans) {
	others.mu.Lock()
	all := maps.Clone(others.why)
	others.mu.Unlock()
	for id, why := range all {
		b.add(id, why)
	}
}
