// Package numbers reads the numbers of variable length that encoding/binary appends, where they come from others.
package numbers

import "encoding/binary"

// Reader reads numbers and bytes. The first thing that is wrong stays, in Bad; what is read then are zeros, so that it need not be asked
// after each. It is not safe for concurrent use.
type Reader struct {
	B   []byte // what was not read yet
	Bad bool
}

// UpTo reads a number without a sign that is at most limit.
func (r *Reader) UpTo(limit int) int {
	v, n := binary.Uvarint(r.B)
	if r.Bad || n <= 0 || v > uint64(max(limit, 0)) {
		r.Bad = true
		return 0
	}
	r.B = r.B[n:]
	return int(v)
}

// From reads a number with a sign that leads from base to somewhere in 0 … limit, and returns where it leads to.
func (r *Reader) From(base, limit int) int {
	v, n := binary.Varint(r.B)
	if r.Bad || n <= 0 || v < -int64(base) || v > int64(limit-base) {
		r.Bad = true
		return 0
	}
	r.B = r.B[n:]
	return base + int(v)
}

// Bytes returns the next n bytes, which are those of B.
func (r *Reader) Bytes(n int) []byte {
	if r.Bad || n > len(r.B) {
		r.Bad = true
		return make([]byte, n)
	}
	out := r.B[:n:n]
	r.B = r.B[n:]
	return out
}
