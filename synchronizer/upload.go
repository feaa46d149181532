package synchronizer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"sync"
	"time"

	"disksync/api"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
)

// upload is a layer that is being received. What has arrived is in a file whose length is the offset to go on from; after
// the loss of power it may be too long, and the check at the end finds that out.
type upload struct {
	mu     sync.Mutex // held while a request adds to the file
	length int64

	// The fields below are guarded by Server.mu.
	state  api.UploadState
	offset int64
	done   int64 // bytes of frames that were verified
	err    *api.Error
}

func uploadFile(id image.LayerID) string { return layersDir + "/" + id.String() + ".part" }

// maxLayerSize bounds a layer's file: a disk that does not compress, and its index.
const maxLayerSize = image.MaxDiskSize + layer.MaxIndexSize + layer.HeaderSize + layer.TrailerSize

// postUpload begins an upload of the length in the query, or tells how far it is.
func (s *Server) postUpload(c *call) error {
	id, err := c.layer()
	if err != nil {
		return err
	}
	length, err := strconv.ParseInt(c.URL.Query().Get("length"), 10, 64)
	if err != nil || length <= 0 || length > maxLayerSize {
		return invalid("length %q: want the length of the layer's file in bytes", c.URL.Query().Get("length"))
	}
	if done, err := s.stored(c, id); done || err != nil {
		return err
	}
	u, err := s.beginUpload(id, length)
	if err != nil {
		return err
	}
	return c.reply(s.describeUpload(id, u))
}

// stored answers for a layer that is here already.
func (s *Server) stored(c *call, id image.LayerID) (bool, error) {
	ref, _, err := layerRef(c.Context(), s.db, id)
	if e, ok := errors.AsType[*api.Error](err); ok && e.Code == api.CodeNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, c.reply(api.Upload{Layer: id, Length: ref.Length, Offset: ref.Length, State: api.Stored})
}

// beginUpload finds the upload of a layer, or makes one that goes on from what an earlier process received. A failed upload
// starts anew.
func (s *Server) beginUpload(id image.LayerID, length int64) (*upload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.uploads[id]; u != nil && u.state != api.Failed {
		if u.length != length {
			return nil, conflict("the upload of layer %s has %d bytes, not %d", id.Short(), u.length, length)
		}
		return u, nil
	}
	free, err := s.fsys.Free()
	if err != nil {
		return nil, err
	}
	u := &upload{length: length, state: api.Uploading}
	if u.offset, err = s.received(id, length); err != nil {
		return nil, err
	}
	if length-u.offset > free {
		return nil, &api.Error{Code: api.CodeNoSpace, Message: fmt.Sprintf(
			"the layer needs %d bytes more, the Synchronizer's disk has %d free; nothing was changed", length-u.offset, free)}
	}
	s.uploads[id] = u
	if u.offset == length {
		s.verifyUpload(id, u)
	}
	return u, nil
}

