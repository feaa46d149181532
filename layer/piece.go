package layer

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"disksync/image"
)

// A piece is a file with the index of a layer and a range of its frames, plain or sealed (docs/format-layer.md, section 3).

const (
	pieceMagic      = "\x89DSP\r\n\x1a\n"
	pieceHeaderSize = 80
	flagSealed      = 1
	// sealOverhead is how many bytes longer a sealed thing is: the tag of GCM.
	sealOverhead = 16
	// sealInfo separates the keys of files from all else that could be derived from a media key.
	sealInfo = "disksync sealed piece 1"
	// indexNumber is the number that the index has among the sealed things of a file. No frame has it.
	indexNumber = ^uint64(0)
)

// PieceHeaderSize is how many bytes of a file [ParsePiece] wants.
const PieceHeaderSize = pieceHeaderSize

// ErrNoKey is returned for a sealed piece when none of the keys is its own.
var ErrNoKey = errors.New("sealed, and the key is not here")

// PieceHeader is what a piece says of itself without a key.
type PieceHeader struct {
	raw      []byte
	First, N int           // the range of frames
	Layer    image.LayerID // zeros when sealed: which layer it is, is sealed too
	Key      image.KeyID   // of the key that it is sealed with; zeros when it is not
	Salt     [32]byte      // of a sealed one: no two files have the same
	index    int64         // bytes of the index as it is in the file
}

// Sealed reports whether it takes a key to read the piece.
func (p *PieceHeader) Sealed() bool { return !p.Key.IsZero() }

// IsPiece reports whether b begins as a piece does, of whatever version.
func IsPiece(b []byte) bool {
	return len(b) >= len(pieceMagic) && string(b[:len(pieceMagic)]) == pieceMagic
}

// ParsePiece reads the header of a piece, which is in a file of size bytes, from the file's first PieceHeaderSize bytes.
func ParsePiece(b []byte, size int64) (*PieceHeader, error) {
	if len(b) < pieceHeaderSize || !IsPiece(b) {
		return nil, fmt.Errorf("%w: no header of a piece", ErrFormat)
	}
	b = slices.Clone(b[:pieceHeaderSize])
	if v := be32(b[8:]); v != formatVersion {
		return nil, fmt.Errorf("%w: %w: piece of version %d, this program reads %d", ErrFormat, ErrNewer, v, formatVersion)
	}
	if crc32.Checksum(b[:76], crcTable) != be32(b[76:]) {
		return nil, fmt.Errorf("%w: the header of the piece is damaged", ErrFormat)
	}
	flags := be32(b[12:])
	if flags&^flagSealed != 0 || be32(b[72:]) != 0 {
		return nil, fmt.Errorf("%w: %w: piece with flags %08x", ErrFormat, ErrNewer, flags)
	}
	h := &PieceHeader{raw: b, First: int(be32(b[24:])), N: int(be32(b[28:]))}
	copy(h.Key[:], b[32:])
	overhead := int64(0)
	if flags&flagSealed != 0 {
		copy(h.Salt[:], b[40:])
		overhead = sealOverhead
	} else {
		copy(h.Layer[:], b[40:])
	}
	if h.Sealed() != (flags&flagSealed != 0) || h.N == 0 {
		return nil, fmt.Errorf("%w: a piece of %d frames, with flags %08x", ErrFormat, h.N, flags)
	}
	n := binary.BigEndian.Uint64(b[16:])
	if n < uint64(indexHeaderSize+overhead) || n > uint64(MaxIndexSize+overhead) || n > uint64(max(size-pieceHeaderSize, 0)) {
		return nil, fmt.Errorf("%w: index of %d bytes in a file of %d", ErrFormat, n, size)
	}
	if frames := (int64(n) - overhead - indexHeaderSize) / frameEntrySize; int64(h.First)+int64(h.N) > frames {
		return nil, fmt.Errorf("%w: frames %d+%d of %d", ErrFormat, h.First, h.N, frames)
	}
	h.index = int64(n)
	return h, nil
}

