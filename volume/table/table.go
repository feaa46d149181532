// Package table reads partition tables: MBRs with the tables within extended partitions, and GPTs.
//
// [Partitions] takes what can be made out of a medium, to look for files. Who must not be wrong about what lies where, as when free space
// is told, takes the parts, [ReadMBR], [Logicals] and [ReadGPT], and decides on each doubt.
package table

import (
	"encoding/binary"
	"fmt"
	"io"
)

const (
	sector = 512
	// MaxPartitions is more than anybody has, and bounds the work.
	MaxPartitions = 1024
)

// Types of partitions in an MBR.
const (
	Protective = 0xee // a GPT counts
	Dynamic    = 0x42
	RAID       = 0xfd
)

// Fault is what is wrong with a table; other errors are those of the disk.
type Fault struct{ Why string }

// Error implements error.
func (f *Fault) Error() string { return f.Why }

func fault(format string, args ...any) error { return &Fault{fmt.Sprintf(format, args...)} }

// Entry is an entry of an MBR that is not empty.
type Entry struct {
	Number int // from 1; those within extended partitions from 5
	Type   byte
	Off    int64 // bytes
	Size   int64
	Sane   bool // its first byte is one that partitions have
}

// Extended reports whether the partition holds further tables.
func (e Entry) Extended() bool { return isExtended(e.Type) }

func isExtended(kind byte) bool { return kind == 0x05 || kind == 0x0f || kind == 0x85 }

// Signed reports whether a sector ends as a table does.
func Signed(b []byte) bool { return binary.LittleEndian.Uint16(b[sector-2:]) == 0xaa55 }

// ReadMBR returns the entries of the table in the first sector of a disk of that size, and whether they make sense there. The boot
// sector of a file system has other things in that place.
func ReadMBR(b []byte, size int64) (entries []Entry, plausible bool) {
	plausible = true
	for i := range 4 {
		e := b[446+16*i:][:16]
		if e[4] == 0 {
			continue
		}
		off, length := int64(binary.LittleEndian.Uint32(e[8:]))*sector, int64(binary.LittleEndian.Uint32(e[12:]))*sector
		m := Entry{i + 1, e[4], off, length, e[0]&0x7f == 0}
		fits := m.Off > 0 && m.Size > 0 && m.Off+m.Size <= size || m.Type == Protective // which may say less or more than there is
		plausible = plausible && m.Sane && fits
		entries = append(entries, m)
	}
	return entries, plausible
}

// Logicals follows the chain of tables in an extended partition, each with one partition and the place of the next table. first is the
// number of the first partition. tables are the places of the tables on the disk. With an error, what was found before it is returned.
func Logicals(r io.ReaderAt, ext Entry, first int) (parts []Entry, tables []int64, err error) {
	b := make([]byte, sector)
	for at := int64(0); ; {
		if len(tables) == MaxPartitions {
			return parts, tables, fault("its extended partition has no end")
		}
		if at > ext.Size-sector {
			return parts, tables, fault("its structures lead outside of it")
		}
		if _, err := r.ReadAt(b, ext.Off+at); err != nil {
			return parts, tables, err
		}
		if !Signed(b) {
			return parts, tables, fault("a table in its extended partition is damaged")
		}
		tables = append(tables, ext.Off+at)
		next := int64(0)
		for i := range 4 {
			e := b[446+16*i:][:16]
			off, size := int64(binary.LittleEndian.Uint32(e[8:]))*sector, int64(binary.LittleEndian.Uint32(e[12:]))*sector
			switch {
			case e[4] == 0:
			case i == 0 && !isExtended(e[4]):
				number := first + len(parts)
				if off == 0 || size == 0 || at+off+size > ext.Size {
					return parts, tables, fault("partition %d makes no sense", number)
				}
				parts = append(parts, Entry{number, e[4], ext.Off + at + off, size, true})
			case i == 1 && isExtended(e[4]) && off > 0:
				next = off
			default:
				return parts, tables, fault("a table in its extended partition makes no sense")
			}
		}
		if next == 0 {
			return parts, tables, nil
		}
		at = next
	}
}
