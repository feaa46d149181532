package diskmap

import (
	"encoding/binary"
	"math/bits"
)

// zone says for a run of equal units, such as the clusters of a file system, which of them are free.
type zone struct {
	start int64 // of the first unit, on the disk
	unit  int64 // bytes
	n     int64
	free  []byte // a bit for each unit, the lowest first, as all file systems have it; whole words of 8 bytes
}

func (z *zone) end() int64 { return z.start + z.n*z.unit }

// in reports whether it is the zone of a volume.
func (z *zone) in(v Volume) bool { return z.start >= v.Offset && z.start < v.Offset+v.Size }

func (z *zone) isFree(i int64) bool { return z.free[i/8]>>(i%8)&1 != 0 }

// load takes a piece of an allocation map, in which a set bit means that a unit is used. first must be a multiple of 8.
func (z *zone) load(used []byte, first, n int64) {
	for i := range n / 8 {
		z.free[first/8+i] = ^used[i]
	}
	if rest := n % 8; rest != 0 {
		mask := byte(1)<<rest - 1
		at := first/8 + n/8
		z.free[at] = z.free[at]&^mask | ^used[n/8]&mask
	}
}

// set makes the units from a up to b free or used.
func (z *zone) set(a, b int64, free bool) {
	for a < b {
		n := min(8-a%8, b-a)
		mask := byte(1<<n-1) << (a % 8)
		if free {
			z.free[a/8] |= mask
		} else {
			z.free[a/8] &^= mask
		}
		a += n
		if a%8 == 0 { // whole bytes
			for ; b-a >= 8; a += 8 {
				z.free[a/8] = 0
				if free {
					z.free[a/8] = 0xff
				}
			}
		}
	}
}

// count returns how many units from a up to b are free.
func (z *zone) count(a, b int64) int64 {
	n := int64(0)
	for ; a < b && a%64 != 0; a++ {
		n += int64(z.free[a/8] >> (a % 8) & 1)
	}
	for ; b-a >= 64; a += 64 {
		n += int64(bits.OnesCount64(binary.LittleEndian.Uint64(z.free[a/8:])))
	}
	for ; a < b; a++ {
		n += int64(z.free[a/8] >> (a % 8) & 1)
	}
	return n
}

// next returns the first unit at or behind i that is free, or that is used; z.n when there is none.
func (z *zone) next(i int64, free bool) int64 {
	for i < z.n {
		w := binary.LittleEndian.Uint64(z.free[i/64*8:])
		if !free {
			w = ^w
		}
		w >>= i % 64
		if w != 0 {
			return min(i+int64(bits.TrailingZeros64(w)), z.n)
		}
		i += 64 - i%64
	}
	return z.n
}

// holds reports whether the units from a up to b are in the zone, and all of them used.
func (z *zone) holds(a, b int64) bool {
	return a >= 0 && a <= b && b <= z.n && z.next(a, true) >= b
}
