package disc

import (
	"encoding/binary"
	"time"

	"disksync/internal/crcitut"
)

// descriptor is one of ECMA-167, whose place is not known yet. Numbers are little-endian.
type descriptor struct {
	id uint16
	b  []byte // with room for the tag
}

// The tags (ECMA-167 3/7.2.1, 4/7.2.1).
const (
	tagPrimary        = 1
	tagAnchor         = 2
	tagImplementation = 4
	tagPartition      = 5
	tagLogical        = 6
	tagUnallocated    = 7
	tagTerminating    = 8
	tagIntegrity      = 9
	tagFileSet        = 256
	tagFileID         = 257
	tagMoreExtents    = 258
	tagFileEntry      = 261

	tagSize = 16
)

// at returns the bytes with the tag (ECMA-167 3/7.2) of a descriptor at a place: a sector, or a block of the partition.
func (d descriptor) at(place int64) []byte {
	b := append([]byte(nil), d.b...)
	le := binary.LittleEndian
	le.PutUint16(b, d.id)
	le.PutUint16(b[2:], 2) // the version of the standard that NSR02 stands for
	le.PutUint16(b[8:], crcitut.Sum(b[tagSize:]))
	le.PutUint16(b[10:], uint16(len(b)-tagSize))
	le.PutUint32(b[12:], uint32(place))
	sum := byte(0)
	for i := range tagSize {
		sum += b[i]
	}
	b[4] = sum
	return b
}

// newDescriptor returns one of size bytes.
func newDescriptor(id uint16, size int) descriptor { return descriptor{id, make([]byte, size)} }

func (d descriptor) u8(at int, v uint8)        { d.b[at] = v }
func (d descriptor) u16(at int, v uint16)      { binary.LittleEndian.PutUint16(d.b[at:], v) }
func (d descriptor) u32(at int, v int64)       { binary.LittleEndian.PutUint32(d.b[at:], uint32(v)) }
func (d descriptor) u64(at int, v int64)       { binary.LittleEndian.PutUint64(d.b[at:], uint64(v)) }
func (d descriptor) extent(at int, n, s int64) { d.u32(at, n); d.u32(at+4, s) }

// long writes a long_ad (ECMA-167 4/14.14.2): the length and the block of the only partition.
func (d descriptor) long(at int, n, block int64) { d.u32(at, n); d.u32(at+4, block) }

// charset writes the charspec of OSTA compressed Unicode (UDF 1.02, 2.1.2).
func (d descriptor) charset(at int) { copy(d.b[at+1:], "OSTA Compressed Unicode") }

// text writes a dstring of size bytes (UDF 1.02, 2.1.3): 8 bits a character, the length at the end.
func (d descriptor) text(at, size int, s string) {
	if s == "" {
		return
	}
	d.b[at] = 8
	copy(d.b[at+1:at+size-1], s)
	d.b[at+size-1] = byte(1 + len(s))
}

// maker names this program as the one that made something; UDF 1.02, 2.1.5.
const maker = "*Disksync"

// entity writes a regid (ECMA-167 1/7.4).
func (d descriptor) entity(at int, id string, suffix ...byte) {
	copy(d.b[at+1:], id)
	copy(d.b[at+24:], suffix)
}

// revision is UDF 1.02.
var revision = []byte{0x02, 0x01}

// time writes a timestamp (ECMA-167 1/7.3) in UTC.
func (d descriptor) time(at int, t time.Time) {
	d.u16(at, 1<<12)
	d.u16(at+2, uint16(t.Year()))
	for i, v := range []int{int(t.Month()), t.Day(), t.Hour(), t.Minute(), t.Second()} {
		d.b[at+4+i] = byte(v)
	}
}
