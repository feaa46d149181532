package synchronizer

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"disksync/api"
	"disksync/image"
)

// point is a point of a line in the catalog, with its manifest opened.
type point struct {
	*image.Manifest
	own map[image.LayerID]bool // the layers that are the line's own
}

// pointRow is a row of points.
type pointRow struct {
	point    image.Version
	manifest []byte
}

// points returns the newest points of a line, oldest first.
func (s *Server) points(ctx context.Context, q querier, line string, limit int) ([]point, error) {
	return s.pointsWhere(ctx, q, line, "ORDER BY point DESC LIMIT ?", limit)
}

// pointsWhere returns the points of a line that the rest of a query chooses from the newest on, oldest first.
func (s *Server) pointsWhere(ctx context.Context, q querier, line, rest string, arg any) ([]point, error) {
	rows, err := collect(ctx, q, func(r *sql.Rows, p *pointRow) error { return r.Scan(&p.point, &p.manifest) },
		"SELECT point, manifest FROM points WHERE line = ? "+rest, line, arg)
	if err != nil {
		return nil, err
	}
	var out []point
	for _, r := range slices.Backward(rows) {
		p := point{own: map[image.LayerID]bool{}}
		if p.Manifest, err = s.opened(r.manifest, "line "+line, r.point); err != nil {
			return nil, err
		}
		ids, err := column(ctx, q, "SELECT layer FROM point_layers WHERE line = ? AND point = ? AND own", line, r.point)
		if err != nil {
			return nil, err
		}
		for _, text := range ids {
			id, err := image.ParseLayerID(text)
			if err != nil {
				return nil, err
			}
			p.own[id] = true
		}
		out = append(out, p)
	}
	return out, nil
}

// pointsOf describes the newest points of a line, oldest first.
func (s *Server) pointsOf(ctx context.Context, q querier, line string, limit int) ([]api.BackupPoint, error) {
	ps, err := s.pointInfos(ctx, q, line, limit)
	if err != nil {
		return nil, err
	}
	return ps, findings(ctx, q, line, ps)
}

// pointOf returns a point that the path names, signed, and its line.
func (s *Server) pointOf(c *call) (line, image.Version, []byte, error) {
	l, err := s.line(c)
	if err != nil {
		return l, 0, nil, err
	}
	n, err := image.ParseVersion(c.PathValue("point"))
	if err != nil {
		return l, 0, nil, invalid("%v", err)
	}
	c.subject = fmt.Sprintf("%d of %s", n, c.subject)
	var env []byte
	err = s.db.QueryRowContext(c.Context(), "SELECT manifest FROM points WHERE line = ? AND point = ?", l.id, n).Scan(&env)
	if errors.Is(err, sql.ErrNoRows) {
		err = notFound("there is no point %d", n)
	}
	return l, n, env, err
}

func (s *Server) getPointManifest(c *call) error {
	_, _, env, err := s.pointOf(c)
	if err != nil {
		return err
	}
	c.sendManifest(env)
	return nil
}

// getPointLayers lists layers of the image that are not in the manifest of a point and may make the way to it cheaper.
func (s *Server) getPointLayers(c *call) error {
	l, n, env, err := s.pointOf(c)
	if err != nil {
		return err
	}
	have, near, err := c.haveAndNear()
	if err != nil {
		return err
	}
	m, err := s.opened(env, "line "+l.id, n)
	if err != nil {
		return err
	}
	var extra []api.Layer
	if l.known {
		if extra, err = s.edgesOf(c.Context(), l.imageID); err != nil {
			return err
		}
	}
	return c.reply(usefulLayers(m, extra, have, near))
}

