package vhd

import (
	"context"
	"errors"
	"fmt"
	"io"

	"disksync/image"
)

// Truncater is a [File] whose length can be cut. Truncate cuts it to size bytes. Without it a disk that shrinks keeps its
// place in the file.
type Truncater interface {
	Truncate(size int64) error
}

// ErrCutsData is returned when a disk would lose bytes other than zero by shrinking.
var ErrCutsData = errors.New("vhd: there is data behind the new end of the disk; nothing was changed")

// ResizeOptions changes how [Disk.Resize] goes about it. The zero value is good.
type ResizeOptions struct {
	// Force cuts data off.
	Force bool
	// MaxTableEntries is the room that a block table gets that must be moved, for more growth later; less than is needed, or 0,
	// means what is needed. See [CreateOptions.MaxTableEntries].
	MaxTableEntries uint32
}

// Resize gives the disk a new size in bytes, a multiple of 512. What is added reads as zeros, whatever the ancestors hold
// there. What is cut off is gone; when any of it is not zero, Resize returns [ErrCutsData] unless it is forced.
//
// It first does what [Disk.Sync] does. A crash at any write leaves the disk with the old or the new size and all content that
// both have; which of the two is decided by one sector, the footer at the end. The footer's copy at the start follows, so that
// after a crash in between the file opens with the warning [CopyDiffers]. After an error other than ErrCutsData, BadSize and
// the end of ctx, which change nothing, the Disk refuses all further use: open the file again.
//
// Growing beyond the room of the block table writes a larger table at the end of the file and switches to it by one sector of
// the header; the place of the old one stays unused. Children of the disk are not touched, and read zeros where it was cut.
// Readers and writers wait meanwhile.
func (d *Disk) Resize(ctx context.Context, size int64, o ResizeOptions) error {
	d.shape.Lock() // so nobody else uses the disk
	defer d.shape.Unlock()
	if d.broken != nil {
		return d.broken
	}
	if err := d.checkResize(ctx, size, o); err != nil || size == d.leaf.footer.Size {
		return err
	}
	err := d.sync()
	d.zeroEnd, d.taken = 0, 0 // what is cut off is behind the end then
	// Nothing of this is acknowledged before it is synced; and the log is for one size and one place of the table.
	log := d.log
	d.log = nil
	switch {
	case err != nil:
	case d.leaf.header == nil:
		err = d.resizeFixed(size)
	case size > d.leaf.footer.Size:
		err = d.grow(size, o)
	default:
		err = d.shrink(size)
	}
	if d.log = log; err == nil {
		err = log.begin(d.leaf)
	}
	d.broken = err
	return err
}

// checkResize refuses what cannot be done, before anything is changed.
func (d *Disk) checkResize(ctx context.Context, size int64, o ResizeOptions) error {
	m := d.leaf
	if size <= 0 || size%sectorSize != 0 || size > maxFixedSize {
		return fault(BadSize, -1, "%d bytes; a disk has a multiple of 512", size)
	}
	if m.raw {
		return fault(BadType, -1, "the size of a raw disk is that of its file")
	}
	if m.stale || m.dataEnd%sectorSize != 0 || m.header != nil && m.footer.DataOffset%sectorSize != 0 {
		return fault(BadFooter, -1, "this file must be repaired before it can be resized")
	}
	if h := m.header; h != nil {
		if d.batmap == nil && len(m.batmapSpans()) > 0 {
			return fault(BatmapDamaged, -1, "this file must be repaired before it can be resized")
		}
		if size > MaxDynamicSize || blockCount(size, h.BlockSize) > MaxBlocks {
			return fault(BadSize, -1, "%d bytes; a %s disk with blocks of %d has at most %d", size, m.Type(), h.BlockSize,
				min(MaxDynamicSize, MaxBlocks*h.BlockSize))
		}
	}
	if size >= m.footer.Size || o.Force {
		return ctx.Err()
	}
	return d.checkZeros(ctx, size)
}

// checkZeros returns ErrCutsData when the disk has a byte other than zero behind from.
func (d *Disk) checkZeros(ctx context.Context, from int64) error {
	var b []byte
	for {
		start, end, err := d.chain.NextRun(from)
		if err != nil || start >= end {
			return err
		}
		for start < end {
			if err := ctx.Err(); err != nil {
				return err
			}
			if b == nil {
				b = make([]byte, zeroChunk)
			}
			p := b[:min(int64(len(b)), end-start)]
			if _, err := d.chain.ReadAt(p, start); err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("vhd: look for data behind the new end: %w", err)
			}
			if !image.IsZero(p) {
				return fmt.Errorf("%w (between %d and %d)", ErrCutsData, start, start+int64(len(p)))
			}
			start += int64(len(p))
		}
		from = end
	}
}

