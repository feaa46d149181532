package vhd

import (
	"encoding/binary"
	"io"
	"net/url"
	"path"
	"strings"
	"unicode/utf16"
)

// Platform is the code of a parent locator's form.
type Platform [4]byte

// The platform codes that are read and written.
var (
	W2ku = Platform{'W', '2', 'k', 'u'} // absolute Windows path, UTF-16LE
	W2ru = Platform{'W', '2', 'r', 'u'} // Windows path relative to the child, UTF-16LE
	MacX = Platform{'M', 'a', 'c', 'X'} // file URL, UTF-8
)

// maxLocatorData bounds the text of a locator, in bytes: longer than any path that a system accepts.
const maxLocatorData = 64 << 10

// Locator says where a parent was when the child was made. It is data: this package never opens what it names.
type Locator struct {
	Platform Platform
	Space    uint32 // as stored: sectors or bytes, depending on the writer
	Length   uint32 // bytes of the text
	Offset   uint64 // of the text in the file
	reserved uint32
}

func parseLocator(b []byte) Locator {
	return Locator{
		Platform: Platform(b[:4]),
		Space:    binary.BigEndian.Uint32(b[4:]),
		Length:   binary.BigEndian.Uint32(b[8:]),
		reserved: binary.BigEndian.Uint32(b[12:]),
		Offset:   binary.BigEndian.Uint64(b[16:]),
	}
}

func (l Locator) marshal(b []byte) {
	copy(b, l.Platform[:])
	binary.BigEndian.PutUint32(b[4:], l.Space)
	binary.BigEndian.PutUint32(b[8:], l.Length)
	binary.BigEndian.PutUint32(b[12:], l.reserved)
	binary.BigEndian.PutUint64(b[16:], l.Offset)
}

func (l Locator) used() bool { return l.Platform != Platform{} && l.Length > 0 }

// inFile reports whether the text lies in a file of that size and has a length that a path can have.
func (l Locator) inFile(fileSize int64) bool {
	return l.Length <= maxLocatorData && l.Offset <= uint64(fileSize) && uint64(l.Length) <= uint64(fileSize)-l.Offset
}

// space returns the room that is kept for the text, in bytes. The specification says that the field counts sectors; Windows and
// most others store bytes. A value that is no whole number of sectors must be the former.
func (l Locator) space() int64 {
	if l.Space < sectorSize {
		return int64(l.Space) * sectorSize
	}
	return int64(l.Space)
}

// text reads the locator's path from the file, with forward slashes, or "" when there is none that can be read. A damaged
// locator costs a hint, not the disk.
func (l Locator) text(r io.ReaderAt, fileSize int64) string {
	if !l.used() || !l.inFile(fileSize) {
		return ""
	}
	b := make([]byte, l.Length)
	if _, err := r.ReadAt(b, int64(l.Offset)); err != nil {
		return ""
	}
	switch l.Platform {
	case W2ku, W2ru:
		return slashed(decodeUTF16(b, binary.LittleEndian))
	case MacX:
		return fileURLPath(strings.TrimRight(string(b), "\x00"))
	}
	return ""
}

// slashed turns a Windows path into one with forward slashes and without a drive.
func slashed(p string) string {
	p = strings.ReplaceAll(p, `\`, "/")
	if len(p) >= 2 && p[1] == ':' {
		p = p[2:]
	}
	return p
}

// fileURLPath takes the path out of a file URL. Writers differ: some leave names unescaped, and some write a relative path
// where a host belongs ("file://./base.vhd").
func fileURLPath(s string) string {
	p, ok := strings.CutPrefix(s, "file://")
	if !ok {
		return ""
	}
	p = strings.TrimPrefix(p, "localhost")
	if u, err := url.PathUnescape(p); err == nil {
		p = u
	}
	return slashed(p)
}

// baseName returns the last element of a slashed path, or "" when there is none.
func baseName(p string) string {
	if p == "" {
		return ""
	}
	b := path.Base(p)
	if b == "." || b == ".." || b == "/" {
		return ""
	}
	return b
}

func decodeUTF16(b []byte, order binary.ByteOrder) string {
	units := make([]uint16, 0, len(b)/2)
	for ; len(b) >= 2; b = b[2:] {
		u := order.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// encodeUTF16 returns s in at most maxUnits code units, cut between characters.
func encodeUTF16(s string, order binary.AppendByteOrder, maxUnits int) []byte {
	var b []byte
	for _, r := range s {
		n := utf16.RuneLen(r)
		if len(b)/2+n > maxUnits {
			break
		}
		for _, u := range utf16.Encode([]rune{r}) {
			b = order.AppendUint16(b, u)
		}
	}
	return b
}
