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

// Reader reads the disk at the end of a path of layers at random. A block is unpacked when it is asked for, checked against its
// digest, and kept in memory for a while. Of those that are asked for again after that, and of those that a frame with many references
// needs, the scratch room keeps what was unpacked, so that frames that refer to one another's blocks cost each block twice at most. It is
// safe for concurrent use.
type Reader struct {
	path    []Source
	from    io.ReaderAt // the disk that path starts from; nil when that is nothing
	size    int64
	scratch Scratch
	dec     *Decoder
	trusts  bool

	mu     sync.Mutex
	blocks map[place]*unpacked
	recent []*unpacked // in memory, the oldest first
	slots  int64       // of the scratch room that are taken
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

// Close frees the decoder; the sources and the scratch room are the caller's. No read may be under way, and none may follow.
func (r *Reader) Close() {
	r.dec.Close()
	for _, u := range r.recent {
		u.drop()
	}
	r.recent = nil
}

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
	return v.r.unpack(i, f, false, func(b content) error { return b.read(p, in) })
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
