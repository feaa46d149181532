package vhd

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"disksync/image"
)

// Offsets in a footer of what can be set.
const (
	timestampAt    = 24
	creatorAt      = 28
	originalSizeAt = 40
	geometryAt     = 56
	uuidAt         = 68
	savedStateAt   = 84
)

// Fields are footer fields that [SetFields] changes; a nil one stays as it is.
type Fields struct {
	// UUID must not be nil. Children know the disk by its old uuid and do not open any more until [Relink] tells them.
	UUID *image.UUID
	// Hidden is tapdisk's mark of a disk that is a parent only: 0 or 1.
	Hidden *uint8
	// Creator must not make a dynamic or differencing disk one of tapdisk's that is none: tapdisk would look for a batmap.
	Creator   *Creator
	Timestamp *Timestamp
	// SavedState is 1 when the disk belongs to a suspended machine. To clear it is to give that machine's memory up.
	SavedState *uint8
	// Geometry is taken for the size by Virtual PC, and by older versions of qemu for most creators; see [GeometryFor].
	Geometry *Geometry
	// OriginalSize is in bytes. libvhdi takes it for the size of the disk.
	OriginalSize *int64
}

// SetFields changes footer fields of the VHD in f, which is size bytes long. All other bytes of the footer stay as they are.
// Nothing else may use f meanwhile.
//
// Both footers must be whole and alike, or it refuses and writes nothing: see [Repair]. The footer at the end is written first
// and synced, then the copy at the start. Each is one sector, so after a crash the file opens with all old or all new values;
// in between with the warning [CopyDiffers], which Repair mends.
func SetFields(f File, size int64, c Fields) error {
	m, p, raw, err := openFooters(f, size)
	if err != nil {
		return err
	}
	if err := c.check(m); err != nil {
		return err
	}
	b := bytes.Clone(raw)
	c.apply(b)
	if bytes.Equal(b, raw) {
		return nil
	}
	binary.BigEndian.PutUint32(b[footerChecksumAt:], checksum(b, footerChecksumAt))
	return p.write(b)
}

// check refuses values that would make the file unreadable, for us or for others.
func (c Fields) check(m *Image) error {
	if c.UUID != nil && c.UUID.IsZero() {
		return fault(NilUUID, -1, "a disk needs one; nothing was written")
	}
	if c.UUID != nil && m.Type() == Differencing && *c.UUID == m.ParentUUID() {
		return fault(Cycle, -1, "%s is the parent's uuid; nothing was written", *c.UUID)
	}
	if c.Hidden != nil && *c.Hidden > 1 || c.SavedState != nil && *c.SavedState > 1 {
		return fault(OddFooter, -1, "hidden and saved state are 0 or 1; nothing was written")
	}
	if c.OriginalSize != nil && (*c.OriginalSize <= 0 || *c.OriginalSize%sectorSize != 0) {
		return fault(BadSize, -1, "original size of %d bytes; nothing was written", *c.OriginalSize)
	}
	if c.Creator != nil && m.header != nil && *c.Creator != m.footer.Creator && string(c.Creator.App[:3]) == "tap" {
		return fault(BadVersion, -1, "this disk is not one of tapdisk's; nothing was written")
	}
	return nil
}

// apply changes the footer b.
func (c Fields) apply(b []byte) {
	if c.UUID != nil {
		copy(b[uuidAt:], c.UUID[:])
	}
	if c.Hidden != nil {
		b[hiddenAt] = *c.Hidden
	}
	if c.Creator != nil {
		copy(b[creatorAt:], c.Creator.App[:])
		binary.BigEndian.PutUint32(b[creatorAt+4:], c.Creator.Version)
		copy(b[creatorAt+8:], c.Creator.OS[:])
	}
	if c.Timestamp != nil {
		binary.BigEndian.PutUint32(b[timestampAt:], uint32(*c.Timestamp))
	}
	if c.SavedState != nil {
		b[savedStateAt] = *c.SavedState
	}
	if c.Geometry != nil {
		putGeometry(b, *c.Geometry)
	}
	if c.OriginalSize != nil {
		binary.BigEndian.PutUint64(b[originalSizeAt:], uint64(*c.OriginalSize))
	}
}

func putGeometry(b []byte, g Geometry) {
	binary.BigEndian.PutUint16(b[geometryAt:], g.Cylinders)
	b[geometryAt+2], b[geometryAt+3] = g.Heads, g.Sectors
}

// footerPair writes the footers of a file.
type footerPair struct {
	f      File
	endAt  int64
	copied bool // there is a copy at the start
}

// write writes the same footer to both places, the second when the first is on the disk.
func (p *footerPair) write(b []byte) error {
	if err := p.writeOne(b, p.endAt); err != nil || !p.copied {
		return err
	}
	return p.writeCopy(b)
}

func (p *footerPair) writeCopy(b []byte) error { return p.writeOne(b, 0) }

func (p *footerPair) writeOne(b []byte, at int64) error {
	old := make([]byte, len(b))
	if n, _ := p.f.ReadAt(old, at); n < len(b) || !bytes.Equal(old, b) {
		if err := writeAt(p.f, b, at); err != nil {
			return err
		}
	}
	return syncFile(p.f) // also of what an earlier run wrote
}

// openFooters opens a file whose footers are to be changed, and returns the footer's bytes. It refuses a file whose footers are
// not whole and alike, because after a crash there would be none to fall back on.
func openFooters(f File, size int64) (*Image, *footerPair, []byte, error) {
	m, err := Open(f, size)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, w := range m.warnings {
		if w.Fault.Repairable() {
			return nil, nil, nil, fmt.Errorf("%w: repair the file first; nothing was written", w)
		}
	}
	p := &footerPair{f: f, endAt: m.seen.endAt, copied: m.header != nil}
	if p.endAt%sectorSize != 0 {
		return nil, nil, nil, fault(OddFileSize, p.endAt,
			"the footer lies on two sectors, and a crash could cost it; nothing was written")
	}
	raw := make([]byte, FooterSize)
	return m, p, raw, readFull(f, raw, p.endAt)
}