// received returns how much of a layer an earlier process left behind.
func (s *Server) received(id image.LayerID, length int64) (int64, error) {
	// A crash between naming a layer and entering it leaves it under its final name, unknown to the catalog.
	err := s.fsys.Rename(layerFile(id.String()), uploadFile(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	st, err := s.fsys.Stat(uploadFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err == nil && st.Size() > length {
		return 0, durable.Remove(s.fsys, uploadFile(id))
	}
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (s *Server) describeUpload(id image.LayerID, u *upload) api.Upload {
	s.mu.Lock()
	defer s.mu.Unlock()
	return api.Upload{Layer: id, Length: u.length, Offset: u.offset, State: u.state, Done: u.done, Error: u.err}
}

// findUpload returns the upload that the path names.
func (s *Server) findUpload(c *call) (image.LayerID, *upload, error) {
	id, err := c.layer()
	if err != nil {
		return id, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.uploads[id]
	if u == nil {
		return id, nil, notFound("no upload of layer %s was begun", id.Short())
	}
	return id, u, nil
}

func (s *Server) getUpload(c *call) error {
	id, err := c.layer()
	if err != nil {
		return err
	}
	if done, err := s.stored(c, id); done || err != nil {
		return err
	}
	id, u, err := s.findUpload(c)
	if err != nil {
		return err
	}
	return c.reply(s.describeUpload(id, u))
}

// patchUpload adds the body at the offset in the query, which must be where the upload stands. When all has arrived the
// layer is verified in the background.
func (s *Server) patchUpload(c *call) error {
	id, u, err := s.findUpload(c)
	if err != nil {
		return err
	}
	offset, err := strconv.ParseInt(c.URL.Query().Get("offset"), 10, 64)
	if err != nil {
		return invalid("offset %q", c.URL.Query().Get("offset"))
	}
	if !u.mu.TryLock() {
		return conflict("another request is sending layer %s", id.Short())
	}
	defer u.mu.Unlock()
	if now := s.describeUpload(id, u); now.State != api.Uploading || now.Offset != offset {
		return &api.Error{Code: api.CodeConflict, Offset: now.Offset,
			Message: fmt.Sprintf("the upload of layer %s is %s at %d, not at %d", id.Short(), now.State, now.Offset, offset)}
	}
	n, err := s.receive(c, id, offset, min(u.length-offset, api.MaxUploadChunk))
	s.mu.Lock()
	u.offset = offset + n
	full := u.offset == u.length
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if full {
		s.mu.Lock()
		s.verifyUpload(id, u)
		s.mu.Unlock()
	}
	return c.reply(s.describeUpload(id, u))
}

// receive writes at most limit bytes of the body behind the first offset bytes of the upload's file and returns how many are
// there for good. A body that is cut short keeps what arrived.
func (s *Server) receive(c *call, id image.LayerID, offset, limit int64) (int64, error) {
	f, err := s.openUpload(id, offset)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	rc := http.NewResponseController(c.w)
	buf := make([]byte, 256<<10)
	var n int64
	var readErr error
	for readErr == nil {
		_ = rc.SetReadDeadline(time.Now().Add(stallTime)) // in-memory connections of tests know no deadlines
		var k int
		k, readErr = c.Body.Read(buf)
		if int64(k) > limit-n {
			return n, &api.Error{Code: api.CodeTooLarge, Message: fmt.Sprintf("at most %d bytes can follow here", limit)}
		}
		if _, err := f.WriteAt(buf[:k], offset+n); err != nil {
			return 0, fmt.Errorf("write upload: %w", err)
		}
		n += int64(k)
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("sync upload: %w", err)
	}
	if !errors.Is(readErr, io.EOF) {
		return n, invalid("the request was cut off after %d bytes", n)
	}
	return n, nil
}

func (s *Server) openUpload(id image.LayerID, offset int64) (durable.File, error) {
	if offset == 0 {
		return s.fsys.Create(uploadFile(id), 0o600)
	}
	return s.fsys.OpenWrite(uploadFile(id))
}

func (s *Server) deleteUpload(c *call) error {
	id, u, err := s.findUpload(c)
	if err != nil {
		return err
	}
	if !u.mu.TryLock() {
		return conflict("a request is sending layer %s", id.Short())
	}
	defer u.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.state == api.Verifying {
		return conflict("layer %s is being verified", id.Short())
	}
	delete(s.uploads, id)
	return durable.Remove(s.fsys, uploadFile(id))
}

// verifyUpload starts the check of a complete upload. The caller holds mu.
func (s *Server) verifyUpload(id image.LayerID, u *upload) {
	u.state = api.Verifying
	s.work.Go(func() {
		err := s.storeUpload(s.live, id, u)
		if err != nil && s.live.Err() == nil && !errors.Is(err, errInterrupted) {
			// The bytes are not what they should be, so going on from them makes no sense.
			err = errors.Join(err, durable.Remove(s.fsys, uploadFile(id)))
			s.log.Error("upload refused", "layer", id, "error", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if err == nil {
			delete(s.uploads, id)
			return
		}
		u.state, u.err = api.Failed, wireError(err)
	})
}

// errInterrupted says that a check did not come to an end; it may be done again.
var errInterrupted = errors.New("interrupted")

// storeUpload checks every frame of a layer and that it leads where it says, then gives it its name and enters it.
func (s *Server) storeUpload(ctx context.Context, id image.LayerID, u *upload) error {
	f, err := s.fsys.Open(uploadFile(id))
	if err != nil {
		return err
	}
	defer f.Close()
	x, err := layer.ReadIndex(f, u.length)
	if err != nil {
		return damaged("%v", err)
	}
	if x.ID() != id {
		return damaged("it is layer %s", x.ID().Short())
	}
	from, err := s.state(ctx, x.From())
	if err != nil {
		return fmt.Errorf("state that the layer starts from: %w", err)
	}
	to, err := x.Apply(from)
	if err != nil {
		return damaged("%v", err)
	}
	err = layer.Verify(ctx, f, x, func(fr layer.Frame, err error) error {
		if err != nil {
			return damaged("%v", err)
		}
		s.mu.Lock()
		u.done += int64(fr.Length)
		s.mu.Unlock()
		return nil
	})
	if ctx.Err() != nil {
		return errInterrupted
	}
	if err != nil {
		return err
	}
	if err := s.storeState(to); err != nil {
		return err
	}
	// The content was synced when it was received.
	if err := durable.Publish(s.fsys, uploadFile(id), layerFile(id.String())); err != nil {
		return err
	}
	return s.enterLayer(ctx, x)
}

func damaged(format string, args ...any) error {
	return &api.Error{Code: api.CodeDamaged, Message: "what was uploaded is damaged: " + fmt.Sprintf(format, args...)}
}

func (s *Server) enterLayer(ctx context.Context, x *layer.Index) error {
	ref := x.Ref()
	return inTx(ctx, s.db, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO layers
			(id, from_state, to_state, size, blocks, length, index_offset, index_length, stored)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			ref.ID.String(), ref.From.String(), ref.To.String(), x.Size(), x.Len(), ref.Length, ref.IndexOffset, ref.IndexLength,
			stamp(s.now()))
		return err
	})
}
