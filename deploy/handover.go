package deploy

import (
	"sync"
	"time"
)

// handOverEvery is how often the bitmaps and the table of a part are handed to the system at most: each time, direct transfers of
// the same file wait.
const handOverEvery = 100 * time.Millisecond

// handOver hands a part's bitmaps and table to the system soon after a block was written, and for all that are written meanwhile at
// once. It is safe for concurrent use.
type handOver struct {
	mu     sync.Mutex
	last   time.Time
	due    *time.Timer // nil: nothing is
	closed bool
}

// soon sees to it that do is called, now or within handOverEvery. An error of a later call is for do to remember.
func (h *handOver) soon(do func() error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.due != nil || h.closed {
		return nil
	}
	wait := handOverEvery - time.Since(h.last)
	if wait <= 0 {
		h.last = time.Now()
		return do()
	}
	h.due = time.AfterFunc(wait, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.due = nil
		if !h.closed {
			h.last = time.Now()
			_ = do()
		}
	})
	return nil
}

// close waits until nothing is being done, and sees to it that nothing is any more.
func (h *handOver) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.due != nil {
		h.due.Stop()
	}
}
