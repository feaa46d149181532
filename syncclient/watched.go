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

// watched is a body that ends with ErrStalled when the line is too slow. Only the time inside Read counts: a reader who takes
// its time is not the line's fault.
type watched struct {
	body   io.ReadCloser
	line   Line
	moved  func() int64  // bytes that went over the line so far
	bytes  int64         // read since the measurement began
	before int64         // what moved returned then
	waited time.Duration // in Read since then

	mu      sync.Mutex
	stalled bool
}

func newWatched(body io.ReadCloser, line Line, moved func() int64) *watched {
	return &watched{body: body, line: line, moved: moved, before: moved()}
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	start := time.Now()
	done := w.watch(start)
	n, err := w.body.Read(p)
	done()
	w.waited += time.Since(start)
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

// watch ends a Read that gets nothing, from start until done is called. It does not as long as the line moves and no more can be on
// its way than what arrives at once.
func (w *watched) watch(start time.Time) (done func()) {
	longest := time.Duration(atOnce) * time.Second / time.Duration(w.line.LowSpeed)
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
		now := w.moved()
		if !w.fast(now-before, w.line.LowSpeedTime) || time.Since(start) >= longest {
			w.giveUp()
			return
		}
		before = now
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
