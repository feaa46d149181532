package deploy

import (
	"context"
	"sync"
)

// gate has whatever is fetched ahead of time make way for what somebody waits for, on all lines of a Store. It is safe for concurrent
// use; a nil gate is always open.
type gate struct {
	mu      sync.Mutex
	waiting int           // demands that are being fetched
	open    chan struct{} // closed when there are none again; nil: there are none
	readers int           // disks that are read while they are fetched
}

// enter closes the gate until leave is called.
func (g *gate) enter() (leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting++; g.open == nil {
		g.open = make(chan struct{})
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.waiting--; g.waiting == 0 {
			close(g.open)
			g.open = nil
		}
	}
}

func (g *gate) closed() bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open != nil
}

// wait returns when no demand is being fetched, or with ctx's error.
func (g *gate) wait(ctx context.Context) error {
	for g != nil {
		g.mu.Lock()
		open := g.open
		g.mu.Unlock()
		if open == nil {
			return nil
		}
		select {
		case <-open:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// read notes that so many more disks are read while they are fetched.
func (g *gate) read(more int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.readers += more
}

// watched reports whether demands may come, so that requests have to be short.
func (g *gate) watched() bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.readers > 0
}
