package limit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Limiter is a schedule at work on a line. It is safe for concurrent use.
type Limiter struct {
	name string

	mu       sync.Mutex
	schedule Schedule
	lanes    [2]lane
	changed  chan struct{} // closed when the schedule changes
}

// New returns a Limiter; name is what people are told when it lets nothing through.
func New(name string, s Schedule) *Limiter {
	return &Limiter{name: name, schedule: s, changed: make(chan struct{})}
}

// Set replaces the schedule. Who waits is let go.
func (l *Limiter) Set(s Schedule) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.schedule = s
	close(l.changed)
	l.changed = make(chan struct{})
}

// longestWait bounds how long nobody looks at the clock: it may be set, and does not tick while a laptop sleeps.
const longestWait = time.Minute

// take waits until n bytes that were taken are paid for, stop is closed, or the schedule changes.
func (l *Limiter) take(d Direction, n int, stop <-chan struct{}) {
	now := time.Now()
	l.mu.Lock()
	wait := l.lanes[d].take(l.schedule.At(now), n, now)
	changed := l.changed
	l.mu.Unlock()
	if wait <= 0 {
		return
	}
	t := time.NewTimer(min(wait, longestWait))
	defer t.Stop()
	select {
	case <-t.C:
	case <-stop:
	case <-changed:
	}
}

// rate returns what may be taken now, in bytes a second; 0: all, or not known yet.
func (l *Limiter) rate(d Direction) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lanes[d].present(l.schedule.At(time.Now()))
}

// off reports whether nothing is let through, until when, and tells of changes by closing the channel.
func (l *Limiter) off() (off bool, until time.Time, changed <-chan struct{}) {
	l.mu.Lock()
	s, changed := l.schedule, l.changed
	l.mu.Unlock()
	now := time.Now()
	if off = s.At(now).Off(); off {
		until = s.Next(now)
	}
	return off, until, changed
}

// Hold says why nothing is let through.
type Hold struct {
	Why   string
	Until time.Time // zero: until somebody changes it
}

// String returns it for people.
func (h Hold) String() string {
	if h.Until.IsZero() {
		return h.Why
	}
	return fmt.Sprintf("%s until %s", h.Why, h.Until.Format("Mon 15:04"))
}

// ErrOff is the cause of the end of a context of [Chain.WhileOpen].
var ErrOff = errors.New("a limit lets nothing through")

// Chain is limiters that hold at the same time; each takes its own account of what goes by. An empty one limits nothing.
type Chain []*Limiter

// Take is called after n bytes went over the line, and returns when the next may. It does not wait for a limiter that is off: that is
// for [Chain.WaitOpen], before something large begins, so that a few words can be said at any time. When stop is closed it returns.
func (c Chain) Take(d Direction, n int, stop <-chan struct{}) {
	start := time.Now()
	own := make([]time.Duration, len(c))
	for i, l := range c {
		before := time.Now()
		l.take(d, n, stop)
		own[i] = time.Since(before)
	}
	all := time.Since(start)
	for i, l := range c {
		if others := all - own[i]; len(c) > 1 && others > 0 {
			l.mu.Lock()
			l.lanes[d].others(others, time.Now())
			l.mu.Unlock()
		}
	}
}

// Note takes account of n bytes for which nobody waits now; whoever comes next does.
func (c Chain) Note(d Direction, n int) {
	for _, l := range c {
		now := time.Now()
		l.mu.Lock()
		l.lanes[d].take(l.schedule.At(now), n, now)
		l.mu.Unlock()
	}
}

// Rate returns how many bytes a second may be taken at present; 0: as many as there are, or it is not known yet.
func (c Chain) Rate(d Direction) float64 {
	var least float64
	for _, l := range c {
		if r := l.rate(d); r > 0 && (least == 0 || r < least) {
			least = r
		}
	}
	return least
}

// Bounds of what is taken at once.
const (
	leastPiece = 256
	mostPiece  = 64 << 10
	piecesASec = 20
)

// Piece returns how many bytes should be taken at once.
func (c Chain) Piece(d Direction) int {
	r := c.Rate(d)
	if r == 0 {
		return mostPiece
	}
	return int(min(max(r/piecesASec, leastPiece), mostPiece))
}

// Hold returns why nothing is let through now; the zero Hold when something is.
func (c Chain) Hold() Hold {
	h, _ := c.hold()
	return h
}

func (c Chain) hold() (Hold, <-chan struct{}) {
	for _, l := range c {
		if off, until, changed := l.off(); off {
			return Hold{l.name, until}, changed
		}
	}
	return Hold{}, nil
}

// WaitOpen waits until all limiters let something through. tell is called with the reason when it has to wait, with each new one, and
// with the zero Hold at the end; nil: nobody is told.
func (c Chain) WaitOpen(ctx context.Context, tell func(Hold)) error {
	var told Hold
	say := func(h Hold) {
		if tell != nil && h != told {
			tell(h)
		}
		told = h
	}
	for {
		h, changed := c.hold()
		say(h)
		if changed == nil {
			return nil
		}
		if err := pause(ctx, h.Until, changed); err != nil {
			say(Hold{})
			return err
		}
	}
}

// pause waits for a change, a moment (zero: none), a minute, or the end of ctx.
func pause(ctx context.Context, until time.Time, changed <-chan struct{}) error {
	wait := longestWait
	if !until.IsZero() {
		wait = min(wait, max(time.Until(until), time.Millisecond))
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-changed:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// WhileOpen returns a context that ends, with ErrOff as its cause, when one of the limiters lets nothing through any more. Its owner
// calls the function when it is not needed any more.
func (c Chain) WhileOpen(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	for _, l := range c {
		go func() {
			if l.untilOff(ctx) == nil {
				cancel(ErrOff)
			}
		}()
	}
	return ctx, func() { cancel(nil) }
}

func (l *Limiter) untilOff(ctx context.Context) error {
	for {
		off, _, changed := l.off()
		if off {
			return nil
		}
		if err := pause(ctx, l.next(), changed); err != nil {
			return err
		}
	}
}

func (l *Limiter) next() time.Time {
	l.mu.Lock()
	s := l.schedule
	l.mu.Unlock()
	return s.Next(time.Now())
}
