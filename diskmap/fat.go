package diskmap

import (
	"bytes"
	"encoding/binary"
)

// fat is a FAT12, FAT16 or FAT32.
type fat struct {
	region
	boot     []byte
	kind     Kind
	sector   int64
	cluster  int64
	clusters int64 // numbered from 2
	fatAt    int64 // bytes
	fatBytes int64 // of one FAT
	fats     int64
	rootAt   int64 // of the root folder, where it has a place of its own
	rootLen  int64
	dataAt   int64 // of cluster 2
	table    []byte
	tableAt  int64 // what table is of
	jumps    int   // how often another piece of the FAT was needed
	z        *zone
}

const firstCluster = 2

// isFAT goes by the fields that every driver needs; there is no mark.
func isFAT(head []byte) bool {
	if len(head) < sector || head[0] != 0xeb && head[0] != 0xe9 || head[510] != 0x55 || head[511] != 0xaa {
		return false
	}
	le := binary.LittleEndian
	return powerOfTwo(int64(le.Uint16(head[11:])), 512, 4096) && powerOfTwo(int64(head[13]), 1, 128) && le.Uint16(head[14:]) > 0 &&
		(head[16] == 1 || head[16] == 2) && (head[21] == 0xf0 || head[21] >= 0xf8)
}

// openFAT reads the FAT, which is the map of what is used.
func openFAT(s *scan, r region, v *Volume) (*zone, error) {
	f := &fat{region: r}
	if err := f.geometry(); err != nil {
		return nil, err
	}
	v.Kind = f.kind
	var err error
	if f.z, err = s.zone(r, f.dataAt, f.cluster, f.clusters); err != nil {
		return nil, err
	}
	for _, step := range []func() error{f.clean, f.copies, f.readMap, f.count, f.vanish} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return f.z, nil
}

// geometry reads the boot sector.
func (f *fat) geometry() error {
	bad := keep("its boot sector makes no sense")
	var err error
	if f.boot, err = f.bytes(0, sector); err != nil {
		return err
	}
	u16 := func(at int) int64 { return int64(binary.LittleEndian.Uint16(f.boot[at:])) }
	u32 := func(at int) int64 { return int64(binary.LittleEndian.Uint32(f.boot[at:])) }
	f.sector, f.fats = u16(11), int64(f.boot[16])
	f.cluster = f.sector * int64(f.boot[13])
	total, length := u16(19), u16(22)
	if total == 0 {
		total = u32(32)
	}
	is32 := length == 0
	if is32 {
		f.kind = FAT32
		length = u32(36)
	}
	f.fatAt, f.fatBytes = u16(14)*f.sector, length*f.sector
	f.rootAt = f.fatAt + f.fats*f.fatBytes
	f.rootLen = (u16(17)*32 + f.sector - 1) / f.sector * f.sector
	f.dataAt = f.rootAt + f.rootLen
	if total*f.sector > f.size {
		return keep("it is larger than the place it is in")
	}
	f.clusters = (total*f.sector - f.dataAt) / f.cluster
	if length == 0 || f.clusters < 1 || is32 != (f.rootLen == 0) || is32 && u16(42) != 0 {
		return bad
	}
	switch {
	case is32 && f.clusters >= 0x0ffffff5, !is32 && f.clusters >= 0xfff5:
		return bad
	case is32:
	case f.clusters < 0xff5:
		f.kind = FAT12
	default:
		f.kind = FAT16
	}
	if (f.clusters+firstCluster)*f.bits() > f.fatBytes*8 {
		return keep("its FAT is too short for it")
	}
	return nil
}

// clean checks the marks that the volume was unmounted, and has not met an error. FAT12 has one of them.
func (f *fat) clean() error {
	mark := f.boot[37] // what Windows and Linux set while they use it
	if f.kind == FAT32 {
		mark = f.boot[65]
	}
	two, err := f.entry(1)
	if err != nil {
		return err
	}
	var clean, noError uint32
	switch f.kind {
	case FAT16:
		clean, noError = 0x8000, 0x4000
	case FAT32:
		clean, noError = 0x08000000, 0x04000000
	}
	switch {
	case mark&1 != 0 || two&clean != clean:
		return keep("it was not unmounted cleanly")
	case mark&2 != 0 || two&noError != noError:
		return keep("errors were found in it")
	}
	one, err := f.entry(0)
	if err != nil {
		return err
	}
	if byte(one) != f.boot[21] {
		return keep("its FAT makes no sense")
	}
	return nil
}

// copies checks that all FATs are the same.
func (f *fat) copies() error {
	if f.kind == FAT32 && binary.LittleEndian.Uint16(f.boot[40:])&0x80 != 0 {
		return keep("its FATs are not copies of one another")
	}
	one, other := make([]byte, pieceBytes), make([]byte, pieceBytes)
	for i := int64(1); i < f.fats; i++ {
		for off := int64(0); off < f.fatBytes; off += pieceBytes {
			n := min(f.fatBytes-off, pieceBytes)
			if err := f.read(one[:n], f.fatAt+off); err != nil {
				return err
			}
			if err := f.read(other[:n], f.fatAt+i*f.fatBytes+off); err != nil {
				return err
			}
			if !bytes.Equal(one[:n], other[:n]) {
				return keep("its FATs differ")
			}
		}
	}
	return nil
}
