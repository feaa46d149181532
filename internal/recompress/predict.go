package recompress

import (
	"encoding/binary"
	"math/bits"
)

// level is how hard an encoder looks for matches: zlib's configuration_table, which gzip has as well.
type level struct {
	good  int // where a match of this length is known only a quarter of the chain is followed
	lazy  int // so long a match is taken without a look at the next byte; the quick levels enter no places within it
	nice  int // so long a match ends the search
	chain int // places that are looked at
	quick bool
}

var levels = [...]level{
	1: {4, 4, 8, 4, true},
	2: {4, 5, 16, 8, true},
	3: {4, 6, 32, 32, true},
	4: {4, 4, 16, 16, false},
	5: {8, 16, 32, 32, false},
	6: {8, 16, 128, 128, false},
	7: {8, 32, 128, 256, false},
	8: {32, 128, 258, 1024, false},
	9: {32, 258, 258, 4096, false},
}

const (
	hashBits    = 15
	windowMask  = windowSize - 1
	maxDistance = windowSize - maxMatch - minMatch - 1
	tooFar      = 4096 // a match of three bytes is not worth a distance above
	// maxSteps bounds how far a predictor looks, so that nobody can have it look for hours: places, and eights of bytes that are compared
	// there. It is more than any content needs that is not made for it.
	maxSteps = 1 << 30
)

// predictor says which token zlib would choose next.
type predictor struct {
	level
	buf   []byte
	ready int // places below are in the chains
	head  [1 << hashBits]int32
	prev  [windowSize]int32 // the place before with the same hash
	steps int

	// The match at the place known, where that was looked at already as the one behind a literal.
	known, n, dist int
}

// start begins with the token at from; what is before may be referred to.
func (p *predictor) start(buf []byte, from int, l level) {
	clear(p.head[:])
	p.level, p.buf, p.ready, p.known = l, buf, 0, -1
	p.enter(from)
}

// enter takes the places below end into the chains.
func (p *predictor) enter(end int) {
	last := min(end, len(p.buf)-minMatch+1)
	for i := p.ready; i < last; i++ {
		b := p.buf[i : i+3]
		h := (uint32(b[0])<<10 ^ uint32(b[1])<<5 ^ uint32(b[2])) & (1<<hashBits - 1)
		p.prev[i&windowMask] = p.head[h]
		p.head[h] = int32(i)
	}
	p.ready = max(p.ready, end)
}

// search returns the match at pos that zlib finds when the one at the place before has the length before; not above before when
// there is none better.
func (p *predictor) search(pos, before int) (n, dist int) {
	p.enter(pos + 1)
	limit := min(len(p.buf)-pos, maxMatch)
	if limit < minMatch {
		return minMatch - 1, 0
	}
	buf, here := p.buf, p.buf[pos:]
	at := int(p.prev[pos&windowMask])
	first := max(pos-maxDistance, 0)
	if at == 0 || at < first {
		return minMatch - 1, 0
	}
	chain, nice := p.chain, min(p.nice, limit)
	if before >= p.good {
		chain >>= 2
	}
	if n = before; n >= limit {
		return n, 0
	}
	left := chain
	ends := binary.LittleEndian.Uint16(here[n-1:]) // a longer match has these two bytes
	for {
		if binary.LittleEndian.Uint16(buf[at+n-1:]) == ends {
			k := commonLen(buf[at:], here, limit)
			p.steps += k / 8
			if k > n {
				n, dist = k, pos-at
				if n >= nice {
					break
				}
				ends = binary.LittleEndian.Uint16(here[n-1:])
			}
		}
		at = int(p.prev[at&windowMask])
		if left--; at <= first || left == 0 {
			break
		}
	}
	p.steps += chain - left
	if n == minMatch && dist > tooFar && !p.quick {
		n = minMatch - 1
	}
	return n, dist
}

// commonLen returns how many bytes, at most limit, a and b begin with that are the same.
func commonLen(a, b []byte, limit int) int {
	n := 0
	for ; n+8 <= limit; n += 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
	}
	for n < limit && a[n] == b[n] {
		n++
	}
	return n
}

// next returns the token that zlib would choose at pos.
func (p *predictor) next(pos int) token {
	n, dist := p.n, p.dist
	if p.known != pos {
		n, dist = p.search(pos, minMatch-1)
	}
	p.known = -1
	if n < minMatch || dist == 0 {
		return token(p.buf[pos])
	}
	if !p.quick && n < p.lazy {
		if k, d := p.search(pos+1, n); k > n {
			p.known, p.n, p.dist = pos+1, k, d
			return token(p.buf[pos])
		}
	}
	return match(n, dist)
}

// took says that the token at pos was t, where next had said it would be said.
func (p *predictor) took(pos int, t, said token) {
	if t != said {
		p.known = -1
	}
	if n := t.length(); p.quick && n > p.lazy {
		p.enter(pos + 1)
		p.ready = max(p.ready, pos+n)
	}
}

// skip says that the bytes up to the next token were stored.
func (p *predictor) skip() { p.known = -1 }
