package vhd

import "errors"

// Discard makes length bytes from off read as zeros. It serves both what block devices call "write zeros" and "trim": the
// range reads as zeros afterwards, with the guarantees of [Disk.WriteAt], and no more is stored for that than must be.
//
//   - A block that no member of the chain holds stays so, and nothing is written.
//   - Where the leaf holds data, its file gets a hole there if it is a [Puncher], else zeros; no block is given back, and the place of the
//     data stays what it is. What is written there later needs room again.
//   - Where only an ancestor holds data, the leaf stores zeros to hide it, in the same way.
//   - In a fixed leaf the zeros are written.
func (d *Disk) Discard(off, length int64) error {
	d.shape.RLock()
	defer d.shape.RUnlock()
	if err := d.within(off, length); err != nil {
		return err
	}
	ragged := (off|length)%sectorSize != 0
	d.lockEdges(ragged)
	defer d.unlockEdges(ragged)
	end := off + length
	start, stop := roundUp(off, sectorSize), end/sectorSize*sectorSize
	if start > stop {
		start, stop = end, end // within one sector
	}
	for _, edge := range [...]span{{off, start}, {stop, end}} {
		if edge.end == edge.start {
			continue
		}
		if e, err := d.lookup(edge.start, edge.end-edge.start); err != nil {
			return err
		} else if e.Member < 0 {
			continue
		}
		whole, at, err := d.wholeSectors(make([]byte, edge.end-edge.start), edge.start)
		if err != nil {
			return err
		}
		if err := d.put(whole, at, d.write); err != nil {
			return err
		}
	}
	return d.hide(d.lookup, start, stop)
}

// Puncher is a [File] that can give room back to the file system.
type Puncher interface {
	// Punch makes a range of the file read as zeros, without room for them as far as that is possible; the file's length stays. It is as
	// durable as WriteAt of zeros. An error that wraps errors.ErrUnsupported says that nothing was changed.
	Punch(off, length int64) error
}

// leastHole is the shortest range that is worth a hole, in bytes.
const leastHole = 4096

// erase makes the range of b, which is zeros, zeros in the file.
func (d *Disk) erase(b []byte, off int64) error {
	f, ok := d.f.(Puncher)
	if !ok || d.device || d.leaf.header == nil || len(b) < leastHole {
		return d.write(b, off)
	}
	err := f.Punch(off, int64(len(b)))
	if errors.Is(err, errors.ErrUnsupported) {
		return d.write(b, off)
	}
	return err
}

// hide writes zeros to the sectors from off to end for which look finds a member.
func (d *Disk) hide(look func(off, limit int64) (Extent, error), off, end int64) error {
	var zeros []byte
	for off < end {
		e, err := look(off, end-off)
		if err != nil {
			return err
		}
		for n := e.Length; n > 0; {
			part := min(n, zeroChunk)
			if e.Member >= 0 {
				if zeros == nil {
					zeros = make([]byte, min(end-off, zeroChunk))
				}
				if err := d.put(zeros[:part], off, d.erase); err != nil {
					return err
				}
			}
			off, n = off+part, n-part
		}
	}
	return nil
}

// WriteZeros makes length bytes from off read as zeros, and stores them all: later writes there need no more room in the file.
func (d *Disk) WriteZeros(off, length int64) error {
	d.shape.RLock()
	defer d.shape.RUnlock()
	if err := d.within(off, length); err != nil {
		return err
	}
	zeros := make([]byte, min(length, zeroChunk))
	for end := off + length; off < end; {
		n := min(end-off, zeroChunk-off%zeroChunk)
		if err := d.allocateAll(off, n); err != nil {
			return err
		}
		if err := d.writeAt(zeros[:n], off); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// allocateAll gives all blocks of a range their places. A write of zeros does not do so where a block reads as zeros anyway.
func (d *Disk) allocateAll(off, length int64) error {
	if d.leaf.header == nil || length == 0 {
		return nil
	}
	size := d.leaf.blocks.blockSize
	for block := off / size; block <= (off+length-1)/size; block++ {
		at, _, err := d.place(int(block), 0, 1)
		if err == nil && at == unallocated {
			_, err = d.newPlace(int(block))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
