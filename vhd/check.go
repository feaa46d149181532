package vhd

import (
	"encoding/binary"
	"errors"
	"io"

	"disksync/image"
)

// CheckOptions says how far [Check] looks.
type CheckOptions struct {
	// Bitmaps reads every block's sector bitmap and compares tapdisk's batmap with them.
	Bitmaps bool
	// Data reads the data behind bits that are clear as well, which for a sparse difference is most of the file.
	Data bool
	// Now is compared with the disk's timestamp; 0: it is not.
	Now Timestamp
	// Parent is the disk's parent, when it is at hand, and ParentModified the time of its file; 0: not known.
	Parent         *Image
	ParentModified Timestamp
}

// Report is what [Check] found.
type Report struct {
	// Findings are in the order in which they were found. None means that every byte that was looked at is as it should be.
	Findings []*Error
	// Image is the disk as far as it can be read, nil when it cannot be opened at all. Blocks that are damaged are missing in it:
	// it is for looking, not for use.
	Image *Image
	// Blocks is the number of blocks of the disk, Allocated of those that the file holds.
	Blocks, Allocated int
	// End is where the last structure ends and the footer belongs, in bytes.
	End int64
}

// Worst returns the highest severity among the findings, and false when there are none.
func (r *Report) Worst() (worst Severity, any bool) {
	for _, f := range r.Findings {
		worst = max(worst, f.Fault.Severity())
	}
	return worst, len(r.Findings) > 0
}

func (r *Report) find(f Fault, offset int64, format string, args ...any) {
	r.Findings = append(r.Findings, fault(f, offset, format, args...))
}

// Check looks at the whole structure of the VHD in the first size bytes of r. It reads the metadata once, in O(n log n) of the
// number of blocks, and needs memory for the block table. The error is one of reading; what is wrong with the file is in the
// report.
func Check(r io.ReaderAt, size int64, o CheckOptions) (*Report, error) {
	rep := &Report{}
	m, err := Open(r, size, Salvage())
	if e, ok := errors.AsType[*Error](err); ok {
		rep.Findings = append(rep.Findings, e)
		return rep, nil
	}
	if err != nil {
		return nil, err
	}
	rep.Image = m
	for _, w := range m.warnings {
		e := *w
		if e.Fault == BlockDropped {
			e.Fault = BadBAT // here nothing is dropped, it is told
		}
		rep.Findings = append(rep.Findings, &e)
	}
	rep.footer(m, o)
	if m.header == nil {
		rep.End = m.footer.Size
		return rep, nil
	}
	rep.table(m)
	rep.parent(m, o)
	if o.Bitmaps || o.Data {
		if err := rep.bitmaps(m, o); err != nil {
			return nil, err
		}
	}
	return rep, nil
}

// footer looks at what does not keep a disk from being opened.
func (r *Report) footer(m *Image, o CheckOptions) {
	f := m.footer
	if f.UUID.IsZero() {
		r.find(NilUUID, -1, "")
	}
	if f.SavedState != 0 {
		r.find(SavedState, -1, "state %d", f.SavedState)
	}
	if o.Now != 0 && f.Timestamp > o.Now && f.Timestamp-o.Now > maxClockSkew {
		r.find(FutureTimestamp, -1, "%s", f.Timestamp.Time().Format("2006-01-02 15:04:05"))
	}
	if want := GeometryFor(f.Size); f.Geometry != want {
		r.find(WrongGeometry, -1, "%s, the size has %s", f.Geometry, want)
	}
}

// maxClockSkew is how far clocks may differ before a time counts as the future, in seconds.
const maxClockSkew = 1800

// table counts blocks and finds the end of the file's structures.
func (r *Report) table(m *Image) {
	r.Blocks = len(m.bat)
	for _, s := range m.metadata() {
		r.End = max(r.End, s.end)
	}
	for _, e := range m.bat {
		if e != unallocated {
			r.Allocated++
			r.End = max(r.End, int64(e)*sectorSize+m.blocks.bitmapSize+m.blocks.blockSize)
		}
	}
	if m.dataEnd > r.End && r.End > 0 {
		r.find(TrailingData, r.End, "%d bytes", m.dataEnd-r.End)
	}
	for i, l := range m.header.Locators {
		if l.used() && (l.Length > maxLocatorData || l.Offset > uint64(m.fileSize) || uint64(l.Length) > uint64(m.fileSize)-l.Offset) {
			r.find(BadLocator, int64(m.footer.DataOffset)+int64(locatorsAt+i*locatorSize), "%d bytes at %d", l.Length, l.Offset)
		}
	}
}

