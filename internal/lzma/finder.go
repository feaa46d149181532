package lzma

import (
	"encoding/binary"
	"math/bits"
)

const (
	shortBits = 16 // of the table of three bytes
	chainBits = 20 // of the table of four bytes, which chains begin in
	longBits  = 20 // of the table of twelve bytes
	longMatch = 12
	// niceLen is the length at which a match is good enough to be taken without looking further.
	niceLen = 48
	// maxDepth is how many candidates of a chain are looked at.
	maxDepth = 8
)

// found is a match: its length, and its distance less 1.
type found struct {
	n    int
	dist uint32
}

// finder finds matches: the last place of the same three bytes, the last places of the same four, and the last place of the
// same twelve, since a chain that is full of short matches may never get to a long one.
type finder struct {
	buf   []byte
	ready int // positions below are in the tables
	short [1 << shortBits]int32
	heads [1 << chainBits]int32
	long  [1 << longBits]int32
	chain []int32 // the place before with the same four bytes
	found []found
}

// start takes the bytes from skip to end into the tables.
func (f *finder) start(buf []byte, skip, end int) {
	f.buf = buf
	clear(f.short[:])
	clear(f.heads[:])
	clear(f.long[:])
	if cap(f.chain) < len(buf) {
		f.chain = make([]int32, max(len(buf), 2*cap(f.chain)))
	}
	f.chain = f.chain[:len(buf)]
	f.ready = max(skip, 1) // 0 stands for nothing
	f.insert(end)
}

func hash3(v uint32) uint32 { return (v << 8) * 0x9e3779b1 >> (32 - shortBits) }
func hash4(v uint32) uint32 { return v * 0x9e3779b1 >> (32 - chainBits) }
func hash12(v uint64, w uint32) uint32 {
	return uint32((v*0x9e3779b97f4a7c15 ^ uint64(w)*0xc2b2ae3d27d4eb4f) * 0xff51afd7ed558ccd >> (64 - longBits))
}

// insert takes the positions up to end into the tables.
func (f *finder) insert(end int) {
	last := len(f.buf) - longMatch // the last bytes are not worth the trouble
	for ; f.ready < min(end, last+1); f.ready++ {
		i := f.ready
		v := binary.LittleEndian.Uint64(f.buf[i:])
		w := binary.LittleEndian.Uint32(f.buf[i+8:])
		f.short[hash3(uint32(v))] = int32(i)
		h := hash4(uint32(v))
		f.chain[i] = f.heads[h]
		f.heads[h] = int32(i)
		f.long[hash12(v, w)] = int32(i)
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

// find finds matches at pos, each longer than the one before, and takes pos into the tables.
func (f *finder) find(pos int) {
	f.found = f.found[:0]
	limit := min(len(f.buf)-pos, maxMatch)
	if len(f.buf)-pos < longMatch {
		return
	}
	buf := f.buf
	v := binary.LittleEndian.Uint64(buf[pos:])
	w := binary.LittleEndian.Uint32(buf[pos+8:])
	best := 2
	if at := int(f.short[hash3(uint32(v))]); at > 0 && pos-at < 1<<14 {
		if n := matchLen(buf, at, pos, limit); n > best {
			best = n
			f.found = append(f.found, found{n, uint32(pos - at - 1)})
		}
	}
	at := int(f.heads[hash4(uint32(v))])
	enough := min(limit, niceLen)
	for depth := maxDepth; at != 0 && depth > 0 && best < enough; depth-- {
		if buf[at+best] == buf[pos+best] {
			if n := matchLen(buf, at, pos, limit); n > best {
				best = n
				f.found = append(f.found, found{n, uint32(pos - at - 1)})
			}
		}
		at = int(f.chain[at])
	}
	if best < enough {
		at := int(f.long[hash12(v, w)])
		if at > 0 && buf[at+best] == buf[pos+best] {
			if n := matchLen(buf, at, pos, limit); n > best {
				f.found = append(f.found, found{n, uint32(pos - at - 1)})
			}
		}
	}
	f.insert(pos + 1)
}
