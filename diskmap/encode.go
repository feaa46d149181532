package diskmap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"disksync/volume/table"
)

// A map goes to another process as the number of its volumes (4 bytes, big-endian like all numbers); for each volume, in order, its name,
// kind and the reason why it is kept (each a length of 4 bytes and the text), its offset, size, and the start, unit and number of units of
// its allocation map (8 each; zeros: it has none); then the allocation maps, in the same order: whole words of 8 bytes, in which a set bit
// means that a unit is free, the lowest of the first byte first.

const (
	maxVolumes = table.MaxPartitions
	maxText    = 256 // bytes of one; what Scan says is shorter
	minUnit    = 512 // bytes
	fixedBytes = 3*4 + 5*8
	maxHeader  = 4 + maxVolumes*(fixedBytes+3*maxText)
)

// ErrMap says that what should be a map of a disk makes no sense.
var ErrMap = errors.New("the map of what is free makes no sense")

// MaxEncoded bounds an encoded map of a disk of size bytes, in bytes.
func MaxEncoded(size int64) int {
	return maxHeader + int(min(MaxMapBytes, max(size, 0)/minUnit/8+maxVolumes*8))
}

// Encode returns the map in pieces, of which all but the first belong to the map still.
func (m *Map) Encode() [][]byte {
	head := binary.BigEndian.AppendUint32(nil, uint32(len(m.volumes)))
	text := func(s string) {
		s = s[:min(len(s), maxText)]
		head = append(binary.BigEndian.AppendUint32(head, uint32(len(s))), s...)
	}
	var maps [][]byte
	for _, v := range m.volumes {
		text(v.Name)
		text(string(v.Kind))
		text(v.Kept)
		var z zone
		if i := slices.IndexFunc(m.zones, func(z *zone) bool { return z.in(v) }); i >= 0 {
			z = *m.zones[i]
			maps = append(maps, z.free)
		}
		for _, n := range []int64{v.Offset, v.Size, z.start, z.unit, z.n} {
			head = binary.BigEndian.AppendUint64(head, uint64(n))
		}
	}
	return append([][]byte{head}, maps...)
}

// Parse returns the map of a disk of size bytes that Encode has made, or ErrMap. Whoever made it may not be trusted: volumes are on the disk
// in their order, allocation maps within their volumes, and what is free is counted here. The map keeps b.
func Parse(b []byte, size int64) (*Map, error) {
	c := &cursor{b: b}
	n := int64(c.u32())
	if n > maxVolumes {
		return nil, fmt.Errorf("%w: %d volumes", ErrMap, n)
	}
	m := &Map{}
	var owners []int
	end := int64(0)
	for i := range int(n) {
		v := Volume{Name: c.text(), Kind: Kind(c.text()), Kept: c.text(), Offset: c.i64(), Size: c.i64()}
		z := &zone{start: c.i64(), unit: c.i64(), n: c.i64()}
		if c.bad || v.Offset < end || v.Offset > size || v.Size < 0 || v.Size > size-v.Offset {
			return nil, fmt.Errorf("%w: volume %d", ErrMap, i)
		}
		end = v.Offset + v.Size
		if z.unit != 0 {
			if v.Kept != "" || z.unit < minUnit || z.n < 0 || z.start < v.Offset || z.start > end || z.n > (end-z.start)/z.unit {
				return nil, fmt.Errorf("%w: what is free in volume %d", ErrMap, i)
			}
			m.zones, owners = append(m.zones, z), append(owners, i)
		}
		m.volumes = append(m.volumes, v)
	}
	for i, z := range m.zones {
		z.free = c.take((z.n + 63) / 64 * 8)
		if c.bad {
			break
		}
		m.volumes[owners[i]].Free = z.count(0, z.n) * z.unit
	}
	if c.bad || len(c.b) > 0 {
		return nil, fmt.Errorf("%w: it has another length", ErrMap)
	}
	return m, nil
}

// cursor takes numbers and texts from b. What is missing reads as nothing, and is bad.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int64) []byte {
	if n < 0 || n > int64(len(c.b)) {
		c.bad, c.b = true, nil
		return nil
	}
	p := c.b[:n:n]
	c.b = c.b[n:]
	return p
}

func (c *cursor) u32() uint32 {
	if p := c.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (c *cursor) i64() int64 {
	if p := c.take(8); p != nil {
		return int64(binary.BigEndian.Uint64(p))
	}
	return 0
}

func (c *cursor) text() string {
	n := c.u32()
	if n > maxText {
		c.bad = true
		return ""
	}
	return string(c.take(int64(n)))
}
