package publish

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"disksync/image"
	"disksync/internal/problem"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// Format is the form of an input.
type Format string

// The formats. Auto goes by the file's ending: .vhd, .avhd and .vud are VHD, .raw and .img are raw; a file with another ending
// is VHD when it has a good footer, and raw otherwise.
const (
	Auto Format = ""
	VHD  Format = "vhd"
	Raw  Format = "raw"
)

// ParseFormat reads a format's name.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case Auto, VHD, Raw:
		return f, nil
	}
	return Auto, fmt.Errorf("format %q: want vhd or raw", s)
}

// Source is an open input: a disk to read, and what is known about it.
type Source struct {
	io.ReaderAt
	size int64
	// Format is what it was read as.
	Format Format
	// UUID is that of the VHD; zero for a raw image.
	UUID image.UUID
	// Warnings are oddities that do not change the content.
	Warnings []string
	next     func(off int64) (int64, error)
	close    func() error
	files    []seenFile
}

// seenFile is a file as it was when it was opened.
type seenFile struct {
	name string
	info os.FileInfo
}

// see remembers what the files are like.
func (s *Source) see(names ...string) error {
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		s.files = append(s.files, seenFile{name, info})
	}
	return nil
}

// Unchanged returns an error when a file is not as it was when it was opened. What was read from it then may be a disk that never
// was: blocks from before and after a change. It goes by size and time of change, so not everything can be seen.
func (s *Source) Unchanged() error {
	for _, f := range s.files {
		now, err := os.Stat(f.name)
		if err == nil && os.SameFile(now, f.info) && now.Size() == f.info.Size() && now.ModTime().Equal(f.info.ModTime()) {
			continue
		}
		return problem.New("DS-CONFLICT", problem.Busy, err, "the disk "+f.name+" changed while it was read", "nothing was published",
			"shut down the VM that writes to it, or publish a copy")
	}
	return nil
}

// Size returns the size of the disk in bytes.
func (s *Source) Size() int64 { return s.size }

// NextData returns the offset of the first byte at or behind off that may be other than zero.
func (s *Source) NextData(off int64) (int64, error) { return s.next(off) }

// Close closes the files.
func (s *Source) Close() error { return s.close() }

// Open opens an input. parent is asked for the parent of a differencing VHD that is not beside it; nil: nobody is.
func Open(name string, format Format, parent func(child *vhd.Image) (*vhd.Image, error)) (*Source, error) {
	guessed := format == Auto
	if guessed {
		var err error
		if format, err = guess(name); err != nil {
			return nil, cannotRead(name, err)
		}
	}
	if format == VHD {
		return openVHD(name, parent)
	}
	return openRaw(name, guessed)
}

func guess(name string) (Format, error) {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".vhd", ".avhd", ".vud":
		return VHD, nil
	case ".raw", ".img":
		return Raw, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return Auto, err
	}
	defer f.Close()
	size, err := vhdfile.Size(f)
	if err != nil {
		return Auto, err
	}
	if _, err := vhd.Open(f, size); errors.Is(err, vhd.NotVHD) {
		return Raw, nil
	} else if err != nil {
		return Auto, fmt.Errorf("this may be a damaged VHD or a raw disk that looks like one; say --format vhd or --format raw: %w", err)
	}
	return VHD, nil
}

func cannotRead(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return problem.New("DS-INPUT-MISSING", problem.NotFound, nil, "there is no file "+name, "nothing was published", "name the disk's file")
	}
	return problem.New("DS-INPUT", problem.Damaged, err, "cannot read the disk "+name, "nothing was published", "")
}

func openVHD(name string, parent func(child *vhd.Image) (*vhd.Image, error)) (*Source, error) {
	c, err := vhdfile.OpenChain(name, vhdfile.Options{Otherwise: parent})
	if errors.Is(err, vhd.NoParent) {
		return nil, problem.New("DS-INPUT-PARENT", problem.NotFound, err, "cannot read the disk "+name, "nothing was published",
			"put the parent beside it, or publish the parent first")
	}
	if err != nil {
		return nil, cannotRead(name, err)
	}
	s := &Source{ReaderAt: c, size: c.Size(), Format: VHD, UUID: c.Members()[0].UUID(), next: c.NextData, close: c.Close}
	if err := s.see(c.Paths...); err != nil {
		c.Close()
		return nil, cannotRead(name, err)
	}
	for i, m := range c.Members() {
		for _, w := range m.Warnings() {
			s.Warnings = append(s.Warnings, fmt.Sprintf("member %d of the chain: %v", i, w))
		}
	}
	return s, nil
}

