package vhdfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf16"

	"disksync/image"
	"disksync/vhd"
)

// Sum is a checksum as it is stored and as it should be.
type Sum struct{ Stored, Computed uint32 }

// Good reports whether the two are the same.
func (s Sum) Good() bool { return s.Stored == s.Computed }

// Structures are the metadata of a VHD as they are stored, right or wrong. They are for people to look at: nothing in them was
// checked.
type Structures struct {
	FooterCookie string
	Footer       vhd.Footer
	FooterSum    Sum
	HeaderCookie string
	Header       vhd.Header // of a dynamic or differencing disk
	HeaderOffset uint64     // the header's own data offset, which nobody uses
	HeaderSum    Sum
	Locators     []LocatorText
	Batmap       *Batmap // nil: there is none
}

// LocatorText is a parent locator that is in use.
type LocatorText struct {
	Index int
	vhd.Locator
	Text string // "" when it cannot be read
}

// Batmap is the header of tapdisk's batmap.
type Batmap struct {
	At       int64 // of the header in the file
	Offset   int64 // of the map
	Sectors  uint32
	Version  uint32
	Sum      Sum
	Marker   uint8
	Keyed    bool // a key's hash is there: the sectors are encrypted
	Nonce    [32]byte
	Hash     [32]byte
	Map      []byte
	mapError error
}

// Inspect reads what can be read of the metadata of the VHD at name.
func Inspect(name string) (*Structures, error) {
	f, size, err := regular(func() (*os.File, error) { return os.Open(name) })
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer f.Close()
	s, err := InspectReader(f, size)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return s, nil
}

// InspectReader does the same for the VHD in the first size bytes of r.
func InspectReader(r io.ReaderAt, size int64) (*Structures, error) {
	s := &Structures{}
	if err := s.readFooter(r, size); err != nil {
		return nil, err
	}
	if s.Footer.Type == vhd.Fixed {
		return s, nil
	}
	s.readHeader(r)
	if s.Footer.Type == vhd.Differencing {
		s.readLocators(r, size)
	}
	s.readBatmap(r, size)
	return s, nil
}

// readFooter takes the footer at the end when there is one, else the copy, else whatever is at the end.
func (s *Structures) readFooter(r io.ReaderAt, size int64) error {
	best := make([]byte, vhd.FooterSize)
	n := int64(vhd.FooterSize)
	if size%image.SectorSize == vhd.FooterSize-1 {
		n-- // a very short footer, of a very old program
	}
	if size < n {
		return fmt.Errorf("%w: %d bytes", vhd.NotVHD, size)
	}
	if _, err := r.ReadAt(best[:n], size-n); err != nil {
		return err
	}
	first := make([]byte, vhd.FooterSize)
	if _, err := r.ReadAt(first, 0); err == nil && !hasCookie(best) && hasCookie(first) {
		best = first
	}
	s.FooterCookie = strings.TrimRight(string(best[:8]), "\x00")
	s.Footer = footerFields(best)
	s.FooterSum = Sum{binary.BigEndian.Uint32(best[64:]), complement(best, 64, 68)}
	return nil
}

func hasCookie(b []byte) bool {
	return bytes.HasPrefix(b, []byte("conectix")) || bytes.HasPrefix(b, []byte("v_poison"))
}

// complement is the ones' complement of the sum of all bytes but those from skip to end.
func complement(b []byte, skip, end int) uint32 {
	var sum uint32
	for i, c := range b {
		if i < skip || i >= end {
			sum += uint32(c)
		}
	}
	return ^sum
}

func footerFields(b []byte) vhd.Footer {
	be := binary.BigEndian
	return vhd.Footer{
		Features: be.Uint32(b[8:]), Version: be.Uint32(b[12:]), DataOffset: be.Uint64(b[16:]), Timestamp: vhd.Timestamp(be.Uint32(b[24:])),
		Creator:      vhd.Creator{App: [4]byte(b[28:32]), Version: be.Uint32(b[32:]), OS: [4]byte(b[36:40])},
		OriginalSize: int64(be.Uint64(b[40:])), Size: int64(be.Uint64(b[48:])),
		Geometry: vhd.Geometry{Cylinders: be.Uint16(b[56:]), Heads: b[58], Sectors: b[59]},
		Type:     vhd.Type(be.Uint32(b[60:])), UUID: image.UUID(b[68:84]), SavedState: b[84], Hidden: b[85],
	}
}

