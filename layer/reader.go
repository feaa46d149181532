package layer

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"disksync/image"
)

// Source is a layer whose frames can be read.
type Source struct {
	Index *Index
	R     io.ReaderAt // the layer's file; safe for concurrent use
}

// Scratch is room for unpacked blocks, up to the size of the disk and of what earlier layers had in their place: a temporary
// file.
type Scratch interface {
	io.ReaderAt
	io.WriterAt
}

// Reader reads the disk at the end of a path of layers at random. A block is unpacked when it is first asked for, checked against
// its digest, and kept in the scratch room, so that frames that refer to one another's blocks cost each block once. It is safe
// for concurrent use.
type Reader struct {
	path    []Source
	from    io.ReaderAt // the disk that path starts from; nil when that is nothing
	size    int64
	scratch Scratch
	dec     *Decoder

	mu     sync.Mutex
	blocks map[place]*unpacked
	slots  int64 // of the scratch room that are taken
}

// place names the frame of a block in a layer of the path.
type place struct{ layer, block int }

// unpacked is a block in the scratch room, or on its way there.
type unpacked struct {
	once sync.Once
	slot int64 // its place, in blocks
	err  error
}

// NewReader returns a Reader of the state that path, from the full image on, leads to.
func NewReader(path []Source, scratch Scratch) (*Reader, error) {
	if len(path) == 0 {
		return nil, fmt.Errorf("%w: an empty path", ErrMismatch)
	}
	at, size := image.StateID{}, int64(0)
	for i, s := range path {
		if s.Index.From() != at || s.Index.FromSize() != size {
			return nil, fmt.Errorf("%w: layer %d of the path does not start where the one before it ends", ErrMismatch, i)
		}
		at, size = s.Index.To(), s.Index.Size()
	}
	return newReader(path, nil, size, scratch), nil
}

// NewReaderFrom is NewReader for a path that starts from a state whose disk is at hand. What no layer of the path has is read from there
// and is not compared with anything.
func NewReaderFrom(from Disk, start image.StateID, path []Source, scratch Scratch) (*Reader, error) {
	at, size := start, from.Size()
	for i, s := range path {
		if s.Index.From() != at || s.Index.FromSize() != size {
			return nil, fmt.Errorf("%w: layer %d of the path does not start where the one before it ends", ErrMismatch, i)
		}
		at, size = s.Index.To(), s.Index.Size()
	}
	if len(path) == 0 {
		return nil, fmt.Errorf("%w: an empty path", ErrMismatch)
	}
	return newReader(path, from, size, scratch), nil
}

func newReader(path []Source, from io.ReaderAt, size int64, scratch Scratch) *Reader {
	return &Reader{
		path: path, from: from, size: size, scratch: scratch, dec: NewDecoder(runtime.GOMAXPROCS(0)), blocks: map[place]*unpacked{},
	}
}

// Size returns the size of the disk in bytes.
func (r *Reader) Size() int64 { return r.size }

// Close frees the decoder; the sources and the scratch room are the caller's.
func (r *Reader) Close() { r.dec.Close() }

// ReadAt implements io.ReaderAt.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	return r.disk(len(r.path)-1).ReadAt(p, off)
}

// NextData returns the offset of the first byte at or behind off that may be other than zero; the disk's size when there is none.
func (r *Reader) NextData(off int64) (int64, error) {
	for off < r.size {
		if _, _, ok := r.find(len(r.path)-1, int(off/image.BlockSize)); ok {
			return off, nil
		}
		off = (off/image.BlockSize + 1) * image.BlockSize
	}
	return r.size, nil
}

// find returns the frame that decides about a block of the disk that layer number top of the path leads to; ok is false when the
// block is zero. A disk that was once shorter had nothing there, so what older layers say about it has gone.
func (r *Reader) find(top, block int) (at int, f Frame, ok bool) {
	for i := top; i >= 0; i-- {
		x := r.path[i].Index
		if block >= image.BlockCount(x.Size()) {
			break
		}
		if f, ok := x.Find(block); ok {
			return i, f, f.Codec != Zero
		}
	}
	return 0, f, false
}

// version is the disk that one of the layers leads to.
type version struct {
	r   *Reader
	top int
	// below is the level that the frames of the top layer must be below, so that no frame needs itself.
	below int
}

