package layer

import (
	"io"

	"disksync/image"
)

// Join returns what the frames of a layer may refer to, as one range of bytes: the From disk, which has fromSize bytes, and behind it the
// To disk. Frames of level 0 refer to From alone; what others refer to in to must be in its place there before they are unpacked.
func Join(from io.ReaderAt, fromSize int64, to io.ReaderAt) io.ReaderAt {
	return joined{from, fromSize, to}
}

type joined struct {
	from io.ReaderAt
	size int64
	to   io.ReaderAt
}

// ReadAt implements io.ReaderAt.
func (j joined) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if off < j.size {
		part := p[:min(int64(len(p)), j.size-off)]
		var err error
		if n, err = j.from.ReadAt(part, off); n < len(part) {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
		if n == len(p) {
			return n, nil
		}
	}
	m, err := j.to.ReadAt(p[n:], off+int64(n)-j.size)
	return n + m, err
}

// reach returns how many sectors a frame may refer to.
func (f Frame) reach() int {
	n := f.fromSize
	if f.Level > 0 {
		n += f.size
	}
	return int(n / image.SectorSize)
}
