package diskmap

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Disk is what is scanned and read. ReadAt must be safe for concurrent use when the view is to be.
type Disk interface {
	io.ReaderAt
	Size() int64 // bytes
}

// Kind says what a volume holds, in a word that stays the same.
type Kind string

// The kinds whose free space can be told. Others have the names that people know them by, as "xfs" or "LUKS".
const (
	Ext2  Kind = "ext2"
	Ext3  Kind = "ext3"
	Ext4  Kind = "ext4"
	NTFS  Kind = "ntfs"
	FAT12 Kind = "fat12"
	FAT16 Kind = "fat16"
	FAT32 Kind = "fat32"
	ExFAT Kind = "exfat"
	Swap  Kind = "swap"

	// Blank is a place where nothing was ever written, or that is no file system's: there is nothing to free, and nothing to say.
	Blank Kind = "blank"
	// Unknown is anything else.
	Unknown Kind = "unknown"
)

// Volume is a partition, or the whole disk when it has none.
type Volume struct {
	Name   string // as "partition 2", or "the disk"
	Offset int64  // on the disk, bytes
	Size   int64
	Kind   Kind
	Free   int64  // bytes that are read as zeros
	Kept   string // why all of it is kept; empty: its free space is read as zeros, or there is none
}

// MaxMapBytes bounds the memory for the allocation maps of a disk: enough for 2 TiB in clusters of 4 KiB. A volume whose map does
// not fit any more is kept whole.
const MaxMapBytes = 64 << 20

// Map says what of a disk is free. It is safe for concurrent use.
type Map struct {
	volumes []Volume
	zones   []*zone // by offset; they do not overlap
}

// Volumes returns the volumes in the order of their places.
func (m *Map) Volumes() []Volume { return slices.Clone(m.volumes) }

// Free returns the number of bytes that are read as zeros.
func (m *Map) Free() int64 {
	var n int64
	for _, v := range m.volumes {
		n += v.Free
	}
	return n
}

// kept is the reason why a volume or a disk is kept whole. Other errors are those of the disk: it cannot be read.
type kept struct {
	why string
	// disk says that nothing on the disk can be told free, not only on this volume.
	disk bool
}

func (k *kept) Error() string { return k.why }

func keep(format string, args ...any) error { return &kept{why: fmt.Sprintf(format, args...)} }

func keepDisk(format string, args ...any) error {
	return &kept{why: fmt.Sprintf(format, args...), disk: true}
}

// Scan reads what the disk says about itself. An error is one of reading the disk; whatever else is wrong with it, there is a
// map, which frees less.
func Scan(d Disk) (*Map, error) {
	s := &scan{disk: region{d, 0, d.Size()}, room: MaxMapBytes}
	parts, err := s.partitions()
	if k, ok := errors.AsType[*kept](err); ok {
		return s.keepAll(Volume{Name: theDisk, Size: d.Size(), Kind: Unknown}, k.why), nil
	}
	if err != nil {
		return nil, err
	}
	m := &Map{}
	for _, p := range parts {
		v := Volume{Name: p.name, Offset: p.off, Size: p.size, Kind: p.kind, Kept: p.kept}
		room := s.room
		z, err := s.volume(p, &v)
		if z == nil {
			s.room = room
		}
		if k, ok := errors.AsType[*kept](err); ok {
			v.Kept = k.why
			if k.disk {
				return s.keepAll(v, k.why, parts...), nil
			}
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		if z != nil {
			v.Free = z.count(0, z.n) * z.unit
			m.zones = append(m.zones, z)
		}
		m.volumes = append(m.volumes, v)
	}
	slices.SortFunc(m.volumes, func(a, b Volume) int { return cmp.Compare(a.Offset, b.Offset) })
	slices.SortFunc(m.zones, func(a, b *zone) int { return cmp.Compare(a.start, b.start) })
	return m, nil
}

// keepAll returns a map that frees nothing: culprit is why.
func (s *scan) keepAll(culprit Volume, why string, parts ...partition) *Map {
	culprit.Kept = why
	m := &Map{volumes: []Volume{culprit}}
	for _, p := range parts {
		if p.off != culprit.Offset {
			m.volumes = append(m.volumes, Volume{
				Name: p.name, Offset: p.off, Size: p.size, Kind: p.kind,
				Kept: "the whole disk is kept because of " + culprit.Name,
			})
		}
	}
	slices.SortFunc(m.volumes, func(a, b Volume) int { return cmp.Compare(a.Offset, b.Offset) })
	return m
}

// scan is what one Scan shares.
type scan struct {
	disk region
	room int64 // what is left of MaxMapBytes
}

// volume finds out what is in a partition, and what of it is free: nil when that is nothing.
func (s *scan) volume(p partition, v *Volume) (*zone, error) {
	if p.kept != "" || p.kind == Blank {
		return nil, nil
	}
	r := region{s.disk.d, p.off, p.size}
	kind, open, err := identify(r)
	v.Kind = kind
	if err != nil || open == nil {
		return nil, err
	}
	return open(s, r, v)
}

// zone makes the map of n units, all of them used.
func (s *scan) zone(r region, off, unit, n int64) (*zone, error) {
	if off < 0 || unit <= 0 || n < 0 || off > r.size || n > (r.size-off)/unit {
		return nil, keep("it is larger than the place it is in")
	}
	need := (n + 63) / 64 * 8
	if need > s.room {
		return nil, keep("the map of what is free in it would take more than %d MiB", MaxMapBytes>>20)
	}
	s.room -= need
	return &zone{start: r.off + off, unit: unit, n: n, free: make([]byte, need)}, nil
}

// region is a part of the disk; offsets in it are from its start.
type region struct {
	d    Disk
	off  int64
	size int64
}

// read fills b. What lies outside of the region is a fault of whoever pointed there.
func (r region) read(b []byte, off int64) error {
	if off < 0 || int64(len(b)) > r.size || off > r.size-int64(len(b)) {
		return keep("its structures lead outside of it")
	}
	n, err := r.d.ReadAt(b, r.off+off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read the disk at %d: %w", r.off+off, err)
}

// ReadAt reads all of b, as read does.
func (r region) ReadAt(b []byte, off int64) (int, error) {
	if err := r.read(b, off); err != nil {
		return 0, err
	}
	return len(b), nil
}

// bytes reads n bytes; n must have been bounded.
func (r region) bytes(off, n int64) ([]byte, error) {
	b := make([]byte, n)
	return b, r.read(b, off)
}
