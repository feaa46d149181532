package vhd

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"disksync/image"
)

// Image is one VHD file, or a raw file that serves as a parent. It is safe for concurrent use.
type Image struct {
	r        io.ReaderAt
	fileSize int64
	dataEnd  int64 // where the footer at the end begins, or the file's length when there is none
	footer   *Footer
	header   *Header // nil for a fixed disk
	bat      []uint32
	dropped  []int // blocks whose entry Salvage left out
	blocks   blockMap
	bitmaps  bitmapCache
	paths    []string // of the parent, as its locators say
	warnings []*Error
	stale    bool // see ChecksumStale
	raw      bool
	seen     footersSeen
}

// footersSeen is what was where a footer can be. An error is an [Error]; a nil footer was not there.
type footersSeen struct {
	end, first       *Footer
	endErr, firstErr error
	endAt            int64
	endLen           int // 512, or 511 for a short footer
}

// Option changes how [Open] reads a file.
type Option func(*options)

type options struct {
	salvage    bool
	device     bool
	ahead      int64
	most       int64
	byGeometry bool
	log        File // see WithLog
	boot       image.UUID
}

// Salvage opens a dynamic or differencing file whose block table has unusable entries, such as one that was cut short: they
// read as not allocated and are listed as warnings. Only for a reader that checks the content by other means.
func Salvage() Option { return func(o *options) { o.salvage = true } }

// ByGeometry opens a disk as large as its geometry says, not as its size says: what a guest of Virtual PC could reach. A geometry
// that says nothing, because it is the largest there is, leaves the size as it is; one that is empty or larger than the size is
// refused with [WrongGeometry]. Such an Image is for reading: [OpenDisk] refuses the option, as its footer would tell the wrong
// size.
func ByGeometry() Option { return func(o *options) { o.byGeometry = true } }

// Open reads and checks the metadata of the VHD in the first fileSize bytes of r. It needs memory for the block table, 4
// bytes a block. It returns an *[Error] for a file that is not safe to read, and r's own error when reading fails.
//
// r must stay usable as long as the Image is.
func Open(r io.ReaderAt, fileSize int64, opts ...Option) (*Image, error) {
	var o options
	for _, set := range opts {
		set(&o)
	}
	m := &Image{r: r, fileSize: fileSize, dataEnd: fileSize}
	if err := m.findFooter(); err != nil {
		return nil, err
	}
	if faults := m.footer.faults(); len(faults) > 0 {
		return nil, faults[0]
	}
	if m.footer.Type == Fixed {
		if e := m.fixedFault(); e != nil {
			return nil, e
		}
	}
	if o.byGeometry {
		if err := m.sizeByGeometry(); err != nil {
			return nil, err
		}
	}
	if m.footer.Type == Fixed {
		return m, nil
	}
	if faults, err := m.readHeader(); err != nil || len(faults) > 0 {
		return nil, firstOf(faults, err)
	}
	if faults, err := m.readTable(); err != nil || len(faults) > 0 {
		return nil, firstOf(faults, err)
	}
	if err := m.checkEntries(o.salvage); err != nil {
		return nil, err
	}
	if m.footer.Type == Differencing {
		m.readLocators()
	}
	if b, _ := m.loadBatmap(); b.encrypted() {
		m.warn(fault(Encrypted, b.headAt, ""))
	}
	return m, nil
}

// sizeByGeometry makes the disk as large as its geometry says.
func (m *Image) sizeByGeometry() error {
	size := m.footer.Geometry.Size()
	switch {
	case m.footer.Geometry == Geometry{65535, 16, 255}:
		return nil
	case size <= 0 || size > m.footer.Size:
		return fault(WrongGeometry, -1, "%s makes %d bytes, the size says %d", m.footer.Geometry, size, m.footer.Size)
	}
	ft := *m.footer
	ft.Size = size
	m.footer = &ft
	return nil
}

