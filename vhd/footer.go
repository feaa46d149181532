package vhd

import (
	"encoding/binary"
	"fmt"
	"time"

	"disksync/image"
)

const (
	sectorSize = 512
	// FooterSize is the length of a footer, in bytes.
	FooterSize = 512
	// MaxDynamicSize is the largest dynamic or differencing disk, in bytes (2040 GiB): block table entries are 32-bit
	// sector numbers.
	MaxDynamicSize = 0xFF000000 * sectorSize

	footerCookie   = "conectix"
	poisonedCookie = "v_poison"
	formatVersion  = 0x00010000
	noOffset       = ^uint64(0)
)

// Type is the type of a disk, as stored.
type Type uint32

// The types that can be read.
const (
	Fixed        Type = 2
	Dynamic      Type = 3
	Differencing Type = 4
)

// String returns the type's name.
func (t Type) String() string {
	switch t {
	case Fixed:
		return "fixed"
	case Dynamic:
		return "dynamic"
	case Differencing:
		return "differencing"
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Creator is the program that made a file.
type Creator struct {
	App     [4]byte // "win ", "tap\0", "qemu", …
	Version uint32
	OS      [4]byte // "Wi2k", "Mac " or zeros
}

// Footer is the 512-byte structure that describes a disk. Bytes whose meaning is not known are kept.
type Footer struct {
	Features     uint32
	Version      uint32
	DataOffset   uint64 // of the dynamic header
	Timestamp    Timestamp
	Creator      Creator
	OriginalSize int64 // bytes, when the disk was made
	Size         int64 // bytes, now: the size of the disk
	Geometry     Geometry
	Type         Type
	UUID         image.UUID
	SavedState   uint8
	Hidden       uint8 // tapdisk: not 0 for a disk that is a parent only
	reserved     [FooterSize - 86]byte
}

// Timestamp is a time in seconds since 2000-01-01 00:00:00 UTC.
type Timestamp uint32

const epoch = 946684800 // 2000-01-01 in Unix time

// TimestampOf returns t as a Timestamp; times outside its range (2000 to 2136) become the nearest that is in it.
func TimestampOf(t time.Time) Timestamp {
	return Timestamp(min(max(t.Unix()-epoch, 0), 1<<32-1))
}

// Time returns the time in UTC.
func (t Timestamp) Time() time.Time { return time.Unix(epoch+int64(t), 0).UTC() }

// checksum is the ones' complement of the sum of all bytes of b but the four at skip.
func checksum(b []byte, skip int) uint32 {
	var sum uint32
	for i, c := range b {
		if i < skip || i >= skip+4 {
			sum += uint32(c)
		}
	}
	return ^sum
}

const (
	footerChecksumAt = 64
	hiddenAt         = 85
)

// parseFooter reads a footer. found tells whether there is a cookie at all, so that a damaged footer is told from none.
func parseFooter(b []byte) (f *Footer, found bool, err error) {
	var full [FooterSize]byte
	copy(full[:], b) // a footer of 511 bytes lacks its last, reserved byte
	b = full[:]
	cookie := string(b[:8])
	if cookie != footerCookie && cookie != poisonedCookie {
		return nil, false, nil
	}
	f = &Footer{
		Features:   binary.BigEndian.Uint32(b[8:]),
		Version:    binary.BigEndian.Uint32(b[12:]),
		DataOffset: binary.BigEndian.Uint64(b[16:]),
		Timestamp:  Timestamp(binary.BigEndian.Uint32(b[24:])),
		Creator: Creator{
			App:     [4]byte(b[28:32]),
			Version: binary.BigEndian.Uint32(b[32:]),
			OS:      [4]byte(b[36:40]),
		},
		OriginalSize: int64(binary.BigEndian.Uint64(b[40:])),
		Size:         int64(binary.BigEndian.Uint64(b[48:])),
		Geometry:     Geometry{binary.BigEndian.Uint16(b[56:]), b[58], b[59]},
		Type:         Type(binary.BigEndian.Uint32(b[60:])),
		UUID:         image.UUID(b[68:84]),
		SavedState:   b[84],
		Hidden:       b[hiddenAt],
		reserved:     [FooterSize - 86]byte(b[86:]),
	}
	if cookie == poisonedCookie {
		return f, true, fault(Poisoned, -1, "") // whatever the checksum: nobody writes this by accident
	}
	want := binary.BigEndian.Uint32(b[footerChecksumAt:])
	if checksum(b, footerChecksumAt) != want && !f.hiddenSetLater(b, want) {
		return f, true, fault(BadFooter, -1, "checksum is %08x, want %08x", checksum(b, footerChecksumAt), want)
	}
	return f, true, nil
}

// hiddenSetLater tells whether the checksum is right for a file that an early tapdisk tool marked as hidden without
// computing the checksum again.
func (f *Footer) hiddenSetLater(b []byte, want uint32) bool {
	early := f.Creator.Version == 0x00000001 || f.Creator.Version == 0x00010001
	if string(f.Creator.App[:3]) != "tap" || !early || f.Hidden == 0 {
		return false
	}
	return checksum(b, footerChecksumAt)+uint32(f.Hidden) == want
}

// faults returns what keeps the disk from being read, whatever file the footer stands in.
func (f *Footer) faults() []*Error {
	var out []*Error
	if f.Version>>16 != formatVersion>>16 {
		out = append(out, fault(BadVersion, -1, "footer version %08x", f.Version))
	}
	if f.Creator.App == [4]byte{'t', 'a', 'p', 0} && f.Creator.Version == 0x00000001 {
		out = append(out, fault(BadVersion, -1, "tapdisk 0.1 wrote bitmaps in another order"))
	}
	switch f.Type {
	case Fixed, Dynamic, Differencing:
	default:
		out = append(out, fault(BadType, -1, "type %d", uint32(f.Type)))
	}
	if f.Size <= 0 || f.Size%sectorSize != 0 {
		out = append(out, fault(BadSize, -1, "%d bytes is not a whole number of sectors", uint64(f.Size)))
	} else if f.Type != Fixed && f.Size > MaxDynamicSize {
		out = append(out, fault(BadSize, -1, "%d bytes is more than a %s disk can have", f.Size, f.Type))
	}
	return out
}

// marshal returns the footer's 512 bytes with a fresh checksum.
func (f *Footer) marshal() []byte {
	b := make([]byte, FooterSize)
	copy(b, footerCookie)
	binary.BigEndian.PutUint32(b[8:], f.Features)
	binary.BigEndian.PutUint32(b[12:], f.Version)
	binary.BigEndian.PutUint64(b[16:], f.DataOffset)
	binary.BigEndian.PutUint32(b[24:], uint32(f.Timestamp))
	copy(b[28:], f.Creator.App[:])
	binary.BigEndian.PutUint32(b[32:], f.Creator.Version)
	copy(b[36:], f.Creator.OS[:])
	binary.BigEndian.PutUint64(b[40:], uint64(f.OriginalSize))
	binary.BigEndian.PutUint64(b[48:], uint64(f.Size))
	binary.BigEndian.PutUint16(b[56:], f.Geometry.Cylinders)
	b[58], b[59] = f.Geometry.Heads, f.Geometry.Sectors
	binary.BigEndian.PutUint32(b[60:], uint32(f.Type))
	copy(b[68:], f.UUID[:])
	b[84], b[hiddenAt] = f.SavedState, f.Hidden
	copy(b[86:], f.reserved[:])
	binary.BigEndian.PutUint32(b[footerChecksumAt:], checksum(b, footerChecksumAt))
	return b
}
