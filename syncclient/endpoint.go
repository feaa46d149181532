package syncclient

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"

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
	return c.manifest(ctx, "images", name, "versions", v.String(), "manifest")
}

func (c *Client) manifest(ctx context.Context, elems ...string) ([]byte, error) {
	req, err := c.request(ctx, http.MethodGet, nil, nil, elems...)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := c.do(req, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := c.readAll(resp, image.MaxEnvelopeSize)
	if err != nil || resp.Header.Get("Content-Encoding") != "gzip" {
		return b, err
	}
	return unpack(b, image.MaxEnvelopeSize)
}

// unpack unpacks an answer that was packed with gzip, of at most limit bytes.
func unpack(b []byte, limit int64) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(z, limit+1))
	}
	if err != nil {
		return nil, &ProtocolError{"an answer that cannot be unpacked: " + err.Error()}
	}
	if int64(len(b)) > limit {
		return nil, &ProtocolError{fmt.Sprintf("an answer of more than %d bytes", limit)}
	}
	return b, nil
}

// Index returns the index of a layer. What arrives is the layer's index or an error.
func (c *Client) Index(ctx context.Context, ref image.LayerRef) (*layer.Index, error) {
	if len(ref.Sealed) > 0 {
		return c.sealedIndex(ctx, ref)
	}
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
		if err := r.c.WaitOpen(r.ctx, nil); err != nil {
			return n, err
		}
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
