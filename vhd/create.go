package vhd

import (
	"encoding/binary"
	"fmt"
	"io"
	"path"

	"disksync/image"
)

// File is what a VHD is written to. As their own interfaces say, ReadAt and WriteAt may be called at the same time for ranges that
// do not overlap, which [Convert] does. A write behind the end makes the file longer; what was skipped reads as zeros. Sync
// returns when everything written before is on stable storage. A write of one sector must not be torn: the order of writes
// here rests on it, as it does in other programs.
type File interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// DefaultBlockSize is the block size that every implementation reads, in bytes.
const DefaultBlockSize = 2 << 20

// Layout of a file that Create makes. The space of each locator leaves room for a longer path when a parent moves.
const (
	createHeaderAt  = 512
	createTailAt    = createHeaderAt + headerSize
	locatorSpace    = 4096
	dataAlignment   = 4096
	createFeatures  = 2
	createdLocators = 3
	// maxFixedSize keeps sums of sizes and offsets inside 63 bits.
	maxFixedSize = 1 << 60
)

// creator is what qemu before version 10 needs to see to go by the footer's current size instead of the geometry; its table
// of creators knows "win ", and nothing of a program it has not heard of.
var creator = Creator{App: [4]byte{'w', 'i', 'n', ' '}, Version: 0x00060003, OS: [4]byte{'W', 'i', '2', 'k'}}

// AzureSizeUnit is the unit of sizes that Azure takes, in bytes, for [CreateOptions.SizeUnit]. Azure takes fixed disks only.
const AzureSizeUnit = 1 << 20

// CreateOptions describes the disk that [Create] makes.
type CreateOptions struct {
	// Size is the size of the disk in bytes, a multiple of 512. A dynamic or differencing disk has at most MaxDynamicSize.
	Size int64
	// SizeUnit rounds Size up to a multiple of it, itself a multiple of 512; 0: Size stays as it is.
	SizeUnit int64
	// Type is Fixed, Dynamic or Differencing; 0: Differencing when there is a Parent, else Dynamic.
	Type Type
	// BlockSize is in bytes, a power of two of at least 4096; 0 means DefaultBlockSize. A fixed disk has none.
	BlockSize int64
	// MaxTableEntries is the number of blocks that the block table has room for, so that the disk can grow to BlockSize times
	// that many bytes without the table being moved. At most MaxBlocks; less than the disk needs, or 0, means what it needs.
	MaxTableEntries uint32
	// DeviceSize is the length in bytes of the block device that the disk is written to, which has its footer in the last
	// sector; 0: f is a file, which is as long as it must be.
	DeviceSize int64
	UUID       image.UUID // of the new disk
	Timestamp  Timestamp
	Parent     *Parent // of a differencing disk
}

// Parent describes the parent of a differencing disk.
type Parent struct {
	// UUID is that of the parent's footer; nil for a raw parent.
	UUID      image.UUID
	Timestamp Timestamp // modification time of the parent's file; 0 is usual, readers do not insist on it
	// Path is where the parent is, relative to the child's folder, with forward slashes.
	Path string
}

// Create writes an empty disk to f, which must be empty, and syncs it. A fixed disk is its footer alone, behind a hole as
// long as the disk; on a block device it shows what the device holds. A file whose creation did not finish does not open as a
// VHD.
func Create(f File, o CreateOptions) error {
	l, err := newLayout(o)
	if err != nil {
		return err
	}
	if l.header != nil {
		table := make([]uint32, l.header.MaxTableEntries)
		for i := range table {
			table[i] = unallocated
		}
		return l.finish(f, table, l.headEnd())
	}
	return l.finish(f, nil, l.footer.Size)
}

// layout is a disk that is being made.
type layout struct {
	footer   *Footer
	header   *Header  // nil for a fixed disk
	texts    [][]byte // of the locators
	footerAt int64    // on a block device; 0: behind everything else
}

