package layer

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"

	"disksync/image"
	"disksync/internal/lzma"
	"disksync/internal/recompress"
)

// ErrCorrupt is returned for a frame that does not give the block that the index promises. The same bytes from the same
// place will not do either; another source may have good ones.
var ErrCorrupt = errors.New("block damaged")

// Decoder turns frames into blocks. It is safe for concurrent use; at most the given number of goroutines decode zstd frames at
// once.
type Decoder struct {
	z     *zstd.Decoder
	delta sync.Pool // of *deltaDecoder
}

// deltaDecoder is what one goroutine needs for a frame with references: 10 MiB at most, 26 MiB where streams were taken apart.
type deltaDecoder struct {
	lzma lzma.Decoder
	join recompress.Joiner
	buf  []byte // the base, then what is packed
	code []byte // the coded sectors, where those have to be made of that
}

// NewDecoder returns a Decoder for that many goroutines, each of which costs a few hundred KiB; where frames have references up to 10
// MiB, and up to 26 where streams were taken apart.
func NewDecoder(goroutines int) *Decoder {
	z, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(max(goroutines, 1)),
		zstd.WithDecoderMaxMemory(image.BlockSize),
		zstd.WithDecoderMaxWindow(image.BlockSize))
	if err != nil {
		panic("layer: internal error: zstd options: " + err.Error())
	}
	return &Decoder{z: z, delta: sync.Pool{New: func() any { return new(deltaDecoder) }}}
}

// Close frees the decoder. It must not be used afterwards.
func (d *Decoder) Close() { d.z.Close() }

// Block writes the block of frame f, whose bytes in the file are packed, to dst, which has BlockSize bytes. base is what the frame may
// refer to, which only one that is not Alone needs: the content of the disk that f's layer starts from, and for a Level above 0 what
// Join makes of that and the disk that the layer leads to. It is read concurrently. Block returns ErrCorrupt unless the block's digest
// is the frame's, and ErrFrom when base cannot be read; dst then holds nothing of use. A base with another content than the layer's
// disks gives ErrCorrupt as well; see References.
func (d *Decoder) Block(dst []byte, f Frame, packed []byte, base io.ReaderAt) error {
	if err := d.unpack(dst, f, packed, base); err != nil || f.Codec == Zero {
		return err
	}
	return CheckBlock(dst, f.Block, f.Digest)
}

// unpack is Block without the comparison with the digest.
func (d *Decoder) unpack(dst []byte, f Frame, packed []byte, base io.ReaderAt) error {
	if len(packed) != f.Length {
		return fmt.Errorf("%w: block %d: %d bytes of %d", ErrCorrupt, f.Block, len(packed), f.Length)
	}
	switch f.Codec {
	case Zero:
		clear(dst)
	case Stored:
		copy(dst, packed)
	case Zstd:
		out, err := d.z.DecodeAll(packed, dst[:0])
		if err != nil {
			return fmt.Errorf("%w: block %d: %w", ErrCorrupt, f.Block, err)
		}
		if len(out) != image.BlockSize {
			return fmt.Errorf("%w: block %d: unpacks to %d bytes", ErrCorrupt, f.Block, len(out))
		}
		if &out[0] != &dst[0] {
			copy(dst, out)
		}
	case Difference, Recompressed:
		return d.difference(dst, f, packed, base)
	default:
		return fmt.Errorf("%w: block %d: codec %d", ErrCorrupt, f.Block, f.Codec)
	}
	return nil
}

// Check checks a frame without the disk that its layer starts from: by the block it gives if it is Alone, else by the check sum
// of its own bytes. dst has BlockSize bytes for the former.
func (d *Decoder) Check(dst []byte, f Frame, packed []byte) error {
	if !f.Codec.refers() {
		return d.Block(dst, f, packed, nil)
	}
	_, _, err := checkPacked(f, packed)
	return err
}

// crcTable is that of the check sums of Difference frames.
var crcTable = crc32.MakeTable(crc32.Castagnoli)

// checkPacked returns the head of a Difference frame and the packed bytes behind it. They are what the layer's maker wrote, or
// the error is ErrCorrupt.
func checkPacked(f Frame, packed []byte) (*difference, []byte, error) {
	if got := crc32.Checksum(packed, crcTable); got != f.sum {
		return nil, nil, fmt.Errorf("%w: block %d: the frame has check sum %08x, want %08x", ErrCorrupt, f.Block, got, f.sum)
	}
	head, packed, err := parseDifference(packed, f.Codec, f.reach())
	if err != nil {
		return nil, nil, fmt.Errorf("%w: block %d: %w", ErrCorrupt, f.Block, err)
	}
	return head, packed, nil
}

func (d *Decoder) difference(dst []byte, f Frame, packed []byte, from io.ReaderAt) error {
	head, packed, err := checkPacked(f, packed)
	if err != nil {
		return err
	}
	if from == nil && len(head.refs) > 0 {
		return fmt.Errorf("block %d: %w: it is not here", f.Block, ErrFrom)
	}
	w := d.delta.Get().(*deltaDecoder)
	defer d.delta.Put(w)
	base := head.base() * image.SectorSize
	coded := head.coded() * image.SectorSize
	size := base + coded
	if f.Codec == Recompressed {
		size = base + head.split
	}
	w.buf = slices.Grow(w.buf[:0], size)[:size]
	if err := head.readBase(from, w.buf[:base], 0); err != nil {
		return fmt.Errorf("block %d: %w", f.Block, err)
	}
	if size > base {
		err = w.lzma.Decode(w.buf, base, packed)
	} else if len(packed) > 0 {
		err = errDifference
	}
	if err != nil {
		return fmt.Errorf("%w: block %d: %w", ErrCorrupt, f.Block, err)
	}
	code := w.buf[base:]
	if f.Codec == Recompressed {
		w.code = slices.Grow(w.code[:0], coded)[:coded]
		if err := w.join.Join(w.code, code); err != nil {
			return fmt.Errorf("%w: block %d: %w", ErrCorrupt, f.Block, err)
		}
		code = w.code
	}
	head.build(dst, w.buf[:base], code)
	return nil
}

// Reference names a block that a frame refers to.
type Reference struct {
	Block int
	To    bool // of the disk that the layer leads to; else of the one that it starts from
}

// References returns the blocks that a frame refers to, each once. When a good frame does not give the right block, it is one of
// these that is wrong. A frame that is Alone has none, and neither has a damaged one.
func References(f Frame, packed []byte) []Reference {
	if !f.Codec.refers() {
		return nil
	}
	head, _, err := checkPacked(f, packed)
	if err != nil {
		return nil
	}
	var out []Reference
	seen := map[Reference]bool{}
	add := func(first, end int, to bool) {
		for b := first / sectorsInBlock; b*sectorsInBlock < end; b++ {
			if r := (Reference{b, to}); !seen[r] {
				seen[r] = true
				out = append(out, r)
			}
		}
	}
	sectors := int(f.fromSize / image.SectorSize)
	for _, r := range head.refs {
		if r.at < sectors {
			add(r.at, min(r.end(), sectors), false)
		}
		if r.end() > sectors {
			add(max(r.at-sectors, 0), r.end()-sectors, true)
		}
	}
	return out
}

// CheckBlock returns ErrCorrupt unless the digest of p, a whole block, is want. block is for the message.
func CheckBlock(p []byte, block int, want image.Digest) error {
	if got := image.SumBlock(p); got != want {
		return fmt.Errorf("%w: block %d has digest %s, want %s", ErrCorrupt, block, got.Short(), want.Short())
	}
	return nil
}
