package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"disksync/image"
)

// Rules for giving up on a medium for the rest of a transfer. A scratched disc has bad places and good ones; a stick that
// gives nothing any more has only bad ones. This machine's own disks are never given up: asking them costs next to nothing, and
// every block that they have need not come over the network. Neither is the Synchronizer, behind which there is nobody.
const (
	maxRowOfFailures = 5
	// networkTries is how often the Synchronizer may give the same block wrong.
	networkTries = 2
)

// board knows which blocks are still to be got and which source is to get each: the first in the order of preference that
// claims to have it and has not failed to give it. A block that fails moves on to the next source alone; when a source is
// given up, all that it has not yet delivered moves on. Sources may join and leave (see join). It is safe for concurrent use.
type board struct {
	mu      sync.Mutex
	change  *sync.Cond
	sources []*sourceState // in the order in which they came, by which they are numbered
	order   []int          // the numbers in the order of preference
	left    int            // blocks that are neither done nor failed
	blocks  map[image.Digest]*blockState
	failed  int
	cause   error // of the first block that no source could give
	ended   chan struct{}
	bad     func(Source, error) // told of each block that a source did not give; may be nil
}

// sourceState is a source and what became of it. The fields below the line are guarded by board.mu.
type sourceState struct {
	Source
	tries int // attempts for one block

	queue  []image.Digest
	recall bool  // its Fetch is to end: others have some of its blocks
	dead   error // why it was given up
	inARow int   // failures since the last success
	bad    int   // blocks that it failed to give
	good   int
	bytes  int64
	cancel context.CancelFunc // ends the Fetch that runs
}

type blockState struct {
	source int   // the one that has it now
	failed []int // those that did not give it
	tries  int   // with that source
	inHand bool  // a worker has it, as that source delivered it
	final  bool  // done, or no source is left
	lost   bool  // no source is left
}

// newBoard hands the blocks out to the sources.
func newBoard(sources []Source, blocks []image.Digest) *board {
	b := &board{blocks: make(map[image.Digest]*blockState, len(blocks)), left: len(blocks), ended: make(chan struct{})}
	b.change = sync.NewCond(&b.mu)
	for _, s := range sources {
		b.add(s)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range blocks {
		st := &blockState{source: -1}
		b.blocks[d] = st
		b.moveOn(d, st, errNoSource)
	}
	return b
}

// add gives a source its number, and its place behind those of its kind.
func (b *board) add(s Source) (number int) {
	tries := 1
	if s.Kind() == Network {
		tries = networkTries
	}
	number = len(b.sources)
	b.sources = append(b.sources, &sourceState{Source: s, tries: tries})
	at := len(b.order)
	for at > 0 && preference(b.sources[b.order[at-1]]) > preference(s) {
		at--
	}
	b.order = slices.Insert(b.order, at, number)
	return number
}

// preference returns the place of a source's kind in the order of use.
func preference(s Source) int { return slices.Index(Kinds(), s.Kind()) }

var errNoSource = errors.New("no source has it")

// next returns the first source that is to get a block, or the reason why there is none. The caller holds mu.
func (b *board) next(d image.Digest, st *blockState, why error) (source int, _ error) {
	behind := st.source < 0
	for _, i := range b.order {
		s := b.sources[i]
		if i == st.source {
			behind = true
			continue
		}
		if slices.Contains(st.failed, i) {
			continue
		}
		if _, ok := s.Holds(d); !ok {
			continue
		}
		if s.dead == nil {
			return i, nil
		}
		if behind {
			why = fmt.Errorf("%s: %w", s.Name(), s.dead) // it would have been the one to give the block
		}
	}
	return -1, why
}

// moveOn takes a block away from its present source and gives it to the next one. The caller holds mu.
func (b *board) moveOn(d image.Digest, st *blockState, why error) {
	i, why := b.next(d, st, why)
	if i >= 0 {
		b.hand(d, st, i)
		return
	}
	st.final, st.lost = true, true
	b.failed++
	if b.cause == nil {
		b.cause = why
	}
	b.finishOne()
}

// hand gives a block to source i. The caller holds mu.
func (b *board) hand(d image.Digest, st *blockState, i int) {
	st.source, st.tries, st.inHand = i, 0, false
	b.sources[i].queue = append(b.sources[i].queue, d)
	b.change.Broadcast()
}

func (b *board) finishOne() {
	b.left--
	if b.left <= 0 {
		b.end()
	}
}

// end wakes everybody who waits, since there is nothing left to do. The caller holds mu.
func (b *board) end() {
	b.change.Broadcast()
	select {
	case <-b.ended:
	default:
		close(b.ended)
	}
}

// take waits for blocks that source i is to get. It returns nil when there are none and never will be.
func (b *board) take(i int, cancel context.CancelFunc) []image.Digest {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sources[i]
	for {
		for len(s.queue) == 0 && b.left > 0 && s.dead == nil {
			b.change.Wait()
		}
		if s.dead != nil || b.left <= 0 {
			return nil
		}
		// A block that moved here may have arrived meanwhile from where it was before.
		batch := slices.DeleteFunc(s.queue, func(d image.Digest) bool { return b.blocks[d].final || b.blocks[d].source != i })
		s.queue = nil
		if len(batch) > 0 {
			s.cancel, s.recall = cancel, false
			return batch
		}
	}
}

// alive returns the sources that were not given up.
func (b *board) alive() []Source {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Source
	for _, s := range b.sources {
		if s.dead == nil {
			out = append(out, s.Source)
		}
	}
	return out
}

// stop wakes everybody who waits; nothing is handed out any more.
func (b *board) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = 0
	b.end()
}

