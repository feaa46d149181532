package vhd

import (
	"encoding/binary"
	"fmt"
	"io"
	"path"

	"disksync/image"
)

// File is what a VHD is written to. Sync returns when everything written before is on stable storage.
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
)

// creator is what qemu before version 10 needs to see to go by the footer's current size instead of the geometry; its table
// of creators knows "win ", and nothing of a program it has not heard of.
var creator = Creator{App: [4]byte{'w', 'i', 'n', ' '}, Version: 0x00060003, OS: [4]byte{'W', 'i', '2', 'k'}}

// CreateOptions describes the disk that [Create] makes.
type CreateOptions struct {
	Size      int64      // bytes, a multiple of 512, at most MaxDynamicSize
	BlockSize int64      // bytes, a power of two of at least 4096; 0 means DefaultBlockSize
	UUID      image.UUID // of the new disk
	Timestamp Timestamp
	Parent    *Parent // nil for a dynamic disk, else the disk is differencing
}

// Parent describes the parent of a differencing disk.
type Parent struct {
	UUID      image.UUID
	Timestamp Timestamp // modification time of the parent's file; 0 is usual, readers do not insist on it
	// Path is where the parent is, relative to the child's folder, with forward slashes.
	Path string
}

// Create writes an empty dynamic or differencing disk to f, which must be empty, and syncs it.
func Create(f File, o CreateOptions) error {
	if o.BlockSize == 0 {
		o.BlockSize = DefaultBlockSize
	}
	if o.Size <= 0 || o.Size%sectorSize != 0 || o.Size > MaxDynamicSize {
		return fault(BadSize, -1, "%d bytes; a disk has a multiple of 512, at most %d", o.Size, int64(MaxDynamicSize))
	}
	if o.BlockSize < dataAlignment || o.BlockSize > 1<<31 || o.BlockSize&(o.BlockSize-1) != 0 {
		return fault(BadBlockSize, -1, "%d bytes", o.BlockSize)
	}
	ft := &Footer{
		Features: createFeatures, Version: formatVersion, DataOffset: createHeaderAt, Timestamp: o.Timestamp,
		Creator: creator, OriginalSize: o.Size, Size: o.Size, Geometry: GeometryFor(o.Size), Type: Dynamic, UUID: o.UUID,
	}
	h := &Header{
		dataOffset: noOffset, Version: formatVersion, BlockSize: o.BlockSize,
		MaxTableEntries: uint32((o.Size + o.BlockSize - 1) / o.BlockSize),
	}
	texts, err := h.setParent(o.Parent)
	if err != nil {
		return err
	}
	if o.Parent != nil {
		ft.Type = Differencing
	}
	h.TableOffset = createTailAt + uint64(len(texts))*locatorSpace
	tableLen := roundUp(4*int64(h.MaxTableEntries), sectorSize)

	// The copy at the start goes last: a file whose creation did not finish is no VHD, not an empty one.
	if err := writeTable(f, int64(h.TableOffset), tableLen); err != nil {
		return err
	}
	for i, text := range texts {
		if err := writeAt(f, text, int64(h.Locators[i].Offset)); err != nil {
			return err
		}
	}
	if err := writeAt(f, h.marshal(), createHeaderAt); err != nil {
		return err
	}
	if err := writeAt(f, ft.marshal(), int64(h.TableOffset)+tableLen); err != nil {
		return err
	}
	if err := writeAt(f, ft.marshal(), 0); err != nil {
		return err
	}
	return syncFile(f)
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

// writeTable writes an empty block table, padded with the same bytes to whole sectors.
func writeTable(f File, off, length int64) error {
	b := make([]byte, min(length, 64<<10))
	for i := range b {
		b[i] = 0xff
	}
	for end := off + length; off < end; off += int64(len(b)) {
		b = b[:min(int64(len(b)), end-off)]
		if err := writeAt(f, b, off); err != nil {
			return err
		}
	}
	return nil
}

func writeAt(f File, b []byte, off int64) error {
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
