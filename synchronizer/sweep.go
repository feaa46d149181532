package synchronizer

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"

	"disksync/api"
	"disksync/image"
	"disksync/internal/durable"
)

// sweep removes what users sent a day ago and did not use, and what was taken out of points' paths a day ago.
func (s *Server) sweep(ctx context.Context) error {
	before := stamp(s.now().Add(-userLayerLife))
	err := s.dropUnneeded(ctx, "SELECT layer FROM user_layers WHERE touched < ? AND state = ?", []any{before, userStored}, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM user_layers WHERE touched < ? AND state = ?", before, userStored)
		return err
	})
	if err != nil {
		return err
	}
	s.names.Lock()
	defer s.names.Unlock()
	known, err := s.userUploads(ctx, "")
	if err != nil {
		return err
	}
	old, err := s.userUploads(ctx, before)
	if err != nil {
		return err
	}
	for _, k := range s.uploadsOfUsers() {
		if !slices.Contains(known, k) {
			old = append(old, k) // the user has gone
		}
	}
	for _, k := range old {
		if err := s.giveUp(ctx, k); err != nil {
			return err
		}
	}
	return s.removeStrays(known)
}

// uploadsOfUsers returns the uploads of users that this process knows.
func (s *Server) uploadsOfUsers() (out []uploadKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.uploads {
		if k.user != "" {
			out = append(out, k)
		}
	}
	return out
}

// userUploads returns the uploads of users that did not come to an end, all or those that nothing was added to since a time.
func (s *Server) userUploads(ctx context.Context, before string) ([]uploadKey, error) {
	return collect(ctx, s.db, func(r *sql.Rows, k *uploadKey) error {
		var layer string
		err := r.Scan(&k.user, &layer)
		if err == nil {
			k.layer, err = image.ParseLayerID(layer)
		}
		return err
	}, "SELECT user, layer FROM user_layers WHERE state <> ?1 AND (?2 = '' OR touched < ?2)", userStored, before)
}

// giveUp removes an upload, unless somebody works on it just now. The caller holds names.
func (s *Server) giveUp(ctx context.Context, k uploadKey) error {
	s.mu.Lock()
	u := s.uploads[k]
	s.mu.Unlock()
	if u != nil {
		if !u.mu.TryLock() {
			return nil
		}
		defer u.mu.Unlock()
		if err := s.removeUpload(k, u); err != nil {
			if _, busy := errors.AsType[*api.Error](err); busy {
				return nil // it is being verified
			}
			return err
		}
	}
	state, err := column(ctx, s.db, "SELECT state FROM user_layers WHERE user = ? AND layer = ?", k.user, k.layer.String())
	if err != nil {
		return err
	}
	files := []string{k.file()}
	if _, _, err := layerRef(ctx, s.db, k.layer); slices.Contains(state, userNaming) && isNotFound(err) {
		files = append(files, layerFile(k.layer.String())) // named, and never entered
	}
	if err := s.removeAll(files); err != nil {
		return err
	}
	return s.forgetUpload(ctx, k)
}

// removeStrays removes files of users' uploads that nothing is known of. The caller holds names, so that none is begun.
func (s *Server) removeStrays(known []uploadKey) error {
	keep := map[string]bool{}
	for _, k := range append(s.uploadsOfUsers(), known...) {
		keep[k.file()] = true
	}
	entries, err := s.fsys.ReadDir(layersDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := layersDir + "/" + e.Name()
		if strings.HasSuffix(name, partSuffix) && strings.Contains(e.Name(), "-") && !keep[name] {
			if err := durable.Remove(s.fsys, name); err != nil {
				return err
			}
		}
	}
	return nil
}
