package layer

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"disksync/image"
)

// ErrCorrupt is returned for a frame that does not give the block that the index promises. The same bytes from the same
// place will not do either; another source may have good ones.
var ErrCorrupt = errors.New("block damaged")

// ErrCodec is returned for a frame of a codec that this program cannot decode.
var ErrCodec = errors.New("made by a newer program: unknown kind of frame")

// Decoder turns frames into blocks. It is safe for concurrent use; at most the given number of goroutines decode at once.
type Decoder struct{ z *zstd.Decoder }

// NewDecoder returns a Decoder for that many goroutines, each of which costs a few hundred KiB.
func NewDecoder(goroutines int) *Decoder {
	z, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(max(goroutines, 1)),
		zstd.WithDecoderMaxMemory(image.BlockSize),
		zstd.WithDecoderMaxWindow(image.BlockSize))
	if err != nil {
		panic("layer: internal error: zstd options: " + err.Error())
	}
	return &Decoder{z: z}
}

// Close frees the decoder. It must not be used afterwards.
func (d *Decoder) Close() { d.z.Close() }

// Block writes the block of frame f, whose bytes in the file are packed, to dst, which has BlockSize bytes. It returns
// ErrCorrupt unless the block's digest is the frame's; dst then holds nothing of use.
func (d *Decoder) Block(dst []byte, f Frame, packed []byte) error {
	if len(packed) != f.Length {
		return fmt.Errorf("%w: block %d: %d bytes of %d", ErrCorrupt, f.Block, len(packed), f.Length)
	}
	switch f.Codec {
	case Zero:
		clear(dst)
		return nil
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
	default:
		return fmt.Errorf("block %d: codec %d: %w", f.Block, f.Codec, ErrCodec)
	}
	return CheckBlock(dst, f.Block, f.Digest)
}

// CheckBlock returns ErrCorrupt unless the digest of p, a whole block, is want. block is for the message.
func CheckBlock(p []byte, block int, want image.Digest) error {
	if got := image.SumBlock(p); got != want {
		return fmt.Errorf("%w: block %d has digest %s, want %s", ErrCorrupt, block, got.Short(), want.Short())
	}
	return nil
}
