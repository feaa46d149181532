package syncclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"disksync/api"
	"disksync/image"
)

// UploadProgress tells how far an upload is.
type UploadProgress struct {
	State api.UploadState
	Done  int64 // bytes sent, or verified by the Synchronizer
	Total int64
}

// ErrUploadDamaged says that what arrived is not the layer. Starting over may help once; a second time something on the way
// changes bytes.
var ErrUploadDamaged = errors.New("the Synchronizer refused the layer")

const (
	uploadChunk = 8 << 20
	pollFirst   = 10 * time.Millisecond
	pollEvery   = 200 * time.Millisecond
)

// Upload sends the layer named id, length bytes of r, and returns when the Synchronizer has verified and stored it. It goes on
// from what an earlier Upload has sent, in this process or another. progress may be nil.
func (c *Client) Upload(ctx context.Context, id image.LayerID, r io.ReaderAt, length int64, progress func(UploadProgress)) error {
	return c.upload(ctx, &uploading{c: c, id: id, r: r, length: length, at: mark{sent: -1}}, progress)
}

// UploadSealed is Upload for a sealed layer, of which ref and the size of its disk are what the Synchronizer has to be told.
func (c *Client) UploadSealed(ctx context.Context, ref image.LayerRef, size int64, r io.ReaderAt, progress func(UploadProgress)) error {
	about := url.Values{"sealed": {strings.Join(ref.Sealed, ".")}, "to": {ref.To.String()}, "size": {strconv.FormatInt(size, 10)}}
	if !ref.From.IsZero() {
		about.Set("from", ref.From.String())
	}
	return c.upload(ctx, &uploading{c: c, id: ref.ID, r: r, length: ref.Length, about: about, at: mark{sent: -1}}, progress)
}

// DropUpload gives up an upload that is of no use any more. It is no error when there is none.
func (c *Client) DropUpload(ctx context.Context, id image.LayerID) error {
	err := c.call(ctx, http.MethodDelete, nil, nil, "uploads", id.String())
	if Code(err) == api.CodeNotFound {
		return nil
	}
	return err
}

func (c *Client) upload(ctx context.Context, up *uploading, progress func(UploadProgress)) error {
	id, length := up.id, up.length
	if progress == nil {
		progress = func(UploadProgress) {}
	}
	var pause Backoff
	failures := 0
	for {
		if err := c.WaitOpen(ctx, nil); err != nil {
			return err
		}
		before := up.at
		u, err := up.step(ctx)
		if up.at != before {
			failures = 0
			pause.Reset()
		}
		switch {
		case err != nil && (!Temporary(err) || failures >= maxFailures):
			return fmt.Errorf("upload layer %s: %w", id.Short(), err)
		case err != nil:
			failures++
			if err := pause.Wait(ctx, err); err != nil {
				return err
			}
			continue
		}
		done := u.Offset
		if u.State == api.Verifying {
			done = u.Done
		}
		progress(UploadProgress{u.State, done, length})
		if u.State == api.Stored {
			return nil
		}
	}
}

// uploading is one run of Upload.
type uploading struct {
	c      *Client
	id     image.LayerID
	r      io.ReaderAt
	length int64
	about  url.Values // of a sealed layer
	begun  bool
	at     mark          // where it stood when last heard of
	pause  time.Duration // before the last question
}

// mark is how far an upload has come. A verification of hours may see many failures of the line, none of which is in its way.
type mark struct{ sent, verified int64 }

// step asks how far the upload is, beginning it where it is not begun, and does the next thing: send a chunk, or wait for the
// verification. An upload that failed in an earlier Upload is begun anew.
func (p *uploading) step(ctx context.Context) (api.Upload, error) {
	u, err := p.call(ctx, http.MethodGet, nil, nil)
	if Code(err) == api.CodeNotFound || err == nil && u.State == api.Failed && !p.begun {
		query := url.Values{"length": {strconv.FormatInt(p.length, 10)}}
		maps.Copy(query, p.about)
		u, err = p.call(ctx, http.MethodPost, query, nil)
	}
	if err != nil {
		return u, err
	}
	if u.Length != p.length {
		return u, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("an upload of %d bytes was begun, not of %d", u.Length, p.length)}
	}
	p.begun = true
	switch u.State {
	case api.Stored:
		return u, nil
	case api.Verifying:
		return u, p.poll(ctx)
	case api.Failed:
		return u, refused(u)
	}
	return p.send(ctx, u)
}

// refused is the error of an upload that failed.
func refused(u api.Upload) error {
	switch {
	case u.Error == nil:
		return &ProtocolError{"an upload that failed without a reason"}
	case u.Error.Code == api.CodeDamaged:
		return fmt.Errorf("%w: %w", ErrUploadDamaged, u.Error)
	}
	return u.Error
}

// send sends the next chunk of an upload that stands where u says.
func (p *uploading) send(ctx context.Context, u api.Upload) (api.Upload, error) {
	if u.State != api.Uploading || u.Offset < 0 || u.Offset >= p.length {
		return u, &ProtocolError{fmt.Sprintf("an upload of %d bytes is %q at %d", p.length, u.State, u.Offset)}
	}
	c := &chunk{r: p.r, off: u.Offset, size: min(uploadChunk, p.length-u.Offset)}
	after, err := p.call(ctx, http.MethodPatch, url.Values{"offset": {strconv.FormatInt(u.Offset, 10)}}, c)
	if failed := c.failed.Load(); failed != nil {
		return u, fmt.Errorf("read the layer: %w", *failed) // and not the line
	}
	p.pause = 0
	switch {
	case Code(err) == api.CodeConflict:
		// Another request got further, perhaps one of ours whose answer was lost: ask again where it stands.
		return u, p.poll(ctx)
	case Code(err) == api.CodeNotFound:
		return u, &ProtocolError{"an upload that was begun is not known"} // it was restarted meanwhile, most likely
	case err == nil && after.State == api.Uploading && after.Offset <= u.Offset:
		return u, &ProtocolError{fmt.Sprintf("an upload that took bytes at %d and stands at %d", u.Offset, after.Offset)}
	}
	return after, err
}

func (p *uploading) call(ctx context.Context, method string, query url.Values, body content) (api.Upload, error) {
	var u api.Upload
	err := p.c.callRaw(ctx, method, query, body, &u, "uploads", p.id.String())
	if err == nil {
		p.at = mark{u.Offset, u.Done}
	}
	return u, err
}

// chunk is a part of a layer that is sent.
type chunk struct {
	r         io.ReaderAt
	off, size int64
	failed    atomic.Pointer[error] // of reading it
}

// Size implements content.
func (c *chunk) Size() int64 { return c.size }

// ReadAt implements content.
func (c *chunk) ReadAt(b []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(b, c.off+off)
	if n < len(b) && err != nil {
		c.failed.Store(&err)
	}
	return n, err
}

// poll waits before the next question: not long at first, for a small layer is verified soon.
func (p *uploading) poll(ctx context.Context) error {
	p.pause = min(max(2*p.pause, pollFirst), pollEvery)
	t := time.NewTimer(p.pause)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
