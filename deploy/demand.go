package deploy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"disksync/image"
	"disksync/layer"
	"disksync/syncclient"
)

// flight is a block that is being fetched because somebody wants it.
type flight struct {
	done   chan struct{} // closed when it is over
	err    error         // of it, then
	urgent chan struct{} // closed when somebody waits
	down   chan struct{} // closed when the block is in its place, whoever brought it
	cargo  *cargo        // what was fetched and is not in its place yet
	hurry  func()
	land   func()
}

// cargo is a frame that was fetched.
type cargo struct {
	frame  layer.Frame
	packed []byte
	kind   string
	by     *supplier
}

func newFlight() *flight {
	f := &flight{done: make(chan struct{}), urgent: make(chan struct{}), down: make(chan struct{})}
	f.hurry = sync.OnceFunc(func() { close(f.urgent) })
	f.land = sync.OnceFunc(func() { close(f.down) })
	return f
}

func (f *flight) isUrgent() bool {
	select {
	case <-f.urgent:
		return true
	default:
		return false
	}
}

// demand has a block fetched to its place in the part of site i, unless it is being fetched already.
func (t *tower) demand(i int, f layer.Frame, urgent bool) *flight {
	y := t.sites[i]
	y.mu.Lock()
	defer y.mu.Unlock()
	fl := y.flights[f.Digest]
	if fl == nil {
		fl = newFlight()
		y.flights[f.Digest] = fl
		t.busy.Go(func() {
			fl.err = t.fly(i, f, fl)
			y.mu.Lock()
			delete(y.flights, f.Digest)
			y.mu.Unlock()
			t.note(fl, "")
			close(fl.done)
		})
	}
	if urgent {
		fl.hurry()
	}
	return fl
}

const (
	// A demand is tried again after at most so long, or when there is something new.
	longestDemandPause = 10 * time.Second
	// handPause is how long a worker is given to put a block in its place that it has.
	handPause = 100 * time.Millisecond
	// Whoever has waited for so long is told why.
	tellAfter = 3 * time.Second
)

var errInHand = errors.New("deploy: a worker has it")

// fly tries until the block is in its place, or the tower is taken down. Only when this machine's own disk fails it ends with another
// error.
func (t *tower) fly(i int, f layer.Frame, fl *flight) error {
	y := t.sites[i]
	slow := time.AfterFunc(tellAfter, func() { t.note(fl, t.waiting(f, nil)) })
	defer slow.Stop()
	var pause syncclient.Backoff
	for {
		t.mu.Lock()
		changed := t.changed
		t.mu.Unlock()
		err := t.attempt(i, f, fl, changed)
		rest := min(pause.Next(err), longestDemandPause)
		switch {
		case y.hasAll(f.Digest):
			return nil
		case t.ctx.Err() != nil:
			return context.Cause(t.ctx)
		case isOwnFault(err):
			return err
		case err == nil, errors.Is(err, errInHand):
			rest = handPause
		case errors.Is(err, errDiverted):
			continue
		case !fl.isUrgent():
			return err
		default:
			t.note(fl, t.waiting(f, err))
		}
		timer := time.NewTimer(rest)
		select {
		case <-timer.C:
		case <-changed:
		case <-fl.down:
		case <-t.ctx.Done():
		}
		timer.Stop()
	}
}

// isOwnFault reports whether an error is this machine's own, so that it is of no use to try again.
func isOwnFault(err error) bool {
	return errors.Is(err, layer.ErrFrom) || errors.Is(err, ErrDiskLies) || errors.Is(err, errNoPart)
}

// errDiverted says that an attempt was ended since there is something better to do.
var errDiverted = errors.New("deploy: tried anew")

