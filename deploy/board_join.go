package deploy

import (
	"errors"
	"io/fs"

	"disksync/image"
)

// join adds a source to a board at work. It gets what is still wanted of the blocks that it has and that a source behind it in the
// order of preference was to get, or none.
func (b *board) join(s Source) (number int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	number = b.add(s)
	recalled := map[int]bool{}
	for d, st := range b.blocks {
		if st.inHand || st.final && !st.lost || b.left <= 0 {
			continue // a worker has it; should it turn out bad, the newcomer is asked for it
		}
		before := st.source
		// Its source stays where it is unless the newcomer is the first now.
		if _, ok := s.Holds(d); !ok || !st.lost && before >= 0 && !b.before(number, before) {
			continue
		}
		if st.lost {
			st.lost, st.final = false, false
			b.left++
			if b.failed--; b.failed == 0 {
				b.cause = nil
			}
		} else {
			recalled[before] = true
		}
		b.hand(d, st, number)
	}
	for i := range recalled {
		b.recall(i)
	}
	b.change.Broadcast()
	return number
}

// before reports whether source i comes before source k in the order of preference.
func (b *board) before(i, k int) bool {
	for _, n := range b.order {
		if n == i || n == k {
			return n == i && i != k
		}
	}
	return false
}

// recall ends the Fetch of a source of which blocks were taken away; it begins another one for the rest. The caller holds mu.
func (b *board) recall(i int) {
	s := b.sources[i]
	if s.cancel == nil || s.dead != nil {
		return // what is in its queue was not asked for yet
	}
	s.recall = true
	s.cancel()
}

// anew has the next recalled find that a Fetch ended for a better one.
func (b *board) anew(i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sources[i].recall = true
}

// recalled reports whether a Fetch that ended was to end because blocks were taken away, and puts what is left of its blocks back into
// the source's queue.
func (b *board) recalled(i int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sources[i]
	s.cancel = nil
	if !s.recall || s.dead != nil {
		return false
	}
	s.recall, s.queue = false, nil
	for d, st := range b.blocks {
		if st.source == i && !st.final && !st.inHand {
			s.queue = append(s.queue, d)
		}
	}
	return true
}

// leave gives up the source of that kind and name which is still in use, if there is one. One that has noticed by itself that its files
// were closed is told why.
func (b *board) leave(kind, name string, why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, s := range b.sources {
		switch {
		case s.Kind() != kind || s.Name() != name:
		case s.dead == nil:
			b.giveUp(i, why)
		case errors.Is(s.dead, fs.ErrClosed):
			s.dead = why
		}
	}
}

// source returns a source by its number.
func (b *board) source(i int) *sourceState {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sources[i]
}

// all returns the sources in the order in which they came.
func (b *board) all() []*sourceState {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]*sourceState{}, b.sources...)
}

// attend calls start with the number of each source, as they come, and returns when nothing is left to do.
func (b *board) attend(start func(i int)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n := 0; b.left > 0; b.change.Wait() {
		for ; n < len(b.sources); n++ {
			start(n)
		}
	}
}

// landed notes that a block is in its place which no source of the board gave.
func (b *board) landed(d image.Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := b.blocks[d]
	switch {
	case st == nil || st.final && !st.lost:
	case st.lost:
		st.lost = false
		if b.failed--; b.failed == 0 {
			b.cause = nil
		}
	default:
		st.final = true
		b.finishOne()
	}
}

// inHand reports whether a worker has a block.
func (b *board) inHand(d image.Digest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := b.blocks[d]
	return st != nil && st.inHand && !st.final
}
