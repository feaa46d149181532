package synchronizer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"disksync/api"
	"disksync/image"
	"disksync/internal/durable"
)

// What users upload can only become part of their backups. It is theirs alone until then, bounded, and goes after a day.

const (
	// userReserve is the room on the disk that users' uploads leave free, in bytes.
	userReserve = 1 << 30
	// maxUserUploads bounds the uploads of a user that did not come to an end.
	maxUserUploads = 16
	// maxVerifying bounds the uploads of users that are verified at the same time.
	maxVerifying = 2
	// userLayerLife is how long what a user sent, and what was taken out of a point's path, stays without a use.
	userLayerLife = 24 * time.Hour
)

// States of a row of user_layers.
const (
	userUploading = "uploading"
	userNaming    = "naming" // its file may have the layer's own name, which the catalog does not know yet
	userStored    = "stored"
)

// enterUpload notes the upload of a user. named says that an earlier process may have come as far as to name the layer.
func (s *Server) enterUpload(ctx context.Context, k uploadKey, length int64) (named bool, err error) {
	err = inTx(ctx, s.db, func(tx *sql.Tx) error {
		var state string
		err := tx.QueryRowContext(ctx, "SELECT state FROM user_layers WHERE user = ? AND layer = ?", k.user, k.layer.String()).Scan(&state)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		named = state == userNaming
		if state == "" {
			var n int
			err := tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM user_layers WHERE user = ? AND state <> ?", k.user, userStored).Scan(&n)
			if err != nil {
				return err
			}
			if n >= maxUserUploads {
				return &api.Error{Code: api.CodeTooLarge, Message: fmt.Sprintf(
					"%d uploads were begun and not ended; give some up, or come again when they are a day old", n)}
			}
		}
		if !named {
			state = userUploading
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO user_layers (user, layer, state, length, touched) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (user, layer) DO UPDATE SET state = excluded.state, length = excluded.length, touched = excluded.touched`,
			k.user, k.layer.String(), state, length, stamp(s.now()))
		return err
	})
	return named, err
}

// touchUpload starts the day anew that something of a user stays.
func (s *Server) touchUpload(ctx context.Context, k uploadKey) error {
	_, err := s.db.ExecContext(ctx, "UPDATE user_layers SET touched = ? WHERE user = ? AND layer = ?",
		stamp(s.now()), k.user, k.layer.String())
	return err
}

// roomForUsers returns an error when the disk has no room for more from users; else it notes that something comes.
func (s *Server) roomForUsers(ctx context.Context, k uploadKey) error {
	free, err := s.fsys.Free()
	if err == nil && free < userReserve {
		err = &api.Error{Code: api.CodeNoSpace, Message: "the Synchronizer's disk has no room for more backups; what was sent is kept for a day"}
	}
	if err != nil {
		return err
	}
	return s.touchUpload(ctx, k)
}

// forgetUpload removes what is noted of a user's upload that came to nothing.
func (s *Server) forgetUpload(ctx context.Context, k uploadKey) error {
	if k.user == "" {
		return nil
	}
	_, err := s.db.ExecContext(ctx, "DELETE FROM user_layers WHERE user = ? AND layer = ? AND state <> ?", k.user, k.layer.String(), userStored)
	return err
}

// startOf returns the state that an uploaded layer starts from. Of a user's it must be one that the user may have: whether a layer fits
// to a state says something about it.
func (s *Server) startOf(ctx context.Context, user string, id image.StateID) (image.State, error) {
	if user != "" && !id.IsZero() {
		if err := s.userHasState(ctx, s.db, user, id, false); err != nil {
			return image.State{}, err
		}
	}
	return s.state(ctx, id)
}

// nameUpload gives a layer that was verified its name and enters it.
func (s *Server) nameUpload(ctx context.Context, k uploadKey, l storedLayer) error {
	s.names.Lock()
	defer s.names.Unlock()
	if k.user != "" {
		res, err := s.db.ExecContext(ctx, "UPDATE user_layers SET state = ?, touched = ? WHERE user = ? AND layer = ?",
			userNaming, stamp(s.now()), k.user, k.layer.String())
		if err := changed(res, err, conflict("the upload of layer %s was given up", k.short())); err != nil {
			return err
		}
	}
	_, _, err := layerRef(ctx, s.db, k.layer)
	switch {
	case isNotFound(err):
		err = durable.Publish(s.fsys, k.file(), layerFile(k.layer.String()))
	case err == nil: // somebody else sent the same; what is stored stays
		err = durable.Remove(s.fsys, k.file())
	}
	if err != nil {
		return err
	}
	return inTx(ctx, s.db, func(tx *sql.Tx) error {
		if err := s.enterLayer(ctx, tx, l); err != nil || k.user == "" {
			return err
		}
		_, err := tx.ExecContext(ctx, "UPDATE user_layers SET state = ? WHERE user = ? AND layer = ?", userStored, k.user, k.layer.String())
		return err
	})
}

// A user may have what leads to versions that are meant for the user, and to the user's points. The states on the way to versions that
// the user was given once may be what a VM is made of that still runs: they may be started from.

// userHasLayer returns an error unless a user may have a layer.
func (s *Server) userHasLayer(ctx context.Context, q querier, user string, id image.LayerID) error {
	var one int
	err := q.QueryRowContext(ctx, `SELECT 1 FROM lines n CROSS JOIN line_layers p ON p.line = n.id AND p.layer = ?2 WHERE n.user = ?1
		UNION ALL SELECT 1 FROM user_layers WHERE user = ?1 AND layer = ?2 AND state = ?3
		UNION ALL SELECT 1 FROM edges e JOIN layers x ON x.id = e.layer JOIN layers l ON l.to_state = x.to_state AND l.sealed = ''
			JOIN lines n ON n.user = ?1 AND n.known AND n.image_id = e.image JOIN line_layers p ON p.line = n.id AND p.layer = l.id
			WHERE e.layer = ?2 LIMIT 1`, user, id.String(), userStored).Scan(&one)
	if err == nil || !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	gs, err := grants(ctx, q, user)
	if err != nil {
		return err
	}
	for _, g := range gs {
		err := q.QueryRowContext(ctx, `SELECT 1 FROM version_layers WHERE image = ?1 AND (?3 OR version = ?4) AND layer = ?2
			UNION ALL SELECT 1 FROM edges e JOIN layers x ON x.id = e.layer JOIN layers l ON l.to_state = x.to_state
			JOIN version_layers v ON v.layer = l.id AND v.image = e.image
			WHERE e.image = ?1 AND e.layer = ?2 AND (?3 OR v.version = ?4) LIMIT 1`, g.image, id.String(), !g.pinned, g.version).Scan(&one)
		if err == nil {
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("look up layer: %w", err)
		}
	}
	return notFound("there is no layer %s for you", id.Short())
}

// userHasState returns an error unless a user may start a layer from a state: sealed says whether that is a sealed one, which alone may
// start from what other sealed ones are said to lead to.
func (s *Server) userHasState(ctx context.Context, q querier, user string, id image.StateID, sealed bool) error {
	var one int
	err := q.QueryRowContext(ctx, `SELECT 1 FROM layers l CROSS JOIN lines n ON n.user = ?1 CROSS JOIN line_layers p ON p.line = n.id AND p.layer = l.id
			WHERE l.to_state = ?2 AND (?3 OR l.sealed = '') LIMIT 1`, user, id.String(), sealed).Scan(&one)
	if err == nil || !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	v, err := versionsWith(ctx, q, user, false, id)
	if err == nil && len(v) == 0 {
		err = notFound("there is no state %s", id.Short())
	}
	return err
}

// imageVersion names a version of an image by its id.
type imageVersion struct {
	image   string
	version image.Version
}

// versionsWith returns the versions that a user may have (an administrator: all), or had, with a state on the way to one of their disks; newest first.
func versionsWith(ctx context.Context, q querier, user string, admin bool, id image.StateID) ([]imageVersion, error) {
	gs, err := grants(ctx, q, user)
	if err != nil {
		return nil, err
	}
	all, err := collect(ctx, q, func(r *sql.Rows, v *struct {
		imageVersion
		had bool
	},
	) error {
		return r.Scan(&v.image, &v.version, &v.had)
	}, `SELECT DISTINCT v.image, v.version, EXISTS (SELECT 1 FROM had h WHERE h.user = ?1 AND h.image = v.image AND h.version = v.version)
		FROM layers l JOIN version_layers v ON v.layer = l.id WHERE l.to_state = ?2 ORDER BY v.image, v.version DESC`, user, id.String())
	if err != nil {
		return nil, err
	}
	var out []imageVersion
	for _, v := range all {
		ok := v.had || admin
		for _, g := range gs {
			ok = ok || g.image == v.image && g.allows(v.version)
		}
		if ok {
			out = append(out, v.imageVersion)
		}
	}
	return out, nil
}

// noteHad notes that a user gets the manifest of a version.
func noteHad(ctx context.Context, q querier, user, image string, v image.Version) error {
	noted, err := column(ctx, q, "SELECT image FROM had WHERE user = ? AND image = ? AND version = ?", user, image, v)
	if err == nil && len(noted) == 0 {
		_, err = q.ExecContext(ctx, "INSERT INTO had (user, image, version) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", user, image, v)
	}
	return err
}
