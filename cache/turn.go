package cache

import (
	"context"
	"slices"
	"sync"
	"time"
)

// A reader that others wait for gives up its turn when it has read so much, or for so long. A disc drive needs about a tenth of a
// second to go elsewhere, so that turns have to be long.
const (
	turnBytes = 256 << 20
	turnTime  = 5 * time.Second
)

// Drives knows the drives of a machine, so that each is read by one reader at a time, whoever the reader works for. The zero value is
// ready for use. It is safe for concurrent use.
type Drives struct {
	mu    sync.Mutex
	turns map[string]*Turn
}

// Turn returns the turn of the drive that a medium is in. A medium whose drive is not known has one of its own.
func (d *Drives) Turn(m Medium) *Turn {
	if m.Drive == "" {
		return new(Turn)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.turns == nil {
		d.turns = map[string]*Turn{}
	}
	t := d.turns[m.Drive]
	if t == nil {
		t = new(Turn)
		d.turns[m.Drive] = t
	}
	return t
}

// Turn is the right to read from a drive, which goes round among those who want it in the order in which they came. The zero value is
// free. It is safe for concurrent use.
type Turn struct {
	mu      sync.Mutex
	held    bool
	waiting []chan struct{}
}

// Take waits for the turn. Who has it calls Pass.
func (t *Turn) Take(ctx context.Context) error {
	t.mu.Lock()
	if !t.held {
		t.held = true
		t.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	t.waiting = append(t.waiting, mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.Index(t.waiting, mine)
	if i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
	t.mu.Unlock()
	if i < 0 {
		t.Pass() // it came at the same moment
	}
	return context.Cause(ctx)
}

// Pass gives the turn to the next who waits.
func (t *Turn) Pass() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		t.held = false
		return
	}
	close(t.waiting[0])
	t.waiting = t.waiting[1:]
}

// wanted reports whether somebody waits for the turn.
func (t *Turn) wanted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting) > 0
}

// reader is one who reads from a drive, and has its turn.
type reader struct {
	turn  *Turn
	since time.Time
	bytes int64
}

func (t *Turn) begin(ctx context.Context) (*reader, error) {
	if err := t.Take(ctx); err != nil {
		return nil, err
	}
	return &reader{turn: t, since: time.Now()}, nil
}

// read notes that so much was read, and lets others have the drive when it is time. With an error the turn is somebody else's.
func (r *reader) read(ctx context.Context, n int64) error {
	r.bytes += n
	if r.bytes < turnBytes && time.Since(r.since) < turnTime || !r.turn.wanted() {
		return nil
	}
	r.end()
	next, err := r.turn.begin(ctx)
	if err == nil {
		*r = *next
	}
	return err
}

// end gives the turn away, once.
func (r *reader) end() {
	if r.turn != nil && !r.since.IsZero() {
		r.since = time.Time{}
		r.turn.Pass()
	}
}
