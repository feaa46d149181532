package synchronizer

import (
	"compress/gzip"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"disksync/api"
	"disksync/image"
	"disksync/internal/durable"
)

// imageID returns the id of the image of that name.
func imageID(ctx context.Context, q querier, name string) (string, error) {
	var id string
	err := q.QueryRowContext(ctx, "SELECT id FROM images WHERE name = ?", name).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", notFound("there is no image %s", name)
	}
	return id, err
}

// manifestOf returns the signed manifest of a version.
func manifestOf(ctx context.Context, q querier, id string, v image.Version) ([]byte, error) {
	var env []byte
	err := q.QueryRowContext(ctx, "SELECT manifest FROM versions WHERE image = ? AND version = ?", id, v).Scan(&env)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, notFound("there is no version %d", v)
	}
	return env, err
}

// opened checks a manifest of the catalog as everybody else does.
func (s *Server) opened(env []byte, what string, v image.Version) (*image.Manifest, error) {
	m, err := image.VerifyManifest(env, s.SigningKey())
	if err != nil {
		return nil, fmt.Errorf("manifest of %s number %d in the catalog: %w", what, v, err)
	}
	return m.Manifest(), nil
}

// manifest returns the manifest of a version, checked as everybody else does.
func (s *Server) manifest(ctx context.Context, id string, v image.Version) (*image.Manifest, error) {
	env, err := manifestOf(ctx, s.db, id, v)
	if err != nil {
		return nil, err
	}
	return s.opened(env, "image "+id, v)
}

// imageVersion returns what a path names: an image with its id, and a number that may be one of its versions.
func (s *Server) imageVersion(c *call) (name, id string, v image.Version, err error) {
	if name, err = c.imageName(); err != nil {
		return "", "", 0, err
	}
	if v, err = c.version(); err != nil {
		return "", "", 0, err
	}
	id, err = imageID(c.Context(), s.db, name)
	return name, id, v, err
}

func (s *Server) getManifest(c *call) error {
	name, id, v, err := s.imageVersion(c)
	if err == nil {
		err = s.mayHave(c, id, name, v)
	}
	if err != nil {
		return err
	}
	env, err := manifestOf(c.Context(), s.db, id, v)
	if err == nil && !c.who.admin {
		err = noteHad(c.Context(), s.db, c.who.name, id, v)
	}
	if err != nil {
		return err
	}
	c.sendManifest(env)
	return nil
}

func (c *call) sendManifest(env []byte) {
	c.answered = true
	c.w.Header().Set("Content-Type", "application/json")
	c.w.Header().Set("Cache-Control", "no-store")
	c.writePacked(env)
}

// leastPacked is the shortest answer that is worth packing, in bytes.
const leastPacked = 1 << 10

// writePacked writes an answer with gzip, for who takes that: a manifest grows with each version, and is most of what a small update
// fetches.
func (c *call) writePacked(b []byte) {
	c.w.Header().Set("Vary", "Accept-Encoding")
	if len(b) < leastPacked || !slices.ContainsFunc(strings.Split(c.Header.Get("Accept-Encoding"), ","), func(s string) bool {
		return strings.TrimSpace(s) == "gzip"
	}) {
		_, _ = c.w.Write(b)
		return
	}
	c.w.Header().Set("Content-Encoding", "gzip")
	z, err := gzip.NewWriterLevel(c.w, gzip.BestCompression)
	if err != nil {
		panic("synchronizer: internal error: gzip level: " + err.Error())
	}
	_, _ = z.Write(b)
	_ = z.Close()
}

func (s *Server) getImages(c *call) error {
	names, err := column(c.Context(), s.db, "SELECT name FROM images ORDER BY name")
	if err != nil {
		return err
	}
	images := []api.Image{}
	for _, name := range names {
		im, err := s.describe(c.Context(), name)
		if err != nil {
			return err
		}
		images = append(images, im)
	}
	return c.replyList(images)
}

func (s *Server) getImage(c *call) error {
	name, err := c.imageName()
	if err != nil {
		return err
	}
	im, err := s.describe(c.Context(), name)
	if err != nil {
		return err
	}
	return c.replyList(im)
}

