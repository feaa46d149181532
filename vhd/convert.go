package vhd

import (
	"context"
	"io"
	"iter"

	"disksync/image"
)

// Convert writes a whole VHD with the content of src to f, which must be empty, and syncs it. o says what it becomes; Size 0
// means the size of src, and behind the end of a smaller src there are zeros. Zeros take no place in f: blocks of zeros are not
// allocated, and in a fixed disk they are not written, so that f gets holes.
//
// A differencing disk, when o has a Parent, gets exactly the sectors of src's runs as its own; see [Chain.Above].
//
// Data is read and written in parallel. The same content and options give the same file. A file that was not finished, after
// an error or a crash, does not open as a VHD, except that of a fixed disk whose system lost what it had not synced: give a
// file its name when Convert returned.
func Convert(ctx context.Context, f File, src Source, o CreateOptions, c CopyOptions) error {
	l, err := layoutFor(src, o)
	if err != nil {
		return err
	}
	if l.header == nil {
		if o.DeviceSize != 0 {
			// A device may hold anything, so zeros are written there.
			err = streamData(ctx, &counter{w: io.NewOffsetWriter(f, 0)}, src, c, l.footer.Size)
		} else {
			err = copyData(ctx, f, src, c)
		}
		if err != nil {
			return err
		}
		// The footer must not be there before the data is.
		if err := syncFile(f); err != nil {
			return err
		}
		return l.finish(f, nil, l.footer.Size)
	}
	b := newBlocks(l, src)
	u := b.pump(c)
	write := writeSparse
	if o.DeviceSize != 0 {
		write = writeAt // a device has no holes, but maybe other bytes
	}
	if l.footer.Type == Dynamic {
		b.convertDynamic(u, f, write)
	} else {
		b.convertDifferencing(u, f, write)
	}
	if err := u.run(ctx); err != nil {
		return err
	}
	return l.finish(f, b.table, b.end)
}

// convertDynamic makes u write the blocks that are not zeros. The pieces are smaller than a block: so what was read is still in
// the processor's cache when it is written.
func (b *blocks) convertDynamic(u *pump, f File, write func(io.WriterAt, []byte, int64) error) {
	u.room = 0
	if b.footerAt == 0 { // on a device a block is written as a whole, zeros and all
		u.unit = min(u.unit, pumpUnit)
	}
	ones := make(bitmap, b.bitmapSize)
	ones.set(0, b.header.BlockSize/sectorSize)
	u.turn = func(p *piece) error {
		if p.at = -1; image.IsZero(p.data) {
			return nil
		}
		block := p.off / b.header.BlockSize
		if b.table[block] == unallocated {
			if err := b.place(p); err != nil {
				return err
			}
			if err := writeAt(f, ones, p.at); err != nil {
				return err
			}
		}
		p.at = int64(b.table[block])*sectorSize + b.bitmapSize + p.off%b.header.BlockSize
		return nil
	}
	u.work = func(p *piece) error {
		if p.at < 0 {
			return nil
		}
		return write(f, p.data, p.at)
	}
}

// convertDifferencing makes u write the blocks that have runs.
func (b *blocks) convertDifferencing(u *pump, f File, write func(io.WriterAt, []byte, int64) error) {
	u.turn = b.place
	u.work = func(p *piece) error {
		out, err := b.fill(p)
		if err != nil {
			return err
		}
		return write(f, out, p.at)
	}
}

// layoutFor is newLayout for the content of src.
func layoutFor(src Source, o CreateOptions) (*layout, error) {
	if o.Size == 0 {
		o.Size = src.Size()
	}
	if o.Size < src.Size() {
		return nil, fault(BadSize, -1, "%d bytes do not go into a disk of %d", src.Size(), o.Size)
	}
	if o.BlockSize > maxCopyBlock {
		return nil, fault(BadBlockSize, -1, "%d bytes; at most %d are copied", o.BlockSize, maxCopyBlock)
	}
	return newLayout(o)
}

// blocks places the blocks of a disk that is written as a whole.
type blocks struct {
	*layout
	src        Source
	table      []uint32
	end        int64 // behind everything placed so far
	bitmapSize int64
}

