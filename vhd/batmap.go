package vhd

import (
	"encoding/binary"
	"errors"
	"slices"
)

// Layout of the header that tapdisk puts behind the block table, one sector: cookie, offset of the map (u64), its length in
// sectors (u32), version (u32), checksum of the map (u32), marker byte, and the hash of a key when the disk is encrypted.
const (
	batmapCookie     = "tdbatmap"
	batmapOffsetAt   = 8
	batmapSectorsAt  = 16
	batmapVersionAt  = 20
	batmapChecksumAt = 24
	batmapKeyAt      = 29

	batmapSigned  = 0x00010001 // the checksum takes bytes as signed
	batmapCurrent = 0x00010002
)

// batmap is tapdisk's map of full blocks: bit n says that all sectors of block n are the file's own, so that its bitmap need not
// be read. It only ever saves tapdisk a read. A bit that is clear is always true, and so is a map whose checksum is wrong,
// because then nobody goes by it.
type batmap struct {
	headAt int64
	head   []byte
	at     int64
	bits   bitmap // as far as the checksum covers them; tapdisk stores no others
}

// loadBatmap returns the file's batmap, or nil when there is none. It returns BatmapDamaged when it must not be used; then the
// batmap comes with it if it lies in the file.
func (m *Image) loadBatmap() (*batmap, error) {
	spans := m.batmapSpans()
	if len(spans) == 0 {
		return nil, nil
	}
	b := &batmap{headAt: spans[0].start, head: make([]byte, sectorSize)}
	if err := readFull(m.r, b.head, b.headAt); err != nil {
		return nil, err
	}
	if len(spans) == 1 {
		return nil, fault(BatmapDamaged, b.headAt, "the map is outside the file")
	}
	b.at = spans[1].start
	n := min(batmapCovered(m.footer.Size), spans[1].end-b.at)
	if n == 0 || b.at+n > m.fileSize {
		return nil, fault(BatmapDamaged, b.headAt, "the map is outside the file")
	}
	for i, s := range m.metadata() {
		if i < 3 && s.overlaps(span{b.at, b.at + n}) {
			return nil, fault(BatmapDamaged, b.headAt, "the map lies on the metadata at %d", s.start)
		}
	}
	b.bits = make(bitmap, n)
	if err := readFull(m.r, b.bits, b.at); err != nil {
		return nil, err
	}
	if sum, want := b.sum(b.bits), binary.BigEndian.Uint32(b.head[batmapChecksumAt:]); sum != want {
		return b, fault(BatmapDamaged, b.headAt, "checksum is %08x, want %08x", sum, want)
	}
	return b, nil
}

// encrypted reports whether the header holds the hash of a key.
func (b *batmap) encrypted() bool { return b != nil && b.head[batmapKeyAt] != 0 }

// writableBatmap returns the batmap that a writer of the disk has to keep true, nil when there is none that is gone by. To
// keep it true is little work: bitmaps only gain bits, so what it says of a block stays true, and only a block that is new
// to the file needs [batmap.admit].
func (m *Image) writableBatmap() (*batmap, error) {
	b, err := m.loadBatmap()
	if b.encrypted() {
		return nil, fault(Encrypted, b.headAt, "this program cannot encrypt what it writes, and what is there would become unreadable")
	}
	if errors.Is(err, BatmapDamaged) {
		return nil, nil
	}
	return b, err
}

// admit makes the map true for a block that is about to get a place in the file, and for all others that have none.
func (b *batmap) admit(f File, block int, bat []uint32) error {
	if !b.full(block) {
		return nil
	}
	return b.retract(f, func(i int) bool { return i >= len(bat) || bat[i] == unallocated })
}

// covers reports whether the map has room for what tapdisk reads of it when the disk has size bytes.
func (b *batmap) covers(size int64) bool {
	return b == nil || int64(binary.BigEndian.Uint32(b.head[batmapSectorsAt:]))*sectorSize >= batmapCovered(size)
}

// moved returns a batmap for a file whose block table moves, and its bytes, to be written at offset at, right behind the new
// table. It says what b says.
func (b *batmap) moved(at, size int64) (*batmap, []byte) {
	if b == nil {
		return nil, nil
	}
	n := &batmap{headAt: at, head: slices.Clone(b.head), at: at + sectorSize, bits: make(bitmap, batmapCovered(size))}
	copy(n.bits, b.bits)
	binary.BigEndian.PutUint64(n.head[batmapOffsetAt:], uint64(n.at))
	binary.BigEndian.PutUint32(n.head[batmapSectorsAt:], uint32(len(n.bits)/sectorSize))
	binary.BigEndian.PutUint32(n.head[batmapVersionAt:], batmapCurrent)
	binary.BigEndian.PutUint32(n.head[batmapChecksumAt:], checksum(n.bits, -4))
	return n, slices.Concat(n.head, n.bits)
}

// batmapCovered is the length of what tapdisk reads of the map, in bytes: it rounds the disk's size down to whole bytes of the
// map, then up to sectors.
func batmapCovered(size int64) int64 {
	return max(1, (size>>24+sectorSize-1)/sectorSize) * sectorSize
}

// sum is the checksum of the map by the rule of its version.
func (b *batmap) sum(bits bitmap) uint32 {
	if binary.BigEndian.Uint32(b.head[batmapVersionAt:]) != batmapSigned {
		return checksum(bits, -4)
	}
	var sum uint32
	for _, c := range bits {
		sum += uint32(int8(c))
	}
	return ^sum
}

// full reports whether the map calls the block full.
func (b *batmap) full(block int) bool {
	return b != nil && block/8 < len(b.bits) && b.bits.get(int64(block))
}

// retract clears the bits of the blocks for which wrong is true, and writes the map when that changes it or its checksum.
//
// The header goes first, with the checksum that the map will have. Bits are only cleared, and the sum counts bytes as unsigned,
// so until the last sector of the map is written the sum is too high, the checksum does not fit, and nobody goes by the map:
// a crash in between costs tapdisk some reads.
func (b *batmap) retract(f File, wrong func(block int) bool) error {
	if b == nil {
		return nil
	}
	bits := slices.Clone(b.bits)
	for block := range len(bits) * 8 {
		if bits.get(int64(block)) && wrong(block) {
			bits[block/8] &^= 0x80 >> (block % 8)
		}
	}
	head := slices.Clone(b.head)
	if !slices.Equal(bits, b.bits) || b.sum(bits) != binary.BigEndian.Uint32(head[batmapChecksumAt:]) {
		binary.BigEndian.PutUint32(head[batmapVersionAt:], batmapCurrent)
		binary.BigEndian.PutUint32(head[batmapChecksumAt:], checksum(bits, -4))
	}
	if slices.Equal(head, b.head) && slices.Equal(bits, b.bits) {
		return nil
	}
	if err := writeAt(f, head, b.headAt); err != nil {
		return err
	}
	if err := syncFile(f); err != nil {
		return err
	}
	for i := 0; i < len(bits); i += sectorSize {
		if s := bits[i : i+sectorSize]; !slices.Equal(s, b.bits[i:i+sectorSize]) {
			if err := writeAt(f, s, b.at+int64(i)); err != nil {
				return err
			}
		}
	}
	b.head, b.bits = head, bits
	return syncFile(f)
}
