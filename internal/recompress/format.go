package recompress

import (
	"encoding/binary"
	"errors"
)

// ErrCorrupt is returned for bytes that are not what Split makes.
var ErrCorrupt = errors.New("recompress: damaged recipe")

// What says of a block how it is made, in the lowest bits.
const (
	finalBit  = 1
	kindShift = 1
	kindMask  = 3
	asWritten = 1 << 3 // its codes are there as they were written
	kindBits  = 4
)

// correction says that a token is another than the one that was to be expected.
type correction struct {
	gap int // tokens that were as expected before it
	is  token
}

// recipe is what it takes to make a run again, besides what it unpacks to.
type recipe struct {
	raw         int  // bytes before the run, as they are
	lead        byte // the bits of the run's first byte that are before it …
	leadBits    int  // … and how many those are
	level       int
	window      int // bytes
	plain       int
	blocks      []made
	corrections []correction
	tail        byte // the bits of its last byte that are behind it, 0 when there are none
}

// made is a block as a recipe has it.
type made struct {
	block
	codes    []byte // its codes as they were written, nil when they are those that zlib writes
	codeBits int
}

// append appends the recipe to b.
func (r *recipe) append(b []byte) []byte {
	number := func(v int) { b = binary.AppendUvarint(b, uint64(v)) }
	number(r.raw)
	number(r.leadBits)
	b = append(b, r.lead, r.tail, byte(r.level))
	number(r.window)
	number(r.plain)
	number(len(r.blocks))
	for _, m := range r.blocks {
		what := byte(m.kind << kindShift)
		if m.final {
			what |= finalBit
		}
		if m.codes != nil {
			what |= asWritten
		}
		b = append(b, what)
		number(m.tokens)
		if m.codes != nil {
			number(m.codeBits)
			b = append(b, m.codes...)
		}
	}
	number(len(r.corrections))
	for _, c := range r.corrections {
		number(c.gap)
		number(c.is.length())
		if !c.is.isLiteral() {
			number(c.is.distance())
		} else {
			b = append(b, byte(c.is))
		}
	}
	return b
}

// fields reads a recipe; the first thing that is wrong stays.
type fields struct {
	b   []byte
	bad bool
}

// number reads a number that is at most limit.
func (f *fields) number(limit int) int {
	v, n := binary.Uvarint(f.b)
	if n <= 0 || v > uint64(max(limit, 0)) {
		f.bad = true
		return 0
	}
	f.b = f.b[n:]
	return int(v)
}

func (f *fields) bytes(n int) []byte {
	if n > len(f.b) {
		f.bad = true
		return make([]byte, n)
	}
	out := f.b[:n:n]
	f.b = f.b[n:]
	return out
}

// What there may be at most of the parts of a recipe. Every one takes a byte at least, so that the bytes that are there bound memory.
const maxPart = 1 << 26

func (f *fields) recipe() (r recipe) {
	r.raw = f.number(maxPart)
	r.leadBits = f.number(7)
	b := f.bytes(3)
	r.lead, r.tail, r.level = b[0], b[1], int(b[2])
	if r.level < 1 || r.level >= len(levels) || r.lead>>r.leadBits != 0 {
		f.bad = true
	}
	r.window = f.number(windowSize)
	r.plain = f.number(maxPart)
	for range f.number(len(f.b)) {
		what := f.bytes(1)[0]
		m := made{block: block{final: what&finalBit != 0, kind: int(what >> kindShift & kindMask)}}
		m.tokens = f.number(maxPart)
		if what&asWritten != 0 {
			m.codeBits = f.number(len(f.b) * 8)
			m.codes = f.bytes((m.codeBits + 7) / 8)
		}
		if what>>kindBits != 0 || m.codes != nil && m.kind != dynamic {
			f.bad = true
		}
		if f.bad {
			return r
		}
		r.blocks = append(r.blocks, m)
	}
	for range f.number(len(f.b)) {
		c := correction{gap: f.number(maxPart)}
		if n := f.number(maxMatch); n == 0 {
			c.is = token(f.bytes(1)[0])
		} else {
			c.is = match(n, f.number(windowSize))
			f.bad = f.bad || n < minMatch || c.is.distance() == 0
		}
		if f.bad {
			return r
		}
		r.corrections = append(r.corrections, c)
	}
	return r
}
