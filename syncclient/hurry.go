package syncclient

import (
	"context"
	"sync"
)

// Hurry ends pauses before their time: those of a Backoff that waits for the line below a context of WithHurry. The zero value is ready
// to use, and safe for concurrent use.
type Hurry struct {
	mu    sync.Mutex
	given chan struct{} // closed by the next Now; nil: nobody has asked for it yet
}

// Now ends the pauses that there are, and the next one of whoever makes an attempt meanwhile: it may have begun before the line was back.
func (h *Hurry) Now() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.given != nil {
		close(h.given)
		h.given = nil
	}
}

// next returns what the next Now closes; of nil a channel that nobody closes.
func (h *Hurry) next() <-chan struct{} {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.given == nil {
		h.given = make(chan struct{})
	}
	return h.given
}

type hurryKey struct{}

// WithHurry returns a context below which h ends pauses.
func WithHurry(ctx context.Context, h *Hurry) context.Context {
	return context.WithValue(ctx, hurryKey{}, h)
}

func hurryOf(ctx context.Context) *Hurry {
	h, _ := ctx.Value(hurryKey{}).(*Hurry)
	return h
}
