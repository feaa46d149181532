package synchronizer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"disksync/image"
)

// Lists do not open manifests, so somebody has to look at times whether they can be opened: what cannot is described no more, so that whoever
// lists it is told that. The same work describes what an earlier release left.

// kind is a kind of manifests, of images or of lines, with what it takes to look after their descriptions.
type kind struct {
	name     string
	missing  string // finds what has no description behind a key, in order
	numbers  string // finds all that there are of an image or line
	manifest string // finds the manifest of a key
	forget   string // removes the description of a key
	enter    func(ctx context.Context, q querier, m *image.Manifest) error
}

var ofImages = kind{
	name: "image",
	missing: `SELECT v.image, v.version FROM versions v WHERE (v.image, v.version) > (?, ?)
		AND NOT EXISTS (SELECT 1 FROM version_infos i WHERE i.image = v.image AND i.version = v.version) ORDER BY v.image, v.version LIMIT ?`,
	numbers:  "SELECT image, version FROM versions WHERE image = ? ORDER BY version",
	manifest: "SELECT manifest FROM versions WHERE image = ? AND version = ?",
	forget:   "DELETE FROM version_infos WHERE image = ? AND version = ?",
	enter: func(ctx context.Context, q querier, m *image.Manifest) error {
		_, err := enterVersionInfo(ctx, q, m)
		return err
	},
}

var ofLines = kind{
	name: "line",
	missing: `SELECT p.line, p.point FROM points p WHERE (p.line, p.point) > (?, ?)
		AND NOT EXISTS (SELECT 1 FROM point_infos i WHERE i.line = p.line AND i.point = p.point) ORDER BY p.line, p.point LIMIT ?`,
	numbers:  "SELECT line, point FROM points WHERE line = ? ORDER BY point",
	manifest: "SELECT manifest FROM points WHERE line = ? AND point = ?",
	forget:   "DELETE FROM point_infos WHERE line = ? AND point = ?",
	enter: func(ctx context.Context, q querier, m *image.Manifest) error {
		_, err := enterPointInfo(ctx, q, m)
		return err
	},
}

// fillBatch is how many descriptions are entered in one transaction.
const fillBatch = 256

// infoKey names a version or a point.
type infoKey struct {
	of     string // an image or line
	number image.Version
}

func scanKey(row *sql.Rows, k *infoKey) error { return row.Scan(&k.of, &k.number) }

// fillInfos enters the descriptions that are missing: those of a catalog that an earlier release made. What cannot be described stays
// without; it is tried again at the next start.
func (s *Server) fillInfos(ctx context.Context) error {
	return errors.Join(s.fill(ctx, ofImages), s.fill(ctx, ofLines))
}

func (s *Server) fill(ctx context.Context, of kind) error {
	var last infoKey
	for {
		began := time.Now()
		keys, err := collect(ctx, s.db, scanKey, of.missing, last.of, last.number, fillBatch)
		if err != nil || len(keys) == 0 {
			return err
		}
		last = keys[len(keys)-1]
		err = inTx(ctx, s.db, func(tx *sql.Tx) error {
			for _, k := range keys {
				if err := s.fillOne(ctx, tx, of, k); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			err = s.rest(ctx, began, 1) // others want to write, too
		}
		if err != nil {
			return err
		}
	}
}

func (s *Server) fillOne(ctx context.Context, q querier, of kind, k infoKey) error {
	m, bad, err := s.openKey(ctx, q, of, k)
	if err != nil || m == nil && bad == nil {
		return err
	}
	if bad == nil {
		bad = of.enter(ctx, q, m)
		if bad != nil && !errors.Is(bad, sql.ErrNoRows) { // which is a layer that is not there
			return bad
		}
	}
	if bad != nil {
		s.log.Error("a manifest cannot be described", "error", bad)
	}
	return nil
}

// openKey opens the manifest of a version or point. bad says why it cannot be used; with neither there is none any more.
func (s *Server) openKey(ctx context.Context, q querier, of kind, k infoKey) (m *image.Manifest, bad, err error) {
	envs, err := collect(ctx, q, func(r *sql.Rows, b *[]byte) error { return r.Scan(b) }, of.manifest, k.of, k.number)
	if err != nil || len(envs) == 0 {
		return nil, nil, err
	}
	m, bad = s.opened(envs[0], of.name+" "+k.of, k.number)
	if bad == nil && (m.ImageID.String() != k.of || m.Version != k.number || (m.Point != nil) != (of.name == ofLines.name)) {
		bad = fmt.Errorf("manifest of %s %s number %d in the catalog is one of %s number %d", of.name, k.of, k.number, m.ImageID, m.Version)
	}
	return m, bad, nil
}

// openAll opens the manifests of an image or a line.
func (s *Server) openAll(ctx context.Context, of kind, id string) error {
	keys, err := collect(ctx, s.db, scanKey, of.numbers, id)
	if err != nil {
		return err
	}
	for _, k := range keys {
		began := time.Now()
		_, bad, err := s.openKey(ctx, s.db, of, k)
		if err != nil {
			return err
		}
		if bad != nil {
			s.log.Error("a manifest is damaged", "error", bad)
			if _, err := s.db.ExecContext(ctx, of.forget, k.of, k.number); err != nil {
				return err
			}
		}
		if err := s.rest(ctx, began, 1); err != nil {
			return err
		}
	}
	return nil
}

// openManifests opens the manifests of a line, and notes when that was.
func (s *Server) openManifests(ctx context.Context, line string) error {
	now := stamp(s.now())
	err := s.openAll(ctx, ofLines, line)
	if err == nil {
		_, err = s.db.ExecContext(ctx, "UPDATE lines SET opened = ? WHERE id = ?", now, line)
	}
	return err
}

// openImages opens the manifests of images, at the first call and then once in the time in which layers are read back.
func (s *Server) openImages(ctx context.Context) error {
	if now := s.now(); s.imagesOpened.IsZero() || now.Sub(s.imagesOpened) >= checkEvery {
		ids, err := column(ctx, s.db, "SELECT id FROM images")
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := s.openAll(ctx, ofImages, id); err != nil {
				return err
			}
		}
		s.imagesOpened = now
	}
	return nil
}
