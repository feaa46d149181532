package vhd

import (
	"encoding/binary"
	"fmt"
	"slices"
)

const (
	// MaxBlocks bounds the block table that is read, and with it the memory: a disk of 2040 GiB has a million blocks of
	// 2 MiB, and four million of 512 KiB.
	MaxBlocks = 16 << 20

	unallocated = ^uint32(0)

	// maxDropped bounds what [Salvage] leaves out: a file with more unusable entries holds nothing worth the memory.
	maxDropped = 1000
)

// span is a range of the file.
type span struct{ start, end int64 }

func (s span) overlaps(o span) bool { return s.start < o.end && o.start < s.end }

// blockMap answers where a block is. offsets are those of the sector bitmaps; the data follows.
type blockMap struct {
	blockSize  int64
	bitmapSize int64
}

// metadata returns the ranges of the file that no block may touch.
func (m *Image) metadata() []span {
	h := m.header
	table := int64(h.TableOffset)
	spans := []span{
		{0, FooterSize},
		{int64(m.footer.DataOffset), int64(m.footer.DataOffset) + headerSize},
		{table, table + roundUp(4*int64(h.MaxTableEntries), sectorSize)},
	}
	for _, l := range h.Locators {
		if l.used() && l.Offset < uint64(m.fileSize) && l.Length <= maxLocatorData {
			spans = append(spans, span{int64(l.Offset), int64(l.Offset) + roundUp(int64(l.Length), sectorSize)})
		}
	}
	return append(spans, m.batmapSpans()...)
}

// batmapSpans returns the ranges of tapdisk's batmap, when there is one behind the block table.
func (m *Image) batmapSpans() []span {
	at := int64(m.header.TableOffset) + roundUp(4*int64(m.header.MaxTableEntries), sectorSize)
	if string(m.footer.Creator.App[:3]) != "tap" || at > m.fileSize-sectorSize {
		return nil
	}
	b := make([]byte, sectorSize)
	if readFull(m.r, b, at) != nil || string(b[:8]) != "tdbatmap" {
		return nil
	}
	spans := []span{{at, at + sectorSize}}
	off, sectors := binary.BigEndian.Uint64(b[8:]), int64(binary.BigEndian.Uint32(b[16:]))
	if off < uint64(m.fileSize) {
		spans = append(spans, span{int64(off), int64(off) + sectors*sectorSize})
	}
	return spans
}

// readTable reads the block table and checks every entry that belongs to the disk.
func (m *Image) readTable(o options) error {
	h := m.header
	m.blocks = blockMap{blockSize: h.BlockSize, bitmapSize: h.bitmapSize()}
	count := (m.footer.Size + h.BlockSize - 1) / h.BlockSize
	if count > int64(h.MaxTableEntries) {
		return fault(BadBAT, -1, "room for %d blocks, the disk has %d", h.MaxTableEntries, count)
	}
	if count > MaxBlocks {
		return fault(BadBAT, -1, "%d blocks, this program reads %d", count, MaxBlocks)
	}
	if h.TableOffset < FooterSize || h.TableOffset%sectorSize != 0 || h.TableOffset > uint64(m.fileSize) ||
		uint64(m.fileSize)-h.TableOffset < uint64(4*count) {
		return fault(BadBAT, int64(h.TableOffset), "the table is outside the file")
	}
	meta := m.metadata()
	if meta[2].overlaps(meta[0]) || meta[2].overlaps(meta[1]) {
		return fault(BadBAT, int64(h.TableOffset), "the table lies on the header")
	}
	m.bat = make([]uint32, count)
	var buf [16 << 10]byte
	for i := 0; i < len(m.bat); {
		b := buf[:min(len(buf), 4*(len(m.bat)-i))]
		if err := readFull(m.r, b, int64(h.TableOffset)+4*int64(i)); err != nil {
			return err
		}
		for ; len(b) > 0; b = b[4:] {
			m.bat[i] = binary.BigEndian.Uint32(b)
			i++
		}
	}
	return m.checkTable(meta, o)
}

// blockSpan returns the range of the file that block i needs: its bitmap, and its data up to the end of the disk.
func (m *Image) blockSpan(i int) span {
	start := int64(m.bat[i]) * sectorSize
	data := min(m.blocks.blockSize, m.footer.Size-int64(i)*m.blocks.blockSize)
	return span{start, start + m.blocks.bitmapSize + data}
}

// checkTable refuses entries that point into the metadata, beyond the end of the file, or onto another block; with Salvage it
// drops them. Of two blocks that overlap both are dropped: nobody can tell which of them was there first.
func (m *Image) checkTable(meta []span, o options) error {
	var used []int // allocated blocks
	for i, e := range m.bat {
		if e != unallocated {
			used = append(used, i)
		}
	}
	inOrder := slices.IsSortedFunc(used, m.byPlace)
	if !inOrder {
		slices.SortFunc(used, m.byPlace)
	}
	slices.SortFunc(meta, func(a, b span) int { return int(min(max(a.start-b.start, -1), 1)) })
	bad := map[int]string{}
	for n, i := range used {
		if len(bad) > maxDropped {
			return fault(BadBAT, int64(m.header.TableOffset), "more than %d entries are unusable", maxDropped)
		}
		s := m.blockSpan(i)
		for _, x := range meta {
			if s.overlaps(x) {
				bad[i] = fmt.Sprintf("block %d lies on the metadata at %d", i, x.start)
			}
		}
		if s.end > m.dataEnd {
			bad[i] = fmt.Sprintf("block %d ends %d bytes behind the end of the data", i, s.end-m.dataEnd)
		}
		if n > 0 && m.blockSpan(used[n-1]).overlaps(s) {
			bad[i] = fmt.Sprintf("blocks %d and %d overlap", used[n-1], i)
			bad[used[n-1]] = bad[i]
		}
	}
	for _, i := range used {
		detail, is := bad[i]
		if !is {
			continue
		}
		e := fault(BadBAT, int64(m.header.TableOffset)+4*int64(i), "%s", detail)
		if !o.salvage {
			return e
		}
		e.Fault = BlockDropped
		m.warn(e)
		m.bat[i] = unallocated
		m.dropped = append(m.dropped, i)
	}
	return nil
}

func (m *Image) byPlace(a, b int) int {
	return int(int64(m.bat[a]) - int64(m.bat[b]))
}

// AllocatedBlocks returns the number of blocks that the file holds; for a fixed disk, 0.
func (m *Image) AllocatedBlocks() int {
	n := 0
	for _, e := range m.bat {
		if e != unallocated {
			n++
		}
	}
	return n
}

// Allocated reports whether the file holds block number block, in units of the file's block size; a fixed disk holds all.
func (m *Image) Allocated(block int) bool {
	return m.bat == nil || m.bat[block] != unallocated
}
