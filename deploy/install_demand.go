package deploy

import "disksync/image"

// begin makes a board the one at work. What demands have brought meanwhile is taken off it.
func (in *installer) begin(b *board) {
	in.mu.Lock()
	in.board, in.now = b, b
	in.mu.Unlock()
	for _, d := range b.digests() {
		if in.site.hasAll(d) {
			in.landed(d)
		}
	}
}

// count makes a block count as done; false: it does already.
func (in *installer) count(d image.Digest) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.counted[d] {
		return false
	}
	in.counted[d] = true
	return true
}

// landed notes that a demand has put a block in its place.
func (in *installer) landed(d image.Digest) {
	if in.blocks[d] == nil {
		return // it was there when the installation began
	}
	if in.count(d) {
		in.tally.had(in.work[d])
	}
	in.mu.Lock()
	b := in.now
	in.mu.Unlock()
	if b != nil {
		b.landed(d)
	}
}

// inHand reports whether a worker has a block.
func (in *installer) inHand(d image.Digest) bool {
	in.mu.Lock()
	b := in.now
	in.mu.Unlock()
	return b != nil && b.inHand(d)
}

// digests returns those of all blocks of a board.
func (b *board) digests() []image.Digest {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]image.Digest, 0, len(b.blocks))
	for d := range b.blocks {
		out = append(out, d)
	}
	return out
}

// advance counts what a demand brought before an installation began.
func (y *site) advance(d image.Digest) (work int64) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, block := range y.places[d] {
		f, _ := y.x.Find(block)
		work += int64(f.Length)
	}
	y.credit += work
	return work
}

// takeCredit returns what advance counted.
func (y *site) takeCredit() int64 {
	y.mu.Lock()
	defer y.mu.Unlock()
	n := y.credit
	y.credit = 0
	return n
}
