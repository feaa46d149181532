package synchronizer

import (
	"context"
	"database/sql"
	"slices"

	"disksync/api"
	"disksync/image"
)

// sealing is a point in the making.
type sealing struct {
	*Server
	tx     querier
	line   line
	admin  bool    // the user is an administrator, who may have everything
	newest []point // of the line, unless there is none
	m      image.Manifest
	own    map[image.LayerID]bool // layers of the new point that are the line's own
}

// compose fills in the disks and what else the version of the image says of the VM.
func (p *sealing) compose(ctx context.Context, in api.SealPoint) error {
	for _, d := range in.Disks {
		if _, twice := p.m.Disk(d.Role); twice || d.Role == "" || d.State.IsZero() {
			return invalid("the %s disk is there twice, or has no state", d.Role)
		}
		path, size, err := p.path(ctx, d)
		if err != nil {
			return err
		}
		p.m.Disks = append(p.m.Disks, image.Disk{Role: d.Role, Size: size, State: d.State, Layers: path})
	}
	return p.borrow(ctx, in.Version)
}

// path returns the layers that lead to a disk from nothing, and its size.
func (p *sealing) path(ctx context.Context, d api.PointDisk) ([]image.LayerRef, int64, error) {
	if d.Layer.IsZero() {
		path, err := p.base(ctx, d.State, anyPath)
		if err != nil {
			return nil, 0, err
		}
		_, size, err := layerRef(ctx, p.tx, path[len(path)-1].ID)
		return path, size, err
	}
	ref, size, err := layerRef(ctx, p.tx, d.Layer)
	if err == nil && !p.admin {
		err = p.userHasLayer(ctx, p.tx, p.line.user, d.Layer)
	}
	if err != nil {
		return nil, 0, err
	}
	if ref.To != d.State {
		return nil, 0, conflict("layer %s leads to state %s, not to %s", d.Layer.Short(), ref.To.Short(), d.State.Short())
	}
	if err := p.asPolicy(ctx, ref); err != nil {
		return nil, 0, err
	}
	var path []image.LayerRef
	if !ref.From.IsZero() {
		if path, err = p.base(ctx, ref.From, under(ref.Sealed)); err != nil {
			return nil, 0, err
		}
	}
	// A disk that is again what it was needs no round trip.
	if i := slices.IndexFunc(path, func(l image.LayerRef) bool { return l.To == ref.To }); i >= 0 {
		return path[:i+1], size, nil
	}
	p.own[ref.ID] = true
	return append(path, ref), size, nil
}

// base returns the layers that lead to a state from which the point may start: one of the newest point, of versions that the
// user may have or had, or of any other of the user's points. The path is one that ok agrees to.
func (p *sealing) base(ctx context.Context, id image.StateID, ok func([]image.LayerRef) bool) ([]image.LayerRef, error) {
	for _, o := range p.newest {
		if path := o.pathTo(id); path != nil && ok(path) {
			p.inherit(o, path)
			return path, nil
		}
	}
	versions, err := versionsWith(ctx, p.tx, p.line.user, p.admin, id)
	if err != nil {
		return nil, err
	}
	for _, v := range versions {
		m, err := p.version(ctx, v)
		if err != nil {
			return nil, err
		}
		if path := pathIn(m, id); path != nil {
			return path, nil
		}
	}
	others, err := collect(ctx, p.tx, func(r *sql.Rows, o *imageVersion) error { return r.Scan(&o.image, &o.version) },
		`SELECT DISTINCT p.line, p.point FROM layers l JOIN point_layers p ON p.layer = l.id JOIN lines n ON n.id = p.line
			WHERE l.to_state = ? AND n.user = ? ORDER BY p.line <> ?, p.point DESC LIMIT ?`, id.String(), p.line.user, p.line.id, maxOthers)
	if err != nil {
		return nil, err
	}
	for _, o := range others {
		ps, err := p.pointsWhere(ctx, p.tx, o.image, "AND point = ?", o.version)
		if err != nil {
			return nil, err
		}
		for _, other := range ps {
			if path := other.pathTo(id); path != nil && ok(path) {
				p.inherit(other, path)
				return path, nil
			}
		}
	}
	return nil, notFound("state %s is none of an earlier point or of a version of the image (any more)", id.Short())
}

