package agefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"filippo.io/age"
)

// Sizes of the format, in bytes.
const (
	// ChunkSize is how much content a chunk has; the last one may have less.
	ChunkSize = 64 << 10
	tagSize   = 16
	nonceSize = 16
	// SealedChunk is what a whole chunk takes in the file.
	SealedChunk = ChunkSize + tagSize
	// HeadSize bounds the header and the nonce of a file with at most MaxRecipients recipients.
	HeadSize = 4 << 10
	// Intro is what every file begins with.
	Intro = "age-encryption.org/v1\n"
)

var (
	// ErrNoKey says that none of the identities opens a file.
	ErrNoKey = errors.New("none of the keys opens it")
	// ErrDamaged says that a file is not what was written: changed, cut short, or not of this kind.
	ErrDamaged = errors.New("what is encrypted was changed")
)

// Writer returns a writer that encrypts to dst for the recipients. What was written is complete when it was closed; dst is not closed.
func Writer(dst io.Writer, recipients []string) (io.WriteCloser, error) {
	if len(recipients) > MaxRecipients {
		return nil, fmt.Errorf("%d recipients, at most %d make sense", len(recipients), MaxRecipients)
	}
	var rs []age.Recipient
	for _, text := range recipients {
		r, err := parseRecipient(text)
		if err != nil {
			return nil, err
		}
		rs = append(rs, r)
	}
	return age.Encrypt(dst, rs...)
}

// File is the form of a file: where its chunks are, and what opens them. It is safe for concurrent use.
type File struct {
	src     io.ReaderAt // of the whole file; nil: only head and tail are here
	head    []byte      // header and nonce
	tail    []byte      // the last chunk as it is in the file
	size    int64       // of the file
	content int64
	keys    []age.Identity // of the file's own key alone
}

// Open reads the form of the file in the first size bytes of src.
func Open(src io.ReaderAt, size int64, keys []Identity) (*File, error) {
	head := make([]byte, min(size, HeadSize))
	if err := readFull(src, head, 0); err != nil {
		return nil, err
	}
	tail := make([]byte, min(size, SealedChunk))
	if err := readFull(src, tail, size-int64(len(tail))); err != nil {
		return nil, err
	}
	f, err := OpenEnds(head, tail, size, keys)
	if err == nil {
		f.src = src
	}
	return f, err
}

// OpenEnds reads the form of a file of size bytes from its first HeadSize and last SealedChunk bytes, or as many as it has. It keeps
// neither.
func OpenEnds(head, tail []byte, size int64, keys []Identity) (*File, error) {
	if size < 0 || int64(len(head)) != min(size, HeadSize) || int64(len(tail)) != min(size, SealedChunk) {
		return nil, fmt.Errorf("%w: ends of %d and %d bytes", ErrDamaged, len(head), len(tail))
	}
	header, err := age.ExtractHeader(bytes.NewReader(head))
	if err != nil {
		return nil, fmt.Errorf("%w: the header: %w", ErrDamaged, err)
	}
	start := int64(len(header)) + nonceSize
	chunks := (size - start + SealedChunk - 1) / SealedChunk
	if start > int64(len(head)) || size-start < tagSize || (size-start)-(chunks-1)*SealedChunk < tagSize {
		return nil, fmt.Errorf("%w: it is cut short", ErrDamaged)
	}
	key, err := fileKey(header, keys)
	if err != nil {
		return nil, err
	}
	last := start + (chunks-1)*SealedChunk
	f := &File{
		head: bytes.Clone(head[:start]), tail: bytes.Clone(tail[last-(size-int64(len(tail))):]), size: size,
		content: size - start - chunks*tagSize, keys: []age.Identity{age.NewInjectedFileKeyIdentity(key)},
	}
	_, err = f.reader(window{f, -1, nil}) // compares the last chunk
	return f, err
}

func fileKey(header []byte, keys []Identity) ([]byte, error) {
	var ids []age.Identity
	for _, k := range keys {
		ids = append(ids, k.id)
	}
	if len(ids) == 0 {
		return nil, ErrNoKey
	}
	key, err := age.DecryptHeader(header, ids...)
	if _, other := errors.AsType[*age.NoIdentityMatchError](err); other {
		return nil, ErrNoKey
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the header: %w", ErrDamaged, err)
	}
	return key, nil
}

