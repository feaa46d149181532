package vhdfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"disksync/image"
	"disksync/vhd"
)

// RawSource returns the content of a raw disk, a regular file or a block device. It knows the file's holes where the file
// system tells them. A file whose length is no whole number of sectors is filled up with zeros. It is safe for concurrent use as
// long as nobody else uses f's position, and ends with f.
func RawSource(f *os.File) (vhd.Source, error) {
	length, err := Size(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	if length == 0 {
		return nil, fmt.Errorf("%s: %w: an empty file is no disk", f.Name(), vhd.BadSize)
	}
	return &rawFile{f: f, length: length, size: (length + image.SectorSize - 1) / image.SectorSize * image.SectorSize}, nil
}

type rawFile struct {
	f      *os.File
	length int64
	size   int64 // length in whole sectors
}

func (r *rawFile) Size() int64 { return r.size }

// ReadAt fills the last sector up with zeros.
func (r *rawFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= r.size {
		return 0, io.EOF
	}
	n, err := r.f.ReadAt(p, off)
	if !errors.Is(err, io.EOF) || off+int64(n) < r.length {
		return n, err
	}
	want := int(min(int64(len(p)), r.size-off))
	clear(p[n:want])
	if want < len(p) {
		return want, io.EOF
	}
	return want, nil
}

// NextRun asks the file system for holes. One that does not know them says that everything is data.
func (r *rawFile) NextRun(off int64) (start, end int64, err error) {
	if off >= r.length {
		return r.size, r.size, nil
	}
	start, err = r.f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, syscall.ENXIO):
		return r.size, r.size, nil
	case errors.Is(err, syscall.EINVAL):
		return off, r.size, nil // a block device, or a file system without holes
	case err != nil:
		return 0, 0, err
	}
	end, err = r.f.Seek(start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	start = max(start/image.SectorSize*image.SectorSize, off)
	if end >= r.length {
		return start, r.size, nil
	}
	return start, min((end+image.SectorSize-1)/image.SectorSize*image.SectorSize, r.size), nil
}
