package syncclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"disksync/agefile"
	"disksync/api"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/layer"
)

// A sealed layer is an age file with the layer's file inside. What is wanted of the layer is translated to the chunks of the age file,
// which are fetched with ranges as frames are, and opened as they come. What whoever seals put there proves nothing: as with any layer,
// the states and digests that were signed say whether it is right.

// sealedFiles is what a client knows of sealed layers. It is safe for concurrent use.
type sealedFiles struct {
	mu    sync.Mutex
	files map[image.LayerID]*agefile.File
	// shelf has chunks, the newest last: wholes of which only a part was wanted, and beginnings of those that did not come as a whole.
	shelf []shelved
}

// shelved is a chunk, or the beginning of one.
type shelved struct {
	layer image.LayerID
	chunk int64
	plain []byte // what is in it
	begun []byte // or what came of it
}

// maxShelf bounds the chunks that are kept, each of up to 64 KiB.
const maxShelf = 32

func newSealedFiles() *sealedFiles { return &sealedFiles{files: map[image.LayerID]*agefile.File{}} }

// put keeps a chunk, in the place of what there was of it.
func (s *sealedFiles) put(h shelved) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shelf = slices.DeleteFunc(s.shelf, func(o shelved) bool { return o.layer == h.layer && o.chunk == h.chunk })
	if len(s.shelf) == maxShelf {
		s.shelf = slices.Delete(s.shelf, 0, 1)
	}
	s.shelf = append(s.shelf, h)
}

// get returns what there is of a chunk.
func (s *sealedFiles) get(id image.LayerID, chunk int64) shelved {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.shelf, func(o shelved) bool { return o.layer == id && o.chunk == chunk })
	if i < 0 {
		return shelved{}
	}
	return s.shelf[i]
}

// sealedFile opens the age file of a layer: with its two ends.
func (c *Client) sealedFile(ctx context.Context, ref image.LayerRef) (*agefile.File, error) {
	c.sealed.mu.Lock()
	f := c.sealed.files[ref.ID]
	c.sealed.mu.Unlock()
	if f != nil {
		return f, nil
	}
	head, tail := min(ref.Length, agefile.HeadSize), min(ref.Length, agefile.SealedChunk)
	spans := []Span{{0, head}, {ref.Length - tail, tail}}
	if spans[1].Offset <= head {
		spans = []Span{{0, ref.Length}}
	}
	body, err := c.stored(ctx, ref, spans)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b := make([]byte, spans[0].Length+spans[len(spans)-1].Length*int64(len(spans)-1))
	if _, err := io.ReadFull(body, b); err != nil {
		return nil, fmt.Errorf("layer %s: %w", ref.ID.Short(), err)
	}
	f, err = agefile.OpenEnds(b[:head], b[int64(len(b))-tail:], ref.Length, c.keys)
	if err != nil {
		return nil, c.explainSealed(ref, err)
	}
	c.sealed.mu.Lock()
	defer c.sealed.mu.Unlock()
	c.sealed.files[ref.ID] = f
	return f, nil
}

// explainSealed turns an error of opening what is sealed into the one that callers know for a layer.
func (c *Client) explainSealed(ref image.LayerRef, err error) error {
	ours := func(r string) bool {
		return slices.ContainsFunc(c.keys, func(k agefile.Identity) bool { return k.Recipient() == r })
	}
	switch {
	case errors.Is(err, agefile.ErrNoKey) && !slices.ContainsFunc(ref.Sealed, ours):
		return NoKey(ref.Sealed, "the backup cannot be read")
	case errors.Is(err, agefile.ErrNoKey), errors.Is(err, agefile.ErrDamaged):
		return fmt.Errorf("%w: sealed layer %s: %w", layer.ErrCorrupt, ref.ID.Short(), err)
	}
	return fmt.Errorf("sealed layer %s: %w", ref.ID.Short(), err)
}

// NoKey is the problem of a backup that none of the keys that are here opens.
func NoKey(recipients []string, what string) error {
	return problem.New("DS-BACKUP-KEY", problem.NeedsLogin, nil, what+": it is encrypted, and no key that opens it is here; those of "+
		strings.Join(recipients, ", ")+" do", "nothing was changed, and the backup is as it was",
		"import the key with `disksyncmgr key import FILE`, or lend it with --identity FILE; who keeps an escrow key is for the administrator to say")
}

// sealedIndex is Index for a sealed layer.
func (c *Client) sealedIndex(ctx context.Context, ref image.LayerRef) (*layer.Index, error) {
	f, err := c.sealedFile(ctx, ref)
	if err != nil {
		return nil, err
	}
	last, plain, err := f.Last()
	if err != nil {
		return nil, c.explainSealed(ref, err)
	}
	c.sealed.put(shelved{layer: ref.ID, chunk: last, plain: plain}) // it has come already, and the index is at the end
	x, err := layer.ReadLastIndex(readerAt{ctx, c, ref}, f.Size())
	if errors.Is(err, layer.ErrFormat) && !errors.Is(err, layer.ErrNewer) {
		err = fmt.Errorf("%w: %w", layer.ErrCorrupt, err)
	}
	if err != nil {
		return nil, fmt.Errorf("index of sealed layer %s: %w", ref.ID.Short(), err)
	}
	return x.As(ref), nil
}

