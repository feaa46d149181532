package synchronizer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"disksync/api"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
)

// leastShare is the part of the path's bytes, one in so many, that a squashed layer must save to be kept without being told.
const leastShare = 64

// squasher makes one layer.
type squasher struct {
	*Server
	q        *squash
	id       string // of the image
	from, to image.State
	path     []image.LayerRef // that leads to to from nothing
	own      bool             // whether the policy wants it
	keep     bool
}

// makeSquash makes the layer, stores it when it is worth it, and enters it. A disk that is there already in the form of one layer
// needs no work.
func (s *Server) makeSquash(ctx context.Context, q *squash) error {
	m := &squasher{Server: s, q: q}
	s.change(q, func(q *squash) { m.own, m.keep = q.Own, q.keep })
	stands, err := m.look(ctx)
	if err != nil {
		return err
	}
	fromID, toID := m.from.ID(), m.to.ID()
	var bytes int64
	for _, l := range stands {
		bytes += l.Length
	}
	s.change(q, func(q *squash) { q.PathLayers, q.PathBytes, q.Total = len(stands), bytes, m.to.Size })
	if fromID == toID {
		s.change(q, func(q *squash) { q.State = api.SquashUnchanged })
		return nil
	}
	if len(stands) == 1 && stands[0].From == fromID {
		x, err := s.index(stands[0].ID.String())
		if err == nil {
			m.done(x)
		}
		return err
	}
	return m.make(ctx, bytes)
}

// done notes the layer that there is now.
func (m *squasher) done(x *layer.Index) {
	m.change(m.q, func(q *squash) {
		q.State, q.Layer, q.Blocks, q.Bytes, q.Done = api.SquashStored, x.ID(), x.Len(), x.FileSize(), q.Total
	})
}

// look finds the states and the paths. It returns the path that the layer is to stand for: what an endpoint with the older version has
// to fetch.
func (m *squasher) look(ctx context.Context) (stands []image.LayerRef, err error) {
	if m.id, err = imageID(ctx, m.db, m.q.image); err != nil {
		return nil, err
	}
	to, err := m.disk(ctx, m.q.To)
	if err != nil {
		return nil, err
	}
	layers, err := m.graph(ctx, m.id, to)
	if err != nil {
		return nil, err
	}
	start := image.StateID{}
	if m.q.From != 0 {
		from, err := m.disk(ctx, m.q.From)
		if err != nil {
			return nil, err
		}
		start = from.State
		if m.from, err = m.state(ctx, start); err != nil {
			return nil, err
		}
	}
	if m.to, err = m.state(ctx, to.State); err != nil {
		return nil, err
	}
	var ok bool
	if m.path, _, ok = shortest(layers, to.State); !ok {
		return nil, errNoPath
	}
	stands, _, _ = shortest(layers, to.State, start)
	return stands, nil
}

// disk returns the disk of a version that the squash is about.
func (m *squasher) disk(ctx context.Context, v image.Version) (*image.Disk, error) {
	mf, err := m.manifest(ctx, m.id, v)
	if err != nil {
		return nil, err
	}
	d, ok := mf.Disk(m.q.Role)
	if !ok {
		return nil, notFound("version %d has no %s disk", v, m.q.Role)
	}
	return d, nil
}

// graph returns the layers on the line to a disk and those besides.
func (s *Server) graph(ctx context.Context, id string, d *image.Disk) ([]image.LayerRef, error) {
	extra, err := s.edgesOf(ctx, id)
	layers := append([]image.LayerRef(nil), d.Layers...)
	for _, l := range extra {
		layers = append(layers, l.LayerRef)
	}
	return layers, err
}

// make packs the layer into a file without a name that lasts, and gives it one when it is right and worth it.
func (m *squasher) make(ctx context.Context, pathBytes int64) error {
	if err := m.room(); err != nil {
		return err
	}
	temp := fmt.Sprintf("%s/squash-%s-%s%s", layersDir, m.from.ID(), m.to.ID(), durable.TempSuffix)
	f, err := m.fsys.Create(temp, 0o600)
	if err != nil {
		return err
	}
	x, err := m.pack(ctx, f)
	err = errors.Join(err, f.Close())
	switch saved := pathBytes; {
	case err != nil:
	case !m.keep && (pathBytes-x.FileSize() <= saved/leastShare || m.own && pathBytes-x.FileSize() < m.leastSaving(ctx)):
		m.change(m.q, func(q *squash) {
			q.State, q.Blocks, q.Bytes, q.Done = api.SquashUseless, x.Len(), x.FileSize(), q.Total
		})
	default:
		if err = m.enter(ctx, temp, x); err == nil {
			m.done(x)
			return m.retire(ctx, m.id)
		}
	}
	return errors.Join(err, durable.Remove(m.fsys, temp))
}

