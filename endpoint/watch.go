package endpoint

import "sync"

// watchers are those who want to know when an operation changes.
type watchers struct {
	mu   sync.Mutex
	next int
	all  map[int]func(Status)
}

func newWatchers() *watchers { return &watchers{all: map[int]func(Status){}} }

func (w *watchers) tell(s Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.all {
		f(s)
	}
}

// Watch calls f after each change of state of an operation, one call at a time, until the returned function is called. f must
// not call the Engine.
func (e *Engine) Watch(f func(Status)) (end func()) {
	w := e.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	id := w.next
	w.next++
	w.all[id] = f
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.all, id)
	}
}