// newLayout checks the options and works the metadata out.
func newLayout(o CreateOptions) (*layout, error) {
	if o.SizeUnit < 0 || o.SizeUnit%sectorSize != 0 {
		return nil, fault(BadSize, -1, "unit of %d bytes; it is a multiple of 512", o.SizeUnit)
	}
	if o.Size <= 0 || o.Size%sectorSize != 0 || o.Size > maxFixedSize {
		return nil, fault(BadSize, -1, "%d bytes; a disk has a multiple of 512", o.Size)
	}
	if o.SizeUnit > 0 {
		o.Size = roundUp(o.Size, o.SizeUnit)
	}
	if o.Type == 0 {
		o.Type = Dynamic
		if o.Parent != nil {
			o.Type = Differencing
		}
	}
	if o.Type != Fixed && o.Type != Dynamic && o.Type != Differencing || (o.Type == Differencing) != (o.Parent != nil) {
		return nil, fault(BadType, -1, "%s, parent given: %t", o.Type, o.Parent != nil)
	}
	if o.DeviceSize != 0 && (o.DeviceSize%sectorSize != 0 || o.DeviceSize < o.Size+FooterSize && o.Type == Fixed) {
		return nil, fault(BadSize, -1, "a device of %d bytes has no room for a disk of %d", o.DeviceSize, o.Size)
	}
	l := &layout{footer: &Footer{
		Features: createFeatures, Version: formatVersion, DataOffset: noOffset, Timestamp: o.Timestamp, Creator: creator,
		OriginalSize: o.Size, Size: o.Size, Geometry: GeometryFor(o.Size), Type: o.Type, UUID: o.UUID,
	}}
	if o.DeviceSize != 0 {
		l.footerAt = o.DeviceSize - FooterSize
	}
	if o.Type == Fixed {
		return l, nil
	}
	return l, l.addHeader(o)
}

func (l *layout) addHeader(o CreateOptions) (err error) {
	if o.Size > MaxDynamicSize {
		return fault(BadSize, -1, "%d bytes; a %s disk has at most %d", o.Size, o.Type, int64(MaxDynamicSize))
	}
	if o.BlockSize == 0 {
		o.BlockSize = DefaultBlockSize
	}
	if o.BlockSize < dataAlignment || o.BlockSize > 1<<31 || o.BlockSize&(o.BlockSize-1) != 0 {
		return fault(BadBlockSize, -1, "%d bytes", o.BlockSize)
	}
	entries := max(blockCount(o.Size, o.BlockSize), int64(o.MaxTableEntries))
	if entries > MaxBlocks {
		return fault(BadBlockSize, -1, "%d blocks, at most %d", entries, MaxBlocks)
	}
	l.footer.DataOffset = createHeaderAt
	l.header = &Header{
		dataOffset: noOffset, Version: formatVersion, BlockSize: o.BlockSize, MaxTableEntries: uint32(entries),
	}
	if l.texts, err = l.header.setParent(o.Parent); err != nil {
		return err
	}
	l.header.TableOffset = createTailAt + uint64(len(l.texts))*locatorSpace
	if l.footerAt != 0 && l.headEnd() > l.footerAt {
		return fault(BadSize, -1, "the device has no room for the block table")
	}
	return nil
}

func blockCount(size, blockSize int64) int64 { return (size + blockSize - 1) / blockSize }

// headEnd returns where the block table ends.
func (l *layout) headEnd() int64 {
	return int64(l.header.TableOffset) + roundUp(4*int64(l.header.MaxTableEntries), sectorSize)
}

// head returns everything in front of the block table.
func (l *layout) head() []byte {
	b := make([]byte, l.header.TableOffset)
	copy(b, l.footer.marshal())
	copy(b[createHeaderAt:], l.header.marshal())
	for i, text := range l.texts {
		copy(b[l.header.Locators[i].Offset:], text)
	}
	return b
}

// nextBlock returns where a block's bitmap goes when everything before end is taken: its data begins at a multiple of 4096.
func nextBlock(end, bitmapSize int64) int64 {
	return roundUp(end+bitmapSize, dataAlignment) - bitmapSize
}

// finish writes the metadata of a disk whose blocks, as in table, end at end, and syncs it.
func (l *layout) finish(f File, table []uint32, end int64) error {
	footerAt := max(l.footerAt, end)
	if l.header != nil {
		if err := writeTable(f, int64(l.header.TableOffset), table); err != nil {
			return err
		}
		// The copy at the start goes last: a file whose creation did not finish is no VHD, not an empty one.
		if err := writeAt(f, l.head()[createHeaderAt:], createHeaderAt); err != nil {
			return err
		}
	}
	if err := writeAt(f, l.footer.marshal(), footerAt); err != nil {
		return err
	}
	if l.header != nil {
		if err := writeAt(f, l.footer.marshal(), 0); err != nil {
			return err
		}
	}
	return syncFile(f)
}