// maxOthers bounds the points that are looked at for a way to a state. Most that have it have the same.
const maxOthers = 100

// inherit takes over which layers of a path are a line's own.
func (p *sealing) inherit(from point, path []image.LayerRef) {
	for _, l := range path {
		if from.own[l.ID] {
			p.own[l.ID] = true
		}
	}
}

// pathTo returns the layers of the point that lead to a state, nil when none do.
func (p point) pathTo(id image.StateID) []image.LayerRef { return pathIn(p.Manifest, id) }

// pathIn returns the layers of a manifest that lead to a state, nil when none do.
func pathIn(m *image.Manifest, id image.StateID) []image.LayerRef {
	for _, d := range m.Disks {
		if i := slices.IndexFunc(d.Layers, func(l image.LayerRef) bool { return l.To == id }); i >= 0 {
			return slices.Clone(d.Layers[:i+1])
		}
	}
	return nil
}

func (p *sealing) version(ctx context.Context, v imageVersion) (*image.Manifest, error) {
	env, err := manifestOf(ctx, p.tx, v.image, v.version)
	if err != nil {
		return nil, err
	}
	return p.opened(env, "image "+v.image, v.version)
}

// borrow takes over what the image's version says of the VM besides its disks; where the user has no such version, what the line's newest
// point says.
func (p *sealing) borrow(ctx context.Context, v image.Version) error {
	var from *image.Manifest
	for _, o := range p.newest {
		from = o.Manifest
	}
	var known bool
	had, err := column(ctx, p.tx, "SELECT image FROM had WHERE user = ? AND image = ? AND version = ?", p.line.user, p.line.imageID, v)
	if err != nil {
		return err
	}
	known = p.admin || len(had) > 0
	gs, err := grants(ctx, p.tx, p.line.user)
	if err != nil {
		return err
	}
	for _, g := range gs {
		known = known || g.image == p.line.imageID && g.allows(v)
	}
	if known {
		m, err := p.version(ctx, imageVersion{p.line.imageID, v})
		if err != nil && !isNotFound(err) {
			return err
		}
		if err == nil {
			from = m
		}
	}
	if from == nil {
		return nil
	}
	p.m.Machine = from.Machine
	for i := range p.m.Disks {
		d := &p.m.Disks[i]
		if like, ok := from.Disk(d.Role); ok {
			d.Boot = slices.DeleteFunc(slices.Clone(like.Boot), func(b int) bool { return b >= image.BlockCount(d.Size) })
		}
	}
	return nil
}

// enter signs the manifest and enters the point.
func (p *sealing) enter(ctx context.Context, request []byte) (api.BackupPoint, error) {
	env, err := image.SignManifest(&p.m, p.signing)
	if err != nil {
		return api.BackupPoint{}, invalid("%v", err)
	}
	_, err = p.tx.ExecContext(ctx, "INSERT INTO points (line, point, manifest, request, created) VALUES (?, ?, ?, ?, ?)",
		p.line.id, p.m.Version, env, request, stamp(p.m.Created))
	if err != nil {
		return api.BackupPoint{}, err
	}
	info, err := enterPointInfo(ctx, p.tx, &p.m)
	if err != nil {
		return info, err
	}
	if err := enterPointLayers(ctx, p.tx, &p.m, p.own); err != nil {
		return info, err
	}
	for id := range p.own {
		_, err := p.tx.ExecContext(ctx, "DELETE FROM user_layers WHERE user = ? AND layer = ?", p.line.user, id.String())
		if err != nil {
			return info, err
		}
	}
	_, err = p.tx.ExecContext(ctx, "UPDATE lines SET newest = ? WHERE id = ?", p.m.Version, p.line.id)
	return info, err
}

// enterPointLayers notes which layers a point needs.
func enterPointLayers(ctx context.Context, q querier, m *image.Manifest, own map[image.LayerID]bool) error {
	for _, d := range m.Disks {
		for _, l := range d.Layers {
			_, err := q.ExecContext(ctx, "INSERT INTO point_layers (line, point, layer, own) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
				m.ImageID.String(), m.Version, l.ID.String(), own[l.ID])
			if err != nil {
				return err
			}
		}
	}
	return nil
}
