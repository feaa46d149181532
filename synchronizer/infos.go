package synchronizer

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"disksync/api"
	"disksync/image"
)

// Lists show a few words of each manifest, of which there may be hundreds of thousands. The tables version_infos and point_infos have these
// words, entered together with the manifest. What is installed or restored goes by the manifest alone.

// versionInfo describes a version to lists.
func versionInfo(ctx context.Context, q querier, m *image.Manifest) (api.VersionInfo, error) {
	info := api.VersionInfo{Version: m.Version, Created: m.Created, Note: m.Note}
	for _, d := range m.Disks {
		last := d.Layers[len(d.Layers)-1]
		di := api.DiskInfo{
			Role: d.Role, Size: d.Size, State: d.State, Layer: last.ID, Bytes: last.Length,
			Full: len(d.Layers) == 1, VHDUUIDs: last.VHDUUIDs, Sealed: sealedFor(d.Layers),
		}
		if err := q.QueryRowContext(ctx, "SELECT blocks FROM layers WHERE id = ?", last.ID.String()).Scan(&di.Blocks); err != nil {
			return api.VersionInfo{}, fmt.Errorf("layer %s of version %d: %w", last.ID.Short(), m.Version, err)
		}
		info.Disks = append(info.Disks, di)
	}
	return info, nil
}

// pointInfo describes a point to lists, but for what checks of its layers found.
func pointInfo(ctx context.Context, q querier, m *image.Manifest) (api.BackupPoint, error) {
	info, err := versionInfo(ctx, q, m)
	return api.BackupPoint{
		Point: m.Version, Created: m.Created, Version: m.Point.Version, Consistency: m.Point.Consistency, Note: m.Note, Disks: info.Disks,
	}, err
}

// enterVersionInfo enters what lists show of a version, together with its manifest.
func enterVersionInfo(ctx context.Context, q querier, m *image.Manifest) (api.VersionInfo, error) {
	info, err := versionInfo(ctx, q, m)
	if err != nil {
		return info, err
	}
	b, err := json.Marshal(info)
	if err != nil {
		return info, err
	}
	_, err = q.ExecContext(ctx, "INSERT INTO version_infos (image, version, info) VALUES (?, ?, ?)", m.ImageID.String(), m.Version, string(b))
	return info, err
}

// enterPointInfo enters what lists show of a point, together with its manifest.
func enterPointInfo(ctx context.Context, q querier, m *image.Manifest) (api.BackupPoint, error) {
	info, err := pointInfo(ctx, q, m)
	if err != nil {
		return info, err
	}
	b, err := json.Marshal(info)
	if err != nil {
		return info, err
	}
	_, err = q.ExecContext(ctx, `INSERT INTO point_infos (line, point, created, info) SELECT line, point, created, ? FROM points
		WHERE line = ? AND point = ?`, string(b), m.ImageID.String(), m.Version)
	return info, err
}

// infoRow is a version or point with what lists show of it, if that was entered.
type infoRow struct {
	number image.Version
	info   sql.Null[string]
}

func scanInfo(row *sql.Rows, r *infoRow) error { return row.Scan(&r.number, &r.info) }

