package iso9660

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"

	"disksync/volume"
)

// sector is the size of volume descriptors, and the place of the first of them (6.2.1, 6.7.1).
const (
	sector          = 2048
	descriptorStart = 16 * sector
	maxDescriptors  = 64
)

// Types of volume descriptors (8.1.1).
const (
	typePrimary       = 1
	typeSupplementary = 2
	typeTerminator    = 255
)

// readDescriptors returns the primary volume descriptor, and that of Joliet if there is one.
func readDescriptors(d *volume.Device, b *volume.Budget) (primary, other []byte, err error) {
	for n := int64(0); n < maxDescriptors && descriptorStart+(n+1)*sector <= d.Size(); n++ {
		p, err := b.Read(d, descriptorStart+n*sector, sector)
		if err != nil && primary == nil {
			return nil, nil, err
		}
		if err != nil || string(p[1:6]) != "CD001" || p[0] == typeTerminator {
			break
		}
		switch {
		case p[0] == typePrimary && p[6] == 1 && primary == nil:
			primary = p
		case p[0] == typeSupplementary && p[6] == 1 && isJoliet(p) && other == nil:
			other = p
		}
	}
	if primary == nil {
		return nil, nil, volume.ErrOther
	}
	return primary, other, nil
}

// isJoliet: the escape sequences are those of UCS-2, in one of its three levels (Joliet, "SVD Escape Sequences Field").
func isJoliet(p []byte) bool {
	switch string(p[88:91]) {
	case "%/@", "%/C", "%/E":
		return p[7]&1 == 0 // only escape sequences that are registered
	}
	return false
}

// newReader reads a primary or supplementary volume descriptor (8.4, 8.5).
func newReader(d *volume.Device, p []byte) (*reader, error) {
	size, ok := both16(p[128:])
	set, ok2 := both16(p[124:])
	if !ok || !ok2 || size != 512 && size != 1024 && size != 2048 {
		return nil, volume.Damaged("blocks of %d bytes on disc %d", size, set)
	}
	v := &reader{d: d, bs: int64(size), set: set}
	r, err := readRecord(p[156:190])
	if err != nil {
		return nil, fmt.Errorf("the root folder: %w", err)
	}
	if v.root, err = v.nodeOf(r); err != nil || !v.root.dir {
		return nil, volume.Damaged("the root folder is none")
	}
	return v, nil
}

// both16 reads a number that is there in both orders of bytes (7.2.3).
func both16(p []byte) (uint16, bool) {
	n := binary.LittleEndian.Uint16(p)
	return n, n == binary.BigEndian.Uint16(p[2:])
}

// both32 is likewise (7.3.3).
func both32(p []byte) (uint32, bool) {
	n := binary.LittleEndian.Uint32(p)
	return n, n == binary.BigEndian.Uint32(p[4:])
}

// label is the volume identifier. Joliet's has all characters, but only the first 16 of them.
func label(primary, other []byte) string {
	s := strings.TrimRight(latin(primary[40:72]), " \x00")
	if other == nil {
		return s
	}
	j := []rune(ucs2(other[40:72]))
	if long := []rune(s); len(long) > len(j) && len(j) == 16 {
		j = append(j, long[len(j):]...)
	}
	if t := strings.TrimRight(string(j), " \x00"); t != "" {
		return t
	}
	return s
}

// volumeID is the time of the last change, or else that at which the volume was made (8.4.26.1), as blkid writes it.
func volumeID(p []byte) string {
	for _, t := range [][]byte{p[830:847], p[813:830]} {
		s := string(t[:16])
		if strings.Trim(s, "0123456789") == "" && strings.Trim(s, "0") != "" {
			return fmt.Sprintf("%s-%s-%s-%s-%s-%s-%s", s[:4], s[4:6], s[6:8], s[8:10], s[10:12], s[12:14], s[14:16])
		}
	}
	return ""
}

// ucs2 decodes the characters of Joliet. Pairs of surrogates are let pass: those who write them mean characters beyond the first 65,536.
func ucs2(p []byte) string {
	u := make([]uint16, len(p)/2)
	for i := range u {
		u[i] = binary.BigEndian.Uint16(p[2*i:])
	}
	return string(utf16.Decode(u))
}

// latin decodes bytes as characters of ISO 8859-1.
func latin(p []byte) string {
	var b strings.Builder
	for _, c := range p {
		b.WriteRune(rune(c))
	}
	return b.String()
}
