package vhd

import (
	"cmp"
	"encoding/binary"
	"slices"
)

const (
	// MaxBlocks bounds the block table that is read, and with it the memory: a disk of 2040 GiB has a million blocks of
	// 2 MiB, and four million of 512 KiB.
	MaxBlocks = 16 << 20

	unallocated = ^uint32(0)
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

// readTable reads the block table. It returns what is wrong with the table as a whole, and then reads nothing; err is a read
// error.
func (m *Image) readTable() (faults []*Error, err error) {
	h := m.header
	m.blocks = blockMap{blockSize: h.BlockSize, bitmapSize: h.bitmapSize()}
	count := (m.footer.Size + h.BlockSize - 1) / h.BlockSize
	if count > int64(h.MaxTableEntries) {
		faults = append(faults, fault(BadBAT, -1, "room for %d blocks, the disk has %d", h.MaxTableEntries, count))
	}
	if count > MaxBlocks {
		faults = append(faults, fault(BadBAT, -1, "%d blocks, this program reads %d", count, MaxBlocks))
	}
	if h.TableOffset < FooterSize || h.TableOffset%sectorSize != 0 || h.TableOffset > uint64(m.fileSize) ||
		uint64(m.fileSize)-h.TableOffset < uint64(4*count) {
		return append(faults, fault(BadBAT, int64(h.TableOffset), "the table is outside the file")), nil
	}
	meta := m.metadata()
	if meta[2].overlaps(meta[0]) || meta[2].overlaps(meta[1]) {
		faults = append(faults, fault(BadBAT, int64(h.TableOffset), "the table lies on the header"))
	}
	if len(faults) > 0 {
		return faults, nil
	}
	m.bat = make([]uint32, count)
	buf := make([]byte, min(64<<10, 4*len(m.bat)))
	for rest := m.bat; len(rest) > 0; {
		part := rest[:min(len(rest), len(buf)/4)]
		if err := readFull(m.r, buf[:4*len(part)], int64(h.TableOffset)+4*int64(len(m.bat)-len(rest))); err != nil {
			return nil, err
		}
		decodeTable(part, buf)
		rest = rest[len(part):]
	}
	return nil, nil
}

// decodeTable reads entries from b, two at a time: opening a long chain is mostly this.
func decodeTable(entries []uint32, b []byte) {
	for len(entries) >= 2 {
		two := binary.BigEndian.Uint64(b)
		entries[0], entries[1] = uint32(two>>32), uint32(two)
		entries, b = entries[2:], b[8:]
	}
	if len(entries) == 1 {
		entries[0] = binary.BigEndian.Uint32(b)
	}
}

// blockSpan returns the range of the file that block i needs: its bitmap, and its data up to the end of the disk.
func (m *Image) blockSpan(i int) span {
	start := int64(m.bat[i]) * sectorSize
	data := min(m.blocks.blockSize, m.footer.Size-int64(i)*m.blocks.blockSize)
	return span{start, start + m.blocks.bitmapSize + data}
}

// checkEntries refuses entries that point into the metadata, beyond the end of the file's data, or onto another block; with
// salvage it drops them and warns. Of two blocks that overlap both are dropped: nobody can tell which of them was there first.
func (m *Image) checkEntries(salvage bool) error {
	var first *Error
	m.badEntries(func(block int, e *Error) bool {
		if !salvage {
			first = e
			return false
		}
		if len(m.dropped) == maxDropped {
			first = fault(BadBAT, int64(m.header.TableOffset), "more than %d entries are unusable", maxDropped)
			return false
		}
		if len(m.dropped) < maxPerFault {
			m.warn(fault(BlockDropped, e.Offset, "%s: %s", e.Fault, e.Detail))
		}
		m.dropped = append(m.dropped, block)
		return true
	})
	if first != nil {
		return first
	}
	if n := len(m.dropped) - maxPerFault; n > 0 {
		m.warn(fault(BlockDropped, -1, "and %d more", n))
	}
	for _, i := range m.dropped {
		m.bat[i] = unallocated
	}
	return nil
}

// maxDropped bounds what [Salvage] leaves out: a file with more unusable entries holds nothing worth the memory.
const maxDropped = 1 << 16

// maxPerFault bounds how often one fault is told: a damaged table may have a million bad entries, and a report of them all is
// neither readable nor small.
const maxPerFault = 100

// badEntries calls report once for each block whose entry is unusable, in the order of their places in the file, until it
// returns false. It takes O(n log n) time; where the entries rise with the blocks, as most writers leave them, it needs no
// memory to speak of.
func (m *Image) badEntries(report func(block int, e *Error) bool) {
	meta := m.metadata()
	var told bitmap // a block with two faults is told once
	top := -1       // of the blocks so far the one that ends last
	tell := func(block int, f Fault, format string, args ...any) bool {
		if told == nil {
			told = make(bitmap, len(m.bat)/8+1)
		}
		if told.get(int64(block)) {
			return true
		}
		told.set(int64(block), 1)
		return report(block, fault(f, int64(m.header.TableOffset)+4*int64(block), format, args...))
	}
	look := func(i int) bool {
		s := m.blockSpan(i)
		for _, x := range meta {
			if s.overlaps(x) && !tell(i, BlockInMetadata, "block %d lies on the metadata at %d", i, x.start) {
				return false
			}
		}
		if s.end > m.dataEnd && !tell(i, BlockPastEnd, "block %d ends %d bytes behind it", i, s.end-m.dataEnd) {
			return false
		}
		if top >= 0 && m.blockSpan(top).overlaps(s) {
			if !tell(top, BlocksOverlap, "blocks %d and %d", top, i) || !tell(i, BlocksOverlap, "blocks %d and %d", top, i) {
				return false
			}
		}
		if top < 0 || s.end > m.blockSpan(top).end {
			top = i
		}
		return true
	}
	m.inPlaceOrder(look)
}

// inPlaceOrder calls look for each allocated block in the order of their places, until it returns false.
func (m *Image) inPlaceOrder(look func(block int) bool) {
	last, rising, used := uint32(0), true, 0
	for _, e := range m.bat {
		if e != unallocated {
			rising = rising && e >= last
			last, used = e, used+1
		}
	}
	if used == 0 {
		return
	}
	if rising {
		for i, e := range m.bat {
			if e != unallocated && !look(i) {
				return
			}
		}
		return
	}
	order := make([]uint32, 0, used)
	for i, e := range m.bat {
		if e != unallocated {
			order = append(order, uint32(i))
		}
	}
	slices.SortFunc(order, func(a, b uint32) int { return cmp.Compare(m.bat[a], m.bat[b]) })
	for _, i := range order {
		if !look(int(i)) {
			return
		}
	}
}

// structureEnd returns where the last block or structure ends, in bytes; the footer belongs there. The room that is kept for
// locators counts as far as the file has it: Windows keeps 64 KiB behind everything else.
func (m *Image) structureEnd() int64 {
	var end int64
	for _, s := range m.metadata() {
		end = max(end, s.end)
	}
	for _, l := range m.header.Locators {
		if l.used() && l.Offset < uint64(m.dataEnd) {
			if e := int64(l.Offset) + l.space(); e <= m.dataEnd {
				end = max(end, e)
			}
		}
	}
	for _, e := range m.bat {
		if e != unallocated {
			end = max(end, int64(e)*sectorSize+m.blocks.bitmapSize+m.blocks.blockSize)
		}
	}
	return end
}

// Place returns where the file holds block number block, in units of the file's block size: the offset in bytes of the block's
// bitmap, which its data follows. ok is false when it does not hold it, and for a fixed disk, which has no table.
func (m *Image) Place(block int) (off int64, ok bool) {
	if m.bat == nil || m.bat[block] == unallocated {
		return 0, false
	}
	return int64(m.bat[block]) * sectorSize, true
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
