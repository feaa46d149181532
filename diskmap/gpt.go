package diskmap

import (
	"fmt"

	"disksync/volume/table"
)

// Types of partitions in a GPT, in the order of bytes that they have there.
const (
	gptBIOSBoot     = "48616821-4964-6f6e-744e-656564454649"
	gptMSReserved   = "16e3c9e3-5c0b-b84d-817d-f92df00215ae"
	gptLDMMeta      = "aac80858-8f7e-e042-85d2-e1e90434cfb3"
	gptLDMData      = "a0609baf-3114-624f-bc68-3311714a69ad"
	gptStorageSpace = "8faf5ce7-80f6-ee4c-afa3-b001e56efc2d"
	gptRAID         = "0f889da1-fc05-3b4d-a006-743f0f84911e"
)

// hasGPT reports whether there is a good GPT.
func (s *scan) hasGPT() (bool, error) {
	for _, size := range table.Sectors() {
		if _, ok, err := table.ReadGPT(s.disk, s.disk.size, size, 1); err != nil || ok {
			return ok, err
		}
	}
	return false, nil
}

// findGPT returns the table that counts: the first, or its copy at the end of the disk when the first is damaged.
func (s *scan) findGPT() (table.GPT, error) {
	var fallback table.GPT
	for _, size := range table.Sectors() {
		h, ok, err := table.ReadGPT(s.disk, s.disk.size, size, 1)
		if err != nil {
			return h, err
		}
		c, copied, err := table.ReadGPT(s.disk, s.disk.size, size, s.disk.size/size-1)
		if err != nil {
			return h, err
		}
		switch {
		case ok && copied && (h.Sum != c.Sum || h.Disk != c.Disk):
			return h, keep("the two copies of its partition table differ")
		case ok:
			return h, nil
		case copied && fallback.Entries == nil:
			fallback = c
		}
	}
	if fallback.Entries == nil {
		return fallback, keep("its partition table, a GPT, is damaged")
	}
	return fallback, nil
}

// gpt returns the partitions of a GPT. entries are those of the MBR in front of it; besides saying that there is a GPT they may
// repeat partitions of it.
func (s *scan) gpt(entries []table.Entry) ([]partition, error) {
	h, err := s.findGPT()
	if err != nil {
		return nil, err
	}
	taken := []span{
		{0, sector, "the partition table"},
		{h.At, h.At + h.Sector, "the partition table"},
		{h.EntriesAt, h.EntriesAt + int64(len(h.Entries)), "the partition table"},
	}
	if at := h.Backup; at > 0 && at < s.disk.size/h.Sector && at*h.Sector != h.At {
		taken = append(taken, span{at * h.Sector, at*h.Sector + h.Sector, "the copy of the partition table"})
	}
	var parts []partition
	for _, e := range h.Partitions() {
		if !h.Sensible(e) {
			return nil, keep("partition %d makes no sense", e.Number)
		}
		p := partition{name: fmt.Sprintf("partition %d", e.Number), off: e.First * h.Sector, size: (e.Last - e.First + 1) * h.Sector, kind: Unknown}
		p.gptType(e.Type)
		parts = append(parts, p)
	}
	for _, e := range entries {
		if e.Type != table.Protective && !sameAsOne(parts, e) {
			return nil, keep("its two partition tables, an MBR and a GPT, differ")
		}
	}
	return parts, disjoint(parts, taken)
}

// gptType takes from the type of a partition what cannot be seen from its content.
func (p *partition) gptType(b [16]byte) {
	switch fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16]) {
	case gptBIOSBoot, gptMSReserved:
		p.kind = Blank
	case gptLDMMeta, gptLDMData, gptStorageSpace:
		p.kept = "it is a part of a dynamic disk"
	case gptRAID:
		p.kept = "it is a part of a software RAID"
	}
}

func sameAsOne(parts []partition, e table.Entry) bool {
	for _, p := range parts {
		if p.off == e.Off && p.size == e.Size {
			return true
		}
	}
	return false
}
