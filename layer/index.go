package layer

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sort"

	"disksync/image"
)

// Sizes and limits of the format, in bytes.
const (
	HeaderSize  = 16
	TrailerSize = 64
	// MaxIndexSize bounds an index before memory is set aside for it.
	MaxIndexSize = 128 << 20

	indexHeaderSize = 112
	frameEntrySize  = 56
	formatVersion   = 1

	// MaxLevel bounds how many frames have to be unpacked one after the other to give a block.
	MaxLevel = 7

	fileMagic    = "\x89DSL\r\n\x1a\n"
	indexMagic   = "DSLINDEX"
	trailerMagic = "DSLTRAIL"
)

var (
	// ErrFormat is returned for bytes that are not a layer, or not one that this program reads.
	ErrFormat = errors.New("not a layer")
	// ErrNewer comes with ErrFormat where a format says that it is another one than this program reads.
	ErrNewer = errors.New("made by a newer program")
	// ErrMismatch is returned for a well-formed layer that does not lead from the given state to the one it names.
	ErrMismatch = errors.New("layer does not fit")
)

// Codec says how a frame holds its block.
type Codec uint8

// The codecs.
const (
	Zero         Codec = iota // nothing: the block becomes zero
	Stored                    // the block as it is
	Zstd                      // one zstd frame
	Difference                // pieces of the From disk, and LZMA with such pieces as its dictionary
	Recompressed              // a Difference whose packed bytes are deflate streams taken apart
)

// refers reports whether a frame of the codec may refer to other blocks.
func (c Codec) refers() bool { return c == Difference || c == Recompressed }

// Frame describes the frame of one block.
type Frame struct {
	Block  int          // number of the block
	Codec  Codec        //
	Length int          // of the frame in the file, bytes
	Offset int64        // in the file
	Digest image.Digest // of the block that results
	// Level is above that of every frame of the same layer whose block this one refers to: the frames of level 0, which refer to no
	// other, come first, and those of the highest level last. At most MaxLevel.
	Level int

	fromSize, size int64  // of the layer's disks
	sum            uint32 // of the frame's bytes; of one that may refer to others
}

// Alone reports whether the frame's bytes give the block without anything else, rather than with ranges of the From disk.
func (f Frame) Alone() bool { return f.Codec == Stored || f.Codec == Zstd }

// Index is the table of a layer's frames. It is immutable and safe for concurrent use.
type Index struct {
	raw            []byte
	id             image.LayerID
	from, to       image.StateID
	fromSize, size int64
	frames         int
	stored         *image.LayerRef // see As
}

// ParseIndex reads an index and checks that its name is want, and that it satisfies the format in itself. It keeps b.
func ParseIndex(b []byte, want image.LayerID) (*Index, error) {
	if len(b) > MaxIndexSize {
		return nil, fmt.Errorf("%w: an index of %d bytes", ErrFormat, len(b))
	}
	if got := image.LayerID(sha256.Sum256(b)); got != want {
		return nil, fmt.Errorf("%w: the index has the name %s, want %s", ErrFormat, got.Short(), want.Short())
	}
	x := &Index{raw: b, id: want}
	if err := x.parseHeader(); err != nil {
		return nil, fmt.Errorf("%w: index: %w", ErrFormat, err)
	}
	if err := x.checkFrames(); err != nil {
		return nil, fmt.Errorf("%w: index: %w", ErrFormat, err)
	}
	return x, nil
}

func (x *Index) parseHeader() error {
	b := x.raw
	if len(b) < indexHeaderSize || string(b[:8]) != indexMagic {
		return errors.New("no magic")
	}
	if v := be32(b[8:]); v != formatVersion {
		return fmt.Errorf("%w: version %d, this program reads %d", ErrNewer, v, formatVersion)
	}
	if be32(b[12:]) != 0 || be32(b[104:]) != 0 || be32(b[108:]) != 0 {
		return fmt.Errorf("%w: unknown flags", ErrNewer)
	}
	copy(x.from[:], b[16:])
	copy(x.to[:], b[48:])
	fromSize, size := binary.BigEndian.Uint64(b[80:]), binary.BigEndian.Uint64(b[88:])
	if fromSize > image.MaxDiskSize || size > image.MaxDiskSize || !image.ValidSize(int64(size)) {
		return fmt.Errorf("sizes %d and %d", fromSize, size)
	}
	x.fromSize, x.size = int64(fromSize), int64(size)
	if x.from.IsZero() != (fromSize == 0) || fromSize != 0 && !image.ValidSize(x.fromSize) {
		return fmt.Errorf("From of %d bytes named %s", fromSize, x.from.Short())
	}
	if x.to.IsZero() || x.to == x.from {
		return errors.New("To is From, or nothing")
	}
	if bs := be32(b[96:]); bs != image.BlockSize {
		return fmt.Errorf("block size %d", bs)
	}
	frames := be32(b[100:])
	if int64(frames) > int64(image.BlockCount(x.size)) {
		return fmt.Errorf("%d frames for %d blocks", frames, image.BlockCount(x.size))
	}
	if want := indexHeaderSize + uint64(frames)*frameEntrySize; uint64(len(b)) != want {
		return fmt.Errorf("%d bytes, want %d", len(b), want)
	}
	x.frames = int(frames)
	return nil
}

