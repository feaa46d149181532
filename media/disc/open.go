package disc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"disksync/internal/crcitut"
)

// ErrFormat is returned for what is no image of this package, or one whose tables are too damaged to find the files.
var ErrFormat = errors.New("not an image that was written here")

// maxDirectory bounds a root folder before memory is set aside for it, in bytes.
const maxDirectory = maxFiles * 256

// Open reads the tables of an image, or of the disc it was burned to, from r. damaged are the sectors of the tables that are not as
// they were written; the files can be found all the same. The content of files is not looked at.
func Open(r io.ReaderAt) (l *Layout, damaged []int64, err error) {
	v, err := readVolume(r)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if l, err = Plan(v); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	off, tail := l.Tail()
	damaged = append(differing(r, 0, l.Head()), differing(r, off, tail)...)
	if len(damaged) > len(l.Files)+partitionAt {
		return nil, nil, fmt.Errorf("%w: %d sectors of its tables are others", ErrFormat, len(damaged))
	}
	return l, damaged, nil
}

// differing returns the sectors from off on that are not those of want. What cannot be read differs.
func differing(r io.ReaderAt, off int64, want []byte) []int64 {
	var out []int64
	got := make([]byte, SectorSize)
	for at := 0; at < len(want); at += SectorSize {
		if n, _ := r.ReadAt(got, off+int64(at)); n < SectorSize || !bytes.Equal(got, want[at:at+SectorSize]) {
			out = append(out, (off+int64(at))/SectorSize)
		}
	}
	return out
}

// readVolume reads what an image was planned from, from the UDF tables, which are where this package puts them.
func readVolume(r io.ReaderAt) (v Volume, err error) {
	p, err := tagged(r, mainAt, tagPrimary)
	if err != nil {
		if p, err = tagged(r, reserveAt, tagPrimary); err != nil {
			return v, err
		}
	}
	v.Label = readText(p[24:56])
	set := readText(p[72:200])
	v.Set = set[:min(len(set), 16)]
	v.Time = readTime(p[376:])
	root, err := tagged(r, partitionAt+rootBlock, tagFileEntry)
	if err != nil {
		return v, err
	}
	size := binary.LittleEndian.Uint64(root[56:])
	if size > maxDirectory {
		return v, fmt.Errorf("a folder of %d bytes", size)
	}
	dir := make([]byte, size)
	if n, err := r.ReadAt(dir, (partitionAt+rootDirBlock)*SectorSize); n < len(dir) {
		return v, fmt.Errorf("read the folder: %w", err)
	}
	for first := true; len(dir) > 0; first = false {
		if len(dir) < 38 {
			return v, errors.New("the folder ends inside an entry")
		}
		n := int(dir[19])
		step := (38 + n + 3) / 4 * 4
		if len(dir) < step {
			return v, errors.New("the folder ends inside an entry")
		}
		if !first {
			f, err := readFile(r, dir[:step], n)
			if err != nil {
				return v, err
			}
			v.Files = append(v.Files, f)
		}
		dir = dir[step:]
	}
	return v, nil
}

// readFile reads an entry of the folder, whose name has n bytes, and what it leads to.
func readFile(r io.ReaderAt, b []byte, n int) (File, error) {
	if n < 2 {
		return File{}, errors.New("a file without a name")
	}
	f := File{Name: string(b[39 : 38+n])}
	e, err := tagged(r, partitionAt+int64(binary.LittleEndian.Uint32(b[24:])), tagFileEntry)
	if err != nil {
		return f, fmt.Errorf("file %q: %w", f.Name, err)
	}
	size := binary.LittleEndian.Uint64(e[56:])
	if size > maxSectors*SectorSize {
		return f, fmt.Errorf("file %q of %d bytes", f.Name, size)
	}
	f.Size = int64(size)
	return f, nil
}

// tagged reads a descriptor whose tag must be as it was written.
func tagged(r io.ReaderAt, sector int64, id uint16) ([]byte, error) {
	b := make([]byte, SectorSize)
	if n, err := r.ReadAt(b, sector*SectorSize); n < len(b) {
		return nil, fmt.Errorf("sector %d: %w", sector, err)
	}
	le := binary.LittleEndian
	n := int(le.Uint16(b[10:]))
	if le.Uint16(b) != id || n > SectorSize-tagSize || crcitut.Sum(b[tagSize:tagSize+n]) != le.Uint16(b[8:]) {
		return nil, fmt.Errorf("sector %d is not what it should be", sector)
	}
	return b, nil
}

// readText reads a dstring of 8 bits a character.
func readText(b []byte) string {
	n := int(b[len(b)-1])
	if n < 1 || n > len(b)-1 || b[0] != 8 {
		return ""
	}
	return string(b[1:n])
}

func readTime(b []byte) time.Time {
	return time.Date(int(binary.LittleEndian.Uint16(b[2:])), time.Month(b[4]), int(b[5]), int(b[6]), int(b[7]), int(b[8]), 0, time.UTC)
}
