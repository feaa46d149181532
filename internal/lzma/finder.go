package lzma

import (
	"encoding/binary"
	"math/bits"
)

const (
	shortBits = 16 // of the table of three bytes
	fourBits  = 18
	sixBits   = 20
	longBits  = 19 // of the table of twelve bytes
	longMatch = 12
	fours     = 1
	sixes     = 4
	longs     = 2
	// niceLen is the length at which a match is good enough to be taken without looking further.
	niceLen = 48
	goodLen = 16
)

// found is a match: its length, and its distance less 1.
type found struct {
	n    int
	dist uint32
}

// finder finds matches: the last place of the same three bytes, the last places of the same four, and the last place of the
// same twelve, since a chain that is full of short matches may never get to a long one.
type finder struct {
	buf     []byte
	ready   int // positions below are in the tables
	short   [1 << shortBits]int32
	four    [1 << fourBits][fours]int32
	six     [1 << sixBits][sixes]int32
	long    [1 << longBits][longs]int32
	found   []found
	candsAt int
	cands   [all]int32
	foundAt int // the position that the matches in found are of
}

// start takes the bytes from skip to end into the tables.
func (f *finder) start(buf []byte, skip, end int) {
	f.foundAt = -2
	f.candsAt = -1
	f.buf = buf
	clear(f.short[:])
	clear(f.four[:])
	clear(f.six[:])
	clear(f.long[:])
	f.ready = skip
	f.insert(end)
}

func hash3(v uint64) uint32 { return uint32(v) << 8 * 0x9e3779b1 >> (32 - shortBits) }
func hash4(v uint64) uint32 { return uint32(v) * 0x9e3779b1 >> (32 - fourBits) }
func hash6(v uint64) uint32 { return uint32(v << 16 * 0x9e3779b97f4a7c15 >> (64 - sixBits)) }
func hash12(v uint64, w uint32) uint32 {
	return uint32((v*0x9e3779b97f4a7c15 ^ uint64(w)*0xc2b2ae3d27d4eb4f) * 0xff51afd7ed558ccd >> (64 - longBits))
}

// insert takes the positions up to end into the tables.
func (f *finder) insert(end int) {
	last := len(f.buf) - longMatch // the last bytes are not worth the trouble
	for ; f.ready < min(end, last+1); f.ready++ {
		i := f.ready
		b := f.buf[i : i+longMatch]
		v := binary.LittleEndian.Uint64(b)
		w := binary.LittleEndian.Uint32(b[8:])
		f.short[hash3(v)] = int32(i)
		push(f.four[hash4(v)][:], int32(i))
		push(f.six[hash6(v)][:], int32(i))
		push(f.long[hash12(v, w)][:], int32(i))
	}
	f.ready = max(f.ready, end)
}

func push(p []int32, v int32) {
	for k := len(p) - 1; k > 0; k-- {
		p[k] = p[k-1]
	}
	p[0] = v
}

// matchLen returns how many bytes at a and b, at most limit, are the same.
func matchLen(buf []byte, a, b, limit int) int {
	n := 0
	for n+8 <= limit {
		x := binary.LittleEndian.Uint64(buf[a+n:]) ^ binary.LittleEndian.Uint64(buf[b+n:])
		if x != 0 {
			return n + bits.TrailingZeros64(x)>>3
		}
		n += 8
	}
	for n < limit && buf[a+n] == buf[b+n] {
		n++
	}
	return n
}

// find finds matches at pos, each longer than the one before, and takes pos into the tables. light: there is a good match already, so only a much longer one is looked for.
func (f *finder) find(pos int, light bool) {
	limit := min(len(f.buf)-pos, maxMatch)
	if len(f.buf)-pos < longMatch || pos == 0 {
		f.found = f.found[:0]
		f.foundAt = pos
		f.insert(pos + 1)
		return
	}
	carry := f.foundAt == pos-1 && len(f.found) > 0 && f.found[len(f.found)-1].n > goodLen
	light = light || carry
	best := 2
	k := 0
	if carry {
		for _, m := range f.found {
			if m.n > best+1 {
				m.n--
				f.found[k] = m
				k++
			}
		}
		best = f.found[k-1].n
	}
	f.found = f.found[:k]
	f.foundAt = pos
	buf := f.buf
	v := binary.LittleEndian.Uint64(buf[pos:])
	var diffs [all]uint64
	if f.candsAt != pos {
		f.look(pos)
	}
	cands := f.cands
	first := 0
	if light {
		first = 1 + fours + sixes
	}
	for i := first; i < all; i++ {
		diffs[i] = binary.LittleEndian.Uint64(buf[cands[i]:]) ^ v
	}
	for i := first; i < all; i++ {
		n := min(bits.TrailingZeros64(diffs[i])>>3, limit)
		if n > best || n == 8 && best < limit {
			f.try(pos, int(cands[i]), n, &best, limit)
		}
	}
	f.insert(pos + 1)
	if len(f.buf)-pos-1 >= longMatch {
		f.look(pos + 1)
	}
}

func (f *finder) look(pos int) {
	b := f.buf[pos : pos+longMatch]
	v := binary.LittleEndian.Uint64(b)
	w := binary.LittleEndian.Uint32(b[8:])
	cands := &f.cands
	f.candsAt = pos
	cands[0] = f.short[hash3(v)]
	*(*[fours]int32)(cands[1:]) = f.four[hash4(v)]
	*(*[sixes]int32)(cands[1+fours:]) = f.six[hash6(v)]
	*(*[longs]int32)(cands[1+fours+sixes:]) = f.long[hash12(v, w)]
}

const all = 1 + fours + sixes + longs

func (f *finder) try(pos, at, n int, best *int, limit int) {
	if n == 8 {
		n = 8 + matchLen(f.buf, at+8, pos+8, limit-8)
	}
	if n <= *best {
		return
	}
	dist := uint32(pos - at - 1)
	if n == 3 && dist >= 1<<14 {
		return
	}
	k := len(f.found)
	for k > 0 && f.found[k-1].dist >= dist {
		k--
	}
	f.found = append(f.found[:k], found{n, dist})
	*best = n
}
