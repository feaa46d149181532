package fusefile

import (
	"errors"
	"io"
	"iter"

	"disksync/disk/nbd"
)

// Reader is a disk that can only be read. It must be safe for concurrent use.
type Reader interface {
	io.ReaderAt
	Size() int64 // bytes
}

// Readers makes devices of disks that can only be read, of which nobody knows where they have holes.
func Readers(disks map[string]Reader) map[string]nbd.Device {
	out := map[string]nbd.Device{}
	for name, r := range disks {
		out[name] = reader{r}
	}
	return out
}

type reader struct{ Reader }

var errReadOnly = errors.New("fusefile: a disk that can only be read")

// ReadAt fills p, also up to the end.
func (r reader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.Reader.ReadAt(p, off)
	if n == len(p) {
		err = nil
	}
	return n, err
}

func (r reader) WriteAt([]byte, int64) (int, error) { return 0, errReadOnly }
func (r reader) Zero(_, _ int64) error              { return errReadOnly }
func (r reader) Flush() error                       { return nil }

func (r reader) Extents(off, length int64) iter.Seq2[nbd.Extent, error] {
	return func(yield func(nbd.Extent, error) bool) { yield(nbd.Extent{Offset: off, Length: length}, nil) }
}
