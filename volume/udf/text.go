package udf

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
)

// text decodes OSTA compressed Unicode (UDF 2.1.1): a byte that says how many bits a character has, and the characters. UDF knows no
// surrogates, but those who write them mean characters beyond the first 65,536.
func text(p []byte) (s string, ok bool) {
	if len(p) == 0 {
		return "", true
	}
	switch p[0] {
	case 8, 254: // 254 and 255 are for names that are deleted
		var b strings.Builder
		for _, c := range p[1:] {
			b.WriteRune(rune(c))
		}
		return b.String(), true
	case 16, 255:
		if len(p)%2 != 1 {
			return "", false
		}
		u := make([]uint16, len(p)/2)
		for i := range u {
			u[i] = binary.BigEndian.Uint16(p[1+2*i:])
		}
		return string(utf16.Decode(u)), true
	}
	return "", false
}

// dstring decodes a field of fixed length, the last byte of which says how much of it is used (1/7.2.12). What is wrong is empty: these
// are labels.
func dstring(p []byte) string {
	n := int(p[len(p)-1])
	if n >= len(p) {
		return ""
	}
	s, _ := text(p[:n])
	return strings.TrimRight(strings.TrimRight(s, "\x00"), " ")
}

// volumeID makes 16 digits of the volume set identifier, which ought to begin with unique ones (UDF 2.2.2.5), as blkid does: hexadecimal
// digits stay, and from where there are others the bytes are written in hexadecimal.
func volumeID(set string) string {
	if len(set) < 16 {
		set += strings.Repeat("\x00", 16-len(set))
	}
	hex := 0
	for hex < 16 && strings.IndexByte("0123456789abcdefABCDEF", set[hex]) >= 0 {
		hex++
	}
	switch {
	case strings.Trim(set, "\x00") == "" || strings.IndexByte(set, 0) >= 0 && strings.IndexByte(set, 0) < 8:
		return ""
	case hex < 8:
		return fmt.Sprintf("%x", set[:8])
	case hex < 16:
		return strings.ToLower(set[:8]) + fmt.Sprintf("%x", set[8:12])
	}
	return strings.ToLower(set[:16])
}
