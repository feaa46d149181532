package lzma

import (
	"errors"
	"math/bits"
)

// ErrCorrupt is returned for bytes that are no stream, or one that does not give what it should.
var ErrCorrupt = errors.New("lzma: damaged stream")

// Decoder unpacks streams. The zero value is ready; it is not safe for concurrent use.
type Decoder struct {
	model

	in      []byte
	at      int
	rng     uint32
	code    uint32
	corrupt bool
}

// initBytes is what a stream begins with: a zero byte and the first bytes of the code.
const initBytes = 5

// Decode unpacks in to buf[dict:]; buf[:dict] is the dictionary. It returns ErrCorrupt when in does not give exactly that many
// bytes or is longer than it takes.
func (d *Decoder) Decode(buf []byte, dict int, in []byte) error {
	if len(in) < initBytes || in[0] != 0 {
		return ErrCorrupt
	}
	d.reset()
	d.in, d.at, d.corrupt = in, initBytes, false
	d.rng = 0xffffffff
	d.code = uint32(in[1])<<24 | uint32(in[2])<<16 | uint32(in[3])<<8 | uint32(in[4])
	err := d.run(buf, dict)
	if err == nil {
		d.normalize()
		// The encoder's last bytes leave nothing over, so that a stream has one form.
		if d.corrupt || d.code != 0 || d.at != len(in) {
			err = ErrCorrupt
		}
	}
	d.in = nil
	return err
}

// normalize makes room for another bit. At the end of the input zeros follow, and the stream counts as damaged.
func (d *Decoder) normalize() {
	if d.rng < topValue {
		d.rng <<= 8
		d.code = d.code<<8 | uint32(d.next())
	}
}

func (d *Decoder) next() byte {
	if d.at >= len(d.in) {
		d.corrupt = true
		return 0
	}
	b := d.in[d.at]
	d.at++
	return b
}

// bit decodes one bit and teaches p.
func (d *Decoder) bit(p *prob) uint32 {
	if d.rng < topValue {
		d.rng <<= 8
		d.code = d.code<<8 | uint32(d.next())
	}
	v := uint32(*p)
	bound := d.rng >> probBits * v
	if d.code < bound {
		d.rng = bound
		*p = uint16(v + (1<<probBits-v)>>moveBits)
		return 0
	}
	d.rng -= bound
	d.code -= bound
	*p = uint16(v - v>>moveBits)
	return 1
}

// tree decodes a number of n bits, the highest first. It is bit written out, and so are direct, literalByte and matchedByte,
// because most of the time goes there.
func (d *Decoder) tree(p []prob, n int) uint32 {
	rng, code, in, at := d.rng, d.code, d.in, d.at
	m, end := uint32(1), uint32(1)<<n
	p = p[:end]
	for m < end {
		if rng < topValue {
			rng <<= 8
			code <<= 8
			if at < len(in) {
				code |= uint32(in[at])
			} else {
				d.corrupt = true
			}
			at++
		}
		v := uint32(p[m])
		bound := rng >> probBits * v
		if code < bound {
			rng = bound
			p[m] = uint16(v + (1<<probBits-v)>>moveBits)
			m <<= 1
		} else {
			rng -= bound
			code -= bound
			p[m] = uint16(v - v>>moveBits)
			m = m<<1 | 1
		}
	}
	d.rng, d.code, d.at = rng, code, at
	return m - end
}

// reverse decodes a number of n bits, the lowest first. The probabilities begin at p[1].
func (d *Decoder) reverse(p []prob, n int) uint32 {
	m, v := uint32(1), uint32(0)
	for i := range n {
		b := d.bit(&p[m])
		m = m<<1 | b
		v |= b << i
	}
	return v
}

// direct decodes n bits that are as often 0 as 1.
func (d *Decoder) direct(n int) uint32 {
	rng, code := d.rng, d.code
	v := uint32(0)
	for range n {
		if rng < topValue {
			rng <<= 8
			code = code<<8 | uint32(d.next())
		}
		rng >>= 1
		t := code - rng
		mask := uint32(int32(t) >> 31) // all ones for a 0
		code = t + rng&mask
		v = v<<1 + mask + 1
	}
	d.rng, d.code = rng, code
	return v
}

func (d *Decoder) length(l *lengths, posState int) int {
	if d.bit(&l.choice) == 0 {
		return minMatch + int(d.tree(l.low[posState][:], 3))
	}
	if d.bit(&l.choice2) == 0 {
		return minMatch + lowLens + int(d.tree(l.mid[posState][:], 3))
	}
	return minMatch + lowLens + midLens + int(d.tree(l.high[:], 8))
}

// distance decodes how far back a match of n bytes is, less 1.
func (d *Decoder) distance(n int) uint32 {
	slot := d.tree(d.slot[lenState(n)][:], slotBits)
	if slot < firstModel {
		return slot
	}
	extra := int(slot>>1 - 1)
	dist := (2 | slot&1) << extra
	if slot < endModel {
		return dist + d.reverse(d.special[dist-slot:], extra)
	}
	dist += d.direct(extra-alignBits) << alignBits
	return dist + d.reverse(d.align[:], alignBits)
}

