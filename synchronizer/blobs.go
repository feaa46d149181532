package synchronizer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
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

// Times that a transfer may stand still, and that a caller waits who came when there were too many.
const (
	stallTime  = 2 * time.Minute
	retryAfter = 10 * time.Second
)

// layerRef looks up a stored layer.
func layerRef(ctx context.Context, q querier, id image.LayerID) (ref image.LayerRef, size int64, err error) {
	var from, to string
	err = q.QueryRowContext(ctx, `SELECT from_state, to_state, size, length, index_offset, index_length FROM layers
		WHERE id = ?`, id.String()).Scan(&from, &to, &size, &ref.Length, &ref.IndexOffset, &ref.IndexLength)
	if errors.Is(err, sql.ErrNoRows) {
		return ref, 0, notFound("there is no layer %s", id.Short())
	}
	if err != nil {
		return ref, 0, err
	}
	ref.ID = id
	if ref.From, err = image.ParseStateID(from); err != nil {
		return ref, 0, err
	}
	ref.To, err = image.ParseStateID(to)
	return ref, size, err
}

// getLayer sends a layer or a range of it. Its name is a strong validator: a layer never changes.
func (s *Server) getLayer(c *call) error {
	id, err := c.layer()
	if err != nil {
		return err
	}
	if err := s.mayHaveLayer(c, id); err != nil {
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
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("ETag", `"`+id.String()+`"`)
	h.Set("Cache-Control", "private, max-age=31536000, immutable")
	c.answered = true
	w := &patientWriter{ResponseWriter: c.w, rc: http.NewResponseController(c.w)}
	http.ServeContent(w, c.Request, "", time.Time{}, io.NewSectionReader(f, 0, size))
	return nil
}

// patientWriter gives each write its own time, so that a slow line may take days as long as something moves.
type patientWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
}

// writePiece is small, so that on a line of 1 KiB/s one still gets through within stallTime.
const writePiece = 64 << 10

func (w *patientWriter) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		_ = w.rc.SetWriteDeadline(time.Now().Add(stallTime)) // in-memory connections of tests know no deadlines
		k, err := w.ResponseWriter.Write(p[n:min(len(p), n+writePiece)])
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// getState sends the digest list of a state.
func (s *Server) getState(c *call) error {
	id, err := image.ParseStateID(c.PathValue("state"))
	if err != nil {
		return invalid("%v", err)
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
	if id.IsZero() {
		return image.State{}, nil
	}
	b, err := durable.ReadFile(s.fsys, stateFile(id.String()), image.EncodedStateSize(image.MaxDiskSize))
	if err == nil {
		st, err := image.ParseState(b, id)
		if err == nil {
			return st, nil
		}
		s.log.Warn("state file damaged, making it again", "state", id, "error", err)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return image.State{}, err
	}
	var text string
	err = s.db.QueryRowContext(ctx, "SELECT id FROM layers WHERE to_state = ? LIMIT 1", id.String()).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return image.State{}, notFound("there is no state %s", id.Short())
	}
	if err != nil {
		return image.State{}, err
	}
	x, err := s.index(text)
	if err != nil {
		return image.State{}, err
	}
	from, err := s.state(ctx, x.From())
	if err != nil {
		return image.State{}, err
	}
	st, err := x.Apply(from)
	if err != nil {
		return image.State{}, err
	}
	return st, s.storeState(st)
}

func (s *Server) storeState(st image.State) error {
	b, err := st.MarshalBinary()
	if err != nil {
		return err
	}
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
