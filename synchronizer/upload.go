package synchronizer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"sync"

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
	out, err := s.beginUpload(c.Context(), id, length)
	if err != nil {
		return err
	}
	return c.reply(out)
}

// stored describes the upload of a layer that is here already; else the error is notFound.
func (s *Server) stored(ctx context.Context, id image.LayerID) (api.Upload, error) {
	ref, _, err := layerRef(ctx, s.db, id)
	return api.Upload{Layer: id, Length: ref.Length, Offset: ref.Length, State: api.Stored}, err
}

// beginUpload finds the upload of a layer, or makes one that goes on from what an earlier process received. A failed upload
// starts anew.
func (s *Server) beginUpload(ctx context.Context, id image.LayerID, length int64) (api.Upload, error) {
	// A layer is entered and its upload forgotten one after the other: under this lock neither is half done. Without it a layer
	// that has just been stored could pass for what a crash left behind.
	s.names.Lock()
	defer s.names.Unlock()
	out, err := s.stored(ctx, id)
	if !isNotFound(err) {
		return out, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.uploads[id]
	if u == nil || u.state == api.Failed {
		if u, err = s.newUpload(id, length); err != nil {
			return out, err
		}
	}
	if u.length != length {
		return out, conflict("the upload of layer %s has %d bytes, not %d", id.Short(), u.length, length)
	}
	return u.describe(id), nil
}

// newUpload makes an upload. The caller holds names and mu.
func (s *Server) newUpload(id image.LayerID, length int64) (*upload, error) {
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
	return u.describe(id)
}

// describe tells how far an upload is. The caller holds Server.mu.
func (u *upload) describe(id image.LayerID) api.Upload {
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
	id, u, err := s.findUpload(c)
	if err == nil {
		return c.reply(s.describeUpload(id, u))
	}
	if !isNotFound(err) {
		return err
	}
	// The catalog is asked second: an upload is forgotten only when its layer is in there.
	out, storedErr := s.stored(c.Context(), id)
	if isNotFound(storedErr) {
		return err
	}
	if storedErr != nil {
		return storedErr
	}
	return c.reply(out)
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
	at, err := s.receive(c, id, offset, min(u.length-offset, api.MaxUploadChunk))
	s.mu.Lock()
	u.offset = at
	if at == u.length {
		s.verifyUpload(id, u)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return c.reply(s.describeUpload(id, u))
}

// receive writes at most limit bytes of the body behind the first offset bytes of the upload's file and returns how many bytes
// the file then has for good. A body that is cut short keeps what arrived; one that is too long keeps nothing.
func (s *Server) receive(c *call, id image.LayerID, offset, limit int64) (int64, error) {
	tooLarge := &api.Error{Code: api.CodeTooLarge, Message: fmt.Sprintf("at most %d bytes can follow here", limit), Offset: offset}
	if c.ContentLength > limit {
		return offset, tooLarge
	}
	f, err := s.openUpload(id, offset)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, &api.Error{Code: api.CodeConflict, Message: "what had arrived has gone; begin at 0"}
	}
	if err != nil {
		return offset, err
	}
	defer f.Close()
	body := c.body()
	buf := make([]byte, 256<<10)
	var n int64
	var readErr error
	for readErr == nil {
		var k int
		k, readErr = body.Read(buf)
		if int64(k) > limit-n {
			return offset, tooLarge
		}
		if _, err := f.WriteAt(buf[:k], offset+n); err != nil {
			return offset, fmt.Errorf("write upload: %w", err)
		}
		n += int64(k)
	}
	if err := f.Sync(); err != nil {
		return offset, fmt.Errorf("sync upload: %w", err)
	}
	if !errors.Is(readErr, io.EOF) {
		return offset + n, &api.Error{Code: api.CodeConflict, Offset: offset + n,
			Message: fmt.Sprintf("the request was cut off after %d bytes, which are kept", n)}
	}
	return offset + n, nil
}

func (s *Server) openUpload(id image.LayerID, offset int64) (durable.File, error) {
	if offset > 0 {
		return s.fsys.OpenWrite(uploadFile(id))
	}
	f, err := s.fsys.Create(uploadFile(id), 0o600)
	if err != nil {
		return nil, err
	}
	// What arrives is only there for good when its name is.
	if err := s.fsys.SyncDir(layersDir); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
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
	// A request that has found it already must not go on with it.
	u.state = api.Failed
	delete(s.uploads, id)
	return durable.Remove(s.fsys, uploadFile(id))
}

// verifyUpload starts the check of a complete upload. The caller holds mu.
func (s *Server) verifyUpload(id image.LayerID, u *upload) {
	u.state = api.Verifying
	s.work.Go(func() {
		err := s.storeUpload(s.live, id, u)
		if _, verdict := errors.AsType[*api.Error](err); verdict {
			// What arrived is no good, so going on from it makes no sense. Any other error is this machine's, and the bytes,
			// which may have taken days to come here, stay.
			err = errors.Join(err, durable.Remove(s.fsys, uploadFile(id)))
		}
		if err != nil && s.live.Err() == nil {
			s.log.Error("upload not stored", "layer", id, "error", err)
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
	f, err := s.fsys.OpenWrite(uploadFile(id))
	if err != nil {
		return err
	}
	defer f.Close()
	// An earlier process may have died before its sync.
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync upload: %w", err)
	}
	x, err := layer.ReadIndex(f, u.length)
	if err != nil {
		return damaged("%v", err)
	}
	if x.ID() != id {
		return damaged("it is layer %s", x.ID().Short())
	}
	from, err := s.state(ctx, x.From())
	if isNotFound(err) {
		return conflict("the layer starts from state %s, which is not here; look again", x.From().Short())
	}
	if err != nil {
		return fmt.Errorf("state that the layer starts from: %w", err)
	}
	to, err := x.Apply(from)
	if err != nil {
		return damaged("%v", err)
	}
	err = s.verifyLayer(ctx, f, x, func(n int64) {
		s.mu.Lock()
		u.done += n
		s.mu.Unlock()
	})
	if ctx.Err() != nil {
		return errInterrupted
	}
	// What is wrong with the stored layers that it refers to is not its fault.
	if !errors.Is(err, layer.ErrFrom) && (errors.Is(err, layer.ErrCorrupt) || errors.Is(err, layer.ErrFormat)) {
		return damaged("%v", err)
	}
	if err != nil {
		return err
	}
	if err := s.storeState(to); err != nil {
		return err
	}
	s.names.Lock()
	defer s.names.Unlock()
	if err := durable.Publish(s.fsys, uploadFile(id), layerFile(id.String())); err != nil {
		return err
	}
	return s.enterLayer(ctx, x)
}

// verifyLayer checks every frame of a layer. progress is told of each one's length, from several goroutines.
func (s *Server) verifyLayer(ctx context.Context, f io.ReaderAt, x *layer.Index, progress func(n int64)) error {
	var from io.ReaderAt
	var scratch durable.File
	if x.Refers() {
		d, err := s.openState(ctx, x.From())
		if err != nil {
			return fmt.Errorf("disk that the layer starts from: %w", err)
		}
		defer d.Close()
		from = d
		if scratch, err = s.scratch(); err != nil {
			return err
		}
		defer scratch.Close()
	}
	return layer.Verify(ctx, f, x, from, scratch, func(fr layer.Frame, err error) error {
		progress(int64(fr.Length))
		return err
	})
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
