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
	"strings"
	"time"

	"disksync/api"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
)

// Where layers, states and uploads are in the data folder.
const (
	layersDir   = "layers"
	statesDir   = "states"
	layerSuffix = ".dsl"
)

func layerFile(id string) string { return layersDir + "/" + id + layerSuffix }

func stateFile(id string) string { return statesDir + "/" + id }

// Times that a caller may stand still, and that one waits who came when there were too many.
const (
	stallTime  = 2 * time.Minute
	retryAfter = 10 * time.Second
)

// layerRef looks up a stored layer.
func layerRef(ctx context.Context, q querier, id image.LayerID) (ref image.LayerRef, size int64, err error) {
	var from, to, sealed string
	err = q.QueryRowContext(ctx, `SELECT from_state, to_state, size, length, index_offset, index_length, sealed FROM layers
		WHERE id = ?`, id.String()).Scan(&from, &to, &size, &ref.Length, &ref.IndexOffset, &ref.IndexLength, &sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return ref, 0, notFound("there is no layer %s", id.Short())
	}
	if err != nil {
		return ref, 0, err
	}
	ref.ID, ref.Sealed = id, strings.Fields(sealed)
	if ref.From, err = image.ParseStateID(from); err != nil {
		return ref, 0, err
	}
	ref.To, err = image.ParseStateID(to)
	return ref, size, err
}

// checkRanges refuses several ranges that no client of ours asks for. A single one is for net/http to judge.
func checkRanges(header string, length int64) error {
	list, ok := strings.CutPrefix(header, "bytes=")
	if !ok || !strings.Contains(list, ",") {
		return nil
	}
	if n := strings.Count(list, ",") + 1; n > api.MaxRanges {
		return invalid("a request has at most %d ranges, not %d", api.MaxRanges, n)
	}
	before := int64(-1)
	for r := range strings.SplitSeq(list, ",") {
		first, last, _ := strings.Cut(r, "-")
		from, err1 := strconv.ParseInt(first, 10, 64)
		to, err2 := strconv.ParseInt(last, 10, 64)
		if err1 != nil || err2 != nil || from <= before || to < from || to >= length {
			return invalid("several ranges have to be FIRST-LAST each, in order, and inside the layer's %d bytes", length)
		}
		before = to
	}
	return nil
}

// getLayer sends a layer or ranges of it. Its name is a strong validator: a layer never changes.
func (s *Server) getLayer(c *call) error {
	id, err := c.layer()
	if err != nil {
		return err
	}
	if err := s.mayHaveLayer(c, id); err != nil {
		return err
	}
	ref, _, err := layerRef(c.Context(), s.db, id)
	if err != nil {
		return err
	}
	// Many ranges that are small or the same are a way to keep a server busy.
	if err := checkRanges(c.Header.Get("Range"), ref.Length); err != nil {
		return err
	}
	select {
	case s.transfers <- struct{}{}:
		defer func() { <-s.transfers }()
	default:
		return &api.Error{Code: api.CodeBusy, Message: "too many transfers at once", Waiting: 1}
	}
	f, err := s.fsys.Open(layerFile(id.String()))
	if err != nil {
		return fmt.Errorf("layer in the store: %w", err)
	}
	defer f.Close()
	if size, err := f.Size(); err != nil || size != ref.Length {
		return errors.Join(fmt.Errorf("layer %s in the store has %d bytes, not %d", id, size, ref.Length), err)
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("ETag", `"`+id.String()+`"`)
	h.Set("Cache-Control", "private, max-age=31536000, immutable")
	c.answered = true
	http.ServeContent(c.w, c.Request, "", time.Time{}, io.NewSectionReader(f, 0, ref.Length))
	return nil
}

// getState sends the digest list of a state.
func (s *Server) getState(c *call) error {
	id, err := image.ParseStateID(c.PathValue("state"))
	if err != nil {
		return invalid("%v", err)
	}
	if id.IsZero() {
		return notFound("the empty state has no digests")
	}
	st, err := s.state(c.Context(), id)
	if err != nil {
		return err
	}
	b, err := st.MarshalBinary()
	if err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("ETag", `"`+id.String()+`"`)
	c.answered = true
	_, _ = c.w.Write(b)
	return nil
}

// state returns the digests of a state. The file is a convenience: when it is missing or damaged, the state is worked out
// from the layers' indexes and stored again.
func (s *Server) state(ctx context.Context, id image.StateID) (image.State, error) {
	return s.stateBeside(ctx, id, map[image.StateID]bool{})
}

// stateBeside is state within a walk that has tried some states already: layers lead in circles when a disk goes back to what
// it was.
func (s *Server) stateBeside(ctx context.Context, id image.StateID, tried map[image.StateID]bool) (image.State, error) {
	if id.IsZero() {
		return image.State{}, nil
	}
	b, err := durable.ReadFile(s.fsys, stateFile(id.String()), image.EncodedStateSize(image.MaxDiskSize))
	if err == nil {
		var st image.State
		if st, err = image.ParseState(b, id); err == nil {
			return st, nil
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("state file damaged, making it again", "state", id, "error", err)
	}
	tried[id] = true
	layers, err := column(ctx, s.db, "SELECT id FROM layers WHERE to_state = ? AND sealed = ''", id.String())
	if err != nil {
		return image.State{}, err
	}
	if len(layers) == 0 {
		return image.State{}, notFound("there is no state %s", id.Short())
	}
	var errs []error
	for _, l := range layers {
		st, err := s.stateBy(ctx, l, tried)
		if err == nil {
			return st, s.storeState(st)
		}
		errs = append(errs, err)
	}
	// Not as an answer of the API: that the state is there is known, and why it cannot be had is for the log.
	return image.State{}, fmt.Errorf("state %s cannot be made again: %v", id, errors.Join(errs...))
}

// stateBy works out the state that a layer leads to.
func (s *Server) stateBy(ctx context.Context, id string, tried map[image.StateID]bool) (image.State, error) {
	x, err := s.index(id)
	if err != nil {
		return image.State{}, err
	}
	if tried[x.From()] {
		return image.State{}, fmt.Errorf("layer %s comes from where others lead that were tried", id)
	}
	from, err := s.stateBeside(ctx, x.From(), tried)
	if err != nil {
		return image.State{}, err
	}
	return x.Apply(from)
}

func (s *Server) storeState(st image.State) error {
	b, err := st.MarshalBinary()
	if err != nil {
		return err
	}
	s.names.Lock()
	defer s.names.Unlock()
	return durable.WriteFile(s.fsys, stateFile(st.ID().String()), b, 0o600)
}

// index reads the index of a stored layer.
func (s *Server) index(id string) (*layer.Index, error) {
	f, err := s.fsys.Open(layerFile(id))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	x, err := layer.ReadIndex(f, size)
	if err == nil && x.ID().String() != id {
		err = fmt.Errorf("%w: it is layer %s", layer.ErrFormat, x.ID())
	}
	if err != nil {
		return nil, fmt.Errorf("layer %s in the store: %w", id, err)
	}
	return x, nil
}