func newBlocks(l *layout, src Source) *blocks {
	b := &blocks{layout: l, src: src, table: make([]uint32, l.header.MaxTableEntries), end: l.headEnd(), bitmapSize: l.header.bitmapSize()}
	for i := range b.table {
		b.table[i] = unallocated
	}
	return b
}

// pump returns a pump whose pieces are the blocks that have data, with room for the bitmap. The data begins at a whole page
// of memory, as it does in the file: such copies are faster.
func (b *blocks) pump(c CopyOptions) *pump {
	room := int(roundUp(b.bitmapSize, dataAlignment))
	return &pump{src: b.src, unit: b.header.BlockSize, room: room, progress: c.Progress}
}

// place gives a block the next place.
func (b *blocks) place(p *piece) error {
	p.at = nextBlock(b.end, b.bitmapSize)
	next := p.at + b.bitmapSize + b.header.BlockSize
	if p.at/sectorSize >= int64(unallocated) {
		return fault(BadSize, p.at, "no room for another block")
	}
	if b.footerAt != 0 && next > b.footerAt {
		return ErrDeviceFull
	}
	b.table[p.off/b.header.BlockSize] = uint32(p.at / sectorSize)
	b.end = next
	return nil
}

// fill puts the block's bitmap in front of its data, and returns both. In a differencing disk all sectors that are not the
// disk's own become zeros.
func (b *blocks) fill(p *piece) ([]byte, error) {
	front := int64(len(p.full)-len(p.data)) - b.bitmapSize
	bits := bitmap(p.full[front : front+b.bitmapSize])
	clear(bits)
	if b.footer.Type == Dynamic {
		bits.set(0, b.header.BlockSize/sectorSize)
		return p.full[front:], nil
	}
	stop, done := p.off+int64(len(p.data)), p.off
	for done < stop {
		start, end, err := b.src.NextRun(done)
		if err != nil {
			return nil, err
		}
		start, end = min(max(start, done), stop), min(end, stop)
		clear(p.data[done-p.off : start-p.off])
		if end <= start {
			break
		}
		bits.set((start-p.off)/sectorSize, (end-start)/sectorSize)
		done = end
	}
	return p.full[front:], nil
}

// ConvertRaw writes the content of src to w, which must read as zeros so far, such as an empty file: zeros are not written.
// When the disk ends with zeros, its last sector is written nevertheless, so that a file has the disk's length. It does not sync.
func ConvertRaw(ctx context.Context, w io.WriterAt, src Source, c CopyOptions) error {
	if err := copyData(ctx, w, src, c); err != nil {
		return err
	}
	last := make([]byte, sectorSize)
	at := src.Size() - sectorSize
	if err := readSource(src, last, at); err != nil {
		return err
	}
	return writeAt(w, last, at)
}

// copyData writes what is not zeros.
func copyData(ctx context.Context, w io.WriterAt, src Source, c CopyOptions) error {
	u := &pump{src: src, unit: pumpUnit, progress: c.Progress, work: func(p *piece) error {
		return writeSparse(w, p.data, p.off)
	}}
	return u.run(ctx)
}

// writeSparse writes what is not zeros of b.
func writeSparse(w io.WriterAt, b []byte, off int64) error {
	for from, to := range nonZero(b, off) {
		if err := writeAt(w, b[from:to], off+int64(from)); err != nil {
			return err
		}
	}
	return nil
}

// holeUnit is the least run of zeros that becomes a hole, in bytes. Less saves little and costs a write each.
const holeUnit = 32 << 10

// nonZero yields the parts of b, from and to, that are not zeros. They begin and end at multiples of holeUnit in the file that
// has b at off, or at the ends of b.
func nonZero(b []byte, off int64) iter.Seq2[int, int] {
	return func(yield func(from, to int) bool) {
		from := 0
		for at := 0; at < len(b); {
			n := min(holeUnit-int((off+int64(at))%holeUnit), len(b)-at)
			if image.IsZero(b[at : at+n]) {
				if from < at && !yield(from, at) {
					return
				}
				from = at + n
			}
			at += n
		}
		if from < len(b) {
			yield(from, len(b))
		}
	}
}
