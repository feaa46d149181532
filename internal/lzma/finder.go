package lzma

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

const (
	// The tables have 1<<bits rows; those of sixes and longs at most that many, and fewer when there is less to take in.
	threeBits = 15
	fourBits  = 16
	sixBits   = 19
	longBits  = 19
	leastBits = 10

	sixes     = 2 // places in a row
	longs     = 2
	longMatch = 12 // bytes that the table of longs goes by
	tagBits   = 8  // of a hash, that an entry of either has besides its place: fewer where places have more than 24

	// three bytes are worth a match up to nearThree back; three and four are looked for in the last nearFour of the dictionary only.
	nearThree = 1 << 14
	nearFour  = 1 << 17

	// niceLen is the length at which a match is good enough to be taken without looking further.
	niceLen = 40
	// goodLen is the length at which a match is good enough to look only for a much longer one.
	goodLen = 10

	candidates = 2 + sixes + longs

	// ahead is how many positions early rows are asked for: memory takes about as long as it takes to look at that many.
	ahead = 6
)

// found is a match: its length, and its distance less 1.
type found struct {
	n    int
	dist uint32
}

// finder finds matches: the last places of the same three, four, six and twelve bytes. The places of a row are compared side by
// side, where a chain of places would wait for memory at each, and they are read one position ahead, out of rows that were asked for some
// positions ahead, for the same reason.
type finder struct {
	buf   []byte
	ready int // positions below are in the tables
	three [1 << threeBits]int32
	four  [1 << fourBits]int32
	six   [1 << sixBits][sixes]uint32
	long  [1 << longBits][longs]uint32

	sixShift, longShift int // from hashes to rows
	placeBits           int // of an entry of sixes or longs that say the place; those above are a tag

	found   []found
	foundAt int               // the position that found is of
	places  [candidates]int32 // 0 for none, which does no harm
	placeAt int               // the position that places are of
}

// start takes the bytes from skip to end into the tables.
func (f *finder) start(buf []byte, skip, end int) {
	f.buf = buf
	size := bits.Len(uint(len(buf)-skip)) - 2
	six, long := min(max(size, leastBits), sixBits), min(max(size-1, leastBits), longBits)
	f.sixShift, f.longShift, f.placeBits = 64-six, 64-long, bits.Len(uint(len(buf)))
	clear(f.three[:])
	clear(f.four[:])
	clear(f.six[:1<<six])
	clear(f.long[:1<<long])
	f.found, f.foundAt, f.placeAt = f.found[:0], -2, -1
	f.ready = skip
	f.learn(min(end-nearFour, len(buf)-longMatch))
	f.insert(end)
}

func hash3(v uint64) uint32 { return uint32(v) << 8 * 0x9e3779b1 >> (32 - threeBits) }
func hash4(v uint64) uint32 { return uint32(v) * 0x9e3779b1 >> (32 - fourBits) }

// row returns where in a table a hash belongs, and the tag that an entry with that hash has above its place. By the tag most places where
// something else is are known without reading there, which would be to wait for memory.
func (f *finder) row(h uint64, shift int) (row uint64, tag uint32) {
	return h >> (shift & 63), uint32(h>>((shift-tagBits)&63)) << (f.placeBits & 31)
}

// place returns the place that an entry says, 0 when its tag is another.
func (f *finder) place(entry, tag uint32) int32 {
	e := entry ^ tag
	if e>>(f.placeBits&31) != 0 {
		e = 0
	}
	return int32(e)
}

// sixOf returns the row of the first six bytes of v, and the tag of its entries.
func (f *finder) sixOf(v uint64) (*[sixes]uint32, uint32) {
	row, tag := f.row(v<<16*0x9e3779b97f4a7c15, f.sixShift)
	return &f.six[row&(1<<sixBits-1)], tag
}

// longOf returns the row of twelve bytes, and the tag of its entries.
func (f *finder) longOf(v uint64, w uint32) (*[longs]uint32, uint32) {
	h := (v*0x9e3779b97f4a7c15 ^ uint64(w)*0xc2b2ae3d27d4eb4f) * 0xff51afd7ed558ccd
	row, tag := f.row(h, f.longShift)
	return &f.long[row&(1<<longBits-1)], tag
}