// Raw returns an Image of a raw disk: the parent of a differencing disk whose parent uuid is nil, as tapdisk makes them.
// size must be a multiple of 512.
func Raw(r io.ReaderAt, size int64) *Image { return Content(image.UUID{}, r, size) }

// Content returns an Image of a disk whose content r gives in full, to stand in a chain for the VHD file with that uuid. The
// caller answers for it that the content is the same. size must be a multiple of 512.
func Content(id image.UUID, r io.ReaderAt, size int64) *Image {
	return &Image{r: r, fileSize: size, raw: true, footer: &Footer{Type: Fixed, Size: size, UUID: id}}
}

// readFull reads exactly len(b) bytes at off. The end of the file inside them is damage, not the end of a stream.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fault(Truncated, off+int64(n), "%d bytes are missing", len(b)-n)
	}
	return fmt.Errorf("vhd: read %d bytes at %d: %w", len(b), off, err)
}

// findFooter looks where footers are, in the order that finds the newest good one: the end, the end of a file with a short
// footer, the copy at the start. The copy counts for disks that have one only: on a fixed disk offset 0 is the guest's.
func (m *Image) findFooter() error {
	endAt, endLen := m.fileSize-FooterSize, FooterSize
	end, endErr, err := m.footerAt(endAt, FooterSize)
	if err != nil {
		return err
	}
	if end == nil && m.fileSize%sectorSize == FooterSize-1 {
		short, shortErr, err := m.footerAt(endAt+1, FooterSize-1)
		if err != nil {
			return err
		}
		if short != nil && shortErr == nil {
			endAt, endLen = endAt+1, FooterSize-1
			end, endErr = short, nil
			m.warn(fault(ShortFooter, endAt, ""))
		}
	}
	m.seen = footersSeen{end: end, endErr: endErr, endAt: endAt, endLen: endLen}
	if errors.Is(endErr, Poisoned) {
		return endErr
	}
	if end != nil && endErr == nil {
		m.dataEnd = endAt
		if end.Type == Fixed {
			m.footer = end
			return nil
		}
	}
	first, firstErr, err := m.footerAt(0, FooterSize)
	if err != nil {
		return err
	}
	m.seen.first, m.seen.firstErr = first, firstErr
	goodFirst := first != nil && firstErr == nil && first.Type != Fixed
	if errors.Is(endErr, BadFooter) && errors.Is(firstErr, BadFooter) && *first == *end && end.Type != Fixed {
		m.stale = true
		m.dataEnd = endAt
		m.footer = end
		m.warn(fault(ChecksumStale, endAt, ""))
		return nil
	}
	switch {
	case end != nil && endErr == nil:
		m.footer = end
		if !goodFirst {
			m.warn(fault(CopyDamaged, 0, ""))
		} else if *first != *end {
			m.warn(fault(CopyDiffers, 0, ""))
		}
	case goodFirst:
		m.footer = first
		if end != nil {
			m.warn(fault(EndFooterDamaged, endAt, ""))
		} else {
			m.warn(fault(EndFooterMissing, endAt, ""))
		}
	case endErr != nil:
		return endErr
	case firstErr != nil && first.Type != Fixed:
		return firstErr
	default:
		return fault(NotVHD, -1, "")
	}
	return nil
}

// footerAt returns the footer at off, nil when there is no cookie; bad is set when there is a cookie but the footer is
// damaged or poisoned; err is a read error.
func (m *Image) footerAt(off int64, n int) (f *Footer, bad, err error) {
	if off < 0 || m.fileSize < int64(n) {
		return nil, nil, nil
	}
	b := make([]byte, n)
	if err := readFull(m.r, b, off); err != nil {
		return nil, nil, err
	}
	f, found, bad := parseFooter(b)
	if !found {
		return nil, nil, nil
	}
	var e *Error
	if errors.As(bad, &e) {
		e.Offset = off
	}
	return f, bad, nil
}

