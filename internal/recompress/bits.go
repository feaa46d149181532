package recompress

import "encoding/binary"

// bitReader reads bits, the lowest of each byte first. Behind the end it reads zeros, and at is beyond the end.
type bitReader struct {
	b  []byte
	at int // bits read
}

// peek returns the next 32 bits or more.
func (r *bitReader) peek() uint64 {
	i := r.at >> 3
	if i+8 <= len(r.b) {
		return binary.LittleEndian.Uint64(r.b[i:]) >> (r.at & 7)
	}
	var last [8]byte
	if i < len(r.b) {
		copy(last[:], r.b[i:])
	}
	return binary.LittleEndian.Uint64(last[:]) >> (r.at & 7)
}

// take reads n bits, at most 32.
func (r *bitReader) take(n int) int {
	v := int(r.peek() & (1<<n - 1))
	r.at += n
	return v
}

// over reports whether more was read than there is.
func (r *bitReader) over() bool { return r.at > len(r.b)*8 }

// align goes on to the next whole byte and reports whether only zeros were skipped.
func (r *bitReader) align() bool { return r.take(-r.at&7) == 0 }

// bitWriter appends bits to b, up to its capacity; what is beyond that is lost, and full says so.
type bitWriter struct {
	b    []byte
	bits uint64
	n    int // bits in bits, below 8 between calls
	full bool
}

// put appends the n lowest bits of v, at most 32; the others must be zeros.
func (w *bitWriter) put(v uint64, n int) {
	w.bits |= v << w.n
	for w.n += n; w.n >= 8; w.n -= 8 {
		if len(w.b) == cap(w.b) {
			w.full = true
			w.bits, w.n = 0, 0
			return
		}
		w.b = append(w.b, byte(w.bits))
		w.bits >>= 8
	}
}

// bytes appends whole bytes; nothing may be left over of one before.
func (w *bitWriter) bytes(b []byte) {
	if w.n != 0 || len(b) > cap(w.b)-len(w.b) {
		w.full = true
		return
	}
	w.b = append(w.b, b...)
}
