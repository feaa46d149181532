package deploy

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"maps"
	"math/bits"
	"slices"
	"sync"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/vhd"
)

// Free tells what of a disk its file systems call free.
type Free interface {
	// Run reports whether the byte at off is free, and where what that is said of ends.
	Run(off int64) (free bool, end int64)
}

const (
	omitUnit    = 4096 // bytes; clusters of most file systems
	omitInBlock = image.BlockSize / omitUnit
)

// omittedBits are those of a block: one for each unit.
type omittedBits [omitInBlock / 8]byte

// omitted is where a point has zeros, and the disk that it was made from something that was free: whole units, by block.
type omitted map[int]*omittedBits

// set enters a unit of the disk.
func (o omitted) set(unit int) {
	b := o[unit/omitInBlock]
	if b == nil {
		b = &omittedBits{}
		o[unit/omitInBlock] = b
	}
	b[unit%omitInBlock/8] |= 1 << (unit % 8)
}

func (o omitted) has(unit int) bool {
	b := o[unit/omitInBlock]
	return b != nil && b[unit%omitInBlock/8]&(1<<(unit%8)) != 0
}

// bytes returns how much it is.
func (o omitted) bytes() int64 {
	n := 0
	for _, b := range o {
		for _, v := range b {
			n += bits.OnesCount8(v)
		}
	}
	return int64(n) * omitUnit
}

// clear makes zeros of what is omitted in p, which was read at off.
func (o omitted) clear(p []byte, off int64) {
	for unit := off / omitUnit; unit*omitUnit < off+int64(len(p)); unit++ {
		if o.has(int(unit)) {
			clear(p[max(unit*omitUnit-off, 0):min((unit+1)*omitUnit-off, int64(len(p)))])
		}
	}
}

// The file of an omitted: the magic, the size of the disk and the number of blocks (both 8 bytes, big endian), and for each block, in
// order, its number (4 bytes) and its bits, the lowest of the first byte first. It proves itself by its hash, which the record has.
const (
	omittedMagic  = "DSOMIT1\n"
	omittedHeader = len(omittedMagic) + 16
	omittedEntry  = 4 + omitInBlock/8
	omittedSuffix = ".omitted"
)

func omittedFile(hash string) string { return disksDir + "/" + hash + omittedSuffix }

// marshal encodes an omitted of a disk of size bytes.
func (o omitted) marshal(size int64) []byte {
	b := append(make([]byte, 0, omittedHeader+len(o)*omittedEntry), omittedMagic...)
	b = binary.BigEndian.AppendUint64(b, uint64(size))
	b = binary.BigEndian.AppendUint64(b, uint64(len(o)))
	for _, block := range slices.Sorted(maps.Keys(o)) {
		b = binary.BigEndian.AppendUint32(b, uint32(block))
		b = append(b, o[block][:]...)
	}
	return b
}

var errOmitted = errors.New("the list of what a backup has left out is damaged")

// parseOmitted decodes what marshal has made for a disk of size bytes, in its only form.
func parseOmitted(b []byte, size int64) (omitted, error) {
	blocks := image.BlockCount(size)
	if len(b) < omittedHeader || string(b[:len(omittedMagic)]) != omittedMagic ||
		binary.BigEndian.Uint64(b[len(omittedMagic):]) != uint64(size) ||
		binary.BigEndian.Uint64(b[len(omittedMagic)+8:]) != uint64((len(b)-omittedHeader)/omittedEntry) ||
		(len(b)-omittedHeader)%omittedEntry != 0 || (len(b)-omittedHeader)/omittedEntry > blocks {
		return nil, errOmitted
	}
	o, last := omitted{}, -1
	for b = b[omittedHeader:]; len(b) > 0; b = b[omittedEntry:] {
		block := int(binary.BigEndian.Uint32(b))
		entry := omittedBits(b[4:omittedEntry])
		if block <= last || block >= blocks || entry == (omittedBits{}) {
			return nil, errOmitted
		}
		o[block], last = &entry, block
	}
	return o, nil
}