// reader returns a reader of the content of the file in src.
func (f *File) reader(src io.ReaderAt) (io.ReaderAt, error) {
	r, n, err := age.DecryptReaderAt(src, f.size, f.keys...)
	if err == nil && n != f.content {
		err = fmt.Errorf("%d bytes, not %d", n, f.content)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return r, nil
}

// Size returns the length of the content in bytes.
func (f *File) Size() int64 { return f.content }

// chunks returns how many chunks the file has.
func (f *File) chunks() int64 { return max((f.content+ChunkSize-1)/ChunkSize, 1) }

// Last returns the number of the last chunk, and its content, which is known.
func (f *File) Last() (int64, []byte, error) {
	i := f.chunks() - 1
	plain, err := f.Chunk(i, f.tail)
	return i, plain, err
}

// Place returns where the file has chunk number i.
func (f *File) Place(i int64) (off, length int64) {
	off = int64(len(f.head)) + i*SealedChunk
	return off, min(SealedChunk, f.size-off)
}

// Chunk returns the content of chunk number i, of which sealed is what the file has. It keeps sealed no longer than it runs.
func (f *File) Chunk(i int64, sealed []byte) ([]byte, error) {
	if i < 0 || i >= f.chunks() {
		return nil, fmt.Errorf("chunk %d of %d", i, f.chunks())
	}
	if _, n := f.Place(i); int64(len(sealed)) != n {
		return nil, fmt.Errorf("%w: a chunk of %d bytes, not %d", ErrDamaged, len(sealed), n)
	}
	r, err := f.reader(window{f, i, sealed})
	if err != nil {
		return nil, err
	}
	plain := make([]byte, min(ChunkSize, f.content-i*ChunkSize))
	if n, err := r.ReadAt(plain, i*ChunkSize); n < len(plain) {
		return nil, fmt.Errorf("%w: chunk %d: %w", ErrDamaged, i, err)
	}
	return plain, nil
}

// Reader returns a reader of the content, for a File that Open made. It is safe for concurrent use.
func (f *File) Reader() io.ReaderAt { return &content{f: f, at: -1} }

// content is a File's content; it keeps the chunk that was read last.
type content struct {
	f     *File
	mu    sync.Mutex
	at    int64
	plain []byte
}

// ReadAt implements io.ReaderAt.
func (c *content) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at < 0 || at >= c.f.content {
			return n, io.EOF
		}
		plain, err := c.chunk(at / ChunkSize)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], plain[at%ChunkSize:])
	}
	return n, nil
}

func (c *content) chunk(i int64) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == i {
		return c.plain, nil
	}
	off, n := c.f.Place(i)
	b := make([]byte, n)
	if err := readFull(c.f.src, b, off); err != nil {
		return nil, err
	}
	plain, err := c.f.Chunk(i, b)
	if err == nil {
		c.at, c.plain = i, plain
	}
	return plain, err
}

// window is a file of which only the ends and one chunk are here, which is all that is read of it.
type window struct {
	f     *File
	chunk int64
	b     []byte
}

// ReadAt implements io.ReaderAt.
func (w window) ReadAt(p []byte, off int64) (int, error) {
	parts := []struct {
		off int64
		b   []byte
	}{{0, w.f.head}, {w.f.size - int64(len(w.f.tail)), w.f.tail}}
	if w.b != nil {
		at, _ := w.f.Place(w.chunk)
		parts = append(parts, parts[0])
		parts[0].off, parts[0].b = at, w.b
	}
	for _, part := range parts {
		if off >= part.off && off < part.off+int64(len(part.b)) {
			n := copy(p, part.b[off-part.off:])
			if n < len(p) {
				return n, io.EOF // what is behind it is not wanted
			}
			return n, nil
		}
	}
	return 0, io.EOF
}

// readFull reads len(b) bytes at off.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it ends %d bytes too early", ErrDamaged, len(b)-n)
	}
	return err
}
