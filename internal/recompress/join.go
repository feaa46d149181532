package recompress

import "disksync/internal/numbers"

// Joiner makes bytes again that Split took apart. The zero value is ready; it is not safe for concurrent use. It has a good 300 KiB, up to
// 256 more for the longest block, and while Join runs up to 6 MiB for recipes.
type Joiner struct {
	predictor
	huffman
	inflate   decodeTable
	tokens    []token
	gap       int // tokens since the last correction
	litCodes  [literals + 2]coded
	distCodes [distances + 2]coded
}

// Join sets dst to what Split was given to make split. It returns ErrCorrupt when split does not make exactly so many bytes.
func (j *Joiner) Join(dst, split []byte) error {
	f := &fields{numbers.Reader{B: split}}
	recipes := f.recipes()
	if f.Bad {
		return ErrCorrupt
	}
	w := bitWriter{b: dst[:0:len(dst)]}
	j.steps = 0
	for i := range recipes {
		r := &recipes[i]
		w.bytes(f.Bytes(min(r.raw, len(f.B)+1)))
		buf := f.Bytes(min(r.window+r.plain, len(f.B)+1))
		if f.Bad || w.full || !j.run(&w, r, buf) {
			return ErrCorrupt
		}
	}
	w.bytes(f.B)
	if f.Bad || w.full || len(w.b) != len(dst) {
		return ErrCorrupt
	}
	return nil
}

// run writes the bytes of a run.
func (j *Joiner) run(w *bitWriter, r *recipe, buf []byte) bool {
	w.put(uint64(r.lead), r.leadBits)
	j.start(buf, r.window, levels[r.level])
	pos, wrong := r.window, r.corrections
	j.gap = 0
	for i := range r.blocks {
		m := &r.blocks[i]
		final := uint64(0)
		if m.final {
			final = 1
		}
		w.put(final|uint64(m.kind)<<1, 3)
		ok := false
		switch m.kind {
		case stored:
			ok = j.stored(w, m.tokens, buf[pos:])
			pos += m.tokens
		case fixed, dynamic:
			pos, wrong, ok = j.coded(w, m, buf, pos, wrong)
		}
		if !ok || w.full {
			return false
		}
	}
	if n := w.n; n > 0 {
		w.put(uint64(r.tail)&(1<<(8-n)-1), 8-n)
	}
	return pos == len(buf) && len(wrong) == 0 && !w.full
}

func (j *Joiner) stored(w *bitWriter, n int, rest []byte) bool {
	if n > len(rest) || n > 0xffff {
		return false
	}
	w.put(0, -w.n&7)
	w.put(uint64(n), 16)
	w.put(uint64(n^0xffff), 16)
	w.bytes(rest[:n])
	j.skip()
	return true
}

// coded writes a block of tokens that begins at pos, and returns where it ends.
func (j *Joiner) coded(w *bitWriter, m *made, buf []byte, pos int, wrong []correction) (int, []correction, bool) {
	j.tokens = j.tokens[:0]
	for range m.tokens {
		if pos >= len(buf) || j.steps > maxSteps {
			return pos, wrong, false
		}
		t := j.next(pos)
		said := t
		if len(wrong) > 0 && wrong[0].gap == j.gap {
			t, wrong, j.gap = wrong[0].is, wrong[1:], 0
		} else {
			j.gap++
		}
		if t.covers() > len(buf)-pos || t.isLiteral() && t != token(buf[pos]) || t.distance() > pos && !t.isLiteral() {
			return pos, wrong, false
		}
		j.took(pos, t, said)
		j.tokens = append(j.tokens, t)
		pos += t.covers()
	}
	var c codes
	switch {
	case m.kind == fixed:
		c = fixedCodes
	case m.written == nil:
		j.codes(w, &c, j.tokens)
	default:
		r := bitReader{b: m.written}
		if readCodes(&r, &c, &j.inflate) != nil || r.at != m.codeBits {
			return pos, wrong, false
		}
		r.at = 0
		for left := m.codeBits; left > 0; left -= 16 {
			k := min(left, 16)
			w.put(uint64(r.take(k)), k)
		}
	}
	assign(j.litCodes[:], c.lit[:])
	assign(j.distCodes[:], c.dist[:])
	return pos, wrong, j.write(w)
}

// write writes the tokens with their codes.
func (j *Joiner) write(w *bitWriter) bool {
	put := func(c coded) bool {
		w.put(uint64(c.bits), int(c.n))
		return c.n > 0
	}
	for _, t := range j.tokens {
		if t.isLiteral() {
			if !put(j.litCodes[t]) {
				return false
			}
			continue
		}
		sym := lengthSym[t.length()]
		l := lengthOf[sym-257]
		if !put(j.litCodes[sym]) {
			return false
		}
		w.put(uint64(t.length()-int(l.base)), int(l.extra))
		at := symbolOfDistance(t.distance())
		d := distanceOf[at]
		if !put(j.distCodes[at]) {
			return false
		}
		w.put(uint64(t.distance()-int(d.base)), int(d.extra))
	}
	return put(j.litCodes[endOfBlock])
}