// grow makes room in the table, then zeros in the new part, and last the new size. Entries and sectors behind the old end
// mean nothing until the size changes, so a crash before that leaves the old disk.
func (d *Disk) grow(size int64, o ResizeOptions) error {
	m := d.leaf
	old, count := m.footer.Size, blockCount(size, m.blocks.blockSize)
	moved := count > int64(m.header.MaxTableEntries) || !d.batmap.covers(size)
	if moved {
		entries := max(uint32(count), m.header.MaxTableEntries, min(o.MaxTableEntries, MaxBlocks))
		if err := d.moveTable(entries, size); err != nil {
			return err
		}
	} else if err := d.batmap.extend(d.f, size); err != nil {
		return err
	}
	for block := len(m.bat); block < int(count); block++ {
		m.bat = append(m.bat, unallocated)
		if !moved {
			d.tableDue[d.tableSector(block)] = true // what the file has there may be anything
		}
	}
	if in := old % m.blocks.blockSize; in != 0 && m.bat[old/m.blocks.blockSize] != unallocated {
		// The rest of the last block may hold what was cut off once.
		n := min(m.blocks.blockSize-in, size-old)
		if err := d.put(make([]byte, n), old, d.write); err != nil {
			return err
		}
	}
	if len(d.chain.members) > 1 {
		below := func(off, limit int64) (Extent, error) { return lookup(d.chain.members[1:], off, limit) }
		if err := d.hide(below, old, min(size, d.chain.members[1].Size())); err != nil {
			return err
		}
	}
	if err := d.sync(); err != nil {
		return err
	}
	return d.setSize(size)
}

// moveTable puts a table with room for entries blocks behind everything else. One sector of the header has all fields that
// say where the table is, so one sector's write switches; until then the old table counts.
// tapdisk's batmap goes with it, as it must be right behind the table; it has room for a disk of size bytes.
func (d *Disk) moveTable(entries uint32, size int64) error {
	m := d.leaf
	table := make([]uint32, entries)
	for i := range table {
		table[i] = unallocated
	}
	copy(table, m.bat)
	at := roundUp(d.end, sectorSize)
	end := at + roundUp(4*int64(entries), sectorSize)
	batmap, b := d.batmap.moved(end, size)
	if err := d.extend(at, end+int64(len(b))); err != nil {
		return err
	}
	if len(b) > 0 {
		if err := d.write(b, end); err != nil {
			return err
		}
	}
	if err := writeTable(d.f, at, table); err != nil {
		return err
	}
	if err := syncFile(d.f); err != nil {
		return err
	}
	h := *m.header
	h.TableOffset, h.MaxTableEntries = uint64(at), entries
	if err := d.write(h.marshal()[:sectorSize], int64(m.footer.DataOffset)); err != nil {
		return err
	}
	if err := syncFile(d.f); err != nil {
		return err
	}
	m.header, d.batmap = &h, batmap
	return nil
}

// shrink sets the size first: the entries behind the new end mean nothing from then on.
func (d *Disk) shrink(size int64) error {
	m := d.leaf
	count := blockCount(size, m.blocks.blockSize)
	if err := d.batmap.shrink(d.f, size, int(count)); err != nil {
		return err
	}
	if err := d.setSize(size); err != nil {
		return err
	}
	old := m.bat
	for block := int(count); block < len(old); block++ {
		if old[block] != unallocated {
			old[block] = unallocated
			d.tableDue[d.tableSector(block)] = true
			m.bitmaps.drop(block)
		}
	}
	if err := d.sync(); err != nil { // with the old table, so that the entries are written
		return err
	}
	m.bat = old[:count:count]
	d.end = d.usedEnd()
	return d.trim(roundUp(d.end, sectorSize))
}

// setSize commits a new size: the footer at the end first, because it is what counts, then the copy.
func (d *Disk) setSize(size int64) error {
	ft := *d.leaf.footer
	ft.Size, ft.Geometry = size, GeometryFor(size)
	// The last sector of the file, or, when the file was cut short behind its blocks, the one behind them.
	at := max(roundUp(d.end, sectorSize), (d.fileEnd-1)/sectorSize*sectorSize)
	if err := d.commitFooter(&ft, at); err != nil {
		return err
	}
	d.fileEnd = at + FooterSize
	if err := d.write(ft.marshal(), 0); err != nil {
		return err
	}
	d.copyDue = false
	return syncFile(d.f)
}

// trim cuts what lies behind the footer's best place off the file, when that can be done.
func (d *Disk) trim(footerAt int64) error {
	t, can := d.f.(Truncater)
	if !can || d.device || footerAt+FooterSize >= d.fileEnd {
		return nil
	}
	if err := d.commitFooter(d.leaf.footer, footerAt); err != nil {
		return err
	}
	if err := t.Truncate(footerAt + FooterSize); err != nil {
		return fmt.Errorf("vhd: cut the file: %w", err)
	}
	d.fileEnd = footerAt + FooterSize
	return syncFile(d.f)
}

// extend makes the map fit a disk of size bytes, which is larger than it was and for which there is room. Its checksum covers
// more from then on: what is new becomes zeros, which do not change it.
func (b *batmap) extend(f File, size int64) error {
	if b == nil || batmapCovered(size) <= int64(len(b.bits)) {
		return nil
	}
	more := make(bitmap, batmapCovered(size)-int64(len(b.bits)))
	if err := writeAt(f, more, b.at+int64(len(b.bits))); err != nil {
		return err
	}
	b.bits = append(b.bits, more...)
	return syncFile(f)
}

// shrink makes the map fit a disk of size bytes with count blocks, which is smaller than it was. What is no longer covered is
// zeros first, so that the checksum fits before and after.
func (b *batmap) shrink(f File, size int64, count int) error {
	if b == nil {
		return nil
	}
	if err := b.retract(f, func(block int) bool { return block >= count }); err != nil {
		return err
	}
	b.bits = b.bits[:min(int64(len(b.bits)), batmapCovered(size))]
	return nil
}