// describe collects what administrators see of an image.
func (s *Server) describe(ctx context.Context, name string) (api.Image, error) {
	id, err := imageID(ctx, s.db, name)
	if err != nil {
		return api.Image{}, err
	}
	im := api.Image{Name: name}
	if im.ID, err = image.ParseUUID(id); err != nil {
		return api.Image{}, err
	}
	if err := s.db.QueryRowContext(ctx, "SELECT mode FROM images WHERE id = ?", id).Scan(&im.Mode); err != nil {
		return api.Image{}, err
	}
	if im.Versions, err = s.versionInfos(ctx, s.db, id); err != nil {
		return api.Image{}, err
	}
	im.Layers, err = s.edgesOf(ctx, id)
	return im, err
}

// deleteImage removes an image with its versions and assignments, then its layers that no other image needs. A crash in
// between leaves files without a use, never a version without its layers.
func (s *Server) deleteImage(c *call) error {
	name, err := c.imageName()
	if err != nil {
		return err
	}
	s.forgetSquashes(name)
	const image = "(SELECT id FROM images WHERE name = ?1)"
	const layers = "SELECT layer FROM version_layers WHERE image = " + image + " UNION SELECT layer FROM edges WHERE image = " + image
	return s.dropUnneeded(c.Context(), layers, []any{name}, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(c.Context(), "DELETE FROM images WHERE name = ?", name)
		return changed(res, err, notFound("there is no image %s", name))
	})
}

// dropUnneeded removes something from the catalog, and then those layers that a query for some finds before and that nothing needs
// afterwards.
func (s *Server) dropUnneeded(ctx context.Context, query string, args []any, remove func(tx *sql.Tx) error) error {
	s.names.Lock()
	defer s.names.Unlock()
	var garbage []string // files
	err := inTx(ctx, s.db, func(tx *sql.Tx) error {
		layers, err := column(ctx, tx, query, args...)
		if err != nil {
			return err
		}
		if err := remove(tx); err != nil {
			return err
		}
		for _, l := range layers {
			files, err := dropLayer(ctx, tx, l)
			if err != nil {
				return err
			}
			garbage = append(garbage, files...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.removeAll(garbage)
}

func (s *Server) removeAll(files []string) error {
	for _, name := range files {
		if err := durable.Remove(s.fsys, name); err != nil {
			return err
		}
	}
	return nil
}

// dropLayer takes a layer out of the catalog unless some image or point needs it, and returns the files that are then of no use.
func dropLayer(ctx context.Context, tx *sql.Tx, id string) ([]string, error) {
	state, err := column(ctx, tx, `DELETE FROM layers WHERE id = ? AND id NOT IN (SELECT layer FROM version_layers)
		AND id NOT IN (SELECT layer FROM edges) AND id NOT IN (SELECT layer FROM point_layers)
		AND id NOT IN (SELECT layer FROM user_layers WHERE state <> 'uploading') RETURNING to_state`, id)
	if err != nil || len(state) == 0 {
		return nil, err
	}
	files := []string{layerFile(id)}
	others, err := column(ctx, tx, "SELECT id FROM layers WHERE to_state = ? AND sealed = ''", state[0])
	if err == nil && len(others) == 0 {
		files = append(files, stateFile(state[0]))
	}
	return files, err
}

// getMediaFiles tells which files a medium needs for a version, and where they are.
func (s *Server) getMediaFiles(c *call) error {
	_, id, v, err := s.imageVersion(c)
	if err != nil {
		return err
	}
	m, err := s.manifest(c.Context(), id, v)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return err
	}
	files := []api.MediaFile{}
	for _, d := range m.Disks {
		for i, l := range d.Layers {
			files = append(files, api.MediaFile{
				Path: filepath.Join(dir, filepath.FromSlash(layerFile(l.ID.String()))),
				Name: mediaName(m, d, i), Role: d.Role, Layer: l.ID, Length: l.Length,
			})
		}
	}
	return c.reply(files)
}

// mediaName proposes a name that tells people what a file on a stick is. Programs do not look at it.
func mediaName(m *image.Manifest, d image.Disk, i int) string {
	return fmt.Sprintf("%s-%s-%03d-%s%s", m.Image, d.Role, i+1, d.Layers[i].ID.Short(), layerSuffix)
}
