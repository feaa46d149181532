package volume

import (
	"fmt"
	"io"
	"sort"
)

// Hole is the place of bytes that are nowhere on the device and read as zeros.
const Hole = -1

// Extents is where the bytes of a file are: pieces in the order of the file. The zero value is an empty file.
type Extents struct {
	list []extent
	size int64 // bytes of all pieces
}

type extent struct {
	off, place int64 // in the file; on the device, or Hole
}

// Append adds n bytes that lie at place on the device, or nowhere if that is Hole. Neighbours become one piece.
func (x *Extents) Append(place, n int64) error {
	switch {
	case n < 0 || place < Hole || n > MaxFile-x.size || place > MaxFile-n:
		return Damaged("a piece of %d bytes at %d", n, place)
	case n == 0:
		return nil
	}
	if k := len(x.list) - 1; k >= 0 {
		last := x.list[k]
		if place == Hole && last.place == Hole || place != Hole && last.place != Hole && last.place+x.size-last.off == place {
			x.size += n
			return nil
		}
	}
	if len(x.list) >= MaxExtents {
		return fmt.Errorf("%w: a file in more than %d pieces", ErrLimit, MaxExtents)
	}
	x.list = append(x.list, extent{x.size, place})
	x.size += n
	return nil
}

// Size returns how many bytes the pieces have.
func (x *Extents) Size() int64 { return x.size }

// At returns where the byte at off is, and how many follow it in the same piece. Behind the last piece it is a hole.
func (x *Extents) At(off int64) (place, n int64) {
	k := sort.Search(len(x.list), func(i int) bool { return x.list[i].off > off }) - 1
	if k < 0 || off >= x.size {
		return Hole, MaxFile - off
	}
	end := x.size
	if k+1 < len(x.list) {
		end = x.list[k+1].off
	}
	if x.list[k].place == Hole {
		return Hole, end - off
	}
	return x.list[k].place + off - x.list[k].off, end - off
}

// extentFile is a file whose bytes lie on the device as they are.
type extentFile struct {
	d     *Device
	x     *Extents
	size  int64
	valid int64
}

// NewFile returns a file of size bytes. Of those at and behind valid, which some file systems keep, it gives zeros, whatever lies there;
// so does it for holes and for what is behind the last piece. x must not be changed any more.
func NewFile(d *Device, x *Extents, size, valid int64) File {
	return &extentFile{d, x, size, min(valid, size)}
}

func (f *extentFile) Size() int64  { return f.size }
func (f *extentFile) Close() error { return nil }

func (f *extentFile) Place(off int64) int64 {
	if off < 0 || off >= f.valid {
		return -1
	}
	place, _ := f.x.At(off)
	if place == Hole {
		return -1
	}
	return f.d.from + place
}

func (f *extentFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: before the start of the file", off)
	}
	done := 0
	for done < len(p) && off < f.size {
		n := min(int64(len(p)-done), f.size-off)
		place, run := int64(Hole), n
		if off < f.valid {
			place, run = f.x.At(off)
			run = min(run, f.valid-off)
		}
		part := p[done : done+int(min(n, run))]
		if place == Hole {
			clear(part)
		} else if n, err := f.d.ReadAt(part, place); err != nil {
			return done + n, err
		}
		done += len(part)
		off += int64(len(part))
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// Bytes returns a file whose content is in memory, such as one that a file system keeps beside its name. place is where it is.
func Bytes(b []byte, place int64) File { return &byteFile{b, place} }

type byteFile struct {
	b     []byte
	place int64
}

func (f *byteFile) Size() int64       { return int64(len(f.b)) }
func (f *byteFile) Close() error      { return nil }
func (f *byteFile) Place(int64) int64 { return f.place }

func (f *byteFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: before the start of the file", off)
	}
	if off >= int64(len(f.b)) {
		return 0, io.EOF
	}
	n := copy(p, f.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
