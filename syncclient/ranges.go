package syncclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"disksync/api"
	"disksync/image"
)

// Span is a run of bytes of a layer's file.
type Span struct{ Offset, Length int64 }

func (s Span) end() int64 { return s.Offset + s.Length }

// Range returns length bytes of a layer's file from offset. The body gives exactly that many bytes or an error; the caller
// closes it.
func (c *Client) Range(ctx context.Context, ref image.LayerRef, offset, length int64) (io.ReadCloser, error) {
	return c.Ranges(ctx, ref, []Span{{offset, length}})
}

// Ranges returns at most [api.MaxRanges] runs of bytes of a layer's file with one request. They must be in order and may not
// overlap. The body gives the bytes of one behind those of the other, exactly as many as were asked for or an error; the caller
// closes it. A Synchronizer that gives one run at a time only answers several with [api.CodeInvalid]. Of a sealed layer they are runs of
// what is inside.
func (c *Client) Ranges(ctx context.Context, ref image.LayerRef, spans []Span) (io.ReadCloser, error) {
	if len(ref.Sealed) > 0 {
		return c.sealedRanges(ctx, ref, spans)
	}
	return c.stored(ctx, ref, spans)
}

// stored is Ranges for the file as the Synchronizer has it.
func (c *Client) stored(ctx context.Context, ref image.LayerRef, spans []Span) (io.ReadCloser, error) {
	header, total, err := rangeHeader(ref, spans)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	req, err := c.request(ctx, http.MethodGet, nil, nil, "layers", ref.ID.String())
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header.Set("Range", header)
	resp, err := c.do(req, http.StatusPartialContent)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("layer %s: %w", ref.ID.Short(), err)
	}
	w := c.watch(resp.Body)
	body := &exact{from: w, body: w, left: total, ctx: ctx, cancel: cancel}
	if err = checkTag(resp, ref); err == nil {
		if len(spans) == 1 {
			err = checkRange(resp, ref, spans[0])
		} else {
			body.from, err = newParts(resp, w, ref, spans)
		}
	}
	if err != nil {
		body.Close()
		return nil, err
	}
	return body, nil
}

// rangeHeader returns what asks for the spans, and how many bytes they are.
func rangeHeader(ref image.LayerRef, spans []Span) (header string, total int64, err error) {
	if len(spans) == 0 || len(spans) > api.MaxRanges {
		return "", 0, fmt.Errorf("layer %s: %d ranges at once, at most %d make sense", ref.ID.Short(), len(spans), api.MaxRanges)
	}
	b := []byte("bytes=")
	var before int64
	for i, s := range spans {
		if s.Offset < before || s.Length <= 0 || s.Length > ref.Length-s.Offset {
			return "", 0, fmt.Errorf("layer %s: %d bytes at %d are not in its %d, or not behind %d", ref.ID.Short(), s.Length, s.Offset, ref.Length, before)
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, s.Offset, 10)
		b = strconv.AppendInt(append(b, '-'), s.end()-1, 10)
		before, total = s.end(), total+s.Length
	}
	return string(b), total, nil
}

// contentRange is what an answer says of a run of bytes that it brings.
func contentRange(ref image.LayerRef, s Span) string {
	return fmt.Sprintf("bytes %d-%d/%d", s.Offset, s.end()-1, ref.Length)
}

// checkTag refuses an answer that is not of exactly that file.
func checkTag(resp *http.Response, ref image.LayerRef) error {
	if got := resp.Header.Get("ETag"); strings.Trim(got, `"`) != ref.ID.String() {
		return &ProtocolError{fmt.Sprintf("a file with tag %q in place of layer %s", got[:min(len(got), 80)], ref.ID.Short())}
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return &ProtocolError{"content in encoding " + e[:min(len(e), 40)]}
	}
	return nil
}

// checkRange refuses an answer that is not exactly the range that was asked for.
func checkRange(resp *http.Response, ref image.LayerRef, s Span) error {
	if got, want := resp.Header.Get("Content-Range"), contentRange(ref, s); got != want {
		return &ProtocolError{fmt.Sprintf("range %q in place of %q", got[:min(len(got), 80)], want)}
	}
	if resp.ContentLength >= 0 && resp.ContentLength != s.Length {
		return &ProtocolError{fmt.Sprintf("%d bytes in place of %d", resp.ContentLength, s.Length)}
	}
	return nil
}

// exact gives exactly left bytes: a body that ends early is an error and not an end, and so is one that does not end.
type exact struct {
	from   io.Reader // the body, or what is wanted of it
	body   *watched
	left   int64
	ctx    context.Context // of the request, to tell its end from a failure
	cancel context.CancelFunc
}

// Read implements io.Reader.
func (e *exact) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.from.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	switch {
	case errors.Is(err, io.EOF) && e.left == 0:
		return n, nil
	case err == nil && e.left == 0:
		if err := e.end(); err != nil {
			return 0, err // with the last bytes it would be overlooked by who wants no more than those
		}
		return n, nil
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	if _, ok := errors.AsType[*ProtocolError](err); ok {
		return n, err
	}
	return n, lineError(e.ctx, err)
}

// end looks whether a body of which all was read is at its end. Only more bytes make it a wrong one; a line that fails now has
// done its work.
func (e *exact) end() error {
	var more [1]byte
	n, err := e.from.Read(more[:])
	if n > 0 {
		return &ProtocolError{"more bytes than were asked for"}
	}
	if p, ok := errors.AsType[*ProtocolError](err); ok {
		return p
	}
	return nil
}

// Close implements io.Closer. What was not read is not waited for.
func (e *exact) Close() error {
	e.cancel()
	return e.body.Close()
}
