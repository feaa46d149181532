package synchronizer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync/atomic"
	"time"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
)

// noteCheck notes that a layer was read back: what was wrong with it, or that it was good.
func noteCheck(ctx context.Context, q querier, id image.LayerID, now, damaged string) error {
	good := now
	if damaged != "" {
		good = ""
	}
	_, err := q.ExecContext(ctx, `INSERT INTO checks (layer, tried, good, damaged) VALUES (?, ?, ?, ?) ON CONFLICT (layer) DO UPDATE
		SET tried = excluded.tried, damaged = excluded.damaged, good = CASE WHEN excluded.good = '' THEN good ELSE excluded.good END`,
		id.String(), now, good, damaged)
	return err
}

// checkEvery is how long a layer of points stays without being read back.
const checkEvery = 30 * 24 * time.Hour

// checksDue returns layers of points that were not read back for long, those first that were never.
func (s *Server) checksDue(ctx context.Context) ([]check, error) {
	return collect(ctx, s.db, scanCheck, `SELECT l.id FROM layers l
			WHERE NOT EXISTS (SELECT 1 FROM checks c WHERE c.layer = l.id) AND EXISTS (SELECT 1 FROM line_layers x WHERE x.layer = l.id)
		UNION ALL SELECT * FROM (SELECT c.layer FROM checks c
			WHERE c.tried <= ? AND EXISTS (SELECT 1 FROM line_layers x WHERE x.layer = c.layer) ORDER BY c.tried)`,
		stamp(s.now().Add(-checkEvery)))
}

func scanCheck(r *sql.Rows, k *check) error {
	var id string
	err := r.Scan(&id)
	if err == nil {
		k.layer, err = image.ParseLayerID(id)
	}
	return err
}

// postVerify has all layers of a line read back. Its description tells when that is done.
func (s *Server) postVerify(c *call) error {
	l, err := s.line(c)
	if err != nil {
		return err
	}
	checks, err := collect(c.Context(), s.db, scanCheck, "SELECT layer FROM line_layers WHERE line = ?", l.id)
	for i := range checks {
		checks[i].line = l.id
	}
	s.addChore(func(c *chores) { c.opened.push(l.id) })
	s.checkLater(checks...)
	return err
}

// checkLayer reads a layer of some point back and notes what it found.
func (s *Server) checkLayer(ctx context.Context, k check) error {
	path, err := s.pathWith(ctx, k.layer)
	if err != nil || path == nil {
		return err // nothing needs it any more
	}
	r := &unhurried{Server: s, ctx: ctx}
	if k.line == "" {
		r.rests = 1 // nobody waits for it
	}
	err = s.readBack(ctx, r, path)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	bad := ""
	switch {
	case err == nil:
	case r.broke.Load(), errors.Is(err, layer.ErrCorrupt), errors.Is(err, layer.ErrFormat), errors.Is(err, layer.ErrMismatch),
		errors.Is(err, layer.ErrFrom),
		errors.Is(err, fs.ErrNotExist):
		bad = fmt.Sprintf("layer %s: %v", k.layer.Short(), err)
		s.log.Error("a layer of backups is damaged", "layer", k.layer, "error", err)
	default:
		return err // of this machine, and no verdict
	}
	return noteCheck(ctx, s.db, k.layer, stamp(s.now()), bad)
}

// pathWith returns the part of some point's path that ends with a layer; nil when no point needs it.
func (s *Server) pathWith(ctx context.Context, id image.LayerID) ([]image.LayerRef, error) {
	var line string
	var n image.Version
	var env []byte
	err := s.db.QueryRowContext(ctx, `SELECT p.line, p.point, p.manifest FROM point_layers l JOIN points p ON p.line = l.line AND p.point = l.point
		WHERE l.layer = ? LIMIT 1`, id.String()).Scan(&line, &n, &env)
	if err != nil {
		return nil, ignoreNone(err)
	}
	m, err := s.opened(env, "line "+line, n)
	if err != nil {
		return nil, err
	}
	for _, d := range m.Disks {
		if i := slices.IndexFunc(d.Layers, func(l image.LayerRef) bool { return l.ID == id }); i >= 0 {
			return d.Layers[:i+1], nil
		}
	}
	return nil, nil
}

// readBack reads the last layer of a path through r and compares all of it.
func (s *Server) readBack(ctx context.Context, r *unhurried, path []image.LayerRef) error {
	ref := path[len(path)-1]
	f, err := s.fsys.Open(layerFile(ref.ID.String()))
	if err != nil {
		return err
	}
	defer f.Close()
	f.DropCache() // what is in memory says nothing about the disk
	r.f = f
	size, err := f.Size()
	if err == nil && size != ref.Length {
		err = fmt.Errorf("%w: it has %d bytes, not %d", layer.ErrCorrupt, size, ref.Length)
	}
	if err != nil {
		return err
	}
	if len(ref.Sealed) > 0 {
		return compareSealed(ctx, r, ref.ID, size, func(int64) {})
	}
	x, err := layer.ReadIndex(r, size)
	if err == nil && x.ID() != ref.ID {
		err = fmt.Errorf("%w: it is layer %s", layer.ErrCorrupt, x.ID().Short())
	}
	if err != nil {
		return err
	}
	var from io.ReaderAt
	if x.Refers() {
		d, err := s.openPath(path[:len(path)-1])
		if err != nil {
			return fmt.Errorf("what it starts from: %w", err)
		}
		defer d.Close()
		d.Trust() // what comes of it is compared
		from = d
	}
	scratch, err := s.scratch()
	if err != nil {
		return err
	}
	defer scratch.Close()
	return layer.Verify(ctx, r, x, from, scratch, func(_ layer.Frame, err error) error { return err })
}

// unhurried is a file that is read with rests in between.
type unhurried struct {
	*Server
	ctx   context.Context //nolint:containedctx // of the reading; io.ReaderAt takes none
	f     durable.File
	rests time.Duration // so many times as long as reading took
	broke atomic.Bool   // the file gave an error
}

func (u *unhurried) ReadAt(p []byte, off int64) (int, error) {
	began := time.Now()
	n, err := u.f.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		u.broke.Store(true)
	}
	if err == nil {
		err = u.rest(u.ctx, began, u.rests)
	}
	return n, err
}
