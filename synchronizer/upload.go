package synchronizer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"sync"

	"disksync/api"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
)

// uploadKey names an upload. Administrators share theirs; those of a user are the user's alone, so that nobody is told what others
// send, or can get in its way.
type uploadKey struct {
	user  string // empty: the administrators'
	layer image.LayerID
}

func (k uploadKey) short() string { return k.layer.Short() }

// file returns the name of the file that has what arrived.
func (k uploadKey) file() string {
	if k.user == "" {
		return layersDir + "/" + k.layer.String() + partSuffix
	}
	// A user's name need not be one of a file.
	h := sha256.Sum256([]byte(k.user))
	return fmt.Sprintf("%s/%s-%x%s", layersDir, k.layer, h[:8], partSuffix)
}

const partSuffix = ".part"

// upload is a layer that is being received. What has arrived is in a file whose length is the offset to go on from; after
// the loss of power it may be too long, and the check at the end finds that out.
type upload struct {
	mu     sync.Mutex // held while a request adds to the file
	length int64
	sealed *storedLayer // what is said of a sealed layer; nil: it is a layer file

	// The fields below are guarded by Server.mu.
	state  api.UploadState
	offset int64
	done   int64 // bytes of frames that were verified
	err    *api.Error
}

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
	sealed, err := c.sealedUpload(id, length)
	if err == nil && sealed != nil {
		err = s.mayStartSealed(c, sealed)
	}
	if err != nil {
		return err
	}
	out, err := s.beginUpload(c.Context(), c.uploadKey(id), length, sealed)
	if err != nil {
		return err
	}
	return c.reply(out)
}

// uploadKey returns the key of the caller's upload of a layer.
func (c *call) uploadKey(id image.LayerID) uploadKey {
	if c.who.admin {
		return uploadKey{layer: id}
	}
	return uploadKey{c.who.name, id}
}

// stored describes the upload of a layer that is here already and may be known to whose upload it would be; else the error is notFound.
func (s *Server) stored(ctx context.Context, k uploadKey) (api.Upload, error) {
	ref, _, err := layerRef(ctx, s.db, k.layer)
	if err == nil && k.user != "" {
		err = s.userHasLayer(ctx, s.db, k.user, k.layer)
	}
	return api.Upload{Layer: k.layer, Length: ref.Length, Offset: ref.Length, State: api.Stored}, err
}

