package vhd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"disksync/image"
)

// Disk is a chain whose leaf is written. It is safe for concurrent use.
//
// What [Disk.WriteAt] wrote is there for good when [Disk.Sync] returned. After a crash at any write before that the file
// opens and holds at least everything synced: Sync first brings data and the bitmaps of new blocks to the disk, then makes
// them reachable.
type Disk struct {
	mu    sync.RWMutex
	chain *Chain
	leaf  *Image
	f     File

	// The fields below are guarded by mu.
	end      int64          // behind the last block and all metadata
	fileEnd  int64          // length of the file
	device   bool           // see Device
	fresh    map[int]bitmap // bitmaps of blocks that the table in the file does not have yet
	changed  map[int]bitmap // bitmaps, changed in memory, of blocks that it has
	tableDue map[int64]bool // offsets of the table's sectors that must be written
	batmap   *batmap        // tapdisk's, which must not begin to lie; nil when there is none that is gone by
	copyDue  bool           // the footer's copy at the start is not the footer
	broken   error          // after a failed sync nobody knows what the file holds
}

// maxDirtyBitmaps bounds the memory of a Disk that is written for long without Sync; WriteAt then syncs by itself.
const maxDirtyBitmaps = 4096

// ErrBeyondEnd is returned for a write outside the disk.
var ErrBeyondEnd = errors.New("vhd: write beyond the end of the disk")

// ErrDeviceFull is returned when a block device has no room for what is to be written. Everything written before is safe.
var ErrDeviceFull = errors.New("vhd: no room on the block device")

// Device opens a leaf that lies on a block device: its length, fileSize, does not change, and the footer stays in its last
// sector. It matters to [OpenDisk] only.
func Device() Option { return func(o *options) { o.device = true } }

// OpenDisk opens the leaf in f, of fileSize bytes, for writing, and its parents for reading. Options apply to the leaf.
// Nothing else may write to f meanwhile, which this package cannot know.
func OpenDisk(f File, fileSize int64, parents []*Image, opts ...Option) (*Disk, error) {
	var o options
	for _, set := range opts {
		set(&o)
	}
	if o.byGeometry {
		return nil, errors.New("vhd: a disk that is opened by its geometry can only be read; nothing was changed")
	}
	leaf, err := Open(f, fileSize, opts...)
	if err != nil {
		return nil, err
	}
	c, err := NewChain(append([]*Image{leaf}, parents...)...)
	if err != nil {
		return nil, err
	}
	d := newDisk(f, c, fileSize)
	d.device = o.device
	if leaf.header == nil {
		d.end = leaf.footer.Size
		return d, d.finishGrowth()
	}
	if d.batmap, err = leaf.writableBatmap(); err != nil {
		return nil, err
	}
	d.end = d.usedEnd()
	for _, w := range leaf.warnings {
		d.copyDue = d.copyDue || w.Fault == CopyDiffers || w.Fault == CopyDamaged || w.Fault == ChecksumStale
	}
	for _, i := range leaf.dropped {
		// An entry that Salvage left out must not come back from the table in the file.
		d.tableDue[d.tableSector(i)] = true
	}
	return d, nil
}

// usedEnd returns where the last block and all metadata end.
func (d *Disk) usedEnd() int64 { return d.leaf.structureEnd() }

// OpenRawDisk opens a raw disk of size bytes, a multiple of 512, for writing, such as the raw parent of a chain that is to be
// coalesced.
func OpenRawDisk(f File, size int64) *Disk {
	return newDisk(f, &Chain{members: []*Image{Raw(f, size)}}, size)
}

func newDisk(f File, c *Chain, fileSize int64) *Disk {
	return &Disk{
		chain: c, leaf: c.members[0], f: f, fileEnd: fileSize,
		fresh: map[int]bitmap{}, changed: map[int]bitmap{}, tableDue: map[int64]bool{},
	}
}

// Size returns the size of the disk in bytes.
func (d *Disk) Size() int64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.chain.Size()
}

// Leaf returns the file that is written. Its content may only be looked at through the Disk.
func (d *Disk) Leaf() *Image { return d.leaf }

// ReadAt implements io.ReaderAt over the composed disk, with everything written so far.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.chain.ReadAt(p, off)
}

// Allocated reports whether the leaf has block number block.
func (d *Disk) Allocated(block int) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.leaf.bat != nil && d.leaf.bat[block] != unallocated
}