// handOver notes that a worker is about to get a block from source i.
func (b *board) handOver(i int, d image.Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if st := b.blocks[d]; st.source == i {
		st.inHand = true
	}
}

// takeBack notes that no worker took the block after all, because the source was given up or everything ends.
func (b *board) takeBack(i int, d image.Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, st := b.sources[i], b.blocks[d]
	if st.source != i || st.final {
		return
	}
	st.inHand = false
	if s.dead != nil {
		b.moveOn(d, st, fmt.Errorf("%s: %w", s.Name(), s.dead))
	}
}

// right notes that a block from source i has the right content. That it is in its place may take a while.
func (b *board) right(i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sources[i].inARow = 0
}

// done notes that a block from source i is in its place. first is false when another source was faster.
func (b *board) done(i int, d image.Digest, bytes int64) (first, healed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, st := b.sources[i], b.blocks[d]
	s.bytes += bytes
	if st.final {
		return false, false
	}
	s.good++
	st.final = true
	b.finishOne()
	return true, len(st.failed) > 0 || st.tries > 0
}

// fail notes that source i gave a block wrong or not at all. The block goes to the next source, and the source is given up when
// it failed too often.
func (b *board) fail(i int, d image.Digest, bytes int64, why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, st := b.sources[i], b.blocks[d]
	s.bytes += bytes
	if st.final || st.source != i {
		return
	}
	s.bad++
	s.inARow++
	if b.bad != nil {
		b.bad(s.Source, why)
	}
	st.inHand = false
	st.tries++
	if st.tries < s.tries && s.dead == nil {
		s.queue = append(s.queue, d)
		b.change.Broadcast()
	} else {
		st.failed = append(st.failed, i)
		b.moveOn(d, st, fmt.Errorf("%s: %w", s.Name(), why))
	}
	if (s.Kind() == USB || s.Kind() == DVD) && s.inARow >= maxRowOfFailures {
		b.giveUp(i, fmt.Errorf("%d blocks in a row were bad, the last one: %w", s.inARow, why))
	}
}

// abandon gives a source up because its Fetch ended with an error.
func (b *board) abandon(i int, why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.giveUp(i, why)
}

// giveUp moves all blocks of a source on, but for those that workers have. The caller holds mu.
func (b *board) giveUp(i int, why error) {
	s := b.sources[i]
	if s.dead != nil {
		return
	}
	s.dead, s.queue = why, nil
	if s.cancel != nil {
		s.cancel()
	}
	for d, st := range b.blocks {
		if !st.final && st.source == i && !st.inHand {
			b.moveOn(d, st, fmt.Errorf("%s: %w", s.Name(), why))
		}
	}
	b.change.Broadcast()
}

// over reports whether nobody needs to give a block any more.
func (b *board) over(d image.Digest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := b.blocks[d]
	return st != nil && st.final && !st.lost
}

// wanted returns how many of the blocks source i is still to give.
func (b *board) wanted(i int, blocks map[image.Digest]bool) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for d := range blocks {
		if st := b.blocks[d]; !st.final && st.source == i {
			n++
		}
	}
	return n
}

// err returns nil when every block is done.
func (b *board) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed == 0 {
		return nil
	}
	return &MissingError{Blocks: b.failed, Err: b.cause}
}

// MissingError says that no source could give some blocks.
type MissingError struct {
	Blocks int
	Err    error // of the first one
}

// Error implements error.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%d blocks could not be got, the first one: %v", e.Blocks, e.Err)
}

// Unwrap returns the cause.
func (e *MissingError) Unwrap() error { return e.Err }