// sealedRanges is Ranges for what is inside of a sealed layer.
func (c *Client) sealedRanges(ctx context.Context, ref image.LayerRef, spans []Span) (io.ReadCloser, error) {
	f, err := c.sealedFile(ctx, ref)
	if err != nil {
		return nil, err
	}
	inside := ref
	inside.Length = f.Size()
	if _, _, err := rangeHeader(inside, spans); err != nil {
		return nil, err
	}
	b := &sealedBody{c: c, ref: ref, f: f, spans: slices.Clone(spans)}
	fetch := b.plan(c.sealed.get)
	if len(fetch) > api.MaxRanges { // chunks that are here split what is around them
		fetch = b.plan(func(image.LayerID, int64) shelved { return shelved{} })
	}
	if len(fetch) > 0 {
		if b.body, err = c.stored(ctx, ref, fetch); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// plan lists the chunks that the spans are in, with what there is of each, and returns what is to be fetched: without a shelf at most as
// many runs as there are spans.
func (b *sealedBody) plan(shelf func(id image.LayerID, chunk int64) shelved) []Span {
	b.chunks = nil
	var fetch []Span
	for _, s := range b.spans {
		for i := s.Offset / agefile.ChunkSize; i*agefile.ChunkSize < s.end(); i++ {
			if n := len(b.chunks); n > 0 && b.chunks[n-1].chunk == i {
				continue
			}
			h := shelf(b.ref.ID, i)
			h.layer, h.chunk = b.ref.ID, i
			b.chunks = append(b.chunks, h)
			if h.plain != nil {
				continue
			}
			off, n := b.f.Place(i)
			off, n = off+int64(len(h.begun)), n-int64(len(h.begun))
			if k := len(fetch); k > 0 && fetch[k-1].end() == off {
				fetch[k-1].Length += n
			} else {
				fetch = append(fetch, Span{off, n})
			}
		}
	}
	return fetch
}

// sealedBody gives runs of what is inside of a sealed layer, as the chunks come.
type sealedBody struct {
	c      *Client
	ref    image.LayerRef
	f      *agefile.File
	body   io.ReadCloser // of the chunks that were not here; nil: all are
	chunks []shelved     // that are still to come, in order
	spans  []Span        // that are still to be given
}

// Read implements io.Reader.
func (b *sealedBody) Read(p []byte) (int, error) {
	if len(b.spans) == 0 {
		return 0, io.EOF
	}
	s := &b.spans[0]
	i := s.Offset / agefile.ChunkSize
	for b.chunks[0].chunk < i {
		b.chunks[0] = shelved{} // what was given need not stay in memory
		b.chunks = b.chunks[1:]
	}
	h := &b.chunks[0]
	if h.plain == nil {
		if err := b.fill(h); err != nil {
			return 0, err
		}
	}
	from := s.Offset - i*agefile.ChunkSize
	n := copy(p, h.plain[from:min(int64(len(h.plain)), from+s.Length)])
	s.Offset, s.Length = s.Offset+int64(n), s.Length-int64(n)
	if s.Length == 0 {
		b.spans = b.spans[1:]
	}
	return n, nil
}

// fill reads and opens a chunk. What comes of one that does not come as a whole is kept for the next request.
func (b *sealedBody) fill(h *shelved) error {
	_, n := b.f.Place(h.chunk)
	sealed := make([]byte, n)
	have := copy(sealed, h.begun)
	k, err := io.ReadFull(b.body, sealed[have:])
	if err != nil {
		if k > 0 {
			b.c.sealed.put(shelved{layer: h.layer, chunk: h.chunk, begun: sealed[:have+k]})
		}
		return err
	}
	h.plain, err = b.f.Chunk(h.chunk, sealed)
	if err != nil {
		b.c.sealed.put(shelved{layer: h.layer, chunk: h.chunk}) // none of it is of use
		return b.c.explainSealed(b.ref, err)
	}
	// Whoever wants frames one after the other begins in the middle of the chunk that the one before ends in.
	if last := b.spans[len(b.spans)-1]; h.chunk == (last.end()-1)/agefile.ChunkSize {
		b.c.sealed.put(shelved{layer: h.layer, chunk: h.chunk, plain: h.plain})
	}
	return nil
}

// Close implements io.Closer.
func (b *sealedBody) Close() error {
	if b.body == nil {
		return nil
	}
	return b.body.Close()
}
