package synchronizer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"disksync/api"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
)

// A point's disks are reached over those of the points before it. When points in between have gone, the layers from one that is left
// to the next are put together into one, and the manifests are signed anew with it: the same states over fewer layers. Until that is
// done nothing is taken away from anybody; afterwards what was taken out stays for a day, for whoever is in the middle of fetching it.

// maxOwnLayers bounds the layers of its own that a line's newest point is reached over. Past that they are put together into one for
// that point and those that follow, so that a line can go on for ever.
const maxOwnLayers = 64

// run is a part of points' paths that one layer can stand for.
type run struct {
	before []image.LayerRef // that lead to where it starts
	layers []image.LayerRef
}

func (r run) from() image.StateID { return r.layers[0].From }

func (r run) to() image.StateID { return r.layers[len(r.layers)-1].To }

func (r run) key() string {
	var b []byte
	for _, l := range r.layers {
		b = append(b, l.ID[:]...)
	}
	return string(b)
}

// runsOf returns the parts of the points' paths that lead from one state that stays to the next over others that need not. What is of
// images stays, for others have it too. Where there is none, it is the newest point's whole way of more than longest layers.
func runsOf(ps []point, longest int) []run {
	stays := map[image.StateID]bool{{}: true}
	for _, p := range ps {
		for _, d := range p.Disks {
			stays[d.State] = true
			for _, l := range d.Layers {
				if !p.own[l.ID] || len(l.Sealed) > 0 { // what is encrypted cannot be read here
					stays[l.From], stays[l.To] = true, true
				}
			}
		}
	}
	var out []run
	seen := map[string]bool{}
	for _, p := range ps {
		for _, d := range p.Disks {
			for i := 0; i < len(d.Layers); {
				j := i + 1
				for joinable(p, d.Layers[i]) && j < len(d.Layers) && !stays[d.Layers[j-1].To] {
					j++
				}
				if r := (run{d.Layers[:i], d.Layers[i:j]}); j > i+1 && !seen[r.key()] {
					seen[r.key()] = true
					out = append(out, r)
				}
				i = j
			}
		}
	}
	if len(out) > 0 || len(ps) == 0 {
		return out
	}
	newest := ps[len(ps)-1]
	for _, d := range newest.Disks {
		i := len(d.Layers)
		for i > 0 && joinable(newest, d.Layers[i-1]) {
			i--
		}
		if len(d.Layers)-i > longest {
			out = append(out, run{d.Layers[:i], d.Layers[i:]})
		}
	}
	return out
}

// joinable reports whether a layer of a point's path may be put together with others.
func joinable(p point, l image.LayerRef) bool { return p.own[l.ID] && len(l.Sealed) == 0 }