func (x *Index) checkFrames() error {
	offset, last := int64(HeaderSize), -1
	for i := range x.frames {
		e := x.entry(i)
		f := x.Frame(i)
		if f.Block <= last || f.Block >= image.BlockCount(x.size) {
			return fmt.Errorf("frame %d: block %d after %d", i, f.Block, last)
		}
		last = f.Block
		if f.Level > MaxLevel || f.Level > 0 && !f.Codec.refers() {
			return fmt.Errorf("frame %d: codec %d on level %d", i, f.Codec, f.Level)
		}
		if e[6] != 0 || e[7] != 0 || f.sum != 0 && !f.Codec.refers() || f.Offset != offset {
			return fmt.Errorf("frame %d: entry does not continue the one before", i)
		}
		if err := x.checkFrame(f); err != nil {
			return fmt.Errorf("frame %d: %w", i, err)
		}
		offset += int64(f.Length)
	}
	return nil
}

func (x *Index) checkFrame(f Frame) error {
	ok := false
	switch f.Codec {
	case Zero:
		ok = f.Length == 0 && f.Digest.IsZero() && !x.from.IsZero()
	case Stored:
		ok = f.Length == image.BlockSize && !f.Digest.IsZero()
	case Zstd:
		ok = f.Length > 0 && f.Length < image.BlockSize && !f.Digest.IsZero()
	case Difference, Recompressed:
		ok = f.Length > 0 && f.Length < image.BlockSize && !f.Digest.IsZero() && !x.from.IsZero()
	default:
		return fmt.Errorf("%w: codec %d", ErrNewer, f.Codec)
	}
	if !ok {
		return fmt.Errorf("codec %d with %d bytes", f.Codec, f.Length)
	}
	return nil
}

func (x *Index) entry(i int) []byte {
	return x.raw[indexHeaderSize+i*frameEntrySize:][:frameEntrySize]
}

// ID returns the layer's name.
func (x *Index) ID() image.LayerID { return x.id }

// From returns the state that the layer starts from; zero for a full image.
func (x *Index) From() image.StateID { return x.from }

// To returns the state that the layer leads to.
func (x *Index) To() image.StateID { return x.to }

// FromSize returns the size in bytes of the disk that the layer starts from.
func (x *Index) FromSize() int64 { return x.fromSize }

// Size returns the size in bytes of the disk that the layer leads to.
func (x *Index) Size() int64 { return x.size }

// Bytes returns the encoding. The caller must not change it.
func (x *Index) Bytes() []byte { return x.raw }

// Len returns the number of frames.
func (x *Index) Len() int { return x.frames }

// Frame returns frame i, 0 <= i < Len. Frames are in the order of their blocks and of their places in the file.
func (x *Index) Frame(i int) Frame {
	e := x.entry(i)
	f := Frame{
		Block: int(be32(e)), Codec: Codec(e[4]), Level: int(e[5]), fromSize: x.fromSize, size: x.size, sum: be32(e[8:]),
		Length: int(be32(e[12:])), Offset: int64(binary.BigEndian.Uint64(e[16:])),
	}
	copy(f.Digest[:], e[24:])
	return f
}

// Find returns the frame of a block; ok is false when the layer does not change it.
func (x *Index) Find(block int) (f Frame, ok bool) {
	i := sort.Search(x.frames, func(i int) bool { return int(be32(x.entry(i))) >= block })
	if i == x.frames {
		return Frame{}, false
	}
	f = x.Frame(i)
	return f, f.Block == block
}

// Refers reports whether some frame needs the disk that the layer starts from.
func (x *Index) Refers() bool {
	for i := range x.frames {
		if Codec(x.entry(i)[4]).refers() {
			return true
		}
	}
	return false
}

// Levels returns how many levels the frames have; 1 where none refers to another's block.
func (x *Index) Levels() int {
	n := 1
	for i := range x.frames {
		n = max(n, int(x.entry(i)[5])+1)
	}
	return n
}

// IndexOffset returns where the index is in the layer's file: behind the last frame.
func (x *Index) IndexOffset() int64 {
	if x.frames == 0 {
		return HeaderSize
	}
	f := x.Frame(x.frames - 1)
	return f.Offset + int64(f.Length)
}

// FileSize returns the length in bytes of the layer's file.
func (x *Index) FileSize() int64 { return x.IndexOffset() + int64(len(x.raw)) + TrailerSize }

// As returns the same index for a layer that is stored in another form than a layer file: Ref gives that entry of a manifest.
func (x *Index) As(ref image.LayerRef) *Index {
	other := *x
	other.stored = &ref
	return &other
}

// Ref returns the layer's entry in a manifest.
func (x *Index) Ref() image.LayerRef {
	if x.stored != nil {
		return *x.stored
	}
	return image.LayerRef{
		ID: x.id, From: x.from, To: x.to,
		Length: x.FileSize(), IndexOffset: x.IndexOffset(), IndexLength: int64(len(x.raw)),
	}
}

// Apply returns the state that the layer makes of from. It returns ErrMismatch when from is not the layer's From, when the
// outcome is not its To, or when a frame changes nothing.
func (x *Index) Apply(from image.State) (image.State, error) {
	if from.Size != x.fromSize || from.ID() != x.from {
		return image.State{}, fmt.Errorf("%w: it starts from %s, not from %s", ErrMismatch, x.from.Short(), from.ID().Short())
	}
	to := from.Resized(x.size)
	for i := range x.frames {
		f := x.Frame(i)
		if to.Blocks[f.Block] == f.Digest {
			return image.State{}, fmt.Errorf("%w: block %d does not change", ErrMismatch, f.Block)
		}
		to.Blocks[f.Block] = f.Digest
	}
	if got := to.ID(); got != x.to {
		return image.State{}, fmt.Errorf("%w: it leads to %s, not to %s as it says", ErrMismatch, got.Short(), x.to.Short())
	}
	return to, nil
}

func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }
