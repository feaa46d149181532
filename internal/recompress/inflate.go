package recompress

import (
	"errors"
	"sync"
)

// The alphabets of RFC 1951.
const (
	literals     = 286 // literals, the end of a block, lengths
	distances    = 30
	codeLengths  = 19
	endOfBlock   = 256
	maxCode      = 15 // bits
	maxLenCode   = 7  // bits of the codes of code lengths
	minMatch     = 3
	maxMatch     = 258
	windowSize   = 1 << 15
	stored       = 0 // types of blocks
	fixed        = 1
	dynamic      = 2
	repeatLength = 16 // symbols among the code lengths
	zeros        = 17
	manyZeros    = 18

	// maxTokens bounds the tokens of a block, and with them memory. Those of zlib and gzip have 32,768 at most.
	maxTokens = 1 << 16
)

// errStream is returned for bytes that are no deflate stream.
var errStream = errors.New("no deflate stream")

// errEnd is returned where the bytes end within a block.
var errEnd = errors.New("the bytes end within a block")

// lengthOrder is the order in which the code lengths of the code lengths are written.
var lengthOrder = [codeLengths]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// ranged is what a length or distance symbol stands for: from base on, with so many bits behind the symbol.
type ranged struct {
	base  uint16
	extra uint8
}

var (
	lengthOf   [literals - 257]ranged
	distanceOf [distances]ranged
	// The symbols by length, and by distance less 1: of the upper ones by its upper bits.
	lengthSym   [maxMatch + 1]uint16
	distanceSym [512]uint8
)

func init() {
	at := uint16(minMatch)
	for i := range lengthOf {
		extra := uint8(0)
		if i >= 8 {
			extra = uint8(i/4 - 1)
		}
		lengthOf[i] = ranged{at, extra}
		for range 1 << extra {
			if at <= maxMatch {
				lengthSym[at] = uint16(257 + i)
			}
			at++
		}
	}
	lengthOf[len(lengthOf)-1] = ranged{maxMatch, 0} // the longest has a symbol of its own
	lengthSym[maxMatch] = literals - 1
	at = 1
	for i := range distanceOf {
		extra := uint8(max(0, i/2-1))
		distanceOf[i] = ranged{at, extra}
		for d := int(at) - 1; d < int(at)-1+1<<extra; d++ {
			if d < 256 {
				distanceSym[d] = uint8(i)
			} else {
				distanceSym[256+d>>7] = uint8(i)
			}
		}
		at += 1 << extra
	}
}

// symbolOfDistance returns the symbol of a distance.
func symbolOfDistance(d int) int {
	if d--; d < 256 {
		return int(distanceSym[d])
	}
	return int(distanceSym[256+d>>7])
}

// token is a literal, or a match: its length in the upper half and its distance in the lower one.
type token uint32

func match(n, dist int) token   { return token(n<<16 | dist) }
func (t token) length() int     { return int(t >> 16) }
func (t token) distance() int   { return int(t & 0xffff) }
func (t token) isLiteral() bool { return t < 1<<16 }

// covers returns how many bytes the token stands for.
func (t token) covers() int { return max(t.length(), 1) }

// decodeTable finds symbols by the next 15 bits: symbol<<4 | length of its code, 0 where there is none.
type decodeTable [1 << maxCode]uint16

// build sets up the table for code lengths. It reports whether they are a code that an encoder makes: complete, or of a single symbol.
func (t *decodeTable) build(lens []uint8) bool {
	var count, next [maxCode + 2]int
	used := 0
	for _, l := range lens {
		count[l]++
		if l > 0 {
			used++
		}
	}
	count[0] = 0
	code := 0
	for n := 1; n <= maxCode; n++ {
		next[n] = code
		code = (code + count[n]) << 1
	}
	if code > 1<<(maxCode+1) || code < 1<<(maxCode+1) && (used != 1 || count[1] != 1) {
		return false
	}
	if used == 1 {
		clear(t[:])
	}
	for sym, l := range lens {
		if l == 0 {
			continue
		}
		e := uint16(sym)<<4 | uint16(l)
		for i := reverse(uint32(next[l]), int(l)); i < 1<<maxCode; i += 1 << l {
			t[i] = e
		}
		next[l]++
	}
	return true
}

// reverse returns the n lowest bits of v in the other order.
func reverse(v uint32, n int) uint32 {
	out := uint32(0)
	for range n {
		out = out<<1 | v&1
		v >>= 1
	}
	return out
}

// codes are the code lengths of a block.
type codes struct {
	lit  [literals + 2]uint8 // two more have codes in the fixed block and are never used
	dist [distances + 2]uint8
}

var fixedCodes = func() (c codes) {
	for i := range c.lit {
		switch {
		case i < 144:
			c.lit[i] = 8
		case i < 256:
			c.lit[i] = 9
		case i < 280:
			c.lit[i] = 7
		default:
			c.lit[i] = 8
		}
	}
	for i := range c.dist {
		c.dist[i] = 5
	}
	return c
}()

// block is a block of a deflate stream.
type block struct {
	final  bool
	kind   int
	tokens int   // how many it has; of a stored one: its bytes
	codes  place // of a dynamic one: where those are written
}

// place is a range of bits.
type place struct{ from, to int }

// inflater takes blocks apart.
type inflater struct {
	dynamic tables
}

