package vhd

import (
	"errors"
	"fmt"
	"io"

	"disksync/image"
)

// WriteAt implements io.WriterAt. In a differencing leaf exactly the sectors that p touches become the leaf's own; a sector
// that is touched in part is completed from the parents.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	d.shape.RLock()
	defer d.shape.RUnlock()
	if err := d.within(off, int64(len(p))); err != nil {
		return 0, err
	}
	if err := d.writeAt(p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *Disk) writeAt(p []byte, off int64) error {
	ragged := (off|int64(len(p)))%sectorSize != 0
	d.lockEdges(ragged)
	defer d.unlockEdges(ragged)
	whole, at, err := d.wholeSectors(p, off)
	if err != nil {
		return err
	}
	return d.put(whole, at, d.write)
}

// lockEdges keeps other writes out when an end of a range is within a sector, whose rest must be read first.
func (d *Disk) lockEdges(ragged bool) {
	if ragged {
		d.edges.Lock()
	} else {
		d.edges.RLock()
	}
}

func (d *Disk) unlockEdges(ragged bool) {
	if ragged {
		d.edges.Unlock()
	} else {
		d.edges.RUnlock()
	}
}

func (d *Disk) within(off, length int64) error {
	if size := d.chain.Size(); off < 0 || length < 0 || off > size || length > size-off {
		return ErrBeyondEnd
	}
	return nil
}

// put writes whole sectors with write. When it returns they outlive the process, if there is a log.
func (d *Disk) put(p []byte, at int64, write func(b []byte, off int64) error) error {
	if d.leaf.header == nil {
		d.mu.RLock()
		err := d.broken
		d.mu.RUnlock()
		if err != nil {
			return err
		}
		return write(p, at)
	}
	size := d.leaf.blocks.blockSize
	crowded := false
	for len(p) > 0 {
		in := at % size
		n := min(int64(len(p)), size-in)
		much, err := d.writeBlock(int(at/size), in, p[:n], write)
		if err != nil {
			return err
		}
		crowded = crowded || much
		p, at = p[n:], at+n
	}
	if crowded {
		return d.relieve()
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
		if _, err := d.readAt(b[at-start:at-start+sectorSize], at); err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, fmt.Errorf("vhd: read around a write: %w", err)
		}
	}
	copy(b[off-start:], p)
	return b, start, nil
}

// writeBlock writes whole sectors of one block. First the data is written, while others read and write, and then the sectors become
// the leaf's own. crowded is whether so much is kept in memory or in the log that it is time for a sync.
func (d *Disk) writeBlock(block int, in int64, p []byte, write func(b []byte, off int64) error) (crowded bool, err error) {
	m := d.leaf
	s, n := in/sectorSize, int64(len(p))/sectorSize
	at, own, err := d.place(block, s, n)
	if err != nil {
		return false, err
	}
	if at == unallocated {
		if m.Type() == Dynamic && image.IsZero(p) {
			return false, nil // it reads as zeros already
		}
		if at, err = d.newPlace(block); err != nil {
			return false, err
		}
	}
	if err := write(p, int64(at)*sectorSize+m.blocks.bitmapSize+in); err != nil || own {
		return false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.mark(block, s, n); err != nil {
		return false, err
	}
	return d.crowded(), nil
}

// place returns where a block is, and whether n of its sectors from s are the leaf's own, which they then stay.
func (d *Disk) place(block int, s, n int64) (at uint32, own bool, err error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.broken != nil {
		return 0, false, d.broken
	}
	if at = d.leaf.bat[block]; at == unallocated {
		return at, false, nil
	}
	b, err := d.leaf.bitmap(block)
	if err != nil {
		return 0, false, err
	}
	here, run := b.run(s, n)
	return at, here && run == n, nil
}

// newPlace gives a block its place, unless somebody else just did.
func (d *Disk) newPlace(block int) (at uint32, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.leaf.bat[block] == unallocated {
		err = d.allocate(block)
	}
	return d.leaf.bat[block], err
}

// mark makes n sectors from s the leaf's own. What it changes is in the log before anybody sees it: else a write that found it so
// could be acknowledged and lost.
func (d *Disk) mark(block int, s, n int64) error {
	b, fresh := d.fresh[block]
	if !fresh {
		var err error
		if b, err = d.leaf.bitmap(block); err != nil {
			return err
		}
	}
	if here, run := b.run(s, n); here && run == n {
		return nil
	}
	if err := d.log.append(record{block: uint32(block), place: d.leaf.bat[block], first: uint32(s), count: uint32(n)}); err != nil {
		return err
	}
	if !fresh {
		// The cache's copy and the map's are the same memory: readers are kept out by mu, and a lookup asks the map first.
		d.changed[block] = b
		d.leaf.pin(block, b)
	}
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
	own := int64(0)
	b := make(bitmap, m.blocks.bitmapSize)
	if m.Type() == Dynamic {
		// A new block of a disk without parents is wholly its own, as other implementations have it.
		own = m.blocks.blockSize / sectorSize
		b.set(0, own)
	}
	// The room for the bitmap is taken now: when the file system is full, a write fails, not a sync.
	if next > d.taken {
		if err := d.write(b, at); err != nil {
			return err
		}
	}
	if err := d.log.append(record{block: uint32(block), place: uint32(at / sectorSize), count: uint32(own)}); err != nil {
		return err
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
	} else if done, err := d.extendAhead(at, next); done || err != nil {
		return err
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
