package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"

	"disksync/image"
)

// Holding is the form of a file that holds frames of a layer: a layer file with all of them, or a piece with a range. Those of a
// piece may be sealed. It is immutable and safe for concurrent use.
type Holding struct {
	x        *Index
	first, n int
	base     int64   // where the first frame is in the file
	head     []byte  // what the file begins with; nil when it was read
	tail     []byte  // what it ends with
	seal     *sealer // nil: the frames are plain
}

// Whole returns the form of the layer file with the index x.
func Whole(x *Index) *Holding {
	return &Holding{x: x, n: x.Len(), base: HeaderSize, head: header(), tail: append(append([]byte(nil), x.raw...), x.trailer()...)}
}

// ReadHolding reads the form of the file in the first size bytes of r. A piece may be cut short behind its index. It returns
// ErrFormat for anything else and for a sealed piece that was changed, and ErrNoKey for one that none of keys opens.
func ReadHolding(r io.ReaderAt, size int64, keys ...image.MediaKey) (*Holding, error) {
	var b [pieceHeaderSize]byte
	n, err := r.ReadAt(b[:], 0)
	if n < len(b) && err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if IsPiece(b[:n]) {
		h, err := ParsePiece(b[:n], size)
		if err != nil {
			return nil, err
		}
		return h.open(r, keys)
	}
	x, err := ReadIndex(r, size)
	if err != nil {
		return nil, err
	}
	return Whole(x), nil
}

// Index returns the index of the layer.
func (h *Holding) Index() *Index { return h.x }

// Of returns the same form with another copy of the index, or ErrMismatch when it is none.
func (h *Holding) Of(x *Index) (*Holding, error) {
	if x.id != h.x.id {
		return nil, fmt.Errorf("%w: it holds layer %s, not %s", ErrMismatch, h.x.id.Short(), x.id.Short())
	}
	other := *h
	other.x = x
	return &other, nil
}

// Range returns the number of the first frame that the file holds, and how many it holds.
func (h *Holding) Range() (first, n int) { return h.first, h.n }

// Sealed reports whether it takes a key to read the frames.
func (h *Holding) Sealed() bool { return h.seal != nil }

// IsWhole reports whether it is the form of a layer file, and not of a piece.
func (h *Holding) IsWhole() bool { return h.tail != nil }

// Head returns the bytes that the file begins with, up to the first frame; nil for a piece that was read. The caller must not change
// them.
func (h *Holding) Head() []byte { return h.head }

// Tail returns the bytes behind the last frame; a piece has none. The caller must not change them.
func (h *Holding) Tail() []byte { return h.tail }

// Place returns where the file has frame number i of the layer, which must be in its range: the offset, and the length with what
// sealing adds.
func (h *Holding) Place(i int) (off, length int64) {
	f, from := h.x.Frame(i), h.x.Frame(h.first).Offset
	return h.base + f.Offset - from + int64(i-h.first)*h.overhead(), int64(f.Length) + h.overhead()
}

func (h *Holding) overhead() int64 {
	if h.seal == nil {
		return 0
	}
	return sealOverhead
}

// FileSize returns the length of the file in bytes.
func (h *Holding) FileSize() int64 {
	end := h.base
	if h.n > 0 {
		off, length := h.Place(h.first + h.n - 1)
		end = off + length
	}
	return end + int64(len(h.tail))
}

// Fit returns how many frames from number first on a piece of at most size bytes has room for; sealed says whether they are to be
// sealed.
func Fit(x *Index, first int, size int64, sealed bool) int {
	overhead, room := int64(0), size-pieceHeaderSize-int64(len(x.raw))
	if sealed {
		overhead, room = sealOverhead, room-sealOverhead
	}
	from := x.Frame(first).Offset
	return sort.Search(x.Len()-first, func(k int) bool {
		f := x.Frame(first + k)
		return f.Offset+int64(f.Length)-from+int64(k+1)*overhead > room
	})
}

// Pack returns the bytes that stand for frame number i in the file; packed are those in the layer file.
func (h *Holding) Pack(i int, packed []byte) []byte {
	if h.seal == nil {
		return packed
	}
	return h.seal.pack(uint64(i), packed)
}

// Reader returns a reader in which the frames are where the layer file has them. r is the file, and must be safe for concurrent use
// if the reader is to be. What is outside of the frames reads as an error, and so does a frame that was sealed otherwise: ErrCorrupt.
func (h *Holding) Reader(r io.ReaderAt) io.ReaderAt {
	if h.IsWhole() {
		return r
	}
	return holdingReader{h, r}
}

type holdingReader struct {
	*Holding
	r io.ReaderAt
}

// ReadAt implements io.ReaderAt.
func (h holdingReader) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		i := h.first + sort.Search(h.n, func(k int) bool {
			f := h.x.Frame(h.first + k)
			return f.Offset+int64(f.Length) > at
		})
		if i == h.first+h.n || h.x.Frame(i).Offset > at {
			return n, fmt.Errorf("%w: nothing of the layer is there at %d", io.EOF, at)
		}
		in := at - h.x.Frame(i).Offset
		want := p[n:min(int64(len(p)), int64(n)+int64(h.x.Frame(i).Length)-in)]
		if err := h.readFrame(want, i, in); err != nil {
			return n, err
		}
		n += len(want)
	}
	return n, nil
}

// readFrame reads bytes of frame i, from byte number in of it on.
func (h holdingReader) readFrame(p []byte, i int, in int64) error {
	off, length := h.Place(i)
	if h.seal == nil {
		return readFull(h.r, p, off+in)
	}
	b := make([]byte, length)
	if err := readFull(h.r, b, off); err != nil {
		return err
	}
	plain, err := h.seal.unpack(uint64(i), b)
	if err != nil {
		return fmt.Errorf("%w: block %d: what is sealed was changed", ErrCorrupt, h.x.Frame(i).Block)
	}
	copy(p, plain[in:])
	return nil
}

// Verify is [Verify] for the frames that a file of this form holds; r is the file.
func (h *Holding) Verify(ctx context.Context, r io.ReaderAt, visit func(f Frame, err error) error) error {
	return verifyFrames(ctx, h.Reader(r), h.x, h.first, h.n, nil, nil, visit)
}