// tables are what the symbols of a block are read with.
type tables struct {
	lit, dist decodeTable
}

// fixedTables are those of the fixed codes, which are not built for each of the many bytes that look like a header.
var fixedTables = sync.OnceValue(func() *tables {
	t := new(tables)
	if !t.lit.build(fixedCodes.lit[:]) || !t.dist.build(fixedCodes.dist[:]) {
		panic("recompress: internal error: the fixed codes are none")
	}
	return t
})

// block reads a block. It appends what that unpacks to to plain, which matches may refer to, and its tokens to tokens. It appends at
// most limit bytes, and returns errStream for a longer block as for one that is none; errEnd when r has not all of it.
func (f *inflater) block(r *bitReader, plain []byte, limit int, tokens []token) (block, []byte, []token, error) {
	bl := block{final: r.take(1) == 1, kind: r.take(2)}
	t := &f.dynamic
	switch bl.kind {
	case stored:
		plain, n, err := readStored(r, plain, limit)
		bl.tokens = n
		return bl, plain, tokens, err
	case fixed:
		t = fixedTables()
	case dynamic:
		var c codes
		bl.codes.from = r.at
		if err := readCodes(r, &c, &t.lit); err != nil {
			return bl, plain, tokens, err
		}
		bl.codes.to = r.at
		if !t.build(&c) {
			return bl, plain, tokens, errStream
		}
	default:
		return bl, plain, tokens, errStream
	}
	before := len(tokens)
	plain, tokens, err := t.symbols(r, plain, len(plain)+limit, tokens)
	bl.tokens = len(tokens) - before
	return bl, plain, tokens, err
}

// build sets the tables up for a dynamic block.
func (t *tables) build(c *codes) bool {
	if !t.lit.build(c.lit[:]) {
		return false
	}
	if c.dist == (codes{}).dist {
		clear(t.dist[:]) // no matches
		return true
	}
	return t.dist.build(c.dist[:])
}

func readStored(r *bitReader, plain []byte, limit int) ([]byte, int, error) {
	padded := r.align()
	n := r.take(16)
	if inverted := r.take(16); !r.over() && (!padded || inverted != n^0xffff) || n > limit {
		return plain, 0, errStream
	}
	at := r.at / 8
	if r.over() || at+n > len(r.b) {
		return plain, 0, errEnd
	}
	r.at += n * 8
	return append(plain, r.b[at:at+n]...), n, nil
}

// readCodes reads the code lengths of a dynamic block.
func readCodes(r *bitReader, c *codes, t *decodeTable) error {
	lits, dists, lens := r.take(5)+257, r.take(5)+1, r.take(4)+4
	if lits > literals || dists > distances {
		return errStream
	}
	var l [codeLengths]uint8
	for i := range lens {
		l[lengthOrder[i]] = uint8(r.take(3))
	}
	if r.over() {
		return errEnd
	}
	if !t.build(l[:]) {
		return errStream
	}
	var all [literals + distances]uint8
	for n := 0; n < lits+dists; {
		e := t[r.peek()&(1<<maxCode-1)]
		if e == 0 {
			return errStream
		}
		r.at += int(e & 15)
		sym, again := uint8(e>>4), 1
		switch sym {
		case repeatLength:
			if n == 0 {
				return errStream
			}
			sym, again = all[n-1], 3+r.take(2)
		case zeros:
			sym, again = 0, 3+r.take(3)
		case manyZeros:
			sym, again = 0, 11+r.take(7)
		}
		if n+again > lits+dists {
			return errStream
		}
		for range again {
			all[n] = sym
			n++
		}
	}
	if r.over() {
		return errEnd
	}
	copy(c.lit[:], all[:lits])
	copy(c.dist[:], all[lits:lits+dists])
	return nil
}

// symbols reads up to the end of the block; end is the most that plain may have then.
func (t *tables) symbols(r *bitReader, plain []byte, end int, tokens []token) ([]byte, []token, error) {
	for first := len(tokens); len(tokens)-first <= maxTokens; {
		e := t.lit[r.peek()&(1<<maxCode-1)]
		r.at += int(e & 15)
		sym := int(e >> 4)
		switch {
		case r.over():
			return plain, tokens, errEnd
		case e == 0 || sym >= literals:
			return plain, tokens, errStream
		case sym == endOfBlock:
			return plain, tokens, nil
		case sym < endOfBlock:
			if len(plain) == end {
				return plain, tokens, errStream
			}
			plain = append(plain, byte(sym))
			tokens = append(tokens, token(sym))
			continue
		}
		l := lengthOf[sym-257]
		length := int(l.base) + r.take(int(l.extra))
		e = t.dist[r.peek()&(1<<maxCode-1)]
		r.at += int(e & 15)
		if e == 0 || int(e>>4) >= distances {
			return plain, tokens, errStream
		}
		d := distanceOf[e>>4]
		dist := int(d.base) + r.take(int(d.extra))
		if r.over() {
			return plain, tokens, errEnd
		}
		if dist > len(plain) || len(plain)+length > end {
			return plain, tokens, errStream
		}
		for range length {
			plain = append(plain, plain[len(plain)-dist])
		}
		tokens = append(tokens, match(length, dist))
	}
	return plain, tokens, errStream
}