// beginUpload finds the upload of a layer, or makes one that goes on from what an earlier process received. A failed upload
// starts anew.
func (s *Server) beginUpload(ctx context.Context, k uploadKey, length int64, sealed *storedLayer) (api.Upload, error) {
	// A layer is entered and its upload forgotten one after the other: under this lock neither is half done. Without it a layer
	// that has just been stored could pass for what a crash left behind.
	s.names.Lock()
	defer s.names.Unlock()
	out, err := s.stored(ctx, k)
	if err == nil && k.user != "" {
		err = s.touchUpload(ctx, k)
	}
	if !isNotFound(err) {
		return out, err
	}
	// The catalog is not waited for under mu: whoever writes to it may need that.
	named := true // what a crash may have left under the layer's own name is this upload's
	if k.user != "" {
		if named, err = s.enterUpload(ctx, k, length); err != nil {
			return out, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.uploads[k]
	if u == nil || u.state == api.Failed {
		if u, err = s.newUpload(k, length, sealed, named); err != nil {
			return out, err
		}
	}
	if !u.sealed.equal(sealed) {
		return out, conflict("the upload of layer %s was begun as another layer", k.short())
	}
	if u.length != length {
		return out, conflict("the upload of layer %s has %d bytes, not %d", k.short(), u.length, length)
	}
	return u.describe(k.layer), nil
}

// newUpload makes an upload. The caller holds names and mu.
func (s *Server) newUpload(k uploadKey, length int64, sealed *storedLayer, named bool) (*upload, error) {
	free, err := s.fsys.Free()
	if err != nil {
		return nil, err
	}
	if k.user != "" {
		free -= userReserve
	}
	u := &upload{length: length, sealed: sealed, state: api.Uploading}
	if u.offset, err = s.received(k, length, named); err != nil {
		return nil, err
	}
	if length-u.offset > free {
		return nil, &api.Error{Code: api.CodeNoSpace, Message: fmt.Sprintf(
			"the layer needs %d bytes more, the Synchronizer's disk has %d free for that; nothing was changed", length-u.offset, max(free, 0))}
	}
	s.uploads[k] = u
	if u.offset == length {
		s.verifyUpload(k, u)
	}
	return u, nil
}

// received returns how much of a layer an earlier process left behind. named says that it may be what has the layer's name.
func (s *Server) received(k uploadKey, length int64, named bool) (int64, error) {
	if named {
		// A crash between naming a layer and entering it leaves it under its final name, unknown to the catalog.
		err := s.fsys.Rename(layerFile(k.layer.String()), k.file())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
	}
	st, err := s.fsys.Stat(k.file())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err == nil && st.Size() > length {
		return 0, durable.Remove(s.fsys, k.file())
	}
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (s *Server) describeUpload(k uploadKey, u *upload) api.Upload {
	s.mu.Lock()
	defer s.mu.Unlock()
	return u.describe(k.layer)
}

// describe tells how far an upload is. The caller holds Server.mu.
func (u *upload) describe(id image.LayerID) api.Upload {
	return api.Upload{Layer: id, Length: u.length, Offset: u.offset, State: u.state, Done: u.done, Error: u.err}
}

// findUpload returns the upload that the path names.
func (s *Server) findUpload(c *call) (uploadKey, *upload, error) {
	id, err := c.layer()
	k := c.uploadKey(id)
	if err != nil {
		return k, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.uploads[k]
	if u == nil {
		return k, nil, notFound("no upload of layer %s was begun", k.short())
	}
	return k, u, nil
}

func (s *Server) getUpload(c *call) error {
	k, u, err := s.findUpload(c)
	if err == nil {
		return c.reply(s.describeUpload(k, u))
	}
	if !isNotFound(err) {
		return err
	}
	// The catalog is asked second: an upload is forgotten only when its layer is in there.
	out, storedErr := s.stored(c.Context(), k)
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
	k, u, err := s.findUpload(c)
	if err != nil {
		return err
	}
	offset, err := strconv.ParseInt(c.URL.Query().Get("offset"), 10, 64)
	if err != nil {
		return invalid("offset %q", c.URL.Query().Get("offset"))
	}
	if !u.mu.TryLock() {
		return conflict("another request is sending layer %s", k.short())
	}
	defer u.mu.Unlock()
	if now := s.describeUpload(k, u); now.State != api.Uploading || now.Offset != offset {
		return &api.Error{Code: api.CodeConflict, Offset: now.Offset,
			Message: fmt.Sprintf("the upload of layer %s is %s at %d, not at %d", k.short(), now.State, now.Offset, offset)}
	}
	if k.user != "" {
		if err := s.roomForUsers(c.Context(), k); err != nil {
			return err
		}
	}
	at, err := s.receive(c, k, offset, min(u.length-offset, api.MaxUploadChunk))
	s.mu.Lock()
	u.offset = at
	if at == u.length {
		s.verifyUpload(k, u)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return c.reply(s.describeUpload(k, u))
}

// receive writes at most limit bytes of the body behind the first offset bytes of the upload's file and returns how many bytes
// the file then has for good. A body that is cut short keeps what arrived; one that is too long keeps nothing.
func (s *Server) receive(c *call, k uploadKey, offset, limit int64) (int64, error) {
	tooLarge := &api.Error{Code: api.CodeTooLarge, Message: fmt.Sprintf("at most %d bytes can follow here", limit), Offset: offset}
	if c.ContentLength > limit {
		return offset, tooLarge
	}
	f, err := s.openUpload(k, offset)
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

func (s *Server) openUpload(k uploadKey, offset int64) (durable.File, error) {
	if offset > 0 {
		return s.fsys.OpenWrite(k.file())
	}
	f, err := s.fsys.Create(k.file(), 0o600)
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
	k, u, err := s.findUpload(c)
	if err != nil {
		return err
	}
	if !u.mu.TryLock() {
		return conflict("a request is sending layer %s", k.short())
	}
	defer u.mu.Unlock()
	if err := s.removeUpload(k, u); err != nil {
		return err
	}
	return s.forgetUpload(c.Context(), k)
}

// removeUpload forgets an upload and removes its file. The caller holds its mu.
func (s *Server) removeUpload(k uploadKey, u *upload) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.state == api.Verifying {
		return conflict("layer %s is being verified", k.short())
	}
	// A request that has found it already must not go on with it.
	u.state = api.Failed
	delete(s.uploads, k)
	return durable.Remove(s.fsys, k.file())
}

// verifyUpload starts the check of a complete upload. The caller holds mu.
func (s *Server) verifyUpload(k uploadKey, u *upload) {
	u.state = api.Verifying
	s.work.Go(func() {
		if k.user != "" {
			// Many endpoints may make their backups at the same hour, and checking takes memory.
			s.verifying <- struct{}{}
			defer func() { <-s.verifying }()
		}
		err := s.storeUpload(s.live, k, u)
		if _, verdict := errors.AsType[*api.Error](err); verdict {
			// What arrived is no good, so going on from it makes no sense. Any other error is this machine's, and the bytes,
			// which may have taken days to come here, stay.
			err = errors.Join(err, durable.Remove(s.fsys, k.file()), s.forgetUpload(s.live, k))
		}
		if err != nil && s.live.Err() == nil {
			s.log.Error("upload not stored", "layer", k.layer, "user", k.user, "error", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if err == nil {
			delete(s.uploads, k)
			return
		}
		u.state, u.err = api.Failed, wireError(err)
	})
}

// errInterrupted says that a check did not come to an end; it may be done again.
var errInterrupted = errors.New("interrupted")

// storeUpload checks every frame of a layer and that it leads where it says, then gives it its name and enters it.
func (s *Server) storeUpload(ctx context.Context, k uploadKey, u *upload) error {
	f, err := s.fsys.OpenWrite(k.file())
	if err != nil {
		return err
	}
	defer f.Close()
	// An earlier process may have died before its sync.
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync upload: %w", err)
	}
	if u.sealed != nil {
		return s.storeSealed(ctx, k, u, f)
	}
	x, err := layer.ReadIndex(f, u.length)
	if err != nil {
		return damaged("%v", err)
	}
	if x.ID() != k.layer {
		return damaged("it is layer %s", x.ID().Short())
	}
	from, err := s.startOf(ctx, k.user, x.From())
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
	if k.user != "" && errors.Is(err, layer.ErrFrom) {
		s.log.Error("what a backup starts from is damaged", "state", x.From(), "error", err)
		return conflict("what the Synchronizer has of state %s, from which the layer starts, is damaged; start from elsewhere", x.From().Short())
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
	return s.nameUpload(ctx, k, storedOf(x))
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
		d.Trust() // what comes of it is compared
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

// storedLayer is what the catalog has of a layer.
type storedLayer struct {
	image.LayerRef
	size   int64 // of the disk
	blocks int   // 0 of a sealed one
}

func storedOf(x *layer.Index) storedLayer { return storedLayer{x.Ref(), x.Size(), x.Len()} }

// enterLayer enters a layer that was just read back.
func (s *Server) enterLayer(ctx context.Context, q querier, l storedLayer) error {
	now := stamp(s.now())
	_, err := q.ExecContext(ctx, `INSERT INTO layers
		(id, from_state, to_state, size, blocks, length, index_offset, index_length, stored, sealed)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		l.ID.String(), l.From.String(), l.To.String(), l.size, l.blocks, l.Length, l.IndexOffset, l.IndexLength, now,
		strings.Join(l.Sealed, " "))
	if err != nil {
		return err
	}
	return noteCheck(ctx, q, l.ID, now, "")
}
