package syncclient

import (
	"errors"
	"io"
	"sync"
	"time"
)

// watched is a body that ends with ErrStalled when the line is too slow. Only the time inside Read counts: a reader who takes
// its time is not the line's fault.
type watched struct {
	body   io.ReadCloser
	line   Line
	bytes  int64         // since the watch began
	waited time.Duration // in Read since then

	mu      sync.Mutex
	stalled bool
}

func newWatched(body io.ReadCloser, line Line) *watched { return &watched{body: body, line: line} }

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	// Closing the body is what ends a Read that hangs.
	t := time.AfterFunc(w.line.LowSpeedTime, w.giveUp)
	start := time.Now()
	n, err := w.body.Read(p)
	w.waited += time.Since(start)
	t.Stop()
	w.bytes += int64(n)
	if w.waited >= w.line.LowSpeedTime {
		if float64(w.bytes) < float64(w.line.LowSpeed)*w.waited.Seconds() {
			w.giveUp()
		}
		w.bytes, w.waited = 0, 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stalled && !errors.Is(err, io.EOF) {
		return n, ErrStalled
	}
	return n, err
}

func (w *watched) giveUp() {
	w.mu.Lock()
	w.stalled = true
	w.mu.Unlock()
	w.body.Close()
}

// Close implements io.Closer.
func (w *watched) Close() error { return w.body.Close() }
