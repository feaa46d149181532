package fat

import (
	"encoding/binary"
	"strings"

	"disksync/volume"
)

// Kind is the width of the entries of the FAT, in bits that count.
type Kind int

// The kinds of file allocation tables. That of exFAT has other rules around it, and the same chains.
const (
	FAT12 Kind = 12
	FAT16 Kind = 16
	FAT32 Kind = 28
	ExFAT Kind = 32
)

// SectorBytes is the length of what ParseBoot reads, whatever a sector is.
const SectorBytes = 512

// FirstCluster is the number of the first cluster.
const FirstCluster = 2

// Boot is what a boot sector says; places and lengths are in bytes from the start of the volume.
type Boot struct {
	Kind     Kind
	Sector   int64
	Cluster  int64
	Clusters int64 // numbered from 2
	Size     int64 // of the volume
	FATAt    int64
	FATBytes int64 // of one FAT
	FATs     int64
	RootAt   int64 // of the root folder, where it has a place of its own
	RootLen  int64
	Root     uint32 // its first cluster where it has none
	DataAt   int64  // of cluster 2
	Active   int    // the only FAT that is kept, from 0; -1: all are the same
}

// IsBoot reports whether a volume may begin with this, by the fields that every driver needs: there is no mark.
func IsBoot(b []byte) bool {
	if len(b) < SectorBytes || b[0] != 0xeb && b[0] != 0xe9 || b[510] != 0x55 || b[511] != 0xaa {
		return false
	}
	le := binary.LittleEndian
	return powerOfTwo(int64(le.Uint16(b[11:])), 512, 4096) && powerOfTwo(int64(b[13]), 1, 128) && le.Uint16(b[14:]) > 0 &&
		(b[16] == 1 || b[16] == 2) && (b[21] == 0xf0 || b[21] >= 0xf8)
}

func powerOfTwo(n, least, most int64) bool { return n >= least && n <= most && n&(n-1) == 0 }

// ParseBoot reads a boot sector ("Boot Sector and BPB" in the FAT32 File System Specification 1.03). It checks that the numbers go
// together, not that they fit where the volume is. Errors are ErrOther and ErrDamaged; what was read is returned besides, when it has
// the mark.
func ParseBoot(b []byte) (*Boot, error) {
	if !IsBoot(b) {
		return nil, volume.ErrOther
	}
	bad := volume.ErrOther
	if strings.HasPrefix(string(b[54:]), "FAT1") || strings.HasPrefix(string(b[82:]), "FAT32") {
		bad = volume.Damaged("the boot sector makes no sense")
	}
	u16 := func(at int) int64 { return int64(binary.LittleEndian.Uint16(b[at:])) }
	u32 := func(at int) int64 { return int64(binary.LittleEndian.Uint32(b[at:])) }
	total, length := u16(19), u16(22)
	if total == 0 {
		total = u32(32)
	}
	// As other systems do it: the number of clusters tells FAT12 from FAT16 only.
	is32 := length == 0
	v := &Boot{Sector: u16(11), FATs: int64(b[16]), Active: -1}
	if is32 {
		length = u32(36)
		v.Root = uint32(u32(44))
		if flags := u16(40); flags&0x80 != 0 {
			v.Active = int(flags & 0xf)
		}
	}
	v.Cluster = v.Sector * int64(b[13])
	v.Size = total * v.Sector
	v.FATAt, v.FATBytes = u16(14)*v.Sector, length*v.Sector
	v.RootAt = v.FATAt + v.FATs*v.FATBytes
	v.RootLen = (u16(17)*32 + v.Sector - 1) / v.Sector * v.Sector
	v.DataAt = v.RootAt + v.RootLen
	v.Clusters = (v.Size - v.DataAt) / v.Cluster
	if length == 0 || v.Clusters < 1 || is32 != (v.RootLen == 0) || is32 && u16(42) != 0 || v.Active >= int(v.FATs) {
		return v, bad
	}
	switch {
	case is32 && v.Clusters >= 0x0ffffff5, !is32 && v.Clusters >= 0xfff5:
		return v, bad
	case is32:
		v.Kind = FAT32
	case v.Clusters < 0xff5:
		v.Kind = FAT12
	default:
		v.Kind = FAT16
	}
	return v, nil
}

// EntryBits returns the length of an entry of the FAT in bits.
func (k Kind) EntryBits() int64 {
	if k == FAT32 {
		return 32
	}
	return int64(k)
}

// EntryAt returns where entry i of the FAT begins, in bytes from its start, and how many bytes it is in.
func (k Kind) EntryAt(i int64) (at, n int64) { return i * k.EntryBits() / 8, max(k.EntryBits()/8, 2) }

// Entry decodes entry i of the FAT from the bytes that it is in.
func (k Kind) Entry(b []byte, i int64) uint32 {
	switch k {
	case FAT12:
		return uint32(binary.LittleEndian.Uint16(b)) >> (4 * (i % 2)) & 0xfff
	case FAT16:
		return uint32(binary.LittleEndian.Uint16(b))
	case ExFAT:
		return binary.LittleEndian.Uint32(b)
	default:
		return binary.LittleEndian.Uint32(b) & 0x0fffffff // the rest is reserved, and anything
	}
}

// Last reports whether an entry says that its cluster is the last of a file.
func (k Kind) Last(e uint32) bool { return e >= k.end() }

// Bad reports whether an entry says that its cluster cannot be used.
func (k Kind) Bad(e uint32) bool { return e == k.end()-1 }

func (k Kind) end() uint32 { return uint32(1<<k - 8) }
