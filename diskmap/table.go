package diskmap

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// theDisk is the name of a volume that is the whole disk.
const theDisk = "the disk"

const (
	sector = 512
	// maxPartitions is more than anybody has, and bounds the work.
	maxPartitions = 1024
)

// partition is a place for a volume.
type partition struct {
	name string
	off  int64
	size int64
	kind Kind   // Unknown: whatever is in it
	kept string // known from the table already: why it is kept
}

// span is a run of bytes that belongs to somebody.
type span struct {
	off, end int64
	name     string
}

// partitions finds the places of volumes. A fault of the table is a reason to keep the whole disk: when it is not clear where a
// volume is, nothing is.
func (s *scan) partitions() ([]partition, error) {
	whole := []partition{{name: theDisk, size: s.disk.size, kind: Unknown}}
	if s.disk.size < 2*sector {
		return whole, nil
	}
	b, err := s.disk.bytes(0, sector)
	if err != nil {
		return nil, err
	}
	entries, plausible := parseMBR(b, s.disk.size)
	if binary.LittleEndian.Uint16(b[510:]) != 0xaa55 {
		return whole, nil
	}
	kind, _, err := identify(s.disk)
	if _, ok := errors.AsType[*kept](err); err != nil && !ok {
		return nil, err
	}
	if _, err := raidAtEnd(s.disk); err != nil {
		return nil, err
	}
	gpt, err := s.hasGPT()
	if err != nil {
		return nil, err
	}
	protective := slices.ContainsFunc(entries, func(e mbrEntry) bool { return e.kind == protectiveType })
	marked := kind != Unknown && kind != Blank
	switch {
	case gpt && !protective:
		return nil, keep("it has two partition tables, an MBR and a GPT, and the MBR does not say that the GPT counts")
	case len(entries) == 0 || marked && !plausible:
		return whole, nil // the boot sector of a file system has other things where the table would be
	case marked:
		return nil, keep("it has both a partition table and the marks of %s without one", kind)
	case protective:
		return s.gpt(entries)
	case !plausible:
		return nil, keep("its partition table makes no sense")
	}
	return s.mbr(entries)
}

// mbrEntry is an entry of an MBR that is not empty.
type mbrEntry struct {
	number int // from 1
	kind   byte
	off    int64
	size   int64
}

// Types of partitions in an MBR.
const (
	protectiveType = 0xee
	dynamicType    = 0x42
	raidType       = 0xfd
)

func isExtended(kind byte) bool { return kind == 0x05 || kind == 0x0f || kind == 0x85 }

// parseMBR returns the entries of a table, and whether they make sense on a disk of that size.
func parseMBR(b []byte, size int64) ([]mbrEntry, bool) {
	var out []mbrEntry
	plausible := true
	for i := range 4 {
		e := b[446+16*i:][:16]
		if e[4] == 0 {
			continue
		}
		m := mbrEntry{i + 1, e[4], int64(binary.LittleEndian.Uint32(e[8:])) * sector, int64(binary.LittleEndian.Uint32(e[12:])) * sector}
		fits := m.off > 0 && m.size > 0 && m.off+m.size <= size || m.kind == protectiveType // which may say less or more than there is
		plausible = plausible && e[0]&0x7f == 0 && fits
		out = append(out, m)
	}
	return out, plausible
}

// mbr returns the partitions of an MBR, those within extended ones included.
func (s *scan) mbr(entries []mbrEntry) ([]partition, error) {
	taken := []span{{0, sector, "the partition table"}}
	var parts []partition
	logical := 5
	for _, e := range entries {
		if isExtended(e.kind) {
			ext := region{s.disk.d, e.off, e.size}
			more, tables, err := logicals(ext, &logical)
			if err != nil {
				return nil, err
			}
			parts = append(parts, more...)
			taken = append(taken, tables...)
			// Nobody else may reach into it.
			for _, o := range entries {
				if o.number != e.number && o.off < e.off+e.size && e.off < o.off+o.size {
					return nil, keep("partitions %d and %d overlap", o.number, e.number)
				}
			}
			continue
		}
		p, err := mbrPartition(e.number, e.kind, e.off, e.size)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	return parts, disjoint(parts, taken)
}

func mbrPartition(number int, kind byte, off, size int64) (partition, error) {
	p := partition{name: fmt.Sprintf("partition %d", number), off: off, size: size, kind: Unknown}
	switch kind {
	case dynamicType:
		return p, keep("it is a dynamic disk")
	case raidType:
		p.kept = "it is a part of a software RAID"
	}
	return p, nil
}

// logicals follows the chain of tables in an extended partition, each with one partition and the place of the next table.
func logicals(ext region, number *int) ([]partition, []span, error) {
	var parts []partition
	var tables []span
	for at := int64(0); ; {
		if len(tables) == maxPartitions {
			return nil, nil, keep("its extended partition has no end")
		}
		b, err := ext.bytes(at, sector)
		if err != nil {
			return nil, nil, err
		}
		if binary.LittleEndian.Uint16(b[510:]) != 0xaa55 {
			return nil, nil, keep("a table in its extended partition is damaged")
		}
		tables = append(tables, span{ext.off + at, ext.off + at + sector, "a partition table"})
		next := int64(0)
		for i := range 4 {
			e := b[446+16*i:][:16]
			off, size := int64(binary.LittleEndian.Uint32(e[8:]))*sector, int64(binary.LittleEndian.Uint32(e[12:]))*sector
			switch {
			case e[4] == 0:
			case i == 0 && !isExtended(e[4]):
				if off == 0 || size == 0 || at+off+size > ext.size {
					return nil, nil, keep("partition %d makes no sense", *number)
				}
				p, err := mbrPartition(*number, e[4], ext.off+at+off, size)
				if err != nil {
					return nil, nil, err
				}
				parts = append(parts, p)
				*number++
			case i == 1 && isExtended(e[4]) && off > 0:
				next = off
			default:
				return nil, nil, keep("a table in its extended partition makes no sense")
			}
		}
		if next == 0 {
			return parts, tables, nil
		}
		at = next
	}
}

// disjoint returns an error when two places overlap.
func disjoint(parts []partition, taken []span) error {
	for _, p := range parts {
		taken = append(taken, span{p.off, p.off + p.size, p.name})
	}
	slices.SortFunc(taken, func(a, b span) int { return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.end, b.end)) })
	for i := 1; i < len(taken); i++ {
		if a, b := taken[i-1], taken[i]; b.off < a.end {
			return keep("%s and %s overlap", a.name, b.name)
		}
	}
	return nil
}

// blankSince tells whether b is zeros from a place on.
func blankSince(b []byte, at int) bool { return len(bytes.Trim(b[at:], "\x00")) == 0 }