// postPoint makes stored layers into a point: the commit point of a backup. Asked again for the same, it answers with the point that
// there is, so that a lost answer does no harm.
func (s *Server) postPoint(c *call) error {
	l, err := s.line(c)
	if err != nil {
		return err
	}
	if l.user != c.who.name || c.who.device == "" {
		return &api.Error{Code: api.CodeForbidden, Message: "only the user whose VM it is makes backups of it"}
	}
	var in api.SealPoint
	if err := c.decode(&in); err != nil {
		return err
	}
	c.subject = fmt.Sprintf("%d of %s", in.Point, c.subject)
	if in.Point == 0 || in.Version == 0 || in.Consistency == "" || len(in.Disks) == 0 || len(in.Note) > api.MaxNote {
		return invalid("a point has a number, the image's version, a consistency, at least one disk, and a note of at most %d bytes", api.MaxNote)
	}
	request, err := json.Marshal(in)
	if err != nil {
		return err
	}
	var out api.BackupPoint
	err = inTx(c.Context(), s.db, func(tx *sql.Tx) error {
		ps := make([]api.BackupPoint, 1)
		if ps[0], err = s.seal(c.Context(), tx, l.id, c.who.admin, in, request); err != nil {
			return err
		}
		err = findings(c.Context(), tx, l.id, ps)
		out = ps[0]
		return err
	})
	if err != nil {
		return err
	}
	s.tidyLater(l.id)
	return c.reply(out)
}

// seal enters a point, unless it is there.
func (s *Server) seal(ctx context.Context, tx *sql.Tx, id string, admin bool, in api.SealPoint, request []byte) (api.BackupPoint, error) {
	lineID, err := image.ParseUUID(id)
	if err != nil {
		return api.BackupPoint{}, err
	}
	l, err := lineByID(ctx, tx, lineID) // it may have changed, or gone
	if err != nil {
		return api.BackupPoint{}, err
	}
	if in.Point != l.newest+1 {
		return s.sealedAlready(ctx, tx, l, in, request)
	}
	if err := mayBackUp(ctx, tx, l); err != nil {
		return api.BackupPoint{}, err
	}
	var count int
	if err := tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM points WHERE line = ?", l.id).Scan(&count); err != nil {
		return api.BackupPoint{}, err
	}
	if count >= api.MaxPoints {
		return api.BackupPoint{}, &api.Error{Code: api.CodeTooLarge, Message: fmt.Sprintf("there are %d points of this VM already; have some deleted", count)}
	}
	newest, err := s.points(ctx, tx, l.id, 1)
	if err != nil {
		return api.BackupPoint{}, err
	}
	p := &sealing{Server: s, tx: tx, line: l, admin: admin, newest: newest, own: map[image.LayerID]bool{}}
	p.m = image.Manifest{Format: 1, ImageID: lineID, Image: l.image, Version: in.Point, Created: s.now().UTC(), Mode: l.mode, Note: in.Note}
	p.m.Point = &image.Point{Name: l.name, Version: in.Version, Consistency: in.Consistency}
	if p.m.Point.VM, err = image.ParseUUID(l.vm); err != nil {
		return api.BackupPoint{}, err
	}
	if p.m.Point.ImageID, err = image.ParseUUID(l.imageID); err != nil {
		return api.BackupPoint{}, err
	}
	if err := p.compose(ctx, in); err != nil {
		return api.BackupPoint{}, err
	}
	return p.enter(ctx, request)
}

// sealedAlready returns the point that an earlier request like this one made.
func (s *Server) sealedAlready(ctx context.Context, q querier, l line, in api.SealPoint, request []byte) (api.BackupPoint, error) {
	var env, before []byte
	err := q.QueryRowContext(ctx, "SELECT manifest, request FROM points WHERE line = ? AND point = ?", l.id, in.Point).Scan(&env, &before)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return api.BackupPoint{}, err
	}
	if err != nil || !bytes.Equal(request, before) {
		return api.BackupPoint{}, conflict("the newest point of this VM is %d, so point %d cannot follow; look again", l.newest, in.Point)
	}
	m, err := s.opened(env, "line "+l.id, in.Point)
	if err != nil {
		return api.BackupPoint{}, err
	}
	return pointInfo(ctx, q, m)
}
