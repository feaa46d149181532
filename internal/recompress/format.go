package recompress

import (
	"encoding/binary"
	"errors"

	"disksync/internal/numbers"
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
	written  []byte // its codes as they were written, nil when they are those that zlib writes
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
		if m.written != nil {
			what |= asWritten
		}
		b = append(b, what)
		number(m.tokens)
		if m.written != nil {
			number(m.codeBits)
			b = append(b, m.written...)
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

// fields reads recipes.
type fields struct{ numbers.Reader }

// What there may be at most, in all that was split at once: it bounds the memory that recipes take, 6 MiB. Streams that are in use need a
// tenth of it; Split leaves as they are those that would need more.
const (
	maxRuns        = 1 << 14
	maxBlocks      = 1 << 15
	maxCorrections = 1 << 16
	maxPart        = 1 << 26 // bytes of a part
)

// recipes reads all recipes.
func (f *fields) recipes() []recipe {
	var out []recipe
	var all used
	for range f.UpTo(maxRuns) {
		r := f.recipe(all)
		if f.Bad {
			return nil
		}
		all.add(&r)
		out = append(out, r)
	}
	return out
}

// used counts what recipes have.
type used struct{ runs, blocks, corrections int }

func (u *used) add(r *recipe) {
	u.runs++
	u.blocks += len(r.blocks)
	u.corrections += len(r.corrections)
}

// fits reports whether there is room for one more.
func (u used) fits(r *recipe) bool {
	u.add(r)
	return u.runs <= maxRuns && u.blocks <= maxBlocks && u.corrections <= maxCorrections
}

// recipe reads a recipe behind others.
func (f *fields) recipe(others used) (r recipe) {
	r.raw = f.UpTo(maxPart)
	r.leadBits = f.UpTo(7)
	b := f.Bytes(3)
	r.lead, r.tail, r.level = b[0], b[1], int(b[2])
	if r.level < 1 || r.level >= len(levels) || r.lead>>r.leadBits != 0 {
		f.Bad = true
	}
	r.window = f.UpTo(windowSize)
	r.plain = f.UpTo(maxPart)
	for range f.UpTo(maxBlocks - others.blocks) {
		m := f.block()
		if f.Bad {
			return r
		}
		r.blocks = append(r.blocks, m)
	}
	for range f.UpTo(maxCorrections - others.corrections) {
		c := f.correction()
		if f.Bad {
			return r
		}
		r.corrections = append(r.corrections, c)
	}
	return r
}

func (f *fields) block() (m made) {
	what := f.Bytes(1)[0]
	m.final, m.kind = what&finalBit != 0, int(what>>kindShift&kindMask)
	m.tokens = f.UpTo(maxTokens)
	if what&asWritten != 0 {
		m.codeBits = f.UpTo(len(f.B) * 8)
		m.written = f.Bytes((m.codeBits + 7) / 8)
	}
	if what>>kindBits != 0 || m.written != nil && m.kind != dynamic {
		f.Bad = true
	}
	return m
}

func (f *fields) correction() (c correction) {
	c.gap = f.UpTo(maxPart)
	n := f.UpTo(maxMatch)
	if n == 0 {
		c.is = token(f.Bytes(1)[0])
		return c
	}
	c.is = match(n, f.UpTo(windowSize))
	f.Bad = f.Bad || n < minMatch || c.is.distance() == 0
	return c
}
