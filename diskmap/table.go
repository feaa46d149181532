package diskmap

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"disksync/volume/table"
)

// theDisk is the name of a volume that is the whole disk.
const theDisk = "the disk"

const sector = 512

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
	entries, plausible := table.ReadMBR(b, s.disk.size)
	if !table.Signed(b) {
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
	protective := slices.ContainsFunc(entries, func(e table.Entry) bool { return e.Type == table.Protective })
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

// mbr returns the partitions of an MBR, those within extended ones included.
func (s *scan) mbr(entries []table.Entry) ([]partition, error) {
	taken := []span{{0, sector, "the partition table"}}
	var parts []partition
	logical := 5
	add := func(e table.Entry) error {
		p, err := mbrPartition(e)
		parts = append(parts, p)
		return err
	}
	for _, e := range entries {
		if !e.Extended() {
			if err := add(e); err != nil {
				return nil, err
			}
			continue
		}
		more, tables, err := table.Logicals(s.disk, e, logical)
		if f, ok := errors.AsType[*table.Fault](err); ok {
			err = keep("%s", f.Why)
		}
		if err != nil {
			return nil, err
		}
		logical += len(more)
		for _, l := range more {
			if err := add(l); err != nil {
				return nil, err
			}
		}
		for _, at := range tables {
			taken = append(taken, span{at, at + sector, "a partition table"})
		}
		// Nobody else may reach into it.
		for _, o := range entries {
			if o.Number != e.Number && o.Off < e.Off+e.Size && e.Off < o.Off+o.Size {
				return nil, keep("partitions %d and %d overlap", o.Number, e.Number)
			}
		}
	}
	return parts, disjoint(parts, taken)
}

func mbrPartition(e table.Entry) (partition, error) {
	p := partition{name: fmt.Sprintf("partition %d", e.Number), off: e.Off, size: e.Size, kind: Unknown}
	switch e.Type {
	case table.Dynamic:
		return p, keep("it is a dynamic disk")
	case table.RAID:
		p.kept = "it is a part of a software RAID"
	}
	return p, nil
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