// parent compares a differencing disk with its parent.
func (r *Report) parent(m *Image, o CheckOptions) {
	if m.Type() != Differencing {
		return
	}
	if m.ParentUUID() == m.UUID() && !m.UUID().IsZero() {
		r.find(Cycle, -1, "the disk names itself as its parent")
	}
	if o.Parent == nil {
		return
	}
	if e, ok := errors.AsType[*Error](checkParent(m, o.Parent)); ok {
		r.Findings = append(r.Findings, e)
		return
	}
	if o.Parent.Size() != m.Size() {
		r.find(SizeDiffers, -1, "parent %d bytes, child %d", o.Parent.Size(), m.Size())
	}
	// Windows writes 0; then nothing can be compared.
	if t := m.header.ParentTimestamp; t != 0 && o.ParentModified != 0 && t != o.ParentModified {
		r.find(ParentChanged, -1, "child says %s, the parent's file %s", t.Time().Format("2006-01-02 15:04:05"),
			o.ParentModified.Time().Format("2006-01-02 15:04:05"))
	}
}

// bitmaps reads the sector bitmaps of all blocks, and the data where it must be zeros.
func (r *Report) bitmaps(m *Image, o CheckOptions) error {
	full, err := m.readBatmap()
	if e, ok := errors.AsType[*Error](err); ok {
		r.Findings = append(r.Findings, e)
	} else if err != nil {
		return err
	}
	var data []byte
	for block := range m.bat {
		if m.bat[block] == unallocated {
			continue
		}
		b := make(bitmap, m.blocks.bitmapSize)
		if err := readFull(m.r, b, int64(m.bat[block])*sectorSize); err != nil {
			return err
		}
		sectors := min(m.blocks.blockSize, m.footer.Size-int64(block)*m.blocks.blockSize) / sectorSize
		if full != nil && full.get(int64(block)) {
			if here, n := b.run(0, sectors); !here || n < sectors {
				r.find(BatmapWrong, int64(m.bat[block])*sectorSize, "block %d", block)
			}
		}
		if o.Data {
			if data == nil {
				data = make([]byte, m.blocks.blockSize)
			}
			if err := r.junk(m, block, b, sectors, data); err != nil {
				return err
			}
		}
	}
	return nil
}

// junk looks for bytes in sectors whose bits are clear.
func (r *Report) junk(m *Image, block int, b bitmap, sectors int64, data []byte) error {
	for s := int64(0); s < sectors; {
		here, n := b.run(s, sectors-s)
		if !here {
			at := int64(m.bat[block])*sectorSize + m.blocks.bitmapSize + s*sectorSize
			p := data[:n*sectorSize]
			if err := readFull(m.r, p, at); err != nil {
				return err
			}
			if !image.IsZero(p) {
				r.find(JunkUnderClearBits, at, "block %d, within %d sectors from %d", block, n, s)
				return nil // one finding a block is enough
			}
		}
		s += n
	}
	return nil
}

// Layout of tapdisk's batmap header.
const (
	batmapCookie     = "tdbatmap"
	batmapChecksumAt = 24
)

// readBatmap returns tapdisk's batmap: bit n says that all sectors of block n are the file's own. It returns nil when there
// is none.
func (m *Image) readBatmap() (bitmap, error) {
	spans := m.batmapSpans()
	if len(spans) == 0 {
		return nil, nil
	}
	head := make([]byte, sectorSize)
	if err := readFull(m.r, head, spans[0].start); err != nil {
		return nil, err
	}
	if len(spans) == 1 || spans[1].end > m.fileSize {
		return nil, fault(BatmapDamaged, spans[0].start, "it lies outside the file")
	}
	b := make(bitmap, spans[1].end-spans[1].start)
	if err := readFull(m.r, b, spans[1].start); err != nil {
		return nil, err
	}
	// The sum covers what tapdisk's own rounding of the size gives, which may be less than what is stored.
	covered := max(1, int64(len(m.bat))/8/sectorSize) * sectorSize
	sum := checksum(b[:min(covered, int64(len(b)))], -4)
	if want := binary.BigEndian.Uint32(head[batmapChecksumAt:]); sum != want {
		return nil, fault(BatmapDamaged, spans[0].start, "checksum is %08x, want %08x", sum, want)
	}
	return b, nil
}