// WriteAt implements io.WriterAt. In a differencing leaf exactly the sectors that p touches become the leaf's own; a sector
// that is touched in part is completed from the parents.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.writable(off, int64(len(p))); err != nil {
		return 0, err
	}
	whole, at, err := d.wholeSectors(p, off)
	if err != nil {
		return 0, err
	}
	if err := d.put(whole, at); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *Disk) writable(off, length int64) error {
	if size := d.chain.Size(); off < 0 || length < 0 || off > size || length > size-off {
		return ErrBeyondEnd
	}
	return d.broken
}

// put writes whole sectors.
func (d *Disk) put(p []byte, at int64) error {
	if d.leaf.header == nil {
		return d.write(p, at)
	}
	size := d.leaf.blocks.blockSize
	for len(p) > 0 {
		in := at % size
		n := min(int64(len(p)), size-in)
		if err := d.writeBlock(int(at/size), in, p[:n]); err != nil {
			return err
		}
		p, at = p[n:], at+n
	}
	if len(d.fresh)+len(d.changed) > maxDirtyBitmaps {
		return d.sync()
	}
	return nil
}

// wholeSectors returns p widened to sector borders with the content around it.
func (d *Disk) wholeSectors(p []byte, off int64) ([]byte, int64, error) {
	start := off / sectorSize * sectorSize
	end := roundUp(off+int64(len(p)), sectorSize)
	if len(p) == 0 || start == off && end-start == int64(len(p)) {
		return p, off, nil
	}
	b := make([]byte, end-start)
	for _, at := range [...]int64{start, end - sectorSize} {
		if _, err := d.chain.ReadAt(b[at-start:at-start+sectorSize], at); err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, fmt.Errorf("vhd: read around a write: %w", err)
		}
	}
	copy(b[off-start:], p)
	return b, start, nil
}

// writeBlock writes whole sectors of one block.
func (d *Disk) writeBlock(block int, in int64, p []byte) error {
	m := d.leaf
	if m.bat[block] == unallocated {
		if m.Type() == Dynamic && image.IsZero(p) {
			return nil // it reads as zeros already
		}
		if err := d.allocate(block); err != nil {
			return err
		}
	}
	if err := d.write(p, int64(m.bat[block])*sectorSize+m.blocks.bitmapSize+in); err != nil {
		return err
	}
	return d.mark(block, in/sectorSize, int64(len(p))/sectorSize)
}

// mark sets the bits of n sectors from s.
func (d *Disk) mark(block int, s, n int64) error {
	if b, ok := d.fresh[block]; ok {
		b.set(s, n)
		return nil
	}
	b, err := d.leaf.bitmap(block)
	if err != nil {
		return err
	}
	if here, run := b.run(s, n); here && run == n {
		return nil
	}
	// The cache's copy and the map's are the same memory: readers are kept out by mu, and a lookup asks the map first.
	d.changed[block] = b
	d.leaf.pin(block, b)
	b.set(s, n)
	return nil
}

// allocate gives a block its place behind everything else. The footer goes behind it first, which makes the file long
// enough; where the file already has bytes they are the old footer or the trace of a crash, and become zeros.
func (d *Disk) allocate(block int) error {
	m := d.leaf
	at := nextBlock(d.end, m.blocks.bitmapSize)
	next := at + m.blocks.bitmapSize + m.blocks.blockSize
	if at/sectorSize >= int64(unallocated) {
		return fault(BadSize, at, "no room for another block")
	}
	if err := d.batmap.admit(d.f, block, m.bat); err != nil {
		return err
	}
	if err := d.extend(at, next); err != nil {
		return err
	}
	b := make(bitmap, m.blocks.bitmapSize)
	if m.Type() == Dynamic {
		// A new block of a disk without parents is wholly its own, as other implementations have it.
		b.set(0, m.blocks.blockSize/sectorSize)
	}
	d.fresh[block] = b
	m.pin(block, b)
	m.bat[block] = uint32(at / sectorSize)
	d.tableDue[d.tableSector(block)] = true
	return nil
}

// extend takes the range of the file from at to next, behind everything else, into use; it becomes zeros.
func (d *Disk) extend(at, next int64) error {
	if d.device {
		if next > d.fileEnd-FooterSize {
			return fmt.Errorf("%w: %d bytes are needed, %d are left", ErrDeviceFull, next-at, max(d.fileEnd-FooterSize-at, 0))
		}
	} else if err := d.moveFooter(next); err != nil {
		return err
	}
	if old := min(d.fileEnd, next); old > at {
		if err := d.zero(at, old); err != nil {
			return err
		}
	}
	d.fileEnd = max(d.fileEnd, next+FooterSize)
	d.end = next
	return nil
}