// push takes a position into the rows of six and of twelve bytes, and returns the first eight there.
func (f *finder) push(i int) uint64 {
	v, w := f.twelve(i)
	six, tag := f.sixOf(v)
	six[1], six[0] = six[0], tag|uint32(i)
	long, tag := f.longOf(v, w)
	long[1], long[0] = long[0], tag|uint32(i)
	return v
}

// twelve returns the bytes at a position that the tables go by.
func (f *finder) twelve(i int) (uint64, uint32) {
	b := f.buf[i : i+longMatch]
	return binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint32(b[8:])
}

// learn takes the positions up to end into the tables, less densely than insert: for the far end of the dictionary, which is longer than what
// is to be packed. What is there is found a few bytes late.
func (f *finder) learn(end int) {
	const apart = 4
	for ; f.ready+apart <= end; f.ready += apart {
		f.push(f.ready)
	}
}

// insert takes the positions up to end into the tables.
func (f *finder) insert(end int) {
	last := len(f.buf) - longMatch // the last bytes are not worth the trouble
	for ; f.ready < min(end, last+1); f.ready++ {
		i := f.ready
		v := f.push(i)
		f.three[hash3(v)] = int32(i)
		f.four[hash4(v)] = int32(i)
	}
	f.ready = max(f.ready, end)
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

// find sets found to matches at pos, each longer and farther than the one before, and takes pos into the tables. Where a good match
// is known, here or because the one at the position before goes on, it looks only for a much longer one.
func (f *finder) find(pos int, good bool) {
	last := len(f.buf) - longMatch
	best, first := 2, 0
	if f.foundAt == pos-1 && f.longest() > goodLen {
		best, good = f.goOn(), true
	} else {
		f.found = f.found[:0]
	}
	f.foundAt = pos
	if good {
		first = candidates - longs
	}
	if pos > 0 && pos <= last {
		if f.placeAt != pos {
			f.look(pos)
		}
		f.compare(pos, first, best)
	}
	f.insert(pos + 1)
	if pos < last {
		f.look(pos + 1)
		f.order(pos + ahead)
	}
}

// longest returns the length of the longest match in found.
func (f *finder) longest() int {
	if len(f.found) == 0 {
		return 0
	}
	return f.found[len(f.found)-1].n
}

// goOn makes the matches in found those of the next position, and returns the length of the longest.
func (f *finder) goOn() int {
	kept := f.found[:0]
	for _, m := range f.found {
		if m.n > 3 {
			kept = append(kept, found{m.n - 1, m.dist})
		}
	}
	f.found = kept
	return f.longest()
}

// order has the rows of a position on their way from memory by the time that it is looked at.
func (f *finder) order(pos int) {
	if pos > len(f.buf)-longMatch {
		return
	}
	v, w := f.twelve(pos)
	six, _ := f.sixOf(v)
	long, _ := f.longOf(v, w)
	prefetch(unsafe.Pointer(six), unsafe.Pointer(long))
}

// look reads the places for a position.
func (f *finder) look(pos int) {
	f.placeAt = pos
	v, w := f.twelve(pos)
	p := &f.places
	p[0] = f.three[hash3(v)]
	p[1] = f.four[hash4(v)]
	six, tag := f.sixOf(v)
	p[2], p[3] = f.place(six[0], tag), f.place(six[1], tag)
	long, tag := f.longOf(v, w)
	p[4], p[5] = f.place(long[0], tag), f.place(long[1], tag)
}

// compare adds to found what matches more than best bytes at the places from first on.
func (f *finder) compare(pos, first, best int) {
	limit := min(len(f.buf)-pos, maxMatch)
	v := binary.LittleEndian.Uint64(f.buf[pos:])
	var diffs [candidates]uint64
	// In a loop of its own, so that memory is asked for all of them at once.
	for i := first; i < candidates; i++ {
		diffs[i] = binary.LittleEndian.Uint64(f.buf[f.places[i]:]) ^ v
	}
	for i := first; i < candidates; i++ {
		n := bits.TrailingZeros64(diffs[i]) >> 3
		if n < 8 && n <= best || best >= limit {
			continue
		}
		at := int(f.places[i])
		if n == 8 {
			n += matchLen(f.buf, at+8, pos+8, limit-8)
		}
		dist := uint32(pos - at - 1)
		if n <= best || n == 3 && dist >= nearThree {
			continue
		}
		best = n
		k := len(f.found)
		for k > 0 && f.found[k-1].dist >= dist {
			k-- // shorter, and no nearer
		}
		f.found = append(f.found[:k], found{n, dist})
	}
}