// versionInfos describes the versions of an image, oldest first.
func (s *Server) versionInfos(ctx context.Context, q querier, id string) ([]api.VersionInfo, error) {
	rows, err := collect(ctx, q, scanInfo, `SELECT v.version, i.info FROM versions v LEFT JOIN version_infos i ON i.image = v.image AND i.version = v.version
		WHERE v.image = ? ORDER BY v.version`, id)
	if err != nil {
		return nil, err
	}
	var out []api.VersionInfo
	for _, r := range rows {
		v, err := s.versionIn(ctx, q, id, r)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// infoOf describes a version.
func (s *Server) infoOf(ctx context.Context, q querier, id string, v image.Version) (api.VersionInfo, error) {
	r := infoRow{number: v}
	err := q.QueryRowContext(ctx, "SELECT info FROM version_infos WHERE image = ? AND version = ?", id, v).Scan(&r.info)
	if ignoreNone(err) != nil {
		return api.VersionInfo{}, err
	}
	return s.versionIn(ctx, q, id, r)
}

func (s *Server) versionIn(ctx context.Context, q querier, id string, r infoRow) (api.VersionInfo, error) {
	var v api.VersionInfo
	if r.info.Valid && json.Unmarshal([]byte(r.info.V), &v) == nil {
		return v, nil
	}
	env, err := manifestOf(ctx, q, id, r.number)
	if err != nil {
		return api.VersionInfo{}, err
	}
	m, err := s.opened(env, "image "+id, r.number)
	if err != nil {
		return api.VersionInfo{}, err
	}
	return versionInfo(ctx, q, m)
}

// pointInfos describes the newest points of a line, oldest first, but for what checks of their layers found.
func (s *Server) pointInfos(ctx context.Context, q querier, line string, limit int) ([]api.BackupPoint, error) {
	rows, err := collect(ctx, q, scanInfo, `SELECT p.point, i.info FROM points p LEFT JOIN point_infos i ON i.line = p.line AND i.point = p.point
		WHERE p.line = ? ORDER BY p.point DESC LIMIT ?`, line, limit)
	if err != nil {
		return nil, err
	}
	out := make([]api.BackupPoint, 0, len(rows))
	for _, r := range slices.Backward(rows) {
		p, err := s.pointIn(ctx, q, line, r)
		if isNotFound(err) {
			continue // it has gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// pointIn describes a point. One whose manifest cannot be opened is damaged; the others, of which somebody may want one all the more then,
// are listed with it.
func (s *Server) pointIn(ctx context.Context, q querier, line string, r infoRow) (api.BackupPoint, error) {
	var p api.BackupPoint
	if r.info.Valid && json.Unmarshal([]byte(r.info.V), &p) == nil {
		return p, nil
	}
	var env []byte
	var created string
	err := q.QueryRowContext(ctx, "SELECT manifest, created FROM points WHERE line = ? AND point = ?", line, r.number).Scan(&env, &created)
	if errors.Is(err, sql.ErrNoRows) {
		err = notFound("there is no point %d", r.number)
	}
	if err != nil {
		return api.BackupPoint{}, err
	}
	m, err := s.opened(env, "line "+line, r.number)
	if err != nil {
		p = api.BackupPoint{Point: r.number, Consistency: image.CrashConsistent, Disks: []api.DiskInfo{}, Damaged: err.Error()} // which promises least
		p.Created, err = parseStamp(created)
		return p, err
	}
	return pointInfo(ctx, q, m)
}

// findings adds to points of a line, oldest first, what checks of their layers found: since when all of them have been read back, and what is
// wrong with one of them.
func findings(ctx context.Context, q querier, line string, ps []api.BackupPoint) error {
	if len(ps) == 0 {
		return nil
	}
	type finding struct {
		point   image.Version
		good    string
		damaged bool
	}
	found, err := collect(ctx, q, func(r *sql.Rows, f *finding) error { return r.Scan(&f.point, &f.good, &f.damaged) },
		`SELECT p.point, MIN(COALESCE(c.good, '')), MAX(COALESCE(c.damaged, '') <> '')
		FROM point_layers p LEFT JOIN checks c ON c.layer = p.layer WHERE p.line = ? AND p.point BETWEEN ? AND ? GROUP BY p.point`,
		line, ps[0].Point, ps[len(ps)-1].Point)
	if err != nil {
		return err
	}
	for _, f := range found {
		i, ok := slices.BinarySearchFunc(ps, f.point, func(p api.BackupPoint, n image.Version) int { return cmp.Compare(p.Point, n) })
		if !ok || ps[i].Damaged != "" {
			continue // it came or went meanwhile, or nobody knows what it should have been
		}
		if f.good != "" {
			if ps[i].Verified, err = parseStamp(f.good); err != nil {
				return err
			}
		}
		if !f.damaged {
			continue
		}
		if ps[i].Damaged, err = damageOf(ctx, q, line, f.point); err != nil {
			return err
		}
	}
	return nil
}

// damageOf says what is wrong with a point.
func damageOf(ctx context.Context, q querier, line string, n image.Version) (damaged string, err error) {
	return damaged, q.QueryRowContext(ctx, `SELECT COALESCE(MAX(CASE WHEN p.own THEN c.damaged ELSE 'in the content of the image: ' || c.damaged END), '')
		FROM point_layers p JOIN checks c ON c.layer = p.layer WHERE p.line = ? AND p.point = ? AND c.damaged <> ''`, line, n).Scan(&damaged)
}

// damagedPoints returns the points of a line that something is known to be wrong with.
func damagedPoints(ctx context.Context, q querier, line string) (map[image.Version]bool, error) {
	out := map[image.Version]bool{}
	bad, err := column(ctx, q, `SELECT c.layer FROM checks c CROSS JOIN line_layers x ON x.line = ? AND x.layer = c.layer WHERE c.damaged <> '' LIMIT 1`, line)
	if err != nil || len(bad) == 0 {
		return out, err
	}
	ps, err := collect(ctx, q, func(r *sql.Rows, v *image.Version) error { return r.Scan(v) },
		`SELECT DISTINCT p.point FROM point_layers p JOIN checks c ON c.layer = p.layer WHERE p.line = ? AND c.damaged <> ''`, line)
	for _, p := range ps {
		out[p] = true
	}
	return out, err
}
