package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// UUID is a uuid in the byte order of RFC 9562, which is also that of VHD footers on disk. The zero value means "none".
type UUID [16]byte

// vhdUUIDLabel separates this use of SHA-256 from every other (docs/format-layer.md, section 2).
const vhdUUIDLabel = "disksync vhd uuid 1\x00"

// VHDUUID returns the uuid of the VHD file that holds the state named id. Two paths of layers to one state give
// interchangeable files, so they have one uuid.
func VHDUUID(id StateID) UUID {
	h := sha256.New()
	h.Write([]byte(vhdUUIDLabel))
	h.Write(id[:])
	u := UUID(h.Sum(nil)[:16])
	u[6] = u[6]&0x0f | 0x80 // version 8
	u[8] = u[8]&0x3f | 0x80 // variant of RFC 9562
	return u
}

// RandomUUID makes a version 4 uuid of 16 random bytes.
func RandomUUID(random [16]byte) UUID {
	u := UUID(random)
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// IsZero reports whether u is the nil uuid.
func (u UUID) IsZero() bool { return u == UUID{} }

// String returns the usual form, in lower case: 8-4-4-4-12 digits.
func (u UUID) String() string {
	b, _ := u.MarshalText()
	return string(b)
}

// MarshalText implements encoding.TextMarshaler.
func (u UUID) MarshalText() ([]byte, error) {
	b := make([]byte, 0, 36)
	for i, n := range [...]int{4, 6, 8, 10, 16} {
		from := [...]int{0, 4, 6, 8, 10}[i]
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, u[from:n])
	}
	return b, nil
}

// UnmarshalText implements encoding.TextUnmarshaler. It accepts 8-4-4-4-12 hexadecimal digits in either case.
func (u *UUID) UnmarshalText(text []byte) error {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return fmt.Errorf("uuid %q: want the form 8-4-4-4-12", clip(text))
	}
	digits := make([]byte, 0, 32)
	for i, c := range text {
		if i != 8 && i != 13 && i != 18 && i != 23 {
			digits = append(digits, c)
		}
	}
	if _, err := hex.Decode(u[:], digits); err != nil {
		return fmt.Errorf("uuid %q: %w", clip(text), err)
	}
	return nil
}

// ParseUUID reads the form that String writes, in either case.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	err := u.UnmarshalText([]byte(s))
	return u, err
}
