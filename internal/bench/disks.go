package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"disksync/diskmap"
)

const (
	cluster    = 4096
	pieceBytes = 1 << 20 // that is read at once
)

// disk is a raw disk in a file.
type disk struct {
	*os.File
	size int64
}

func openDisk(name string) (disk, error) {
	f, err := os.Open(name)
	if err != nil {
		return disk{}, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return disk{}, err
	}
	return disk{f, info.Size()}, nil
}

// Size returns the size of the disk in bytes.
func (d disk) Size() int64 { return d.size }

// sized is something that can be compared.
type sized interface {
	io.ReaderAt
	Size() int64
}

// same compares two disks byte by byte.
func same(a, b sized) error {
	if a.Size() != b.Size() {
		return fmt.Errorf("the disk has %d bytes and should have %d", a.Size(), b.Size())
	}
	x, y := make([]byte, pieceBytes), make([]byte, pieceBytes)
	for off := int64(0); off < a.Size(); off += pieceBytes {
		n := min(pieceBytes, a.Size()-off)
		if _, err := a.ReadAt(x[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := b.ReadAt(y[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if !bytes.Equal(x[:n], y[:n]) {
			return fmt.Errorf("the disk differs from what it should be between %d and %d", off, off+n)
		}
	}
	return nil
}

// sameFile compares two files byte by byte.
func sameFile(got, want string) error {
	a, err := openDisk(got)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := openDisk(want)
	if err != nil {
		return err
	}
	defer b.Close()
	return same(a, b)
}

// sameButFree compares an installed disk with the published one, whose free space counts as zeros. It returns the latter's volumes.
func sameButFree(got, want string) ([]diskmap.Volume, error) {
	a, err := openDisk(got)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	b, err := openDisk(want)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	m, err := diskmap.Scan(b)
	if err != nil {
		return nil, err
	}
	return m.Volumes(), same(a, m.Disk(b))
}

// usedClusters calls f for each cluster of a disk that is not zeros.
func usedClusters(name string, f func(off int64, b []byte) error) error {
	d, err := openDisk(name)
	if err != nil {
		return err
	}
	defer d.Close()
	b := make([]byte, pieceBytes)
	zeros := make([]byte, pieceBytes)
	for off := int64(0); off < d.size; off += pieceBytes {
		n := min(pieceBytes, d.size-off)
		if _, err := d.ReadAt(b[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if bytes.Equal(b[:n], zeros[:n]) {
			continue
		}
		for at := int64(0); at < n; at += cluster {
			c := b[at:min(at+cluster, n)]
			if bytes.Equal(c, zeros[:len(c)]) {
				continue
			}
			if err := f(off+at, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// pack writes the clusters of a disk that are not zeros one behind the other.
func pack(name, to string) (int64, error) {
	f, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, pieceBytes)
	var n int64
	err = usedClusters(name, func(_ int64, b []byte) error {
		n += int64(len(b))
		_, err := w.Write(b)
		return err
	})
	return n, errors.Join(err, w.Flush())
}

// copyDisk copies a disk, without its holes.
func copyDisk(name, to string) error {
	d, err := openDisk(name)
	if err != nil {
		return err
	}
	defer d.Close()
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(d.size); err != nil {
		return err
	}
	return usedClusters(name, func(off int64, b []byte) error {
		_, err := f.WriteAt(b, off)
		return err
	})
}

// split cuts a file into equal pieces below a limit, and returns their names: that of the file when one is enough.
func split(name string, limit int64) ([]string, error) {
	d, err := openDisk(name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	n := (d.size + limit - 1) / limit
	if n <= 1 {
		return []string{name}, nil
	}
	each := (d.size + n - 1) / n
	var out []string
	for i := range n {
		piece := fmt.Sprintf("%s.%d", name, i+1)
		f, err := os.Create(piece)
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(f, io.NewSectionReader(d, i*each, min(each, d.size-i*each)))
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		out = append(out, piece)
	}
	return out, nil
}
