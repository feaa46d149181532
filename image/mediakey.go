package image

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
)

// MediaKey is the secret that the files of an image on media are sealed with (docs/format-layer.md, section 3). Its text form is
// standard base64. It has no String method, so that it does not get into messages.
type MediaKey [32]byte

// KeyID names a MediaKey without giving it away. Its text form is 16 hexadecimal digits.
type KeyID [8]byte

// keyIDLabel separates this use of SHA-256 from every other.
const keyIDLabel = "disksync media key 1\x00"

// ID returns the key's name.
func (k MediaKey) ID() KeyID {
	sum := sha256.Sum256(append([]byte(keyIDLabel), k[:]...))
	return KeyID(sum[:8])
}

// MarshalText implements encoding.TextMarshaler.
func (k MediaKey) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, k[:]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *MediaKey) UnmarshalText(text []byte) error {
	b, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil || len(b) != len(k) {
		return fmt.Errorf("media key: want base64 of %d bytes", len(k)) // the text is a secret
	}
	copy(k[:], b)
	return nil
}

// IsZero reports whether id is the zero value, which names no key.
func (id KeyID) IsZero() bool { return id == KeyID{} }

// String returns the text form.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id KeyID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It accepts the text form only.
func (id *KeyID) UnmarshalText(text []byte) error {
	var got KeyID
	if n, err := hex.Decode(got[:], text[:min(len(text), 2*len(got))]); err != nil || n != len(got) || got.String() != string(text) {
		return fmt.Errorf("key %q: want %d lower-case hexadecimal digits", clip(text), 2*len(got))
	}
	*id = got
	return nil
}