// open reads the index behind the header.
func (p *PieceHeader) open(r io.ReaderAt, keys []image.MediaKey) (*Holding, error) {
	h := &Holding{first: p.First, n: p.N, base: pieceHeaderSize + p.index}
	if p.Sealed() {
		i := slices.IndexFunc(keys, func(k image.MediaKey) bool { return k.ID() == p.Key })
		if i < 0 {
			return nil, fmt.Errorf("%w: %s", ErrNoKey, p.Key)
		}
		h.seal = newSealer(keys[i], p.Salt, p.raw)
	}
	b := make([]byte, p.index)
	if err := readFull(r, b, pieceHeaderSize); err != nil {
		return nil, err
	}
	id := p.Layer
	if p.Sealed() {
		var err error
		if b, err = h.seal.unpack(indexNumber, b); err != nil {
			return nil, fmt.Errorf("%w: the sealed index was changed", ErrFormat)
		}
		id = sha256.Sum256(b)
	}
	var err error
	if h.x, err = ParseIndex(b, id); err != nil {
		return nil, err
	}
	if h.seal != nil {
		h.seal.bind(id)
	}
	return h, nil
}

// Piece returns the form of the piece with n frames of the layer x, from number first on; n is not 0.
func Piece(x *Index, first, n int) *Holding {
	id := x.id
	h := &Holding{x: x, first: first, n: n, head: append(pieceHeader(x, first, n, image.KeyID{}, id[:]), x.raw...)}
	h.base = int64(len(h.head))
	return h
}

// Seal returns the form of the sealed piece with n frames of the layer x, from number first on; n is not 0. salt must be random: no
// two files may have the same, but the same file being written again.
func Seal(x *Index, first, n int, key image.MediaKey, salt [32]byte) *Holding {
	raw := pieceHeader(x, first, n, key.ID(), salt[:])
	s := newSealer(key, salt, raw)
	h := &Holding{x: x, first: first, n: n, head: append(raw, s.pack(indexNumber, x.raw)...), seal: s}
	h.base = int64(len(h.head))
	s.bind(x.id)
	return h
}

// pieceHeader returns a header. what is the layer, or the salt of a sealed piece.
func pieceHeader(x *Index, first, n int, key image.KeyID, what []byte) []byte {
	if n < 1 || first < 0 || first+n > x.Len() {
		panic(fmt.Sprintf("layer: internal error: a piece of the frames %d+%d of %d", first, n, x.Len()))
	}
	flags, index := uint32(0), uint64(len(x.raw))
	if !key.IsZero() {
		flags, index = flagSealed, index+sealOverhead
	}
	b := append(make([]byte, 0, pieceHeaderSize), pieceMagic...)
	b = binary.BigEndian.AppendUint32(b, formatVersion)
	b = binary.BigEndian.AppendUint32(b, flags)
	b = binary.BigEndian.AppendUint64(b, index)
	b = binary.BigEndian.AppendUint32(b, uint32(first))
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = append(b, key[:]...)
	b = append(b, what...)
	b = binary.BigEndian.AppendUint32(b, 0)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crcTable))
}

// sealer seals the things of one file. Each has a number, which makes the nonce; the file has a key of its own, so that nonces need
// to be different in one file only.
type sealer struct {
	aead cipher.AEAD
	with []byte // what is authenticated besides
}

func newSealer(key image.MediaKey, salt [32]byte, header []byte) *sealer {
	k, err := hkdf.Key(sha256.New, key[:], salt[:], sealInfo, 32)
	var block cipher.Block
	if err == nil {
		block, err = aes.NewCipher(k)
	}
	var aead cipher.AEAD
	if err == nil {
		aead, err = cipher.NewGCM(block)
	}
	if err != nil {
		panic("layer: internal error: " + err.Error()) // only for keys of a wrong length
	}
	return &sealer{aead: aead, with: bytes.Clone(header)}
}

// bind has what follows authenticated together with the layer's name.
func (s *sealer) bind(id image.LayerID) { s.with = append(s.with, id[:]...) }

func (s *sealer) nonce(number uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 4, 12), number)
}

func (s *sealer) pack(number uint64, b []byte) []byte {
	return s.aead.Seal(nil, s.nonce(number), b, s.with)
}

func (s *sealer) unpack(number uint64, b []byte) ([]byte, error) {
	return s.aead.Open(nil, s.nonce(number), b, s.with)
}