// mayCompact reports whether there may be something to put together, without opening manifests. It errs on the side of true: it is what runsOf
// looks for, but for the order of the layers.
func (s *Server) mayCompact(ctx context.Context, line string) (bool, error) {
	ps, err := s.pointInfos(ctx, s.db, line, api.MaxPoints)
	if err != nil {
		return false, err
	}
	stays := map[string]bool{image.StateID{}.String(): true}
	for _, p := range ps {
		for _, d := range p.Disks {
			stays[d.State.String()] = true
		}
	}
	type part struct {
		from, to string
		joinable bool
	}
	parts, err := collect(ctx, s.db, func(r *sql.Rows, l *part) error { return r.Scan(&l.from, &l.to, &l.joinable) },
		`SELECT l.from_state, l.to_state, l.sealed = '' AND x.own = x.points FROM line_layers x JOIN layers l ON l.id = x.layer WHERE x.line = ?`, line)
	if err != nil {
		return false, err
	}
	for _, l := range parts {
		if !l.joinable { // in some point at least
			stays[l.from], stays[l.to] = true, true
		}
	}
	for _, l := range parts {
		if !stays[l.to] {
			return true, nil
		}
	}
	var own int
	err = s.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM point_layers WHERE line = ?1 AND point = (SELECT MAX(point) FROM points WHERE line = ?1) AND own`, line).
		Scan(&own)
	return own > s.longest, err
}

// compact puts together what can be. One that cannot does not keep the others.
func (s *Server) compact(ctx context.Context, line string) error {
	if may, err := s.mayCompact(ctx, line); err != nil || !may {
		return err
	}
	var errs []error
	failed := map[string]bool{}
	for {
		ps, err := s.points(ctx, s.db, line, api.MaxPoints)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		runs := slices.DeleteFunc(runsOf(ps, s.longest), func(r run) bool { return failed[r.key()] })
		if len(runs) == 0 {
			return errors.Join(errs...)
		}
		for _, r := range runs {
			if err := s.join(ctx, line, r); err != nil {
				failed[r.key()] = true
				errs = append(errs, err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
}

// join makes the layer that stands for a run and puts it into the manifests. Where a disk became again what it was, that is none.
func (s *Server) join(ctx context.Context, line string, r run) error {
	if r.from() == r.to() {
		return s.replace(ctx, line, r, "", nil)
	}
	if err := s.roomFor(r.layers); err != nil {
		return err
	}
	temp := fmt.Sprintf("%s/join-%s-%s%s", layersDir, r.from(), r.to(), durable.TempSuffix)
	f, err := s.fsys.Create(temp, 0o600)
	if err != nil {
		return err
	}
	x, err := s.packRun(ctx, f, r)
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.replace(ctx, line, r, temp, x)
	}
	return errors.Join(err, durable.Remove(s.fsys, temp))
}

// roomFor returns an error when the disk has no room for a layer in place of others and for what users need besides.
func (s *Server) roomFor(layers []image.LayerRef) error {
	var need int64
	for _, l := range layers {
		need += l.Length
	}
	free, err := s.fsys.Free()
	if err == nil && free < need {
		err = &api.Error{Code: api.CodeNoSpace, Message: fmt.Sprintf("the layer may need %d bytes, the disk has %d free", need, free)}
	}
	return err
}

// packRun writes the layer that stands for a run, and reads it back. Only blocks that its layers have are looked at.
func (s *Server) packRun(ctx context.Context, f durable.File, r run) (*layer.Index, error) {
	from, err := s.state(ctx, r.from())
	if err != nil {
		return nil, err
	}
	to, err := s.state(ctx, r.to())
	if err != nil {
		return nil, err
	}
	o := layer.EncodeOptions{Near: true, Changed: func(b int) bool { return from.Block(b) != to.Block(b) }}
	if len(r.before) > 0 {
		disk, err := s.openPath(r.before)
		if err != nil {
			return nil, err
		}
		defer disk.Close()
		o.FromDisk = disk
	}
	return s.packPath(ctx, f, from, slices.Concat(r.before, r.layers), r.to(), o)
}

// replace puts a layer, in the file temp, or none in the place of a run in all manifests of a line, in one step.
func (s *Server) replace(ctx context.Context, line string, r run, temp string, x *layer.Index) error {
	s.names.Lock()
	defer s.names.Unlock()
	var by []image.LayerRef
	named := ""
	if x != nil {
		by = []image.LayerRef{x.Ref()}
		_, _, err := layerRef(ctx, s.db, x.ID())
		if err != nil && !isNotFound(err) {
			return err
		}
		if err != nil {
			named = layerFile(x.ID().String())
			if err := durable.Publish(s.fsys, temp, named); err != nil {
				return err
			}
		}
	}
	err := inTx(ctx, s.db, func(tx *sql.Tx) error {
		if x != nil {
			if err := s.enterLayer(ctx, tx, storedOf(x)); err != nil {
				return err
			}
		}
		return s.replaceIn(ctx, tx, line, r, by)
	})
	if err != nil && named != "" {
		err = errors.Join(err, durable.Remove(s.fsys, named))
	}
	return err
}

// replaceIn puts layers in the place of a run in all manifests of a line.
func (s *Server) replaceIn(ctx context.Context, tx *sql.Tx, line string, r run, by []image.LayerRef) error {
	ps, err := s.points(ctx, tx, line, api.MaxPoints)
	if err != nil {
		return err
	}
	done := false
	for _, p := range ps {
		m := *p.Manifest
		m.Disks = slices.Clone(m.Disks)
		changed := false
		for i := range m.Disks {
			d := &m.Disks[i]
			for at := range len(d.Layers) - len(r.layers) + 1 {
				if slices.EqualFunc(d.Layers[at:at+len(r.layers)], r.layers, func(a, b image.LayerRef) bool { return a.ID == b.ID }) {
					d.Layers = slices.Concat(d.Layers[:at], by, d.Layers[at+len(r.layers):])
					changed = true
					break
				}
			}
		}
		if !changed {
			continue
		}
		done = true
		for _, l := range by {
			p.own[l.ID] = true
		}
		if err := s.updatePoint(ctx, tx, &m, p.own); err != nil {
			return err
		}
	}
	if !done {
		return notFound("the points have gone that it was for")
	}
	for _, l := range r.layers {
		_, err := tx.ExecContext(ctx, `INSERT INTO user_layers (user, layer, state, length, touched, line)
			SELECT user, ?, ?, ?, ?, id FROM lines WHERE id = ?
			ON CONFLICT (user, layer) DO UPDATE SET touched = excluded.touched`, l.ID.String(), userStored, l.Length, stamp(s.now()), line)
		if err != nil {
			return err
		}
	}
	return nil
}

// updatePoint replaces the manifest of a point by one with other layers.
func (s *Server) updatePoint(ctx context.Context, tx *sql.Tx, m *image.Manifest, own map[image.LayerID]bool) error {
	env, err := image.SignManifest(m, s.signing)
	if err != nil {
		return err
	}
	res, err := tx.ExecContext(ctx, "UPDATE points SET manifest = ? WHERE line = ? AND point = ?", env, m.ImageID.String(), m.Version)
	if err := changed(res, err, notFound("there is no point %d", m.Version)); err != nil {
		return err
	}
	if _, err := enterPointInfo(ctx, tx, m); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "DELETE FROM point_layers WHERE line = ? AND point = ?", m.ImageID.String(), m.Version)
	if err != nil {
		return err
	}
	return enterPointLayers(ctx, tx, m, own)
}