func (r *Reader) disk(top int) io.ReaderAt {
	if top < 0 && r.from != nil {
		return r.from
	}
	return version{r, top, MaxLevel + 1}
}

// base returns what a frame of layer i may refer to.
func (r *Reader) base(i int, f Frame) io.ReaderAt {
	if f.Level == 0 {
		return r.disk(i - 1)
	}
	return Join(r.disk(i-1), r.path[i].Index.FromSize(), version{r, i, f.Level})
}

// ReadAt implements io.ReaderAt.
func (v version) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("layer: negative offset")
	}
	size := int64(0)
	if v.top >= 0 {
		size = v.r.path[v.top].Index.Size()
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= size {
			return n, io.EOF
		}
		in := at % image.BlockSize
		want := p[n:min(int64(len(p)), int64(n)+min(image.BlockSize-in, size-at))]
		if err := v.read(want, int(at/image.BlockSize), in); err != nil {
			return n, err
		}
		n += len(want)
	}
	return n, nil
}

func (v version) read(p []byte, block int, in int64) error {
	i, f, ok := v.r.find(v.top, block)
	if !ok {
		return v.r.readBelow(p, int64(block)*image.BlockSize+in, f)
	}
	if i == v.top && f.Level >= v.below {
		return fmt.Errorf("%w: block %d is referred to by one that it may need itself", ErrCorrupt, block)
	}
	slot, err := v.r.unpack(i, f)
	if err != nil {
		return err
	}
	if _, err := v.r.scratch.ReadAt(p, slot*image.BlockSize+in); err != nil {
		return fmt.Errorf("read back block %d: %w", block, err)
	}
	return nil
}

// readBelow reads what no layer of the path has: f says that it became zero, or is nothing.
func (r *Reader) readBelow(p []byte, off int64, f Frame) error {
	n := 0
	if first := r.path[0].Index; r.from != nil && f == (Frame{}) && off < first.FromSize() {
		n = int(min(int64(len(p)), first.FromSize()-off))
		if err := readFrom(r.from, p[:n], off); err != nil {
			return err
		}
	}
	clear(p[n:])
	return nil
}

// unpack brings a block into the scratch room, unless it is there, and returns its slot.
func (r *Reader) unpack(i int, f Frame) (int64, error) {
	r.mu.Lock()
	u := r.blocks[place{i, f.Block}]
	if u == nil {
		u = &unpacked{slot: r.slots}
		r.blocks[place{i, f.Block}] = u
		r.slots++
	}
	r.mu.Unlock()
	u.once.Do(func() { u.err = r.decode(i, f, u.slot) })
	return u.slot, u.err
}

// readBuffers recycles what is needed to unpack a block.
var readBuffers = sync.Pool{New: func() any { return new([2][image.BlockSize]byte) }}

func (r *Reader) decode(i int, f Frame, slot int64) error {
	if err := r.prepare(i, f); err != nil {
		return err
	}
	b := readBuffers.Get().(*[2][image.BlockSize]byte)
	defer readBuffers.Put(b)
	packed, data := b[0][:f.Length], b[1][:]
	if err := readFull(r.path[i].R, packed, f.Offset); err != nil {
		return fmt.Errorf("block %d: %w", f.Block, err)
	}
	if err := r.dec.Block(data, f, packed, r.base(i, f)); err != nil {
		return err
	}
	if _, err := r.scratch.WriteAt(data, slot*image.BlockSize); err != nil {
		return fmt.Errorf("keep block %d: %w", f.Block, err)
	}
	return nil
}

// prepare unpacks the blocks that a frame refers to. They would be when they are read, but then the buffers of every layer of a
// long path could be in use at once.
func (r *Reader) prepare(i int, f Frame) error {
	if f.Codec != Difference {
		return nil
	}
	packed := make([]byte, f.Length)
	if err := readFull(r.path[i].R, packed, f.Offset); err != nil {
		return fmt.Errorf("block %d: %w", f.Block, err)
	}
	for _, ref := range References(f, packed) {
		top := i - 1
		if ref.To {
			top = i
		}
		j, g, ok := r.find(top, ref.Block)
		if !ok || j == i && g.Level >= f.Level {
			continue // zeros, or what reading it will tell
		}
		if _, err := r.unpack(j, g); err != nil {
			return err
		}
	}
	return nil
}