// otherFormats are images that are taken for raw ones by mistake. Publishing one would give VMs a disk that cannot start.
var otherFormats = []struct {
	at                int
	magic, name, qemu string
}{
	{0, "QFI\xfb", "QCOW2", "qcow2"}, {0, "vhdxfile", "VHDX", "vhdx"}, {0, "KDMV", "VMDK", "vmdk"},
	{0, "# Disk DescriptorFile", "VMDK", "vmdk"}, {0, "QED\x00", "QED", "qed"}, {64, "\x7f\x10\xda\xbe", "VDI", "vdi"},
	{0, "\x1f\x8b", "gzip", ""}, {0, "\x28\xb5\x2f\xfd", "zstd", ""}, {0, "\xfd7zXZ", "xz", ""}, {0, "BZh", "bzip2", ""},
	{0, "PK\x03\x04", "zip", ""},
}

// otherFormat returns an error when a file that nobody called raw is something else.
func otherFormat(f *os.File, size int64) error {
	var head [68]byte
	if _, err := f.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for _, o := range otherFormats {
		switch {
		case !strings.HasPrefix(string(head[o.at:]), o.magic):
		case o.qemu == "":
			return fmt.Errorf("it is packed with %s: unpack it first (--format raw takes it as it is)", o.name)
		default:
			return fmt.Errorf("it is a %s image: convert it with `qemu-img convert -f %s -O raw` first (--format raw takes it as it is)", o.name, o.qemu)
		}
	}
	_, err := vhd.Open(f, size)
	if _, isFault := errors.AsType[vhd.Fault](err); err != nil && !isFault {
		return err
	}
	if !errors.Is(err, vhd.NotVHD) {
		return errors.New("it has the footer of a VHD: say --format vhd, or --format raw to take it as it is")
	}
	return nil
}

func openRaw(name string, guessed bool) (*Source, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, cannotRead(name, err)
	}
	s, err := rawSource(f, guessed)
	if err == nil {
		err = s.see(name)
	}
	if err != nil {
		f.Close()
		return nil, cannotRead(name, err)
	}
	return s, nil
}

func rawSource(f *os.File, guessed bool) (*Source, error) {
	size, err := vhdfile.Size(f)
	if err != nil {
		return nil, err
	}
	if guessed {
		if err := otherFormat(f, size); err != nil {
			return nil, err
		}
	}
	s := &Source{ReaderAt: f, size: size, Format: Raw, close: f.Close}
	if odd := size % image.SectorSize; odd != 0 {
		s.size += image.SectorSize - odd
		s.ReaderAt = padded{f, size}
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d bytes are no whole number of sectors; the disk gets %d, with zeros at the end", size, s.size))
	}
	if !image.ValidSize(s.size) {
		return nil, fmt.Errorf("a disk of %d bytes; it can have 1 sector to %d bytes", s.size, int64(image.MaxDiskSize))
	}
	s.next = func(off int64) (int64, error) { return nextData(f, off, size, s.size) }
	return s, nil
}

// nextData asks the file system for the next data of a sparse file. One that cannot tell has data everywhere.
func nextData(f *os.File, off, fileSize, size int64) (int64, error) {
	if off >= fileSize {
		return size, nil
	}
	next, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, nil // a hole up to the end
	case err != nil:
		return off, nil
	}
	return next, nil
}

// padded is a file with zeros behind its end.
type padded struct {
	f    *os.File
	size int64
}

func (p padded) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	if off < p.size {
		var err error
		want := int(min(int64(len(b)), p.size-off))
		if n, err = p.f.ReadAt(b[:want], off); n < want {
			return n, err // the file has become shorter
		}
	}
	clear(b[n:])
	return len(b), nil
}
