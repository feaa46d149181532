package disc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
)

// isoPlaces says where the tables of ISO 9660 are: of the plain names and of the Joliet ones. In sectors.
type isoPlaces struct {
	trees [2]isoTree
}

type isoTree struct {
	joliet    bool
	little    int64 // path table
	big       int64
	root, len int64 // of the root folder
}

// isoSection is the most that one section of a file has: 32 bits, and whole sectors. Longer files have several.
const isoSection = 1<<32 - SectorSize

// placeISO places the tables from a sector on and returns the next.
func (l *Layout) placeISO(at int64) int64 {
	for i := range l.iso.trees {
		t := &l.iso.trees[i]
		t.joliet = i == 1
		t.little, t.big, t.root = at, at+1, at+2
		t.len = sectors(int64(len(l.root(t))))
		at += 2 + t.len
	}
	return at
}

// putISO writes the volume descriptors and the tables.
func (l *Layout) putISO(put func(int64, []byte)) {
	for i := range l.iso.trees {
		t := &l.iso.trees[i]
		put(int64(isoAt+i), l.isoVolume(t))
		put(t.little, pathTable(binary.LittleEndian, t.root))
		put(t.big, pathTable(binary.BigEndian, t.root))
		put(t.root, l.root(t))
	}
	put(isoAt+2, slices.Concat([]byte{255}, []byte("CD001"), []byte{1})) // ECMA-119 8.3
}

// isoVolume is a primary or a supplementary volume descriptor (ECMA-119 8.4, 8.5).
func (l *Layout) isoVolume(t *isoTree) []byte {
	b := make([]byte, SectorSize)
	copy(b, "\x01CD001\x01")
	text := func(from, to int, s string) {
		p := b[from:to]
		if t.joliet {
			for i := 0; i+1 < len(p); i += 2 {
				p[i], p[i+1] = 0, ' '
			}
			copy(p, ucs2(s, len(p)/2))
			return
		}
		copy(p, bytes.Repeat([]byte{' '}, len(p)))
		copy(p, strings.ToUpper(s))
	}
	label := l.Label
	if t.joliet {
		b[0] = 2
		copy(b[88:], "%/E")
		label = label[:min(len(label), 16)]
	} else {
		label = plainName(label)
	}
	text(8, 40, "")
	text(40, 72, label)
	both32(b[80:], l.last+1)
	for _, at := range []int{120, 124} {
		both16(b[at:], 1)
	}
	both16(b[128:], SectorSize)
	both32(b[132:], 10)
	binary.LittleEndian.PutUint32(b[140:], uint32(t.little))
	binary.BigEndian.PutUint32(b[148:], uint32(t.big))
	copy(b[156:], record([]byte{0}, t.root, t.len*SectorSize, 2, l.Time))
	text(190, 318, l.Set)
	text(318, 446, "")
	text(446, 574, "DISKSYNC")
	text(574, 702, "DISKSYNC")
	text(702, 813, "")
	stamp := l.Time.Format("20060102150405") + "00\x00"
	copy(b[813:], stamp)
	copy(b[830:], stamp)
	for _, at := range []int{847, 864} {
		copy(b[at:], "0000000000000000\x00")
	}
	b[881] = 1
	return b
}

// pathTable has the root folder only (ECMA-119 9.4).
func pathTable(order binary.ByteOrder, root int64) []byte {
	b := make([]byte, 10)
	b[0] = 1
	order.PutUint32(b[2:], uint32(root))
	order.PutUint16(b[6:], 1)
	return b
}

// root returns the root folder: records do not cross sectors.
func (l *Layout) root(t *isoTree) []byte {
	length := t.len * SectorSize
	b := record([]byte{0}, t.root, length, 2, l.Time)
	b = append(b, record([]byte{1}, t.root, length, 2, l.Time)...)
	names := make([][]byte, len(l.Files))
	order := make([]int, len(l.Files))
	for i, f := range l.Files {
		order[i], names[i] = i, t.name(i, f.Name)
	}
	slices.SortFunc(order, func(i, j int) int { return bytes.Compare(names[i], names[j]) })
	for _, i := range order {
		at, left := int64(0), l.Files[i].Size
		if i < len(l.starts) {
			at = l.starts[i]
		}
		for more := true; more; {
			n, flags := left, byte(0)
			if more = left > isoSection; more {
				n, flags = isoSection, 0x80
			}
			r := record(names[i], at, n, flags, l.Time)
			if room := SectorSize - len(b)%SectorSize; room < len(r) {
				b = append(b, make([]byte, room)...)
			}
			b = append(b, r...)
			left -= n
			at += n / SectorSize
		}
	}
	return b
}

// name returns the name of file number i as it is recorded. Plain names are short and made up so that none is there twice, in the
// order of the files; so are Joliet ones that would be too long.
func (t *isoTree) name(i int, s string) []byte {
	const mostPlain, mostJoliet = 30, 62
	if t.joliet {
		if len(s) > mostJoliet {
			s = fmt.Sprintf("%04d-%s", i+1, s[len(s)-mostJoliet+5:])
		}
		return ucs2(s+";1", mostJoliet+2)
	}
	stem, ext := s, ""
	if dot := strings.LastIndexByte(s, '.'); dot >= 0 && len(s)-dot <= 9 {
		stem, ext = s[:dot], plainName(s[dot+1:])
	}
	stem = fmt.Sprintf("%04d_%s", i+1, plainName(stem))
	return []byte(stem[:min(len(stem), mostPlain-len(ext))] + "." + ext + ";1")
}

// plainName makes d-characters of a name (ECMA-119 7.4.1).
func plainName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, strings.ToUpper(s))
}

// ucs2 returns at most n characters of a name, two bytes each, big-endian.
func ucs2(s string, n int) []byte {
	units := utf16.Encode([]rune(s))
	var b []byte
	for _, u := range units[:min(len(units), n)] {
		b = binary.BigEndian.AppendUint16(b, u)
	}
	return b
}

// record is a directory record (ECMA-119 9.1).
func record(name []byte, sector, length int64, flags byte, t time.Time) []byte {
	b := make([]byte, (33+len(name)+1)/2*2)
	b[0] = byte(len(b))
	both32(b[2:], sector)
	both32(b[10:], length)
	for i, v := range []int{t.Year() - 1900, int(t.Month()), t.Day(), t.Hour(), t.Minute(), t.Second()} {
		b[18+i] = byte(v)
	}
	b[25] = flags
	both16(b[28:], 1)
	b[32] = byte(len(name))
	copy(b[33:], name)
	return b
}

func both16(b []byte, v uint16) {
	binary.LittleEndian.PutUint16(b, v)
	binary.BigEndian.PutUint16(b[2:], v)
}

func both32(b []byte, v int64) {
	binary.LittleEndian.PutUint32(b, uint32(v))
	binary.BigEndian.PutUint32(b[4:], uint32(v))
}
