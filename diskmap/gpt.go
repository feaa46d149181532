package diskmap

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
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

// gptHeader is what a header says, once it has been checked.
type gptHeader struct {
	sector      int64 // size of a sector on this disk
	at          int64 // place of the header
	first, last int64 // sectors that partitions may have
	backup      int64 // sector of the other header
	entriesAt   int64
	entrySize   int64
	entries     []byte
	sum         uint32 // of the entries
	disk        [16]byte
}

// readGPT reads a header and its entries. ok is false when they are not there or damaged.
func (s *scan) readGPT(sectorSize, lba int64) (h gptHeader, ok bool, err error) {
	if lba < 1 || lba >= s.disk.size/sectorSize {
		return h, false, nil
	}
	b, err := s.disk.bytes(lba*sectorSize, sector)
	if err != nil {
		return h, false, err
	}
	le := binary.LittleEndian
	length := int64(le.Uint32(b[12:]))
	if string(b[:8]) != "EFI PART" || length < 92 || length > sector {
		return h, false, nil
	}
	sum := le.Uint32(b[16:])
	le.PutUint32(b[16:], 0)
	if crc32.ChecksumIEEE(b[:length]) != sum || int64(le.Uint64(b[24:])) != lba {
		return h, false, nil
	}
	h = gptHeader{
		sector: sectorSize, at: lba * sectorSize, backup: int64(le.Uint64(b[32:])), first: int64(le.Uint64(b[40:])), last: int64(le.Uint64(b[48:])),
		entriesAt: int64(le.Uint64(b[72:])), entrySize: int64(le.Uint32(b[84:])), sum: le.Uint32(b[88:]), disk: [16]byte(b[56:72]),
	}
	n, total := int64(le.Uint32(b[80:])), s.disk.size/sectorSize
	if n < 1 || n > maxPartitions || h.entrySize < 128 || h.entrySize > 4096 || h.entrySize%8 != 0 ||
		h.first < 1 || h.first > h.last || h.last >= total || h.entriesAt < 1 || h.entriesAt >= total {
		return h, false, nil
	}
	h.entriesAt *= sectorSize
	if n*h.entrySize > s.disk.size-h.entriesAt {
		return h, false, nil
	}
	if h.entries, err = s.disk.bytes(h.entriesAt, n*h.entrySize); err != nil {
		return h, false, err
	}
	return h, crc32.ChecksumIEEE(h.entries) == h.sum, nil
}

// gptSectors are the sizes of sectors that a GPT may count in.
var gptSectors = []int64{512, 4096}

// hasGPT reports whether there is a good GPT.
func (s *scan) hasGPT() (bool, error) {
	for _, size := range gptSectors {
		if _, ok, err := s.readGPT(size, 1); err != nil || ok {
			return ok, err
		}
	}
	return false, nil
}

// findGPT returns the table that counts: the first, or its copy at the end of the disk when the first is damaged.
func (s *scan) findGPT() (gptHeader, error) {
	var fallback gptHeader
	for _, size := range gptSectors {
		h, ok, err := s.readGPT(size, 1)
		if err != nil {
			return h, err
		}
		c, copied, err := s.readGPT(size, s.disk.size/size-1)
		if err != nil {
			return h, err
		}
		switch {
		case ok && copied && (h.sum != c.sum || h.disk != c.disk):
			return h, keep("the two copies of its partition table differ")
		case ok:
			return h, nil
		case copied && fallback.entries == nil:
			fallback = c
		}
	}
	if fallback.entries == nil {
		return fallback, keep("its partition table, a GPT, is damaged")
	}
	return fallback, nil
}

// gpt returns the partitions of a GPT. entries are those of the MBR in front of it; besides saying that there is a GPT they may
// repeat partitions of it.
func (s *scan) gpt(entries []mbrEntry) ([]partition, error) {
	h, err := s.findGPT()
	if err != nil {
		return nil, err
	}
	taken := []span{
		{0, sector, "the partition table"},
		{h.at, h.at + h.sector, "the partition table"},
		{h.entriesAt, h.entriesAt + int64(len(h.entries)), "the partition table"},
	}
	if at := h.backup; at > 0 && at < s.disk.size/h.sector && at*h.sector != h.at {
		taken = append(taken, span{at * h.sector, at*h.sector + h.sector, "the copy of the partition table"})
	}
	var parts []partition
	for i := int64(0); i < int64(len(h.entries)); i += h.entrySize {
		e := h.entries[i:][:h.entrySize]
		if blankSince(e[:16], 0) {
			continue
		}
		number := int(i/h.entrySize) + 1
		first, last := int64(binary.LittleEndian.Uint64(e[32:])), int64(binary.LittleEndian.Uint64(e[40:]))
		if first < h.first || first > last || last > h.last {
			return nil, keep("partition %d makes no sense", number)
		}
		p := partition{name: fmt.Sprintf("partition %d", number), off: first * h.sector, size: (last - first + 1) * h.sector, kind: Unknown}
		p.gptType(e[:16])
		parts = append(parts, p)
	}
	for _, e := range entries {
		if e.kind != protectiveType && !sameAsOne(parts, e) {
			return nil, keep("its two partition tables, an MBR and a GPT, differ")
		}
	}
	return parts, disjoint(parts, taken)
}

// gptType takes from the type of a partition what cannot be seen from its content.
func (p *partition) gptType(b []byte) {
	switch fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16]) {
	case gptBIOSBoot, gptMSReserved:
		p.kind = Blank
	case gptLDMMeta, gptLDMData, gptStorageSpace:
		p.kept = "it is a part of a dynamic disk"
	case gptRAID:
		p.kept = "it is a part of a software RAID"
	}
}

func sameAsOne(parts []partition, e mbrEntry) bool {
	for _, p := range parts {
		if p.off == e.off && p.size == e.size {
			return true
		}
	}
	return false
}
