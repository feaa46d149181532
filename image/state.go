package image

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// stateMagic, stateVersion: docs/format-layer.md, section 2.
const (
	stateMagic      = "DSKSTATE"
	stateVersion    = 1
	stateHeaderSize = 24
)

// ErrState is returned for bytes that are not the encoding of a State.
var ErrState = errors.New("not a state")

// State is the content of a disk. The zero State is the empty state.
type State struct {
	Size   int64    // of the disk, in bytes
	Blocks []Digest // one for each block; BlockCount(Size) of them
}

// ID returns the state's name.
func (s State) ID() StateID {
	if s.Size == 0 {
		return StateID{}
	}
	h := sha256.New()
	h.Write(s.header())
	for i := range s.Blocks {
		h.Write(s.Blocks[i][:])
	}
	return StateID(h.Sum(nil))
}

// Block returns the digest of block i, zero beyond the disk's end.
func (s State) Block(i int) Digest {
	if i >= len(s.Blocks) {
		return Digest{}
	}
	return s.Blocks[i]
}

// DataBlocks returns the number of blocks that are not zero.
func (s State) DataBlocks() int {
	n := 0
	for i := range s.Blocks {
		if !s.Blocks[i].IsZero() {
			n++
		}
	}
	return n
}

// Resized returns a copy of the list cut or extended with zero blocks to size. The digest of a block that a smaller size
// cuts in the middle is kept: whoever shrinks a disk must state that block anew.
func (s State) Resized(size int64) State {
	blocks := make([]Digest, BlockCount(size))
	copy(blocks, s.Blocks)
	return State{Size: size, Blocks: blocks}
}

func (s State) header() []byte {
	b := make([]byte, 0, stateHeaderSize)
	b = append(b, stateMagic...)
	b = binary.BigEndian.AppendUint32(b, stateVersion)
	b = binary.BigEndian.AppendUint32(b, BlockSize)
	return binary.BigEndian.AppendUint64(b, uint64(s.Size))
}

// EncodedStateSize returns the length of the encoding of a state of a disk of size bytes.
func EncodedStateSize(size int64) int64 {
	return stateHeaderSize + int64(BlockCount(size))*int64(len(Digest{}))
}

// MarshalBinary returns the canonical encoding. The empty state has none: it is never stored.
func (s State) MarshalBinary() ([]byte, error) {
	if !ValidSize(s.Size) || len(s.Blocks) != BlockCount(s.Size) {
		return nil, fmt.Errorf("%w: size %d with %d blocks", ErrState, s.Size, len(s.Blocks))
	}
	b := make([]byte, 0, EncodedStateSize(s.Size))
	b = append(b, s.header()...)
	for i := range s.Blocks {
		b = append(b, s.Blocks[i][:]...)
	}
	return b, nil
}

// ParseState reads the canonical encoding and checks that it is the state named want. A caller that has no name to
// check against has no reason to trust the bytes, so there is no other way in.
func ParseState(b []byte, want StateID) (State, error) {
	if got := StateID(sha256.Sum256(b)); got != want {
		return State{}, fmt.Errorf("%w: the bytes have the name %s, want %s", ErrState, got.Short(), want.Short())
	}
	if len(b) < stateHeaderSize || string(b[:8]) != stateMagic {
		return State{}, fmt.Errorf("%w: no magic", ErrState)
	}
	if v := binary.BigEndian.Uint32(b[8:]); v != stateVersion {
		return State{}, fmt.Errorf("%w: version %d, this program reads %d", ErrState, v, stateVersion)
	}
	if bs := binary.BigEndian.Uint32(b[12:]); bs != BlockSize {
		return State{}, fmt.Errorf("%w: block size %d", ErrState, bs)
	}
	size := binary.BigEndian.Uint64(b[16:])
	if size > MaxDiskSize || !ValidSize(int64(size)) || EncodedStateSize(int64(size)) != int64(len(b)) {
		return State{}, fmt.Errorf("%w: disk size %d in %d bytes", ErrState, size, len(b))
	}
	s := State{Size: int64(size), Blocks: make([]Digest, BlockCount(int64(size)))}
	for i := range s.Blocks {
		copy(s.Blocks[i][:], b[stateHeaderSize+i*len(Digest{}):])
	}
	return s, nil
}
