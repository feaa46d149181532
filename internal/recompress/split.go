package recompress

import (
	"bytes"
	"encoding/binary"
	"slices"
)

const (
	// sample is how many tokens a level is tried on.
	sample = 1 << 14
	// foreseen is how many tokens there must be to one that was not foreseen. A correction takes as much in the end as two or three
	// tokens, and about a quarter of a stream is to be gained; most are foreseen to the last token, or not at all.
	foreseen = 64
)

// Splitter takes bytes with runs apart. The zero value is ready; it is not safe for concurrent use. It has a good 600 KiB.
type Splitter struct {
	predictor
	huffman
	joiner Joiner
	check  []byte
}

// Split appends to out the recipe of b and what the runs unpack to, out of which Join makes b again. The runs' places count from the
// beginning of b; they are in order. Each is made again, to be sure; runs of which that does not work, or takes too much, stay as they
// are. ok is false when that is all of them; then nothing is appended.
func (s *Splitter) Split(out, b []byte, runs []Run) (split []byte, ok bool) {
	var recipes []recipe
	var kept []Run
	var all used
	end := 0 // bits of b that the runs before took
	s.steps = 0
	for i := range runs {
		r := &runs[i]
		if r.Start < (end+7)/8*8 || r.End > len(b)*8 {
			continue
		}
		rec, ok := s.recipe(r)
		if !ok {
			continue
		}
		rec.raw = r.Start/8 - (end+7)/8
		if rec.leadBits = r.Start & 7; rec.leadBits > 0 {
			rec.lead = b[r.Start/8] & (1<<rec.leadBits - 1)
		}
		if r.End&7 != 0 {
			rec.tail = b[r.End/8] >> (r.End & 7)
		}
		if !all.fits(&rec) || !s.makes(&rec, r, b[r.Start/8:(r.End+7)/8]) {
			continue
		}
		end = r.End
		all.add(&rec)
		recipes, kept = append(recipes, rec), append(kept, *r)
	}
	if len(kept) == 0 {
		return out, false
	}
	split = binary.AppendUvarint(out, uint64(len(recipes)))
	for i := range recipes {
		split = recipes[i].append(split)
	}
	end = 0
	for _, r := range kept {
		split = append(split, b[(end+7)/8:r.Start/8]...)
		split = append(split, r.buf...)
		end = r.End
	}
	return append(split, b[(end+7)/8:]...), true
}

// makes reports whether a recipe makes the bytes of its run.
func (s *Splitter) makes(rec *recipe, r *Run, b []byte) bool {
	s.check = slices.Grow(s.check[:0], len(b))
	w := bitWriter{b: s.check[:0:len(b)]}
	s.joiner.steps = 0
	return s.joiner.run(&w, rec, r.buf) && bytes.Equal(w.b, b)
}

// recipe returns how to make a run again; ok is false when that takes too much.
func (s *Splitter) recipe(r *Run) (rec recipe, ok bool) {
	rec = recipe{window: r.window, plain: len(r.Plain())}
	if rec.level, rec.corrections = s.choose(r); rec.level == 0 {
		return rec, false
	}
	tokens := r.tokens
	for _, bl := range r.blocks {
		m := made{block: bl}
		if bl.kind != stored {
			if bl.kind == dynamic {
				m.written, m.codeBits = s.codesOf(r, bl, tokens[:bl.tokens])
			}
			tokens = tokens[bl.tokens:]
		}
		rec.blocks = append(rec.blocks, m)
	}
	return rec, true
}

// choose returns the level that comes closest to the run's first tokens, and where the run is other than it would have been at that level;
// 0 when that is in too many places.
func (s *Splitter) choose(r *Run) (level int, wrong []correction) {
	first := r.blocks
	tokens := 0
	for i, bl := range r.blocks {
		if tokens+bl.tokens > sample && bl.kind != stored {
			bl.tokens = sample - tokens
			first = append(slices.Clone(r.blocks[:i]), bl)
			break
		}
		if bl.kind != stored {
			tokens += bl.tokens
		}
	}
	least := tokens/foreseen + 1
	for _, l := range likelyLevels {
		if w, ok := s.follow(r, levels[l], first, least-1); ok {
			level, least, wrong = l, len(w), w
		}
		if least == 0 {
			break
		}
	}
	if level == 0 || len(first) == len(r.blocks) && tokens == len(r.tokens) {
		return level, wrong
	}
	wrong, ok := s.follow(r, levels[level], r.blocks, len(r.tokens)/foreseen)
	if !ok {
		return 0, nil
	}
	return level, wrong
}

// likelyLevels are the levels, the most usual first.
var likelyLevels = [...]int{9, 6, 8, 7, 5, 4, 3, 2, 1}

// follow returns where the tokens of blocks, the run's first, are others than zlib chooses at a level; ok is false when there are more
// than most of them, or it takes too many steps.
func (s *Splitter) follow(r *Run, l level, blocks []block, most int) (wrong []correction, ok bool) {
	s.start(r.buf, r.window, l)
	pos, gap, tokens := r.window, 0, r.tokens
	for _, bl := range blocks {
		if bl.kind == stored {
			pos += bl.tokens
			s.skip()
			continue
		}
		for _, t := range tokens[:bl.tokens] {
			said := s.next(pos)
			if t == said {
				gap++
			} else {
				wrong = append(wrong, correction{gap, t})
				gap = 0
			}
			if len(wrong) > most || s.steps > maxSteps {
				return nil, false
			}
			s.took(pos, t, said)
			pos += t.covers()
		}
		tokens = tokens[bl.tokens:]
	}
	return wrong, true
}

// codesOf returns the codes of a block as they were written; nil when zlib writes the same.
func (s *Splitter) codesOf(r *Run, bl block, tokens []token) (as []byte, n int) {
	n = bl.codes.to - bl.codes.from
	in := bitReader{b: r.bits, at: bl.codes.from}
	written := bitWriter{b: make([]byte, 0, n/8+1)}
	for left := n; left > 0; left -= 16 {
		k := min(left, 16)
		written.put(uint64(in.take(k)), k)
	}
	written.put(0, 7) // the rest of the last byte
	var c codes
	ours := bitWriter{b: make([]byte, 0, n/8+8)}
	s.codes(&ours, &c, tokens)
	same := len(ours.b)*8+ours.n == n
	ours.put(0, 7)
	size := (n + 7) / 8
	if same && !ours.full && bytes.Equal(ours.b[:size], written.b[:size]) {
		return nil, 0
	}
	return written.b[:size], n
}