// writeOmitted stores an omitted and returns its hash, which is empty for one that has nothing.
func (s *Store) writeOmitted(o omitted, size int64) (string, error) {
	if len(o) == 0 {
		return "", nil
	}
	b := o.marshal(size)
	sum := sha256.Sum256(b)
	hash := hex.EncodeToString(sum[:])
	if had, err := durable.ReadFile(s.fsys, omittedFile(hash), int64(len(b))); err == nil && bytes.Equal(had, b) {
		return hash, nil
	}
	return hash, durable.WriteFile(s.fsys, omittedFile(hash), b, 0o600)
}

// readOmitted reads an omitted of a disk of size bytes. Whatever is wrong with it, what it is needed for can be done without.
func (s *Store) readOmitted(hash string, size int64) (omitted, error) {
	if hash == "" {
		return nil, nil
	}
	if raw, err := hex.DecodeString(hash); err != nil || len(raw) != sha256.Size {
		return nil, errOmitted
	}
	most := int64(omittedHeader) + int64(image.BlockCount(size))*omittedEntry
	b, err := durable.ReadFile(s.fsys, omittedFile(hash), most)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != hash {
		return nil, errOmitted
	}
	return parseOmitted(b, size)
}

// without is a disk with zeros for what is omitted. It is safe for concurrent use.
type without struct {
	*vhd.Chain
	omitted omitted
}

// ReadAt implements io.ReaderAt.
func (w without) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.Chain.ReadAt(p, off)
	w.omitted.clear(p[:n], off)
	return n, err
}

// Content is a frozen disk as a point is to have it: with zeros for what is free in the blocks that were written since the state that its
// layer starts from, and with those that this state has in the others. It is safe for concurrent use.
type Content struct {
	chain   *chain
	written map[int]bool
	before  omitted // of the state that the layer starts from
	free    Free    // nil: nothing is

	mu      sync.Mutex
	omitted omitted // in the blocks that were written and have been read
}

// Size returns the size of the disk in bytes.
func (c *Content) Size() int64 { return c.chain.Size() }

// NextData returns the offset of the first byte at or behind off that may be other than zero; the disk's size when there is none.
func (c *Content) NextData(off int64) (int64, error) { return c.chain.NextData(off) }

// ReadAt implements io.ReaderAt. It notes what it leaves out of the units that it reads as a whole; whoever packs a block reads all of it.
func (c *Content) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.chain.ReadAt(p, off)
	p = p[:n]
	var left []int
	free := runs{of: c.free}
	for unit := off / omitUnit; unit*omitUnit < off+int64(n); unit++ {
		part := p[max(unit*omitUnit-off, 0):min((unit+1)*omitUnit-off, int64(n))]
		switch {
		case !c.written[int(unit/omitInBlock)]:
			if c.before.has(int(unit)) {
				clear(part)
			}
		case (unit+1)*omitUnit <= c.Size() && free.all(unit*omitUnit, omitUnit) && !image.IsZero(part):
			clear(part)
			if len(part) == omitUnit {
				left = append(left, int(unit))
			}
		}
	}
	if len(left) > 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, unit := range left {
			c.omitted.set(unit)
		}
	}
	return n, err
}

// runs asks what is free at places that rise, for each run once: one may be as long as the disk.
type runs struct {
	of   Free
	free bool
	end  int64 // of the run that was asked for last
}

// all reports whether n bytes from off on are free.
func (r *runs) all(off, n int64) bool {
	if r.of == nil {
		return false
	}
	for end := off + n; off < end; off = r.end {
		if off >= r.end {
			if r.free, r.end = r.of.Run(off); r.end <= off {
				return false
			}
		}
		if !r.free {
			return false
		}
	}
	return true
}

// misses reports whether the state before has left out something of a block that is not free now.
func (c *Content) misses(block int) bool {
	free := runs{of: c.free}
	for unit := block * omitInBlock; unit < (block+1)*omitInBlock; unit++ {
		if c.before.has(unit) && !free.all(int64(unit)*omitUnit, omitUnit) {
			return true
		}
	}
	return false
}

// all returns what is omitted in the disk that was packed. The lists are not shared with anybody who changes them.
func (c *Content) all() omitted {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := maps.Clone(c.omitted)
	for block, b := range c.before {
		if !c.written[block] {
			out[block] = b
		}
	}
	return out
}

// LeftOut returns how much of what was written is left out as free, in bytes, as far as it was read.
func (c *Content) LeftOut() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.omitted.bytes()
}
