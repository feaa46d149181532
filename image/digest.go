package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// ID is a SHA-256 value that names a thing of one kind, so that the name of one kind cannot be passed for another.
// The zero value means "none". Its text form is 64 lower-case hexadecimal digits.
type ID[kind any] [sha256.Size]byte

// The kinds of [ID].
type (
	blockKind struct{}
	stateKind struct{}
	layerKind struct{}
)

type (
	// Digest is the SHA-256 of a block's content, filled up with zeros to [BlockSize]. The zero Digest stands for the
	// block that holds only zero bytes.
	Digest = ID[blockKind]
	// StateID is the SHA-256 of a [State]'s encoding. The zero StateID is the empty state, a disk of size 0.
	StateID = ID[stateKind]
	// LayerID is the SHA-256 of a layer's index.
	LayerID = ID[layerKind]
)

// IsZero reports whether id is the zero value.
func (id ID[kind]) IsZero() bool { return id == ID[kind]{} }

// String returns the text form.
func (id ID[kind]) String() string { return hex.EncodeToString(id[:]) }

// Short returns the first 12 digits of the text form, for people.
func (id ID[kind]) Short() string { return hex.EncodeToString(id[:6]) }

// Compare orders ids as bytes.Compare does.
func (id ID[kind]) Compare(other ID[kind]) int { return bytes.Compare(id[:], other[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id ID[kind]) MarshalText() ([]byte, error) {
	return hex.AppendEncode(make([]byte, 0, 2*len(id)), id[:]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler. It accepts the text form only.
func (id *ID[kind]) UnmarshalText(text []byte) error {
	if len(text) != 2*len(id) || bytes.ContainsAny(text, "ABCDEF") {
		return fmt.Errorf("digest %q: want %d lower-case hexadecimal digits", clip(text), 2*len(id))
	}
	if _, err := hex.Decode(id[:], text); err != nil {
		return fmt.Errorf("digest %q: %w", clip(text), err)
	}
	return nil
}

// ParseDigest reads a Digest's text form.
func ParseDigest(s string) (Digest, error) { return parseID[blockKind](s) }

// ParseStateID reads a StateID's text form.
func ParseStateID(s string) (StateID, error) { return parseID[stateKind](s) }

// ParseLayerID reads a LayerID's text form.
func ParseLayerID(s string) (LayerID, error) { return parseID[layerKind](s) }

func parseID[kind any](s string) (ID[kind], error) {
	var id ID[kind]
	err := id.UnmarshalText([]byte(s))
	return id, err
}

// clip keeps hostile input out of error messages beyond a line's length.
func clip(b []byte) []byte { return b[:min(len(b), 80)] }
