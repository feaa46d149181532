package vhd

import (
	"context"
	"io"
)

// Reader reads a [Source] from an offset to its end. Runs without data are not read. It is not safe for concurrent use.
//
// It implements io.WriterTo, which io.Copy uses: data is then read ahead in large pieces while others are written.
type Reader struct {
	src Source
	off int64
	// From off to start there are zeros, from there to end data; known for off up to end.
	start, end int64
}

// NewReader returns a Reader of src from off on. off is in bytes and not negative.
func NewReader(src Source, off int64) *Reader {
	return &Reader{src: src, off: off, start: off, end: off}
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	size := r.src.Size()
	if r.off >= size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if r.off >= r.end {
		var err error
		if r.start, r.end, err = r.src.NextRun(r.off); err != nil {
			return 0, err
		}
		if r.start >= r.end {
			r.start, r.end = size, size
		}
	}
	if r.off < r.start {
		n := min(int64(len(p)), r.start-r.off)
		clear(p[:n])
		r.off += n
		return int(n), nil
	}
	n := min(int64(len(p)), r.end-r.off)
	if err := readSource(r.src, p[:n], r.off); err != nil {
		return 0, err
	}
	r.off += n
	return int(n), nil
}

// WriteTo implements io.WriterTo.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	begin := r.off
	out := &counter{w: w, at: begin}
	err := streamData(context.Background(), out, r.src, CopyOptions{}, r.src.Size())
	r.off = out.at
	return r.off - begin, err
}