// attempt asks the sources for a block, one after the other.
func (t *tower) attempt(i int, f layer.Frame, fl *flight, changed <-chan struct{}) error {
	if t.sites[i].inHand(f.Digest) {
		return errInHand
	}
	ctx, cancel := context.WithCancelCause(t.ctx)
	defer cancel(nil)
	urgent := fl.isUrgent()
	hurry := fl.urgent
	if urgent {
		hurry = nil
	}
	go func() {
		select {
		case <-changed:
		case <-hurry:
		case <-fl.down:
		case <-ctx.Done():
		}
		cancel(errDiverted)
	}()
	if fl.cargo != nil {
		return t.landCargo(ctx, i, fl, urgent)
	}
	t.mu.Lock()
	suppliers := t.suppliers
	t.mu.Unlock()
	why := errNoSource
	for _, p := range suppliers {
		feeds, err := p.feeds(t, i)
		if err != nil {
			return err
		}
		for _, s := range feeds {
			if _, ok := s.Holds(f.Digest); !ok {
				continue
			}
			err := t.from(ctx, p, s, f, fl, urgent)
			if err == nil && fl.cargo != nil {
				err = t.landCargo(ctx, i, fl, urgent)
			}
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case errors.Is(err, errAnew):
				return errDiverted
			case err == nil, errors.Is(err, layer.ErrFrom):
				return err
			}
			p.job.tellBad(s.Source, err)
			why = fmt.Errorf("%s: %w", s.Name(), err)
		}
	}
	return why
}

// from gets a block from one source. Without an error and without a cargo somebody else has it.
func (t *tower) from(ctx context.Context, p *supplier, s feed, want layer.Frame, fl *flight, urgent bool) error {
	src := s.Source
	if s.net != nil && urgent {
		src = s.net.pressing()
		defer t.store.gate.enter()()
	}
	var got *cargo
	var bad error
	err := src.Fetch(ctx, []image.Digest{want.Digest}, func(d image.Digest, f layer.Frame, b []byte, err error) error {
		switch {
		case d != want.Digest || got != nil:
		case err != nil:
			bad = err
		case f.Digest != d:
			bad = fmt.Errorf("%w: block %s in the place of %s", layer.ErrCorrupt, f.Digest.Short(), d.Short())
		default:
			got = &cargo{frame: f, packed: b, kind: s.Kind(), by: p}
		}
		return nil
	})
	if fl.cargo = got; got != nil {
		return nil
	}
	return errors.Join(bad, err)
}

// landCargo puts the block in its places that a flight has fetched.
func (t *tower) landCargo(ctx context.Context, i int, fl *flight, urgent bool) error {
	c := fl.cargo
	err := t.land(ctx, i, c.frame, c.packed, urgent)
	if err != nil && ctx.Err() != nil {
		return err // it is tried again with the same
	}
	fl.cargo = nil
	if err != nil {
		c.by.job.Tally.wasted(c.kind, int64(len(c.packed)))
		return err
	}
	y := t.sites[i]
	c.by.count(y, c.frame.Digest, c.kind, int64(len(c.packed)))
	if in := y.installer(); in != nil {
		in.landed(c.frame.Digest)
	}
	y.landed(c.frame.Digest)
	return nil
}

// land unpacks a frame, checks it, and puts the block in its places in the part of site i.
func (t *tower) land(ctx context.Context, i int, f layer.Frame, packed []byte, urgent bool) error {
	if err := t.references(ctx, i, f, packed, urgent); err != nil {
		return err
	}
	y := t.sites[i]
	block, scratch := getBlock(), getBlock()
	defer putBlock(block)
	defer putBlock(scratch)
	if err := t.dec.Block(block[:], f, packed, layer.Join(level{t, ctx, i}, y.x.FromSize(), level{t, ctx, i + 1})); err != nil {
		return err
	}
	for _, at := range y.places[f.Digest] {
		if err := y.put(at, block[:], scratch[:], !t.here(i, at)); err != nil {
			return err
		}
	}
	return nil
}

// waiting says in words for what somebody waits, and why.
func (t *tower) waiting(f layer.Frame, why error) string {
	s := fmt.Sprintf("block %d of the %s disk is still to come", f.Block, t.dp.Role)
	if why != nil {
		s += ": " + why.Error()
	}
	return s
}

// note notes what a flight waits for; "": nothing.
func (t *tower) note(fl *flight, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if had := t.waits[fl]; had == text {
		return
	}
	if text == "" {
		delete(t.waits, fl)
	} else if fl.isUrgent() {
		t.waits[fl] = text
	}
	for _, w := range t.waits {
		text = w
		break
	}
	for _, p := range t.suppliers {
		p.job.Tally.setWaits(text)
	}
}
