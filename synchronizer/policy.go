package synchronizer

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"disksync/api"
	"disksync/image"
	"disksync/layer"
)

// policyOf returns the policy of an image.
func policyOf(ctx context.Context, q querier, id string) (api.Policy, error) {
	var text string
	if err := q.QueryRowContext(ctx, "SELECT policy FROM images WHERE id = ?", id).Scan(&text); err != nil || text == "" {
		return api.DefaultPolicy(), err
	}
	var p api.Policy
	return p, json.Unmarshal([]byte(text), &p)
}

func (s *Server) getPolicy(c *call) error {
	name, err := c.imageName()
	if err != nil {
		return err
	}
	id, err := imageID(c.Context(), s.db, name)
	if err != nil {
		return err
	}
	p, err := policyOf(c.Context(), s.db, id)
	if err != nil {
		return err
	}
	return c.reply(p)
}

func (s *Server) putPolicy(c *call) error {
	name, err := c.imageName()
	if err != nil {
		return err
	}
	var p api.Policy
	if err := c.decode(&p); err != nil {
		return err
	}
	if p.FullFactor != 0 && (p.FullFactor < 1 || p.FullFactor > 1000 || math.IsNaN(p.FullFactor)) || p.LeastSaving < 0 {
		return invalid("full_factor is 0 or from 1 to 1000, least_saving a number of bytes")
	}
	if err := checkBackupPolicy(p.Backup); err != nil {
		return err
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	c.subject = fmt.Sprintf("%s %s", name, b)
	res, err := s.db.ExecContext(c.Context(), "UPDATE images SET policy = ? WHERE name = ?", string(b), name)
	if err := changed(res, err, notFound("there is no image %s", name)); err != nil {
		return err
	}
	s.consider(name)
	return nil
}

// leastSaving is what a layer must save that the policy asked for.
func (m *squasher) leastSaving(ctx context.Context) int64 {
	p, err := policyOf(ctx, m.db, m.id)
	if err != nil {
		return 0
	}
	return p.LeastSaving
}

// considerAll does what the policies of all images ask for.
func (s *Server) considerAll(ctx context.Context) error {
	names, err := column(ctx, s.db, "SELECT name FROM images ORDER BY name")
	for _, name := range names {
		s.consider(name)
	}
	return err
}

// consider finds out, in the background, which layers the policy of an image asks for, and has them made. Whatever goes wrong is for
// the log: nobody waits for it, and nothing depends on it.
func (s *Server) consider(name string) {
	s.work.Go(func() {
		due, err := s.due(s.live, name)
		if err != nil && s.live.Err() == nil && !isNotFound(err) {
			s.log.Error("policy of an image", "image", name, "error", err)
		}
		for _, q := range due {
			s.addSquash(name, q, false)
		}
	})
}

// due returns the layers that the policy of an image asks for, and removes those of its own that others took the place of.
func (s *Server) due(ctx context.Context, name string) ([]api.Squash, error) {
	id, err := imageID(ctx, s.db, name)
	if err != nil {
		return nil, err
	}
	p, err := policyOf(ctx, s.db, id)
	if err != nil {
		return nil, err
	}
	v, err := newest(ctx, s.db, id)
	if err != nil {
		return nil, err
	}
	m, err := s.manifest(ctx, id, v)
	if err != nil {
		return nil, err
	}
	var out []api.Squash
	for i := range m.Disks {
		d := &m.Disks[i]
		layers, err := s.graph(ctx, id, d)
		if err != nil {
			return nil, err
		}
		to := api.Squash{To: v, Role: d.Role, State: api.SquashWaiting, Own: true}
		full, err := s.fullIsDue(ctx, p, d, layers)
		if err != nil {
			return nil, err
		}
		if full {
			out = append(out, to)
		}
		if !p.Direct {
			continue
		}
		direct, err := s.directsDue(ctx, p, id, v, d, layers)
		if err != nil {
			return nil, err
		}
		for _, from := range direct {
			to.From = from
			out = append(out, to)
		}
	}
	return out, s.retire(ctx, id)
}

// fullIsDue reports whether what a newcomer has to fetch for a disk is too much of what the disk takes.
func (s *Server) fullIsDue(ctx context.Context, p api.Policy, d *image.Disk, layers []image.LayerRef) (bool, error) {
	path, bytes, ok := shortest(layers, d.State)
	if p.FullFactor == 0 || !ok || len(path) < 2 {
		return false, nil
	}
	size, err := s.packedSize(ctx, path, image.StateID{}, d.State)
	return float64(bytes) > p.FullFactor*float64(size) && bytes-size >= p.LeastSaving, err
}

// directsDue returns the versions on media from which a layer of its own to the newest version pays.
func (s *Server) directsDue(ctx context.Context, p api.Policy, id string, newest image.Version, d *image.Disk, layers []image.LayerRef) ([]image.Version, error) {
	versions, err := onMedia(ctx, s.db, id)
	if err != nil {
		return nil, err
	}
	var out []image.Version
	for _, v := range versions {
		if v >= newest {
			continue
		}
		m, err := s.manifest(ctx, id, v)
		if err != nil {
			return nil, err
		}
		from, ok := m.Disk(d.Role)
		if !ok {
			continue
		}
		path, bytes, ok := shortest(layers, d.State, from.State)
		if !ok || len(path) < 2 {
			continue
		}
		size, err := s.packedSize(ctx, path, from.State, d.State)
		if err != nil {
			return nil, err
		}
		if saved := bytes - size; saved >= p.LeastSaving && saved > bytes/leastShare {
			out = append(out, v)
		}
	}
	return out, nil
}

// packedSize estimates the file of a layer from one state to another by the frames that the layers of a path have for the blocks in
// question. What the path has no frame for does not count. A full image has nothing to refer to, so for it a frame that does counts as
// much as others have on the average.
func (s *Server) packedSize(ctx context.Context, path []image.LayerRef, from, to image.StateID) (int64, error) {
	a, err := s.state(ctx, from)
	if err != nil {
		return 0, err
	}
	b, err := s.state(ctx, to)
	if err != nil {
		return 0, err
	}
	lengths := map[image.Digest]int64{}
	var alone, count int64
	for _, l := range path {
		x, err := s.index(l.ID.String())
		if err != nil {
			return 0, err
		}
		for i := range x.Len() {
			f := x.Frame(i)
			n := int64(f.Length)
			switch {
			case f.Alone():
				alone, count = alone+n, count+1
			case from.IsZero() && f.Codec != layer.Zero:
				n = alone / max(count, 1)
			}
			lengths[f.Digest] = n
		}
	}
	const entry = 56 // of a frame in the index
	var n int64
	for i, d := range b.Blocks {
		if d != a.Block(i) {
			n += lengths[d] + entry
		}
	}
	return n, nil
}

// keptDirects is how many layers from the same version the policy keeps: endpoints may be in the middle of the one before the last.
const keptDirects = 2

// retire removes layers that the policy made to versions that were the newest once, but for the last ones and those to versions that
// somebody is tied to. Full images stay: they are what everything else can be reached from.
func (s *Server) retire(ctx context.Context, id string) error {
	rows, err := column(ctx, s.db, `SELECT e.layer FROM (
			SELECT e.layer AS layer, l.to_state AS to_state,
				RANK() OVER (PARTITION BY l.from_state ORDER BY (SELECT MIN(v.version) FROM layers t JOIN version_layers v ON v.layer = t.id
					WHERE t.to_state = l.to_state AND v.image = e.image) DESC, e.entered DESC) AS age
			FROM edges e JOIN layers l ON l.id = e.layer WHERE e.image = ?1 AND e.own AND l.from_state <> ?2) e
		WHERE e.age > ?3 AND NOT EXISTS (SELECT 1 FROM assignments a JOIN version_layers v ON v.image = a.image AND v.version = a.version
			JOIN layers t ON t.id = v.layer WHERE a.image = ?1 AND t.to_state = e.to_state)`, id, image.StateID{}.String(), keptDirects)
	if err != nil {
		return err
	}
	for _, text := range rows {
		l, err := image.ParseLayerID(text)
		if err != nil {
			return err
		}
		if err := s.dropEdge(ctx, id, l); err != nil {
			return err
		}
	}
	return nil
}
