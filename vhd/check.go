package vhd

import (
	"errors"
	"io"
	"slices"

	"disksync/image"
)

// CheckOptions says how far [Check] looks. The zero value looks at the metadata only: footers, header, block table, locators,
// and the checksum of tapdisk's batmap.
type CheckOptions struct {
	// Bitmaps reads every block's sector bitmap and compares tapdisk's batmap with them.
	Bitmaps bool
	// Data reads the data behind bits that are clear as well, which for a sparse difference is most of the file. It includes
	// Bitmaps.
	Data bool
	// Now is compared with the disk's timestamp; 0: it is not.
	Now Timestamp
	// Parent is the disk's parent, when it is at hand, and ParentModified the time of its file; 0: not known. [CheckChain] sets
	// them itself.
	Parent         *Image
	ParentModified Timestamp
}

// Report is what [Check] found.
type Report struct {
	// Findings are in the order of the file's structures. None means that every byte that was looked at is as it should be. A fault
	// that is there very often is listed 100 times, and Omitted counts the rest.
	Findings []*Error
	Omitted  int
	// Image is the disk as far as it can be read, nil when it cannot be opened at all, not even with [Salvage]. Blocks whose entry
	// is unusable are missing in it: it is for looking, not for use.
	Image *Image
	// Blocks is the number of blocks of the disk, and Allocated how many of them the file holds.
	Blocks, Allocated int
	// Unusable are the blocks whose table entry is damaged, in rising order; Lost are the ranges of the disk that this costs.
	Unusable []int
	Lost     []LostRange
	// End is where the last structure ends and the footer belongs, in bytes; 0 when that cannot be known.
	End int64

	count map[Fault]int
}

// LostRange is a part of a disk whose content the file does not hold any more. Offset and Length are in bytes.
type LostRange struct{ Offset, Length int64 }

// Worst returns the highest severity among the findings, and false when there are none.
func (r *Report) Worst() (worst Severity, some bool) {
	for _, f := range r.Findings {
		worst = max(worst, f.Fault.Severity())
	}
	return worst, len(r.Findings) > 0
}

// Has reports whether the fault, or a kind of it, is among the findings.
func (r *Report) Has(f Fault) bool {
	return slices.ContainsFunc(r.Findings, func(e *Error) bool { return errors.Is(e, f) })
}

func (r *Report) add(faults ...*Error) {
	for _, e := range faults {
		if r.count == nil {
			r.count = map[Fault]int{}
		}
		if r.count[e.Fault]++; r.count[e.Fault] > maxPerFault {
			r.Omitted++
		} else {
			r.Findings = append(r.Findings, e)
		}
	}
}

func (r *Report) find(f Fault, offset int64, format string, args ...any) {
	r.add(fault(f, offset, format, args...))
}

// damaged reports whether the file itself, whatever its parents are, is damaged.
func (r *Report) damaged() *Error {
	for _, e := range r.Findings {
		if e.Fault.Severity() == Damage && !e.Fault.ofChain() {
			return e
		}
	}
	return nil
}

