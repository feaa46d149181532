package diskmap

import (
	"io"
	"sort"
)

// Clear makes the free parts of b zeros; b was read from the disk at off.
func (m *Map) Clear(b []byte, off int64) { (&View{zones: m.zones}).clear(b, off) }

// Run reports whether the byte at off is free, and how far the run goes for which that is said. It may go on behind its end in the same way.
func (m *Map) Run(off int64) (free bool, end int64) { return (&View{zones: m.zones}).run(off) }

// View is a disk with zeros for what is free. It is safe for concurrent use when the disk is.
type View struct {
	d     Disk
	zones []*zone
}

// Disk returns the disk that was scanned, as the map sees it.
func (m *Map) Disk(d Disk) *View { return &View{d, m.zones} }

// Size returns the size of the disk in bytes.
func (v *View) Size() int64 { return v.d.Size() }

// skip is the length of a free run that is worth a pause in reading. What is shorter is read with its neighbours and cleared.
const skip = 64 << 10

// ReadAt implements io.ReaderAt.
func (v *View) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > v.Size() || len(b) == 0 {
		// An end in the middle, or nonsense: the disk knows what to answer.
		n, err := v.d.ReadAt(b, off)
		if n > 0 {
			v.clear(b[:n], off)
		}
		return n, err
	}
	end := off + int64(len(b))
	for at := off; at < end; {
		free, to := v.run(at)
		if free && min(to, end)-at >= min(skip, end-at) {
			to = min(to, end)
			clear(b[at-off : to-off])
			at = to
			continue
		}
		// Up to the next free run that is long enough, or the end.
		for to < end {
			nextFree, next := v.run(to)
			if nextFree && next-to >= skip {
				break
			}
			to = next
		}
		to = min(to, end)
		piece := b[at-off : to-off]
		n, err := v.d.ReadAt(piece, at)
		v.clear(piece[:max(n, 0)], at)
		if n < len(piece) {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return int(at-off) + n, err
		}
		at = to
	}
	return len(b), nil
}

// clear makes the free parts of b, which was read at off, zeros.
func (v *View) clear(b []byte, off int64) {
	end := off + int64(len(b))
	for at := off; at < end; {
		free, to := v.run(at)
		to = min(to, end)
		if free {
			clear(b[at-off : to-off])
		}
		at = to
	}
}

// run reports whether the byte at off is free, and how far the run goes for which that holds. It is behind off, and may be behind
// the end of the disk.
func (v *View) run(off int64) (free bool, to int64) {
	i := sort.Search(len(v.zones), func(i int) bool { return v.zones[i].end() > off })
	if i == len(v.zones) {
		return false, 1<<63 - 1
	}
	z := v.zones[i]
	if off < z.start {
		return false, z.start
	}
	unit := (off - z.start) / z.unit
	free = z.isFree(unit)
	return free, z.start + z.next(unit, !free)*z.unit
}

// NextData returns the offset of the first byte at or behind off that may be other than zero; the disk's size when there is none.
func (v *View) NextData(off int64) (int64, error) {
	size := v.Size()
	for off < size {
		if free, to := v.run(off); free {
			off = to
			continue
		}
		under, ok := v.d.(interface {
			NextData(off int64) (int64, error)
		})
		if !ok {
			return off, nil
		}
		next, err := under.NextData(off)
		if err != nil || next <= off {
			return off, err
		}
		off = next
	}
	return size, nil
}
