package syncclient

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"disksync/api"
	"disksync/image"
	"disksync/layer"
)

// Server returns what anybody may know of the server.
func (c *Client) Server(ctx context.Context) (api.Server, error) {
	var s api.Server
	err := c.call(ctx, http.MethodGet, nil, &s, "server")
	if err == nil && s.SigningKey == (image.PublicKey{}) {
		err = &ProtocolError{"no signing key"}
	}
	return s, err
}

// Login asks for a token.
func (c *Client) Login(ctx context.Context, in api.Login) (api.Token, error) {
	var t api.Token
	err := c.call(ctx, http.MethodPost, in, &t, "login")
	if err == nil && t.Token == "" {
		err = &ProtocolError{"a login without a token"}
	}
	return t, err
}

// Logout ends the validity of the Client's token.
func (c *Client) Logout(ctx context.Context) error {
	return c.call(ctx, http.MethodDelete, nil, nil, "login")
}

// Offers returns the images that are meant for the user.
func (c *Client) Offers(ctx context.Context) ([]api.Offer, error) {
	var offers []api.Offer
	return offers, c.call(ctx, http.MethodGet, nil, &offers, "offers")
}

// Manifest returns the signed manifest of a version. It is checked by whoever knows the keys.
func (c *Client) Manifest(ctx context.Context, name string, v image.Version) ([]byte, error) {
	req, err := c.request(ctx, http.MethodGet, nil, nil, "images", name, "versions", v.String(), "manifest")
	if err != nil {
		return nil, err
	}
	resp, err := c.do(req, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return c.readAll(resp, image.MaxEnvelopeSize)
}

// Index returns the index of a layer. What arrives is the layer's index or an error.
func (c *Client) Index(ctx context.Context, ref image.LayerRef) (*layer.Index, error) {
	if ref.IndexLength > layer.MaxIndexSize {
		return nil, fmt.Errorf("index of layer %s has %d bytes, at most %d make sense", ref.ID.Short(), ref.IndexLength, layer.MaxIndexSize)
	}
	body, err := c.Range(ctx, ref, ref.IndexOffset, ref.IndexLength)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b := make([]byte, ref.IndexLength)
	if _, err := io.ReadFull(body, b); err != nil {
		return nil, fmt.Errorf("index of layer %s: %w", ref.ID.Short(), err)
	}
	if image.LayerID(sha256.Sum256(b)) != ref.ID {
		return nil, &ProtocolError{fmt.Sprintf("the index of layer %s is another one", ref.ID.Short())}
	}
	return layer.ParseIndex(b, ref.ID)
}

// Range returns length bytes of a layer's file from offset. The body gives exactly that many bytes or an error; the caller
// closes it.
func (c *Client) Range(ctx context.Context, ref image.LayerRef, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 || length <= 0 || length > ref.Length-offset {
		return nil, fmt.Errorf("layer %s: %d bytes at %d are not in its %d", ref.ID.Short(), length, offset, ref.Length)
	}
	ctx, cancel := context.WithCancel(ctx)
	req, err := c.request(ctx, http.MethodGet, nil, nil, "layers", ref.ID.String())
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	resp, err := c.do(req, http.StatusPartialContent)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("layer %s: %w", ref.ID.Short(), err)
	}
	body := &exact{watched: newWatched(resp.Body, c.line, c.Bytes), left: length, ctx: ctx, cancel: cancel}
	if err := checkRange(resp, ref, offset, length); err != nil {
		body.Close()
		return nil, err
	}
	return body, nil
}

// checkRange refuses an answer that is not exactly the range that was asked for, of exactly that file.
func checkRange(resp *http.Response, ref image.LayerRef, offset, length int64) error {
	want := fmt.Sprintf("bytes %d-%d/%d", offset, offset+length-1, ref.Length)
	if got := resp.Header.Get("Content-Range"); got != want {
		return &ProtocolError{fmt.Sprintf("range %q in place of %q", got[:min(len(got), 80)], want)}
	}
	if got := resp.Header.Get("ETag"); strings.Trim(got, `"`) != ref.ID.String() {
		return &ProtocolError{fmt.Sprintf("a file with tag %q in place of layer %s", got[:min(len(got), 80)], ref.ID.Short())}
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return &ProtocolError{"content in encoding " + e[:min(len(e), 40)]}
	}
	if resp.ContentLength >= 0 && resp.ContentLength != length {
		return &ProtocolError{fmt.Sprintf("%d bytes in place of %d", resp.ContentLength, length)}
	}
	return nil
}

// exact gives exactly left bytes: a body that ends early is an error and not an end, and so is one that does not end.
type exact struct {
	*watched
	left   int64
	ctx    context.Context // of the request, to tell its end from a failure
	cancel context.CancelFunc
}

// Read implements io.Reader.
func (e *exact) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.watched.Read(p[:min(int64(len(p)), e.left)])
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
	return n, lineError(e.ctx, err)
}

// end looks whether a body of which all was read is at its end. Only more bytes make it a wrong one; a line that fails now has
// done its work.
func (e *exact) end() error {
	var more [1]byte
	if n, _ := e.watched.Read(more[:]); n > 0 {
		return &ProtocolError{"more bytes than were asked for"}
	}
	return nil
}

// Close implements io.Closer. What was not read is not waited for.
func (e *exact) Close() error {
	e.cancel()
	return e.watched.Close()
}

// ReaderAt returns a layer's file as an io.ReaderAt; each read is a request, which is made again when the line fails or the
// Synchronizer is busy.
func (c *Client) ReaderAt(ctx context.Context, ref image.LayerRef) io.ReaderAt {
	return readerAt{ctx, c, ref}
}

// readerAt has a context because io.ReaderAt takes none.
type readerAt struct {
	ctx context.Context
	c   *Client
	ref image.LayerRef
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if off >= r.ref.Length {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), r.ref.Length-off)]
	n, failures := 0, 0
	var pause Backoff
	for {
		k, err := r.read(want[n:], off+int64(n))
		n += k
		if n == len(want) {
			break
		}
		if failures++; k > 0 {
			failures = 0
			pause.Reset()
		}
		if !Temporary(err) || failures >= maxFailures {
			return n, err
		}
		if err := pause.Wait(r.ctx, err); err != nil {
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (r readerAt) read(p []byte, off int64) (int, error) {
	body, err := r.c.Range(r.ctx, r.ref, off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	defer body.Close()
	return io.ReadFull(body, p)
}