// moveFooter writes the footer at next. The old one is about to be overwritten, and until the next sync neither of them may be
// on the disk: then the copy at the start counts, so it must say the same.
func (d *Disk) moveFooter(next int64) error {
	ft := d.leaf.footer.marshal()
	if d.copyDue {
		if d.leaf.stale {
			// With good footers the header's checksum counts again.
			if err := d.write(d.leaf.header.marshal(), int64(d.leaf.footer.DataOffset)); err != nil {
				return err
			}
			if err := syncFile(d.f); err != nil {
				return err
			}
		}
		if err := d.write(ft, 0); err != nil {
			return err
		}
		if err := syncFile(d.f); err != nil {
			return err
		}
		d.copyDue = false
	}
	return d.write(ft, next)
}

// zeroChunk is how many zeros are written at a time, in bytes.
const zeroChunk = 1 << 20

// zero writes zeros to a range of the file.
func (d *Disk) zero(from, to int64) error {
	b := make([]byte, min(to-from, zeroChunk))
	for ; from < to; from += int64(len(b)) {
		b = b[:min(int64(len(b)), to-from)]
		if err := d.write(b, from); err != nil {
			return err
		}
	}
	return nil
}

// tableSector returns the offset in the file of the table's sector that has the entry of block.
func (d *Disk) tableSector(block int) int64 {
	return int64(d.leaf.header.TableOffset) + 4*int64(block)/sectorSize*sectorSize
}

func (d *Disk) write(b []byte, off int64) error { return writeAt(d.f, b, off) }

// Sync makes everything written so far durable. After an error the Disk refuses all further use: what a failed sync left
// behind is not known.
func (d *Disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return d.broken
	}
	return d.sync()
}

func (d *Disk) sync() error {
	err := d.writeBitmaps(d.fresh)
	if err == nil {
		err = syncFile(d.f)
	}
	if err == nil && len(d.changed)+len(d.tableDue) > 0 {
		if err = d.reach(); err == nil {
			err = syncFile(d.f)
		}
	}
	d.broken = err
	return err
}

// WriteBack hands everything to the operating system without waiting for the disk. That is enough against the death of
// this process, not against the loss of power: then a block may be reachable whose data is not there. It is for a file
// whose content is checked before it is used.
func (d *Disk) WriteBack() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return d.broken
	}
	if err := d.writeBitmaps(d.fresh); err != nil {
		return err
	}
	return d.reach()
}

// SyncBack does what [Disk.WriteBack] does, and returns when all of it is on stable storage. Others may write meanwhile, which
// Sync keeps them from; what they write may or may not be durable with it. After an error the Disk refuses all further use.
func (d *Disk) SyncBack() error {
	if err := d.WriteBack(); err != nil {
		return err
	}
	err := syncFile(d.f)
	if err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.broken = err
	}
	return err
}

// reach writes what makes new content visible: bitmaps of blocks that were there, and the table.
func (d *Disk) reach() error {
	if err := d.writeBitmaps(d.changed); err != nil {
		return err
	}
	for at := range d.tableDue {
		if err := d.writeTableSector(at); err != nil {
			return err
		}
	}
	clear(d.tableDue)
	for _, dirty := range []map[int]bitmap{d.fresh, d.changed} {
		for block := range dirty {
			d.leaf.unpin(block)
		}
		clear(dirty)
	}
	return nil
}

func (d *Disk) writeBitmaps(dirty map[int]bitmap) error {
	for block, b := range dirty {
		if err := d.write(b, int64(d.leaf.bat[block])*sectorSize); err != nil {
			return err
		}
	}
	return nil
}

// writeTableSector writes one sector of the table; what lies behind the disk's own entries is kept as it is.
func (d *Disk) writeTableSector(at int64) error {
	b := make([]byte, sectorSize)
	if err := readFull(d.f, b, at); err != nil {
		return err
	}
	first := int(at-int64(d.leaf.header.TableOffset)) / 4
	for i := 0; i < sectorSize/4 && first+i < len(d.leaf.bat); i++ {
		binary.BigEndian.PutUint32(b[4*i:], d.leaf.bat[first+i])
	}
	return d.write(b, at)
}