// literalByte decodes a byte.
func (d *Decoder) literalByte(p *[0x300]prob) byte {
	rng, code, in, at := d.rng, d.code, d.in, d.at
	m := uint32(1)
	for m < 0x100 {
		if rng < topValue {
			rng <<= 8
			code <<= 8
			if at < len(in) {
				code |= uint32(in[at])
			} else {
				d.corrupt = true
			}
			at++
		}
		v := uint32(p[m])
		bound := rng >> probBits * v
		if code < bound {
			rng = bound
			p[m] = uint16(v + (1<<probBits-v)>>moveBits)
			m <<= 1
		} else {
			rng -= bound
			code -= bound
			p[m] = uint16(v - v>>moveBits)
			m = m<<1 | 1
		}
	}
	d.rng, d.code, d.at = rng, code, at
	return byte(m)
}

// matchedByte decodes a byte behind a match, which is more often than not another than the one that would continue it.
func (d *Decoder) matchedByte(p *[0x300]prob, match uint32) byte {
	rng, code, in, at := d.rng, d.code, d.in, d.at
	m, offs := uint32(1), uint32(0x100)
	for m < 0x100 {
		match <<= 1
		bit := match & offs
		i := (offs + bit + m) & 0x3ff
		if rng < topValue {
			rng <<= 8
			code <<= 8
			if at < len(in) {
				code |= uint32(in[at])
			} else {
				d.corrupt = true
			}
			at++
		}
		v := uint32(p[i])
		bound := rng >> probBits * v
		if code < bound {
			rng = bound
			p[i] = uint16(v + (1<<probBits-v)>>moveBits)
			m <<= 1
			offs &^= bit
		} else {
			rng -= bound
			code -= bound
			p[i] = uint16(v - v>>moveBits)
			m = m<<1 | 1
			offs &= bit
		}
	}
	d.rng, d.code, d.at = rng, code, at
	return byte(m)
}

// run decodes until buf is full.
func (d *Decoder) run(buf []byte, pos int) error {
	var state uint8
	var reps [4]uint32
	for pos < len(buf) {
		if d.corrupt {
			return ErrCorrupt
		}
		posState := pos & posMask
		if d.bit(&d.isMatch[state][posState]) == 0 {
			before := byte(0)
			if pos > 0 {
				before = buf[pos-1]
			}
			p := &d.literal[before>>(8-lc)]
			if state < literalStates {
				buf[pos] = d.literalByte(p)
			} else {
				if int64(reps[0]) >= int64(pos) {
					return ErrCorrupt
				}
				buf[pos] = d.matchedByte(p, uint32(buf[pos-int(reps[0])-1]))
			}
			state = afterLiteral[state]
			pos++
			continue
		}
		n := 0
		if d.bit(&d.isRep[state]) == 0 {
			n = d.length(&d.match, posState)
			reps[3], reps[2], reps[1] = reps[2], reps[1], reps[0]
			reps[0] = d.distance(n)
			state = afterMatch[state]
		} else if n = d.repeated(state, posState, &reps); n == 1 {
			state = afterShortRep[state]
		} else {
			state = afterRep[state]
		}
		if int64(reps[0]) >= int64(pos) || n > len(buf)-pos {
			return ErrCorrupt
		}
		copyMatch(buf, pos, int(reps[0])+1, n)
		pos += n
	}
	if d.corrupt {
		return ErrCorrupt
	}
	return nil
}

// repeated decodes a match at one of the last four distances, which moves to the front, and returns its length.
func (d *Decoder) repeated(state uint8, posState int, reps *[4]uint32) int {
	if d.bit(&d.isRep0[state]) == 0 {
		if d.bit(&d.isRep0Long[state][posState]) == 0 {
			return 1
		}
		return d.length(&d.rep, posState)
	}
	if d.bit(&d.isRep1[state]) == 0 {
		reps[0], reps[1] = reps[1], reps[0]
	} else if d.bit(&d.isRep2[state]) == 0 {
		reps[0], reps[1], reps[2] = reps[2], reps[0], reps[1]
	} else {
		reps[0], reps[1], reps[2], reps[3] = reps[3], reps[0], reps[1], reps[2]
	}
	return d.length(&d.rep, posState)
}

// copyMatch copies n bytes from dist bytes before pos; they may overlap.
func copyMatch(buf []byte, pos, dist, n int) {
	if dist >= n {
		copy(buf[pos:pos+n], buf[pos-dist:])
		return
	}
	for i := pos; i < pos+n; i++ {
		buf[i] = buf[i-dist]
	}
}

// slotOf returns the slot of a distance less 1.
func slotOf(dist uint32) uint32 {
	if dist < firstModel {
		return dist
	}
	n := uint32(bits.Len32(dist)) - 1
	return n<<1 | dist>>(n-1)&1
}