func (s *Structures) readHeader(r io.ReaderAt) {
	b := make([]byte, 1024)
	if s.Footer.DataOffset > 1<<62 {
		return
	}
	if _, err := r.ReadAt(b, int64(s.Footer.DataOffset)); err != nil {
		return
	}
	be := binary.BigEndian
	s.HeaderCookie = strings.TrimRight(string(b[:8]), "\x00")
	s.HeaderOffset = be.Uint64(b[8:])
	s.HeaderSum = Sum{be.Uint32(b[36:]), complement(b, 36, 40)}
	s.Header = vhd.Header{
		TableOffset: be.Uint64(b[16:]), Version: be.Uint32(b[24:]), MaxTableEntries: be.Uint32(b[28:]), BlockSize: int64(be.Uint32(b[32:])),
		ParentUUID: image.UUID(b[40:56]), ParentTimestamp: vhd.Timestamp(be.Uint32(b[56:])), ParentName: utf16Text(b[64:576], be),
	}
	for i := range s.Header.Locators {
		l := b[576+24*i:]
		s.Header.Locators[i] = vhd.Locator{
			Platform: vhd.Platform(l[:4]), Space: be.Uint32(l[4:]), Length: be.Uint32(l[8:]), Offset: be.Uint64(l[16:]),
		}
	}
}

func utf16Text(b []byte, order binary.ByteOrder) string {
	var units []uint16
	for ; len(b) >= 2 && order.Uint16(b) != 0; b = b[2:] {
		units = append(units, order.Uint16(b))
	}
	return string(utf16.Decode(units))
}

// longestPath bounds the text of a locator that is shown, in bytes.
const longestPath = 64 << 10

func (s *Structures) readLocators(r io.ReaderAt, size int64) {
	for i, l := range s.Header.Locators {
		if l.Platform == (vhd.Platform{}) {
			continue
		}
		t := LocatorText{Index: i, Locator: l}
		if l.Length <= longestPath && l.Offset < uint64(size) {
			b := make([]byte, l.Length)
			if _, err := r.ReadAt(b, int64(l.Offset)); err == nil {
				t.Text = locatorText(l.Platform, b)
			}
		}
		s.Locators = append(s.Locators, t)
	}
}

// locatorText decodes the path of a locator, with forward slashes.
func locatorText(p vhd.Platform, b []byte) string {
	switch p {
	case vhd.MacX:
		text, _ := strings.CutPrefix(strings.TrimRight(string(b), "\x00"), "file://")
		return text
	case vhd.W2ku, vhd.W2ru:
		return strings.ReplaceAll(utf16Text(b, binary.LittleEndian), `\`, "/")
	}
	return ""
}

const (
	batmapCookie    = "tdbatmap"
	signedSums      = 0x00010001 // the version whose checksums add signed bytes
	firstWithBatmap = 0x00010001 // of tapdisk
	mostMapSectors  = (vhd.MaxBlocks/8 + image.SectorSize - 1) / image.SectorSize
	markerAt        = 28
)

// readBatmap reads the batmap that follows the block table of tapdisk's disks.
func (s *Structures) readBatmap(r io.ReaderAt, size int64) {
	if s.Footer.Creator.App != [4]byte{'t', 'a', 'p', 0} || s.Footer.Creator.Version < firstWithBatmap || s.Header.MaxTableEntries > vhd.MaxBlocks {
		return
	}
	table := (4*int64(s.Header.MaxTableEntries) + image.SectorSize - 1) / image.SectorSize * image.SectorSize
	at := int64(s.Header.TableOffset) + table
	b := make([]byte, image.SectorSize)
	if at < 0 || at > size {
		return
	}
	if _, err := r.ReadAt(b, at); err != nil || string(b[:8]) != batmapCookie {
		return
	}
	be := binary.BigEndian
	m := &Batmap{
		At: at, Offset: int64(be.Uint64(b[8:])), Sectors: be.Uint32(b[16:]), Version: be.Uint32(b[20:]),
		Marker: b[markerAt], Keyed: b[29] == 1, Nonce: [32]byte(b[30:62]), Hash: [32]byte(b[62:94]),
	}
	m.Sum.Stored = be.Uint32(b[24:])
	s.Batmap = m
	if m.Sectors > mostMapSectors || m.Offset < 0 {
		m.mapError = fmt.Errorf("%w: %d sectors at %d", vhd.BatmapDamaged, m.Sectors, m.Offset)
		return
	}
	m.Map = make([]byte, int64(m.Sectors)*image.SectorSize)
	if _, m.mapError = r.ReadAt(m.Map, m.Offset); m.mapError != nil {
		m.Map = nil
		return
	}
	m.Sum.Computed = m.sum(s.Footer.Size)
}

// sum computes the checksum, which covers what the size of the disk needs of the map and no more.
func (m *Batmap) sum(diskSize int64) uint32 {
	n := diskSize >> 24
	n = max((n+image.SectorSize-1)/image.SectorSize, 1) * image.SectorSize
	var sum uint32
	for _, c := range m.Map[:min(n, int64(len(m.Map)))] {
		if m.Version == signedSums {
			sum += uint32(int8(c))
			continue
		}
		sum += uint32(c)
	}
	return ^sum
}

// Full reports whether the batmap calls a block full.
func (m *Batmap) Full(block int64) bool {
	return block/8 < int64(len(m.Map)) && m.Map[block/8]&(0x80>>(block%8)) != 0
}

// Err tells why Map could not be read.
func (m *Batmap) Err() error {
	if errors.Is(m.mapError, io.EOF) {
		return fmt.Errorf("%w: it lies behind the end of the file", vhd.BatmapDamaged)
	}
	return m.mapError
}
