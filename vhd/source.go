package vhd

import (
	"errors"
	"io"
)

// Source is the content of a disk, for [Stream], [Convert] and their like: a [Chain], a [Disk], [Chain.Above], or what
// [Whole] makes of any io.ReaderAt.
type Source interface {
	// ReadAt is safe for concurrent use. At the end it may return io.EOF together with the last bytes.
	io.ReaderAt
	// Size is the size of the disk in bytes, a multiple of 512.
	Size() int64
	// NextRun returns the first run at or behind off that may hold bytes other than zero, in whole sectors; start is Size when
	// there is none. The next run may follow without a gap.
	NextRun(off int64) (start, end int64, err error)
}

var errNegative = errors.New("vhd: negative offset")

// Whole returns r's first size bytes, a multiple of 512, as a Source of which it is not known where data is.
func Whole(r io.ReaderAt, size int64) Source { return whole{r, size} }

type whole struct {
	io.ReaderAt
	size int64
}

func (w whole) Size() int64 { return w.size }

func (w whole) NextRun(off int64) (start, end int64, err error) { return min(off, w.size), w.size, nil }

// maxRun bounds the runs that a chain tells at a time, so that their bitmaps are still in memory when they are read.
const maxRun = 16 << 20

// nextRun returns the first run that look finds a Member for.
func nextRun(off, size int64, look func(off, limit int64) (Extent, error)) (start, end int64, err error) {
	start, end = min(off, size), min(off, size)
	for end < size && end-start < maxRun {
		e, err := look(end, size-end)
		if err != nil {
			return 0, 0, err
		}
		if e.Member < 0 {
			if end > start {
				break
			}
			start += e.Length
		}
		end += e.Length
	}
	return start, end, nil
}

// NextRun implements [Source]: the runs that some member holds.
func (c *Chain) NextRun(off int64) (start, end int64, err error) {
	return nextRun(off, c.Size(), c.lookup)
}