// Check looks at the whole structure of the VHD in the first size bytes of r, also of one that [Open] refuses, and tells
// everything that it finds. It reads the metadata once, in O(n log n) of the number of blocks, and needs 4 bytes of memory a
// block, 8 where blocks are not in order. Open refuses a file just when Check finds [Damage] in it (faults of the disk's place
// in a chain apart).
//
// What is wrong with the file is in the report; the error is one of reading it. Nothing is written. Checks of the same file may
// run at the same time.
func Check(r io.ReaderAt, size int64, o CheckOptions) (*Report, error) {
	rep := &Report{}
	m := &Image{r: r, fileSize: size, dataEnd: size}
	err := rep.run(m, o)
	if e, ok := errors.AsType[*Error](err); ok {
		rep.add(e) // the file ends where it may not
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return rep, nil
}

// run goes through the file as Open does, but goes on behind a fault as long as what follows can be made sense of.
func (r *Report) run(m *Image, o CheckOptions) error {
	usable, err := r.footers(m)
	if err != nil || !usable {
		return err
	}
	r.fields(m, o)
	if m.footer.Type == Fixed {
		r.fixed(m)
	} else if ok, err := r.tables(m); err != nil || !ok {
		return err
	}
	if r.openable() {
		r.Image = m
	}
	if m.header == nil {
		return nil
	}
	r.layout(m)
	r.parent(m, o)
	full, err := r.batmap(m)
	if err != nil {
		return err
	}
	if o.Bitmaps || o.Data {
		return r.bitmaps(m, full, o)
	}
	return nil
}

// openable reports whether nothing but entries of the block table is damaged.
func (r *Report) openable() bool {
	return !slices.ContainsFunc(r.Findings, func(e *Error) bool {
		return e.Fault.Severity() == Damage && !e.Fault.Is(BadBAT)
	})
}

// footers finds the footer that counts, and tells what is wrong with the others. usable is false when none can be gone by.
func (r *Report) footers(m *Image) (usable bool, err error) {
	err = m.findFooter()
	e, bad := errors.AsType[*Error](err)
	if err != nil && !bad {
		return false, err
	}
	if bad {
		r.add(e)
		if first, ok := errors.AsType[*Error](m.seen.firstErr); ok && first != e {
			r.add(first)
		}
	}
	r.add(m.warnings...)
	if m.fileSize%sectorSize != 0 && m.seen.endLen != FooterSize-1 {
		r.find(OddFileSize, -1, "%d bytes", m.fileSize)
	}
	switch {
	case !bad:
		return true, nil
	case e.Fault == Poisoned && m.seen.end != nil:
		// The footer is whole, so what it describes can be looked at.
		m.footer, m.dataEnd = m.seen.end, m.seen.endAt
		return true, nil
	}
	b := make([]byte, len(headerCookie))
	if m.fileSize >= FooterSize+headerSize && readFull(m.r, b, FooterSize) == nil && string(b) == headerCookie {
		e.Detail = joinDetail(e.Detail, "a dynamic header is at offset 512, so this was a dynamic or differencing disk")
	}
	return false, nil
}

func joinDetail(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// maxClockSkew is how far clocks may differ before a time counts as the future, in seconds; the same as vhd-util's.
const maxClockSkew = 1800

// fields looks at the fields of the footer.
func (r *Report) fields(m *Image, o CheckOptions) {
	f := m.footer
	r.add(f.faults()...)
	if f.UUID.IsZero() {
		r.find(NilUUID, -1, "no child can be sure of it, and vhd-util refuses it")
	}
	if f.SavedState != 0 {
		r.find(SavedState, -1, "state %d", f.SavedState)
	}
	if o.Now != 0 && f.Timestamp > o.Now && f.Timestamp-o.Now > maxClockSkew {
		r.find(FutureTimestamp, -1, "%s", f.Timestamp.Time().Format("2006-01-02 15:04:05"))
	}
	if want := GeometryFor(f.Size); f.Size > 0 && f.Geometry != want {
		r.find(WrongGeometry, -1, "%s, the size has %s", f.Geometry, want)
	}
	if f.Features&createFeatures == 0 {
		r.find(OddFooter, -1, "features %08x; the reserved bit is always set", f.Features)
	}
	if f.Type == Fixed && f.DataOffset != noOffset {
		r.find(OddFooter, -1, "data offset %x in a fixed disk", f.DataOffset)
	}
}

// fixed compares a fixed disk with its file.
func (r *Report) fixed(m *Image) {
	if e := m.fixedFault(); e != nil {
		r.add(e)
		return
	}
	if r.End = m.footer.Size; m.dataEnd > r.End && r.End > 0 {
		r.find(TrailingData, r.End, "%d bytes", m.dataEnd-r.End)
	}
}

// tables reads the header and the block table. ok is false when there is nothing that can be looked at further.
func (r *Report) tables(m *Image) (ok bool, err error) {
	if m.footer.DataOffset == noOffset && r.Has(BadType) {
		return false, nil
	}
	faults, err := m.readHeader()
	r.add(faults...)
	if err != nil || m.header == nil || r.Has(BadBlockSize) || r.Has(BadSize) {
		return false, err
	}
	faults, err = m.readTable()
	r.add(faults...)
	if err != nil || len(faults) > 0 {
		return false, err
	}
	m.badEntries(func(block int, e *Error) bool {
		r.add(e)
		r.Unusable = append(r.Unusable, block)
		return true
	})
	m.dropped = r.Unusable
	for _, i := range r.Unusable {
		m.bat[i] = unallocated
	}
	slices.Sort(r.Unusable)
	r.Lost = m.ranges(r.Unusable)
	if m.footer.Type == Differencing {
		m.readLocators()
	}
	return true, nil
}

// layout counts blocks and finds the end of the file's structures.
func (r *Report) layout(m *Image) {
	r.Blocks = len(m.bat)
	r.Allocated = m.AllocatedBlocks()
	r.End = m.structureEnd()
	end := m.dataEnd
	if m.seen.endErr != nil {
		end = m.seen.endAt // a damaged footer is told as such
	}
	if end > r.End {
		r.find(TrailingData, r.End, "%d bytes", end-r.End)
	}
	for i, l := range m.header.Locators {
		at := int64(m.footer.DataOffset) + int64(locatorsAt+i*locatorSize)
		switch {
		case !l.used():
		case !l.inFile(m.fileSize):
			r.find(BadLocator, at, "%d bytes at %d", l.Length, l.Offset)
		case l.space() < int64(l.Length):
			r.find(BadLocator, at, "%d bytes in a space of %d", l.Length, l.Space)
		}
	}
	if m.Type() == Differencing && len(m.paths) == 0 {
		r.find(NoLocator, -1, "the parent can be told by its uuid %s only", m.ParentUUID())
	}
}

// batmap looks at tapdisk's batmap. It returns nil when there is none that is gone by.
func (r *Report) batmap(m *Image) (*batmap, error) {
	b, err := m.loadBatmap()
	if e, ok := errors.AsType[*Error](err); ok {
		r.add(e)
		err = nil
		if b != nil && b.encrypted() {
			r.find(Encrypted, b.headAt, "")
		}
		return nil, err
	}
	if b == nil || err != nil {
		return nil, err
	}
	if b.encrypted() {
		r.find(Encrypted, b.headAt, "")
	}
	for block, e := range m.bat {
		if _, bad := slices.BinarySearch(r.Unusable, block); e == unallocated && b.full(block) && !bad {
			r.find(BatmapWrong, b.at+int64(block/8), "block %d is not in the file", block)
		}
	}
	return b, nil
}

// bitmaps reads the sector bitmaps of all blocks, and the data where it must be zeros.
func (r *Report) bitmaps(m *Image, full *batmap, o CheckOptions) error {
	b := make(bitmap, m.blocks.bitmapSize)
	var data []byte
	for block, e := range m.bat {
		if e == unallocated {
			continue
		}
		if err := readFull(m.r, b, int64(e)*sectorSize); err != nil {
			return err
		}
		if full.full(block) && !m.whole(block, b) {
			r.find(BatmapWrong, full.at+int64(block/8), "block %d has sectors that are not the file's own", block)
		}
		if !o.Data {
			continue
		}
		if data == nil {
			data = make([]byte, min(m.blocks.blockSize, junkChunk))
		}
		err := m.junk(block, b, data, func(at, n int64) error {
			r.find(JunkUnderClearBits, at, "block %d", block)
			return errOne
		})
		if err != nil && !errors.Is(err, errOne) {
			return err
		}
	}
	return nil
}

// errOne ends a search: one finding a block is enough.
var errOne = errors.New("vhd: found one")

// sectors is the number of sectors of a block that belong to the disk; the last block may have fewer than the others.
func (m *Image) sectors(block int) int64 {
	return min(m.blocks.blockSize, m.footer.Size-int64(block)*m.blocks.blockSize) / sectorSize
}

// whole reports whether b says that all sectors of the block are the file's own.
func (m *Image) whole(block int, b bitmap) bool {
	here, n := b.run(0, m.sectors(block))
	return here && n == m.sectors(block)
}

// junkChunk bounds the memory in which junk is looked for, in bytes.
const junkChunk = 128 << 10

// junk calls found for the pieces of the block's data, at most as long as data, that lie under clear bits of b and are not zeros.
func (m *Image) junk(block int, b bitmap, data []byte, found func(at, n int64) error) error {
	sectors := m.sectors(block)
	for s := int64(0); s < sectors; {
		here, n := b.run(s, min(sectors-s, int64(len(data))/sectorSize))
		if !here {
			at := int64(m.bat[block])*sectorSize + m.blocks.bitmapSize + s*sectorSize
			p := data[:n*sectorSize]
			if err := readFull(m.r, p, at); err != nil {
				return err
			}
			if !image.IsZero(p) {
				if err := found(at, n*sectorSize); err != nil {
					return err
				}
			}
		}
		s += n
	}
	return nil
}