// room returns an error unless the layer fits for sure: a full image is no larger than the layers that lead to it, and a difference no
// larger than a full image.
func (m *squasher) room() error {
	var need int64
	for _, l := range m.path {
		need += l.Length
	}
	free, err := m.fsys.Free()
	if err == nil && free < need {
		err = &api.Error{Code: api.CodeNoSpace, Message: fmt.Sprintf(
			"the layer may need %d bytes, the Synchronizer's disk has %d free; nothing was changed", need, free)}
	}
	return err
}

// pack writes the layer and reads it back.
func (m *squasher) pack(ctx context.Context, f durable.File) (*layer.Index, error) {
	o := layer.EncodeOptions{Progress: func(done int64) { m.change(m.q, func(q *squash) { q.Done = done }) }}
	if id := m.from.ID(); !id.IsZero() {
		from, err := m.openState(ctx, id)
		if err != nil {
			return nil, err
		}
		defer from.Close()
		o.FromDisk = from
	}
	return m.packPath(ctx, f, m.from, m.path, m.to.ID(), o)
}

// packPath writes the layer that leads from a state, whose disk o.FromDisk is, to the end of a path, which is the state to, and reads it
// back.
func (s *Server) packPath(ctx context.Context, f durable.File, from image.State, path []image.LayerRef, to image.StateID,
	o layer.EncodeOptions,
) (*layer.Index, error) {
	disk, err := s.openPath(path)
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	o.Workers = 1 // others have the machine
	res, err := layer.Encode(ctx, &fileWriter{f: f}, from, &courteous{Server: s, ctx: ctx, disk: disk.Reader}, o)
	if err != nil {
		return nil, err
	}
	if got := res.State.ID(); got != to {
		return nil, fmt.Errorf("the layers lead to state %s, not to %s", got.Short(), to.Short())
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	f.DropCache()
	x, err := layer.ReadIndex(f, res.Bytes)
	if err != nil {
		return nil, err
	}
	if _, err := x.Apply(from); err != nil {
		return nil, err
	}
	scratch, err := s.scratch()
	if err != nil {
		return nil, err
	}
	defer scratch.Close()
	return x, layer.Verify(ctx, f, x, o.FromDisk, scratch, func(_ layer.Frame, err error) error { return err })
}

// enter names the layer and makes it an edge of the image.
func (m *squasher) enter(ctx context.Context, temp string, x *layer.Index) error {
	m.names.Lock()
	defer m.names.Unlock()
	if _, _, err := layerRef(ctx, m.db, x.ID()); isNotFound(err) {
		if err := durable.Publish(m.fsys, temp, layerFile(x.ID().String())); err != nil {
			return err
		}
		if err := m.enterLayer(ctx, m.db, storedOf(x)); err != nil {
			return err
		}
	} else if err != nil {
		return err
	} else if err := durable.Remove(m.fsys, temp); err != nil {
		return err
	}
	return inTx(ctx, m.db, func(tx *sql.Tx) error {
		// Under a lock that whoever deletes the image takes as well: it may be gone.
		id, err := imageID(ctx, tx, m.q.image)
		if err == nil && id != m.id {
			err = notFound("the image was deleted")
		}
		if err == nil {
			_, err = m.enterEdge(ctx, tx, id, x.ID(), m.own)
		}
		return err
	})
}

// fileWriter writes to a file from its start.
type fileWriter struct {
	f   durable.File
	off int64
}

func (w *fileWriter) Write(p []byte) (int, error) {
	n, err := w.f.WriteAt(p, w.off)
	w.off += int64(n)
	return n, err
}

// courteous is a disk that is read without haste while the Synchronizer has transfers: it then rests three times as long as it worked.
type courteous struct {
	*Server
	ctx  context.Context //nolint:containedctx // of the reading; io.ReaderAt takes none
	disk *layer.Reader
}

const courtesy = 3

func (c *courteous) Size() int64 { return c.disk.Size() }

func (c *courteous) ReadAt(p []byte, off int64) (int, error) {
	began := time.Now()
	n, err := c.disk.ReadAt(p, off)
	if err == nil {
		err = c.rest(c.ctx, began, 0)
	}
	return n, err
}

// rest waits after a piece of work that began then: so many times as long as it took, at least three times while there are transfers.
func (s *Server) rest(ctx context.Context, began time.Time, times time.Duration) error {
	if len(s.transfers) > 0 {
		times = max(times, courtesy)
	}
	if times == 0 {
		return nil
	}
	rest := time.NewTimer(times * time.Since(began))
	defer rest.Stop()
	select {
	case <-rest.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// NextData implements layer.DataSeeker.
func (c *courteous) NextData(off int64) (int64, error) { return c.disk.NextData(off) }
