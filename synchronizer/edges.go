package synchronizer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"disksync/api"
	"disksync/image"
)

// A version's manifest names one line of layers, which is advice: what counts is the state. The catalog can have further layers that
// lead from nothing or from one version of an image to another. Endpoints ask for those that may be of use to them.

// scanRef scans a layer's columns in the order of refColumns.
func scanRef(row *sql.Rows, ref *image.LayerRef) error {
	var id, from, to string
	err := row.Scan(&id, &from, &to, &ref.Length, &ref.IndexOffset, &ref.IndexLength)
	if err == nil {
		ref.ID, err = image.ParseLayerID(id)
	}
	if err == nil {
		ref.From, err = image.ParseStateID(from)
	}
	if err == nil {
		ref.To, err = image.ParseStateID(to)
	}
	return err
}

const refColumns = "l.id, l.from_state, l.to_state, l.length, l.index_offset, l.index_length"

// edgesOf returns the layers of an image besides those of its manifests, in the order of the versions.
func (s *Server) edgesOf(ctx context.Context, id string) ([]api.Layer, error) {
	refs, err := collect(ctx, s.db, scanRef, "SELECT "+refColumns+" FROM edges e JOIN layers l ON l.id = e.layer WHERE e.image = ? ORDER BY e.rowid", id)
	if err != nil {
		return nil, err
	}
	out := make([]api.Layer, len(refs))
	names := map[image.StateID]image.Version{}
	for i, ref := range refs {
		out[i].LayerRef = ref
		if out[i].FromVersion, err = versionOf(ctx, s.db, id, ref.From, names); err != nil {
			return nil, err
		}
		if out[i].ToVersion, err = versionOf(ctx, s.db, id, ref.To, names); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// versionOf returns the first version of an image whose disks include a state, 0 when there is none.
func versionOf(ctx context.Context, q querier, id string, st image.StateID, known map[image.StateID]image.Version) (image.Version, error) {
	if v, ok := known[st]; ok || st.IsZero() {
		return v, nil
	}
	var v sql.Null[image.Version]
	err := q.QueryRowContext(ctx, `SELECT MIN(v.version) FROM layers l JOIN version_layers v ON v.layer = l.id
		WHERE l.to_state = ? AND v.image = ?`, st.String(), id).Scan(&v)
	known[st] = v.V
	return v.V, err
}

// maxStates bounds the states that a caller names, of each kind.
const maxStates = 64

// states reads a list of states from the query.
func (c *call) states(key string) (map[image.StateID]bool, error) {
	out := map[image.StateID]bool{}
	text := c.URL.Query().Get(key)
	if text == "" {
		return out, nil
	}
	words := strings.Split(text, ".")
	if len(words) > maxStates {
		return nil, invalid("%s: %d states, at most %d can be named", key, len(words), maxStates)
	}
	for _, w := range words {
		id, err := image.ParseStateID(w)
		if err != nil {
			return nil, invalid("%s: %v", key, err)
		}
		out[id] = true
	}
	return out, nil
}

// haveAndNear reads the states that the caller can start from, and those that it can have without the Synchronizer.
func (c *call) haveAndNear() (have, near map[image.StateID]bool, err error) {
	if have, err = c.states("have"); err == nil {
		near, err = c.states("near")
	}
	return have, near, err
}

// getEdges lists layers that are not in the manifest of a version and may make the way to it cheaper.
func (s *Server) getEdges(c *call) error {
	name, id, v, err := s.imageVersion(c)
	if err == nil {
		err = s.mayHave(c, id, name, v)
	}
	if err != nil {
		return err
	}
	have, near, err := c.haveAndNear()
	if err != nil {
		return err
	}
	m, err := s.manifest(c.Context(), id, v)
	if err != nil {
		return err
	}
	extra, err := s.edgesOf(c.Context(), id)
	if err != nil {
		return err
	}
	return c.reply(usefulLayers(m, extra, have, near))
}

// usefulLayers returns those of the layers that may be on the cheapest path to a disk of the manifest.
func usefulLayers(m *image.Manifest, extra []api.Layer, have, near map[image.StateID]bool) []api.Layer {
	useful := map[image.LayerID]bool{}
	onLine := map[image.StateID]bool{} // what the caller may have
	line := map[image.LayerID]bool{}
	for _, d := range m.Disks {
		for _, l := range d.Layers {
			onLine[l.To], line[l.ID] = true, true
		}
	}
	var refs []image.LayerRef
	for _, l := range extra {
		if onLine[l.To] && !line[l.ID] {
			refs = append(refs, l.LayerRef)
		}
	}
	for _, d := range m.Disks {
		for id := range usefulTo(d.State, append(slices.Clone(d.Layers), refs...), have, near) {
			useful[id] = true
		}
	}
	out := []api.Layer{}
	for _, l := range extra {
		if useful[l.ID] && onLine[l.To] && !line[l.ID] {
			out = append(out, l)
		}
	}
	return out
}

// putEdge enters a stored layer as one that leads to a version of an image.
func (s *Server) putEdge(c *call) error {
	name, err := c.imageName()
	if err != nil {
		return err
	}
	layer, err := c.layer()
	if err != nil {
		return err
	}
	c.subject = fmt.Sprintf("%s to %s", layer.Short(), name)
	var out api.Layer
	err = inTx(c.Context(), s.db, func(tx *sql.Tx) error {
		id, err := imageID(c.Context(), tx, name)
		if err != nil {
			return err
		}
		out, err = s.enterEdge(c.Context(), tx, id, layer, false)
		return err
	})
	if err != nil {
		return err
	}
	return c.reply(out)
}

// enterEdge enters a layer that leads from nothing or a version of the image to a version of it.
func (s *Server) enterEdge(ctx context.Context, tx *sql.Tx, id string, layer image.LayerID, own bool) (api.Layer, error) {
	var out api.Layer
	var err error
	if out.LayerRef, _, err = layerRef(ctx, tx, layer); err != nil {
		return out, err
	}
	if len(out.Sealed) > 0 {
		return out, conflict("layer %s is encrypted, and for backups only", layer.Short())
	}
	names := map[image.StateID]image.Version{}
	if out.FromVersion, err = versionOf(ctx, tx, id, out.From, names); err != nil {
		return out, err
	}
	if out.ToVersion, err = versionOf(ctx, tx, id, out.To, names); err != nil {
		return out, err
	}
	if out.ToVersion == 0 || out.FromVersion == 0 && !out.From.IsZero() {
		return out, conflict("layer %s does not lead from nothing or a version of this image to a version of it", layer.Short())
	}
	// What an administrator entered stays an administrator's.
	_, err = tx.ExecContext(ctx, `INSERT INTO edges (image, layer, own, entered) VALUES (?, ?, ?, ?)
		ON CONFLICT (image, layer) DO UPDATE SET own = MIN(own, excluded.own)`, id, layer.String(), own, stamp(s.now()))
	return out, err
}

// deleteEdge takes such a layer away again. Manifests' layers stay.
func (s *Server) deleteEdge(c *call) error {
	name, err := c.imageName()
	if err != nil {
		return err
	}
	layer, err := c.layer()
	if err != nil {
		return err
	}
	c.subject = fmt.Sprintf("%s from %s", layer.Short(), name)
	id, err := imageID(c.Context(), s.db, name)
	if err != nil {
		return err
	}
	return s.dropEdge(c.Context(), id, layer)
}

func (s *Server) dropEdge(ctx context.Context, id string, layer image.LayerID) error {
	return s.dropUnneeded(ctx, "SELECT ?", []any{layer.String()}, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, "DELETE FROM edges WHERE image = ? AND layer = ?", id, layer.String())
		return changed(res, err, notFound("the image has no layer %s besides those of its manifests", layer.Short()))
	})
}

// putMedium notes that a version was written to a medium.
func (s *Server) putMedium(c *call) error {
	name, id, v, err := s.imageVersion(c)
	if err != nil {
		return err
	}
	c.subject = fmt.Sprintf("%s version %d", name, v)
	if _, err := manifestOf(c.Context(), s.db, id, v); err != nil {
		return err
	}
	_, err = s.db.ExecContext(c.Context(), `INSERT INTO media (image, version, written) VALUES (?, ?, ?)
		ON CONFLICT (image, version) DO UPDATE SET written = excluded.written`, id, v, stamp(s.now()))
	if err == nil {
		s.consider(name)
	}
	return err
}

// onMedia returns the versions of an image that were written to media.
func onMedia(ctx context.Context, q querier, id string) ([]image.Version, error) {
	return collect(ctx, q, func(r *sql.Rows, v *image.Version) error { return r.Scan(v) },
		"SELECT version FROM media WHERE image = ? ORDER BY version", id)
}

var errNoPath = errors.New("no path of layers leads there")
