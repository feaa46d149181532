// Package format parses the structures of NTFS as they are on the disk: the boot sector, the records of the master file table with
// their attributes and lists of runs, and the restart pages of the log. It takes bytes and returns values; what is read, and what a
// fault in it means, is for the callers: volume/ntfs, which reads files, and diskmap, which wants to know what is free.
//
// The format has no specification by its maker that is public. What is here follows what the Linux-NTFS project wrote down
// ("NTFS Documentation", the names of its concepts and files are used here), and the volumes of Windows and ntfs-3g.
package format

import (
	"encoding/binary"
	"fmt"
	"unicode/utf16"
)

// Sector is how many bytes are protected by one fixup, whatever the sectors of the device have.
const Sector = 512

// Records of the master file table that have a fixed place.
const (
	MFT    = 0
	Mirror = 1
	Log    = 2
	Volume = 3
	Root   = 5
	Bitmap = 6
	Own    = 12 // those below are the file system's own
)

// MirrorRecords is how many records the mirror has, of the first ones.
const MirrorRecords = 4

// Fault says what is wrong with a structure.
type Fault string

// Error implements error.
func (f Fault) Error() string { return string(f) }

func fault(format string, args ...any) error { return Fault(fmt.Sprintf(format, args...)) }

// Boot is what the boot sector says ("$Boot"). Sizes are in bytes, places in clusters.
type Boot struct {
	Sector     int64 // 512 to 4096
	Sectors    int64 // of the volume
	Cluster    int64 // 512 bytes to 2 MiB
	Clusters   int64
	RecordSize int64 // 512 bytes to 64 KiB
	MFT        int64
	Mirror     int64
	Serial     uint64
}

// IsBoot reports whether a boot sector has the mark of NTFS.
func IsBoot(b []byte) bool { return len(b) >= Sector && string(b[3:11]) == "NTFS    " }

// ParseBoot takes a boot sector. It fails when its numbers make no sense; whether the volume fits its device is not known here.
func ParseBoot(b []byte) (Boot, bool) {
	le := binary.LittleEndian
	v := Boot{Sector: int64(le.Uint16(b[11:])), Sectors: int64(le.Uint64(b[40:])), Serial: le.Uint64(b[72:])}
	perCluster := int64(b[13])
	if perCluster > 0x80 { // a negative power of two
		if perCluster < 256-12 {
			return v, false
		}
		perCluster = 1 << (256 - perCluster)
	}
	if !powerOfTwo(v.Sector, 512, 4096) || !powerOfTwo(perCluster, 1, 4096) || le.Uint16(b[510:]) != 0xaa55 ||
		!powerOfTwo(v.Sector*perCluster, 512, 2<<20) || v.Sectors <= 0 || v.Sectors > (1<<62)/v.Sector {
		return v, false
	}
	v.Cluster, v.Clusters = v.Sector*perCluster, v.Sectors/perCluster
	if size := int64(int8(b[64])); size >= 0 {
		v.RecordSize = size * v.Cluster
	} else if size >= -16 {
		v.RecordSize = 1 << -size
	}
	v.MFT, v.Mirror = int64(le.Uint64(b[48:])), int64(le.Uint64(b[56:]))
	return v, powerOfTwo(v.RecordSize, 512, 64<<10) && v.MFT > 0 && v.MFT < v.Clusters && v.Mirror > 0 && v.Mirror < v.Clusters &&
		v.MFT != v.Mirror
}

func powerOfTwo(n, least, most int64) bool { return n >= least && n <= most && n&(n-1) == 0 }

// UTF16 decodes text. What is no valid Unicode becomes U+FFFD.
func UTF16(b []byte) string { return string(utf16.Decode(Units(b))) }

// Units returns the 16-bit units of text.
func Units(b []byte) []uint16 {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return units
}
