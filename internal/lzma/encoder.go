package lzma

// rangeCoder turns bits and their probabilities into bytes.
type rangeCoder struct {
	out   []byte
	low   uint64
	rng   uint32
	cache byte
	size  int64 // bytes that a carry may still change
}

func (r *rangeCoder) start(out []byte) {
	*r = rangeCoder{out: out, rng: 0xffffffff, size: 1}
}

func (r *rangeCoder) shift() {
	if r.low < 0xff000000 || r.low >= 1<<32 {
		carry := byte(r.low >> 32)
		b := r.cache
		for ; r.size > 0; r.size-- {
			r.out = append(r.out, b+carry)
			b = 0xff
		}
		r.cache = byte(r.low >> 24)
	}
	r.size++
	r.low = r.low & 0x00ffffff << 8
}

func (r *rangeCoder) finish() {
	for range initBytes {
		r.shift()
	}
}

// bit codes one bit and teaches p.
func (r *rangeCoder) bit(p *prob, bit uint32) {
	v := uint32(*p)
	bound := r.rng >> probBits * v
	if bit == 0 {
		r.rng = bound
		*p = uint16(v + (1<<probBits-v)>>moveBits)
	} else {
		r.low += uint64(bound)
		r.rng -= bound
		*p = uint16(v - v>>moveBits)
	}
	if r.rng < topValue {
		r.rng <<= 8
		r.shift()
	}
}

func (r *rangeCoder) tree(p []prob, n int, v uint32) {
	m := uint32(1)
	for i := n - 1; i >= 0; i-- {
		b := v >> i & 1
		r.bit(&p[m], b)
		m = m<<1 | b
	}
}

func (r *rangeCoder) reverse(p []prob, n int, v uint32) {
	m := uint32(1)
	for i := range n {
		b := v >> i & 1
		r.bit(&p[m], b)
		m = m<<1 | b
	}
}

func (r *rangeCoder) direct(v uint32, n int) {
	for i := n - 1; i >= 0; i-- {
		r.rng >>= 1
		r.low += uint64(r.rng) & -uint64(v>>i&1)
		if r.rng < topValue {
			r.rng <<= 8
			r.shift()
		}
	}
}

// Encoder packs. The zero value is ready; it is not safe for concurrent use. It has 9 MiB, most of which is touched only for long
// dictionaries or contents.
type Encoder struct {
	model
	rangeCoder
	finder
	optimum

	nice   int    // bytes of the long match that a search has met …
	niceOp uint32 // … and what it is

	state uint8
	reps  [4]uint32
}

// Encode appends the packed form of buf[dict:] to out; buf[:dict] is the dictionary. The first skip bytes of the dictionary are
// there for the distances only: no match is looked for in them.
func (e *Encoder) Encode(out, buf []byte, dict, skip int) []byte {
	e.model.reset()
	e.rangeCoder.start(out)
	e.finder.start(buf, skip, dict)
	e.state, e.reps = 0, [4]uint32{}
	e.parse(dict)
	e.rangeCoder.finish()
	return e.rangeCoder.out
}

func (e *Encoder) literalAt(pos int) {
	before := byte(0)
	if pos > 0 {
		before = e.buf[pos-1]
	}
	p := &e.literal[before>>(8-lc)]
	e.bit(&e.isMatch[e.state][pos&posMask], 0)
	c := uint32(e.buf[pos])
	if e.state < literalStates {
		m := uint32(1)
		for i := 7; i >= 0; i-- {
			b := c >> i & 1
			e.bit(&p[m], b)
			m = m<<1 | b
		}
	} else {
		match := uint32(e.buf[pos-int(e.reps[0])-1])
		m, offs := uint32(1), uint32(0x100)
		for i := 7; i >= 0; i-- {
			match <<= 1
			bit := match & offs
			b := c >> i & 1
			e.bit(&p[offs+bit+m], b)
			m = m<<1 | b
			offs &= ^(match ^ -b) // stays as long as the bits are those of the match
		}
	}
	e.state = afterLiteral[e.state]
}

func (e *Encoder) lengthOf(l *lengths, n, posState int) {
	n -= minMatch
	switch {
	case n < lowLens:
		e.bit(&l.choice, 0)
		e.tree(l.low[posState][:], 3, uint32(n))
	case n < lowLens+midLens:
		e.bit(&l.choice, 1)
		e.bit(&l.choice2, 0)
		e.tree(l.mid[posState][:], 3, uint32(n-lowLens))
	default:
		e.bit(&l.choice, 1)
		e.bit(&l.choice2, 1)
		e.tree(l.high[:], 8, uint32(n-lowLens-midLens))
	}
}

// matchAt codes a match of n bytes at a distance less 1.
func (e *Encoder) matchAt(pos, n int, dist uint32) {
	posState := pos & posMask
	e.bit(&e.isMatch[e.state][posState], 1)
	e.bit(&e.isRep[e.state], 0)
	e.state = afterMatch[e.state]
	e.lengthOf(&e.match, n, posState)
	slot := slotOf(dist)
	e.tree(e.slot[lenState(n)][:], slotBits, slot)
	if slot >= firstModel {
		extra := int(slot>>1 - 1)
		base := (2 | slot&1) << extra
		rest := dist - base
		if slot < endModel {
			e.reverse(e.special[base-slot:], extra, rest)
		} else {
			e.direct(rest>>alignBits, extra-alignBits)
			e.reverse(e.align[:], alignBits, rest&alignMask)
		}
	}
	e.reps[3], e.reps[2], e.reps[1], e.reps[0] = e.reps[2], e.reps[1], e.reps[0], dist
}

// repAt codes a match of n bytes at the distance reps[i].
func (e *Encoder) repAt(pos, n, i int) {
	posState := pos & posMask
	e.bit(&e.isMatch[e.state][posState], 1)
	e.bit(&e.isRep[e.state], 1)
	if i == 0 {
		e.bit(&e.isRep0[e.state], 0)
		if n == 1 {
			e.bit(&e.isRep0Long[e.state][posState], 0)
			e.state = afterShortRep[e.state]
			return
		}
		e.bit(&e.isRep0Long[e.state][posState], 1)
	} else {
		e.bit(&e.isRep0[e.state], 1)
		if i == 1 {
			e.bit(&e.isRep1[e.state], 0)
		} else {
			e.bit(&e.isRep1[e.state], 1)
			e.bit(&e.isRep2[e.state], uint32(i-2))
		}
		d := e.reps[i]
		copy(e.reps[1:i+1], e.reps[:i])
		e.reps[0] = d
	}
	e.lengthOf(&e.rep, n, posState)
	e.state = afterRep[e.state]
}
