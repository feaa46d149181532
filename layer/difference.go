package layer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"disksync/image"
	"disksync/internal/numbers"
)

// Limits of a difference frame: docs/format-layer.md, section 3.
const (
	// maxBase bounds what a frame refers to, in bytes: the memory of a decoder.
	maxBase = 8 << 20
	// maxSplit bounds what the packed bytes of a frame unpack to where streams were taken apart, in bytes.
	maxSplit = 16 << 20
	// maxRefs and maxPieces bound the tables of a frame.
	maxRefs   = 4096
	maxPieces = image.BlockSize / image.SectorSize
)

// span is a range of what a frame may refer to (the From disk, and behind it the To disk), or of what is joined of it, in sectors.
type span struct{ at, n int }

func (s span) end() int { return s.at + s.n }

// pieceKind says where a piece of a block comes from.
type pieceKind int

const (
	coded  pieceKind = iota // from the packed bytes
	copied                  // from the base
	zeroed                  // from nowhere
	pieceKinds
)

// piece is a run of sectors of a block.
type piece struct {
	kind pieceKind
	n    int // sectors
	at   int // in the base, sectors; of a copied one
}

// difference is the head of a frame of the codec Difference: the ranges that joined are the base, and the pieces that make up the
// block.
type difference struct {
	refs   []span
	pieces []piece
	split  int // bytes that the packed ones unpack to where streams were taken apart; 0: the coded sectors, as they are
}

var errDifference = errors.New("head of a difference")

// append appends the encoding of d to b.
func (d *difference) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(d.refs)))
	last := 0
	for _, r := range d.refs {
		b = binary.AppendVarint(b, int64(r.at-last))
		b = binary.AppendUvarint(b, uint64(r.n))
		last = r.end()
	}
	b = binary.AppendUvarint(b, uint64(len(d.pieces)))
	last = 0
	for _, p := range d.pieces {
		b = binary.AppendUvarint(b, uint64(p.n)*uint64(pieceKinds)+uint64(p.kind))
		if p.kind == copied {
			b = binary.AppendVarint(b, int64(p.at-last))
			last = p.at + p.n
		}
	}
	if d.split > 0 {
		b = binary.AppendUvarint(b, uint64(d.split))
	}
	return b
}

// parseDifference reads the head of a frame of a codec that may refer to so many sectors. It returns the packed bytes behind it.
func parseDifference(b []byte, codec Codec, sectors int) (*difference, []byte, error) {
	r := &numbers.Reader{B: b}
	d := &difference{}
	if err := d.parseRefs(r, sectors); err != nil {
		return nil, nil, err
	}
	if err := d.parsePieces(r); err != nil {
		return nil, nil, err
	}
	if codec == Recompressed {
		if d.split = r.UpTo(maxSplit); r.Bad || d.split == 0 {
			return nil, nil, fmt.Errorf("%w: unpacks to %d bytes", errDifference, d.split)
		}
	}
	return d, r.B, nil
}

func (d *difference) parseRefs(r *numbers.Reader, limit int) error {
	count := r.UpTo(maxRefs)
	total, last := 0, 0
	for i := range count {
		at := r.From(last, limit)
		n := r.UpTo(limit - at)
		if total += n; r.Bad || n == 0 || total > maxBase/image.SectorSize {
			return fmt.Errorf("%w: reference %d", errDifference, i)
		}
		d.refs = append(d.refs, span{at, n})
		last = at + n
	}
	return nil
}

func (d *difference) parsePieces(r *numbers.Reader) error {
	const whole = image.BlockSize / image.SectorSize
	count := r.UpTo(maxPieces)
	total, last, base := 0, 0, d.base()
	for i := range count {
		v := r.UpTo(whole*int(pieceKinds) + int(pieceKinds) - 1)
		p := piece{kind: pieceKind(v % int(pieceKinds)), n: v / int(pieceKinds)}
		if p.kind == copied {
			p.at = r.From(last, base)
			last = p.at + p.n
		}
		if total += p.n; r.Bad || p.n == 0 || total > whole || last > base {
			return fmt.Errorf("%w: piece %d", errDifference, i)
		}
		d.pieces = append(d.pieces, p)
	}
	if r.Bad || total != whole {
		return fmt.Errorf("%w: the pieces make %d sectors", errDifference, total)
	}
	return nil
}

// refersTo reports whether a reference is to the To disk, which is behind the From disk's sectors.
func (d *difference) refersTo(sectors int) bool {
	return slices.ContainsFunc(d.refs, func(r span) bool { return r.end() > sectors })
}

// base returns how many sectors the references have together.
func (d *difference) base() int {
	n := 0
	for _, r := range d.refs {
		n += r.n
	}
	return n
}

// coded returns how many sectors come from the packed bytes.
func (d *difference) coded() int {
	n := 0
	for _, p := range d.pieces {
		if p.kind == coded {
			n += p.n
		}
	}
	return n
}

// readBase reads the references, joined and without their first sectors, to b.
func (d *difference) readBase(from io.ReaderAt, b []byte, without int) error {
	for _, r := range d.refs {
		if r.n <= without {
			without -= r.n
			continue
		}
		r = span{r.at + without, r.n - without}
		without = 0
		n := r.n * image.SectorSize
		if err := readFrom(from, b[:n], int64(r.at)*image.SectorSize); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// build puts the pieces together in block: out of the base, and of code, which holds the coded sectors.
func (d *difference) build(block, base, code []byte) {
	for _, p := range d.pieces {
		n := p.n * image.SectorSize
		switch p.kind {
		case coded:
			copy(block[:n], code)
			code = code[n:]
		case copied:
			copy(block[:n], base[p.at*image.SectorSize:])
		default:
			clear(block[:n])
		}
		block = block[n:]
	}
}

// ErrFrom is returned when the disk that a layer starts from cannot be read where a frame refers to it.
var ErrFrom = errors.New("read the disk that the difference starts from")

func readFrom(from io.ReaderAt, p []byte, off int64) error {
	n, err := from.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", ErrFrom, err)
}
