package deploy

import (
	"context"
	"sync"

	"disksync/image"
	"disksync/layer"
)

// transit knows which frames of a layer are on their way over the network, and what is here of those whose fetching was ended. All who
// fetch the layer's frames share it, so that none is fetched twice. It is safe for concurrent use.
type transit struct {
	mu     sync.Mutex
	parts  map[image.Digest][]byte // the beginnings of frames
	asked  map[image.Digest]bool
	change chan struct{} // closed when a frame is not asked for any more; nil: nobody waits
}

// begin takes those of the frames up to the first that somebody else asks for, and before the second of which there is a beginning here:
// that counts at the beginning of a run. take tells, of frames that nobody asks for, how many of them to ask for now; part is what is
// here of the first one.
func (t *transit) begin(todo []layer.Frame, take func(free []layer.Frame, part []byte) int) (run []layer.Frame, part []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for n < len(todo) && !t.asked[todo[n].Digest] && (n == 0 || t.parts[todo[n].Digest] == nil) {
		n++
	}
	if n == 0 {
		return nil, nil
	}
	part = t.parts[todo[0].Digest]
	run = todo[:take(todo[:n], part)]
	delete(t.parts, todo[0].Digest)
	if t.asked == nil {
		t.asked = map[image.Digest]bool{}
	}
	for _, f := range run {
		t.asked[f.Digest] = true
	}
	return run, part
}

// end notes that frames are not on their way any more.
func (t *transit) end(frames ...layer.Frame) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range frames {
		delete(t.asked, f.Digest)
	}
	t.tell()
}

// leave is end for what is left of a run, of whose first frame there is a part.
func (t *transit) leave(r *run) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range r.t {
		delete(t.asked, f.Digest)
	}
	if len(r.t) > 0 && len(r.part) > 0 {
		if t.parts == nil {
			t.parts = map[image.Digest][]byte{}
		}
		t.parts[r.t[0].Digest] = r.part
		r.part = nil
	}
	t.tell()
}

// tell is called with mu held.
func (t *transit) tell() {
	if t.change != nil {
		close(t.change)
		t.change = nil
	}
}

// rejoin asks for the frames of a run again that has left, when nobody else asks for any of them.
func (t *transit) rejoin(r *run) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range r.t {
		if t.asked[f.Digest] {
			return false
		}
	}
	for i, f := range r.t {
		t.asked[f.Digest] = true
		if i == 0 {
			r.part = t.parts[f.Digest]
			delete(t.parts, f.Digest)
		}
	}
	return true
}

// await returns when one of the frames may be free that somebody else asks for, or with ctx's error.
func (t *transit) await(ctx context.Context, frames []layer.Frame) error {
	t.mu.Lock()
	free := false
	for _, f := range frames {
		free = free || !t.asked[f.Digest]
	}
	if t.change == nil {
		t.change = make(chan struct{})
	}
	change := t.change
	t.mu.Unlock()
	if free {
		return nil
	}
	select {
	case <-change:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