// fixedFault returns what is wrong when a fixed disk is larger than its file, nil otherwise.
func (m *Image) fixedFault() *Error {
	if m.footer.Size <= m.dataEnd {
		return nil
	}
	return fault(BadSize, -1, "a fixed disk of %d bytes in a file of %d", m.footer.Size, m.fileSize)
}

// readHeader reads the dynamic header. It returns what is wrong with it, and the header is set when it is one; err is a read
// error.
func (m *Image) readHeader() (faults []*Error, err error) {
	off := m.footer.DataOffset
	if off < FooterSize || off > uint64(m.fileSize) || uint64(m.fileSize)-off < headerSize {
		return []*Error{fault(BadHeader, int64(off), "header outside the file")}, nil
	}
	b := make([]byte, headerSize)
	if err := readFull(m.r, b, int64(off)); err != nil {
		return nil, err
	}
	m.header, faults = readHeaderBytes(b, m.stale)
	for _, e := range faults {
		e.Offset = int64(off)
	}
	return faults, nil
}

// firstOf returns err, or else the first fault.
func firstOf(faults []*Error, err error) error {
	if err != nil {
		return err
	}
	return faults[0]
}

// readLocators collects the paths that may lead to the parent, best first: relative to the child, the parent's base name
// beside the child, then the others.
func (m *Image) readLocators() {
	var relative, mac, absolute []string
	for _, l := range m.header.Locators {
		p := l.text(m.r, m.fileSize)
		switch {
		case p == "":
		case l.Platform == W2ru:
			relative = append(relative, p)
		case l.Platform == MacX:
			mac = append(mac, p)
		default:
			absolute = append(absolute, p)
		}
	}
	name := slashed(m.header.ParentName)
	all := append(relative, baseName(name))
	all = append(all, mac...)
	all = append(all, absolute...)
	all = append(all, name)
	seen := map[string]bool{"": true}
	for _, p := range all {
		if !seen[p] {
			seen[p] = true
			m.paths = append(m.paths, p)
		}
	}
}

func (m *Image) warn(e *Error) { m.warnings = append(m.warnings, e) }

// Size returns the size of the disk in bytes, which for a differencing disk is its own, not its parent's.
func (m *Image) Size() int64 { return m.footer.Size }

// Spare returns how many bytes of the file lie behind everything that it needs and before its footer: room that was taken ahead, or
// the trace of a crash.
func (m *Image) Spare() int64 {
	if m.header == nil {
		return 0
	}
	return max(0, m.dataEnd-m.structureEnd())
}

// Type returns the type of the disk. A [Raw] image is Fixed.
func (m *Image) Type() Type { return m.footer.Type }

// UUID returns the uuid of the disk; nil for a raw image and for some old files.
func (m *Image) UUID() image.UUID { return m.footer.UUID }

// Footer returns a copy of the footer.
func (m *Image) Footer() Footer { return *m.footer }

// Header returns a copy of the dynamic header; ok is false for a fixed disk.
func (m *Image) Header() (h Header, ok bool) {
	if m.header == nil {
		return Header{}, false
	}
	return *m.header, true
}

// ParentUUID returns the uuid that the parent must have. A nil uuid in a differencing disk means a raw parent.
func (m *Image) ParentUUID() image.UUID {
	if m.header == nil {
		return image.UUID{}
	}
	return m.header.ParentUUID
}

// ParentPaths returns where the parent may be, best guess first, with forward slashes and without drives. They come from the
// file: a caller must not follow them out of folders that it has chosen.
func (m *Image) ParentPaths() []string { return m.paths }

// Warnings returns what is unusual or damaged but does not touch the content.
func (m *Image) Warnings() []*Error { return m.warnings }

// String describes the image for messages.
func (m *Image) String() string {
	if m.raw {
		return fmt.Sprintf("raw disk of %d bytes", m.Size())
	}
	return fmt.Sprintf("%s VHD %s of %d bytes (creator %s)", m.Type(), m.UUID(), m.Size(),
		strings.TrimRight(string(m.footer.Creator.App[:]), "\x00 "))
}