// Snapshot writes an empty child of parent to f, which must be empty: what is written to the disk from then on goes to the
// child, and parent must not change any more. A [Disk] whose leaf becomes a parent is synced and closed first.
//
// path is where the parent is, relative to the child's folder. Of o, Size 0 means the parent's size, and BlockSize 0 the
// parent's block size; a child may be larger than its parent, not smaller. A raw parent is good; a VHD without a uuid is not,
// as its children could not be told from those of a raw disk.
func Snapshot(f File, parent *Image, path string, o CreateOptions) error {
	if o.Size == 0 {
		o.Size = parent.Size()
	}
	if o.BlockSize == 0 && parent.header != nil {
		o.BlockSize = parent.blocks.blockSize
	}
	switch {
	case o.Size < parent.Size():
		return fault(BadSize, -1, "a child of %d bytes would cut its parent of %d", o.Size, parent.Size())
	case parent.UUID().IsZero() && !parent.raw:
		return fault(NilUUID, -1, "the parent must have one; repair it first")
	case o.UUID.IsZero():
		return fault(NilUUID, -1, "the child must have one")
	case o.UUID == parent.UUID():
		return fault(Cycle, -1, "the child has the uuid of its parent")
	}
	o.Type, o.Parent = Differencing, &Parent{UUID: parent.UUID(), Path: path}
	return Create(f, o)
}

// setParent fills in the header's parent fields and returns the texts of the locators, in their order.
func (h *Header) setParent(p *Parent) ([][]byte, error) {
	if p == nil {
		return nil, nil
	}
	if p.Path == "" || path.IsAbs(p.Path) || len(p.Path) > locatorSpace/4 {
		return nil, fmt.Errorf("vhd: parent path %q: want a relative path of at most %d bytes", p.Path, locatorSpace/4)
	}
	h.ParentUUID, h.ParentTimestamp, h.ParentName = p.UUID, p.Timestamp, path.Base(p.Path)
	windows := encodeUTF16(backslashed(p.Path), binary.LittleEndian, locatorSpace/2)
	texts := [][]byte{windows, windows, []byte("file://./" + path.Clean(p.Path))}
	for i, platform := range [createdLocators]Platform{W2ru, W2ku, MacX} {
		h.Locators[i] = Locator{
			Platform: platform, Space: locatorSpace, Length: uint32(len(texts[i])),
			Offset: createTailAt + uint64(i)*locatorSpace,
		}
	}
	return texts, nil
}

// backslashed writes a relative path as Windows does.
func backslashed(p string) string {
	b := []byte(`.\` + path.Clean(p))
	for i := range b {
		if b[i] == '/' {
			b[i] = '\\'
		}
	}
	return string(b)
}

// writeTable writes a block table; what is left of its last sector becomes unallocated entries.
func writeTable(f io.WriterAt, off int64, table []uint32) error {
	for len(table) > 0 {
		n := min(len(table), 64<<10)
		if err := writeAt(f, tableBytes(table[:n]), off); err != nil {
			return err
		}
		table, off = table[n:], off+4*int64(n)
	}
	return nil
}

// tableBytes returns entries as they are stored, filled up to whole sectors.
func tableBytes(table []uint32) []byte {
	b := make([]byte, 0, roundUp(4*int64(len(table)), sectorSize))
	for _, e := range table {
		b = binary.BigEndian.AppendUint32(b, e)
	}
	for len(b)%sectorSize != 0 {
		b = append(b, 0xff)
	}
	return b
}

func writeAt(f io.WriterAt, b []byte, off int64) error {
	if _, err := f.WriteAt(b, off); err != nil {
		return fmt.Errorf("vhd: write %d bytes at %d: %w", len(b), off, err)
	}
	return nil
}

func syncFile(f File) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("vhd: sync: %w", err)
	}
	return nil
}
