package deploy

import (
	"context"
	"io"
	"sync"
	"time"
)

// pace is what the line has shown of itself: how long a request takes to be answered, and how many bytes it brings.
type pace struct {
	mu   sync.Mutex
	trip time.Duration // the shortest from a request to the beginning of its answer; 0: not known
	rate float64       // bytes a second; 0: not known
	at   time.Time     // when the present measurement began …
	from int64         // … and what had gone over the line by then
}

// shortestMeasure is how long a rate is measured at least.
const shortestMeasure = 50 * time.Millisecond

// begin begins a measurement after a time in which nothing was asked for.
func (p *pace) begin(bytes int64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.from = now, bytes
}

func (p *pace) answered(trip time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if trip = max(trip, 1); p.trip == 0 || trip < p.trip {
		p.trip = trip
	}
}

// moved notes how many bytes had gone over the line by now.
func (p *pace) moved(bytes int64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	gone := now.Sub(p.at)
	if gone < max(p.trip, shortestMeasure) {
		return
	}
	rate := float64(bytes-p.from) / gone.Seconds()
	if p.rate > 0 {
		rate = (rate + p.rate) / 2
	}
	p.rate, p.at, p.from = rate, now, bytes
}

// ahead is how many bytes may still be on their way when more is asked for: what the line brings in two round trips, so that it is
// never idle until the next answer begins, and that on a slow line one answer is whole before the next one takes its share. While
// demands may come it is half as much: it just lasts until then.
func (p *pace) ahead(watched bool) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.rate * p.trip.Seconds()
	if !watched {
		n *= 2
	}
	return int64(n)
}

// tooLong is how many times as much as a short answer one has at least that is given up: what was measured of the line varies.
const tooLong = 3

// short is how many bytes an answer has when demands may come.
func (p *pace) short() int64 { return max(p.in(shortAnswer), leastShortAnswer) }

// in is how many bytes the line brings in that time; 0: not known.
func (p *pace) in(d time.Duration) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(p.rate * d.Seconds())
}

// queue says when the next request may be made. One is always under way; more are when the line would otherwise stand idle.
type queue struct {
	pace    *pace
	bytes   func() int64  // that went over the line
	gate    *gate         // tells whether demands may come
	changed chan struct{} // closed when less is on its way; guarded by mu

	mu      sync.Mutex
	running int
	coming  int64 // bytes that were asked for and are not here
}

func newQueue(p *pace, bytes func() int64, g *gate) *queue {
	return &queue{pace: p, bytes: bytes, gate: g, changed: make(chan struct{})}
}

// turn waits until more may be asked for.
func (q *queue) turn(ctx context.Context) (*turn, error) {
	if err := q.await(ctx, q.begin); err != nil {
		return nil, err
	}
	return &turn{q: q}, nil
}

// await waits until ready, which is called with mu held.
func (q *queue) await(ctx context.Context, ready func() bool) error {
	for {
		q.mu.Lock()
		ok, changed := ready(), q.changed
		q.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// full reports whether what is on its way is enough for now. It is called with mu held.
func (q *queue) full() bool { return q.coming > q.pace.ahead(q.gate.watched()) }

// begin is called with mu held.
func (q *queue) begin() bool {
	if q.running > 0 && (q.running >= maxRequests || q.full()) {
		return false
	}
	if q.running == 0 {
		q.pace.begin(q.bytes(), time.Now())
	}
	q.running++
	return true
}

func (q *queue) add(running int, coming int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running += running
	q.coming += coming
	if running < 0 || coming < 0 {
		close(q.changed)
		q.changed = make(chan struct{})
	}
}

// turn is the work of one request, and of those that replace it when the line fails.
type turn struct {
	q     *queue
	left  int64
	asked time.Time
}

// expect notes that n bytes are going to be asked for.
func (t *turn) expect(n int64) {
	t.q.add(0, n-t.left)
	t.left = n
}

// ask notes that n bytes are asked for now.
func (t *turn) ask(n int64) {
	t.expect(n)
	t.asked = time.Now()
}

// next waits until the next request of a run may be made.
func (t *turn) next(ctx context.Context) error {
	return t.q.await(ctx, func() bool { return t.left > 0 || !t.q.full() })
}

func (t *turn) answered() { t.q.pace.answered(time.Since(t.asked)) }

// got notes n bytes that arrived.
func (t *turn) got(n int64) {
	n = min(n, t.left)
	t.left -= n
	t.q.pace.moved(t.q.bytes(), time.Now())
	t.q.add(0, -n)
}

func (t *turn) end() { t.q.add(-1, -t.left) }

// watch returns a body that notes what arrives.
func (t *turn) watch(r io.Reader) io.Reader { return &watchedBody{r, t} }

type watchedBody struct {
	io.Reader
	t *turn
}

func (w *watchedBody) Read(p []byte) (int, error) {
	if w.t.left > tooLong*w.t.q.pace.short() && w.t.q.gate.closed() {
		return 0, errMakeWay // it was asked for before anybody waited
	}
	n, err := w.Reader.Read(p)
	w.t.got(int64(n))
	return n, err
}
