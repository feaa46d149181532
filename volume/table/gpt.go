package table

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// GPT is a table whose checksums are right.
type GPT struct {
	Sector      int64 // bytes of a sector, in which it counts
	At          int64 // place of the header, in bytes
	First, Last int64 // sectors that partitions may have
	Backup      int64 // sector of the other header
	EntriesAt   int64 // bytes
	EntrySize   int64
	Entries     []byte
	Sum         uint32 // of the entries
	Disk        [16]byte
}

// Sectors are the sizes of sectors that a GPT may count in.
func Sectors() []int64 { return []int64{512, 4096} }

// ReadGPT reads a header and its entries from a disk of that size (UEFI 5.3). ok is false when they are not there or damaged.
func ReadGPT(r io.ReaderAt, size, sectorSize, lba int64) (g GPT, ok bool, err error) {
	if lba < 1 || lba >= size/sectorSize {
		return g, false, nil
	}
	b := make([]byte, sector)
	if _, err := r.ReadAt(b, lba*sectorSize); err != nil {
		return g, false, err
	}
	le := binary.LittleEndian
	length := int64(le.Uint32(b[12:]))
	if string(b[:8]) != "EFI PART" || length < 92 || length > sector {
		return g, false, nil
	}
	sum := le.Uint32(b[16:])
	le.PutUint32(b[16:], 0)
	if crc32.ChecksumIEEE(b[:length]) != sum || int64(le.Uint64(b[24:])) != lba {
		return g, false, nil
	}
	g = GPT{
		Sector: sectorSize, At: lba * sectorSize, Backup: int64(le.Uint64(b[32:])), First: int64(le.Uint64(b[40:])), Last: int64(le.Uint64(b[48:])),
		EntriesAt: int64(le.Uint64(b[72:])), EntrySize: int64(le.Uint32(b[84:])), Sum: le.Uint32(b[88:]), Disk: [16]byte(b[56:72]),
	}
	n, total := int64(le.Uint32(b[80:])), size/sectorSize
	if n < 1 || n > MaxPartitions || g.EntrySize < 128 || g.EntrySize > 4096 || g.EntrySize%8 != 0 ||
		g.First < 1 || g.First > g.Last || g.Last >= total || g.EntriesAt < 1 || g.EntriesAt >= total {
		return g, false, nil
	}
	g.EntriesAt *= sectorSize
	if n*g.EntrySize > size-g.EntriesAt {
		return g, false, nil
	}
	g.Entries = make([]byte, n*g.EntrySize)
	if _, err := r.ReadAt(g.Entries, g.EntriesAt); err != nil {
		return g, false, err
	}
	return g, crc32.ChecksumIEEE(g.Entries) == g.Sum, nil
}

// GPTEntry is a partition of a GPT.
type GPTEntry struct {
	Number      int // from 1
	Type        [16]byte
	First, Last int64 // sectors
}

// Sensible reports whether the partition is where the table allows partitions.
func (g *GPT) Sensible(e GPTEntry) bool {
	return e.First >= g.First && e.First <= e.Last && e.Last <= g.Last
}

// Partitions returns the entries that are not empty.
func (g *GPT) Partitions() []GPTEntry {
	var out []GPTEntry
	for i := int64(0); i < int64(len(g.Entries)); i += g.EntrySize {
		e := g.Entries[i:][:g.EntrySize]
		if len(bytes.Trim(e[:16], "\x00")) == 0 {
			continue
		}
		out = append(out, GPTEntry{
			Number: int(i/g.EntrySize) + 1, Type: [16]byte(e[:16]),
			First: int64(binary.LittleEndian.Uint64(e[32:])), Last: int64(binary.LittleEndian.Uint64(e[40:])),
		})
	}
	return out
}
