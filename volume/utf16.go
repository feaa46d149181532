package volume

import (
	"encoding/binary"
	"unicode/utf16"
)

// UTF16 decodes text in UTF-16, low bytes first. It is false for half of a pair alone: there is no text that is the same.
func UTF16(b []byte) (string, bool) {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	for i := 0; i < len(units); i++ {
		switch u := rune(units[i]); {
		case !utf16.IsSurrogate(u):
		case i+1 < len(units) && utf16.DecodeRune(u, rune(units[i+1])) != '\ufffd':
			i++
		default:
			return "", false
		}
	}
	return string(utf16.Decode(units)), true
}
