package syncclient

import (
	"errors"
	"io"
	"sync"
	"time"
)

// atOnce is what arrives all at once or not at all, in bytes: a frame of HTTP/2 and the last of the TLS records that carry it,
// of 16 KiB each. While they are on their way nothing can be read, however well the line moves.
const atOnce = 32 << 10

// watched is a body that ends with ErrStalled when the line is too slow. Only the time inside Read counts, and of that what our own
// limit did not hold up: neither is the line's fault.
type watched struct {
	body   io.ReadCloser
	line   Line
	moved  func() int64 // bytes that went over the line so far
	held   func() time.Duration
	bytes  int64         // read since the measurement began
	before int64         // what moved returned then
	waited time.Duration // for the line, in Read, since then

	mu      sync.Mutex
	stalled bool
}

func newWatched(body io.ReadCloser, line Line, moved func() int64, held func() time.Duration) *watched {
	return &watched{body: body, line: line, moved: moved, held: held, before: moved()}
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	wait := w.clock()
	done := w.watch()
	n, err := w.body.Read(p)
	done()
	w.waited += wait()
	w.bytes += int64(n)
	if w.waited >= w.line.LowSpeedTime && !errors.Is(err, io.EOF) {
		w.measure(n == len(p))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stalled {
		return n, ErrStalled // even at the end: a server that sees us hang up may end its answer early
	}
	return n, err
}

// measure gives up on a body that came too slowly, and begins a new measurement. A reader who got all that there was room for may
// find more in memory the next time, so that only the line itself tells how fast it was.
func (w *watched) measure(full bool) {
	moved := w.moved()
	if full {
		w.bytes = moved - w.before
	}
	if !w.fast(w.bytes, w.waited) {
		w.giveUp()
	}
	w.bytes, w.before, w.waited = 0, moved, 0
}

func (w *watched) fast(bytes int64, in time.Duration) bool {
	return float64(bytes) >= float64(w.line.LowSpeed)*in.Seconds()
}

// clock returns a function that tells how long the line has been waited for since.
func (w *watched) clock() func() time.Duration {
	start, held := time.Now(), w.held()
	return func() time.Duration { return max(time.Since(start)-(w.held()-held), 0) }
}

// watch ends a Read that gets nothing, until done is called. It does not as long as the line moves and no more can be on its way than
// what arrives at once.
func (w *watched) watch() (done func()) {
	longest := time.Duration(atOnce) * time.Second / time.Duration(w.line.LowSpeed)
	whole, part := w.clock(), w.clock()
	before := w.moved()
	var mu sync.Mutex
	var t *time.Timer
	over := false
	mu.Lock() // what follows needs t
	defer mu.Unlock()
	t = time.AfterFunc(w.line.LowSpeedTime, func() {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		if rest := w.line.LowSpeedTime - part(); rest > 0 { // we held it up ourselves
			t.Reset(rest)
			return
		}
		now := w.moved()
		if !w.fast(now-before, w.line.LowSpeedTime) || whole() >= longest {
			w.giveUp()
			return
		}
		before, part = now, w.clock()
		t.Reset(w.line.LowSpeedTime)
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		t.Stop()
	}
}

// giveUp closes the body, which is what ends a Read that hangs.
func (w *watched) giveUp() {
	w.mu.Lock()
	w.stalled = true
	w.mu.Unlock()
	w.body.Close()
}

// Close implements io.Closer.
func (w *watched) Close() error { return w.body.Close() }
