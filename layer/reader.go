package layer

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"disksync/image"
)

// Source is a layer whose frames can be read.
type Source struct {
	Index *Index
	R     io.ReaderAt // the layer's file; safe for concurrent use
}

// Reader reads the disk at the end of a path of layers at random. Every block is checked against its digest. It is safe for
// concurrent use; it decodes one block at a time and keeps the last ones.
type Reader struct {
	path []Source
	size int64

	mu    sync.Mutex
	dec   *Decoder
	cache []cachedBlock // newest first
}

type cachedBlock struct {
	block int
	data  []byte
}

const cachedBlocks = 4

// NewReader returns a Reader of the state that path, from the full image on, leads to.
func NewReader(path []Source) (*Reader, error) {
	if len(path) == 0 {
		return nil, fmt.Errorf("%w: an empty path", ErrMismatch)
	}
	at := image.StateID{}
	for i, s := range path {
		if s.Index.From() != at {
			return nil, fmt.Errorf("%w: layer %d of the path does not start where the one before it ends", ErrMismatch, i)
		}
		at = s.Index.To()
	}
	return &Reader{path: path, size: path[len(path)-1].Index.Size(), dec: NewDecoder(1)}, nil
}

// Size returns the size of the disk in bytes.
func (r *Reader) Size() int64 { return r.size }

// Close frees the decoder; the sources are the caller's.
func (r *Reader) Close() { r.dec.Close() }

// ReadAt implements io.ReaderAt.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("layer: negative offset")
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= r.size {
			return n, io.EOF
		}
		in := at % image.BlockSize
		want := p[n:min(int64(len(p)), int64(n)+min(image.BlockSize-in, r.size-at))]
		if err := r.read(want, int(at/image.BlockSize), in); err != nil {
			return n, err
		}
		n += len(want)
	}
	return n, nil
}

func (r *Reader) read(p []byte, block int, in int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, c := range r.cache {
		if c.block == block {
			copy(r.cache[1:i+1], r.cache[:i])
			r.cache[0] = c
			copy(p, c.data[in:])
			return nil
		}
	}
	data, err := r.decode(block)
	if err != nil {
		return err
	}
	if data == nil {
		clear(p)
		return nil
	}
	if len(r.cache) < cachedBlocks {
		r.cache = append(r.cache, cachedBlock{})
	}
	copy(r.cache[1:], r.cache)
	r.cache[0] = cachedBlock{block, data}
	copy(p, data[in:])
	return nil
}

// decode returns the content of a block, nil when it is zero. The newest layer that has the block decides; a disk that was
// once shorter had nothing there, so what older layers say about it has gone.
func (r *Reader) decode(block int) ([]byte, error) {
	for i := len(r.path) - 1; i >= 0; i-- {
		s := r.path[i]
		if block >= image.BlockCount(s.Index.Size()) {
			return nil, nil
		}
		f, ok := s.Index.Find(block)
		if !ok {
			continue
		}
		if f.Codec == Zero {
			return nil, nil
		}
		packed := make([]byte, f.Length)
		if err := readFull(s.R, packed, f.Offset); err != nil {
			return nil, fmt.Errorf("block %d: %w", block, err)
		}
		data := make([]byte, image.BlockSize)
		return data, r.dec.Block(data, f, packed)
	}
	return nil, nil
}
