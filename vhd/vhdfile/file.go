package vhdfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"disksync/image"
	"disksync/vhd"
)

// File is one VHD that is looked at by itself: its parents are neither needed nor opened. It is safe for concurrent use until
// Close.
type File struct {
	*vhd.Image
	Path     string
	Length   int64 // of the file or device, in bytes
	Modified vhd.Timestamp
	Device   bool // a block device
	f        *os.File
}

// OpenFile opens the VHD at name for reading.
func OpenFile(name string, opts ...vhd.Option) (*File, error) {
	f, size, err := regular(func() (*os.File, error) { return os.Open(name) })
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	m, err := vhd.Open(f, size, opts...)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &File{
		Image: m, Path: name, Length: size, Modified: vhd.TimestampOf(st.ModTime()), Device: !st.Mode().IsRegular(), f: f,
	}, nil
}

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }

// Reader returns what Check and the like read.
func (f *File) Reader() io.ReaderAt { return f.f }

// Parent returns where the parent of a differencing disk is, and whether it is a raw disk. The error wraps vhd.NoParent when it
// is not found.
func (f *File) Parent(o Options) (name string, raw bool, err error) {
	c := &Chain{}
	defer c.Close()
	p, at, err := c.searchParent(f.Image, f.Path, o)
	if err != nil {
		return "", false, err
	}
	return at, p.UUID().IsZero(), nil
}

// Blocks returns the number of blocks that the block table has room for, and their size in bytes; 0 for a fixed disk.
func (f *File) Blocks() (n int, size int64) {
	h, ok := f.Header()
	if !ok {
		return 0, 0
	}
	return int(h.MaxTableEntries), h.BlockSize
}

// noBlock is the table entry of a block that the file does not hold.
const noBlock = 1<<32 - 1

// Block returns where the bitmap of a block is in the file, in bytes, and its length; the data follow it. ok is false for a
// block that the file does not hold.
func (f *File) Block(n int) (at, bitmapSize int64, ok bool, err error) {
	h, dynamic := f.Header()
	if !dynamic || n < 0 || n >= int(h.MaxTableEntries) {
		return 0, 0, false, fmt.Errorf("block %d: there is no such block", n)
	}
	var entry [4]byte
	if _, err := f.f.ReadAt(entry[:], int64(h.TableOffset)+4*int64(n)); err != nil {
		return 0, 0, false, fmt.Errorf("read block table: %w", err)
	}
	bits := h.BlockSize / image.SectorSize / 8
	bitmapSize = max((bits+image.SectorSize-1)/image.SectorSize, 1) * image.SectorSize
	e := binary.BigEndian.Uint32(entry[:])
	return int64(e) * image.SectorSize, bitmapSize, e != noBlock, nil
}

// Bitmap returns the sector bitmap of a block as it is stored, nil for a block that the file does not hold.
func (f *File) Bitmap(n int) ([]byte, error) {
	at, size, ok, err := f.Block(n)
	if err != nil || !ok {
		return nil, err
	}
	b := make([]byte, size)
	if _, err := f.f.ReadAt(b, at); err != nil {
		return nil, fmt.Errorf("read bitmap of block %d: %w", n, err)
	}
	return b, nil
}

// Run is a run of sectors.
type Run struct{ Start, Count int64 }

// Runs yields the runs of sectors from start to start+count that the file itself holds, in order. It stops after an error.
func (f *File) Runs(start, count int64) iter.Seq2[Run, error] {
	return func(yield func(Run, error) bool) {
		_, size := f.Blocks()
		if size == 0 {
			yield(Run{start, count}, nil)
			return
		}
		var open Run
		per := size / image.SectorSize
		for s := start; s < start+count; {
			end := min((s/per+1)*per, start+count)
			b, err := f.Bitmap(int(s / per))
			if err != nil {
				yield(Run{}, err)
				return
			}
			for ; s < end; s++ {
				if b == nil {
					s = end
					break
				}
				in := s % per
				if b[in/8]&(0x80>>(in%8)) == 0 {
					continue
				}
				if open.Count > 0 && open.Start+open.Count == s {
					open.Count++
					continue
				}
				if open.Count > 0 && !yield(open, nil) {
					return
				}
				open = Run{s, 1}
			}
		}
		if open.Count > 0 {
			yield(open, nil)
		}
	}
}

// PhysicalSize returns how many bytes the VHD takes in its file or on its device, footer included.
func (f *File) PhysicalSize() (int64, error) {
	if f.Type() == vhd.Fixed {
		return f.Length, nil
	}
	rep, err := vhd.Check(f.f, f.Length, vhd.CheckOptions{})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", f.Path, err)
	}
	if rep.End == 0 {
		return 0, fmt.Errorf("%s: %w: where the disk ends in the file cannot be known", f.Path, vhd.BadBAT)
	}
	return rep.End + vhd.FooterSize, nil
}

// MoveFooter moves the footer of a dynamic or differencing disk so that the VHD ends at length, as when its block device has grown or
// is about to shrink. A file gets that length. The copy at the start stays, so that the disk opens after a crash at any point.
func MoveFooter(name string, length int64) error {
	w, err := OpenWritable(name)
	if err != nil {
		return err
	}
	defer w.Close() // after an error; what it is closed for is told below
	f, err := OpenFile(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, w := range f.Warnings() {
		if errors.Is(w, vhd.CopyDamaged) || errors.Is(w, vhd.CopyDiffers) || errors.Is(w, vhd.ChecksumStale) || errors.Is(w, vhd.ShortFooter) {
			return fmt.Errorf("%s: %w; nothing was changed", name, w)
		}
	}
	least, err := f.PhysicalSize()
	switch {
	case err != nil:
		return err
	case f.Type() == vhd.Fixed:
		return fmt.Errorf("%s: %w: the footer of a fixed disk stays behind its content", name, vhd.BadType)
	case length%image.SectorSize != 0 || length < least:
		return fmt.Errorf("%s: %w: %d bytes; the disk needs %d here, in whole sectors; nothing was changed", name, vhd.BadSize, length, least)
	}
	if err := writeFooterAt(w, length); err != nil {
		return fmt.Errorf("%s: move the footer: %w", name, err)
	}
	return w.Close()
}

func writeFooterAt(w *os.File, length int64) error {
	b := make([]byte, vhd.FooterSize)
	if _, err := w.ReadAt(b, 0); err != nil {
		return err
	}
	if _, err := w.WriteAt(b, length-vhd.FooterSize); err != nil {
		return err
	}
	if err := w.Sync(); err != nil {
		return err
	}
	if device, err := isDevice(w); err != nil || device {
		return err
	}
	if err := w.Truncate(length); err != nil {
		return err
	}
	return w.Sync()
}
