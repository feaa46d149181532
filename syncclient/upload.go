package syncclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
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
	// maxFailures is how often in a row an upload is tried again without anything having moved.
	maxFailures = 8
	pollEvery   = 200 * time.Millisecond
)

// Upload sends the layer named id, length bytes of r, and returns when the Synchronizer has verified and stored it. It goes on
// from what an earlier Upload has sent, in this process or another. progress may be nil.
func (c *Client) Upload(ctx context.Context, id image.LayerID, r io.ReaderAt, length int64, progress func(UploadProgress)) error {
	if progress == nil {
		progress = func(UploadProgress) {}
	}
	var pause Backoff
	failures := 0
	last := int64(-1)
	begun := false
	for {
		u, err := c.uploadStep(ctx, id, r, length, begun)
		begun = begun || err == nil
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
		if u.Offset != last {
			failures, last = 0, u.Offset
			pause.Reset()
		}
		switch u.State {
		case api.Stored:
			return nil
		case api.Failed:
			return fmt.Errorf("upload layer %s: %w: %w", id.Short(), ErrUploadDamaged, u.Error)
		}
	}
}

// uploadStep asks how far the upload is, beginning it where it is not begun, and does the next thing: send a chunk, or wait for
// the verification. An upload that failed in an earlier Upload is begun anew.
func (c *Client) uploadStep(ctx context.Context, id image.LayerID, r io.ReaderAt, length int64, begun bool) (api.Upload, error) {
	var u api.Upload
	err := c.call(ctx, http.MethodGet, nil, &u, "uploads", id.String())
	if Code(err) == api.CodeNotFound || err == nil && u.State == api.Failed && !begun {
		u = api.Upload{}
		err = c.callRaw(ctx, http.MethodPost, url.Values{"length": {strconv.FormatInt(length, 10)}}, nil, &u, "uploads", id.String())
	}
	if err != nil || u.State == api.Stored || u.State == api.Failed {
		return u, err
	}
	if u.State == api.Verifying {
		return u, poll(ctx)
	}
	if u.Offset < 0 || u.Offset > length {
		return u, &ProtocolError{fmt.Sprintf("an upload of %d bytes stands at %d", length, u.Offset)}
	}
	chunk := make([]byte, min(uploadChunk, length-u.Offset))
	if n, err := r.ReadAt(chunk, u.Offset); n < len(chunk) {
		return u, fmt.Errorf("read the layer: %w", err)
	}
	err = c.callRaw(ctx, http.MethodPatch, url.Values{"offset": {strconv.FormatInt(u.Offset, 10)}}, chunk, &u, "uploads", id.String())
	if Code(err) == api.CodeConflict {
		// Another request got further, perhaps one of ours whose answer was lost: ask again where it stands.
		return u, poll(ctx)
	}
	return u, err
}

func poll(ctx context.Context) error {
	t := time.NewTimer(pollEvery)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
