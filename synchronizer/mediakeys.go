package synchronizer

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"

	"disksync/api"
	"disksync/image"
)

// The files of an image on media can be sealed with a key of the image. Whoever may have the image may have all its keys: an older
// medium is as good as it was. A new key keeps those out of later media who have lost the image.

// keysOf returns the media keys of an image, the newest first.
func keysOf(ctx context.Context, q querier, id string) ([]api.MediaKey, error) {
	return collect(ctx, q, func(r *sql.Rows, k *api.MediaKey) error {
		var b []byte
		if err := r.Scan(&b); err != nil {
			return err
		}
		if len(b) != len(k.Key) {
			return fmt.Errorf("a media key of %d bytes", len(b))
		}
		k.Key = image.MediaKey(b)
		k.ID = k.Key.ID()
		return nil
	}, "SELECT key FROM media_keys WHERE image = ? ORDER BY rowid DESC", id)
}

// getMediaKeys hands the keys out to whoever may have some version of the image.
func (s *Server) getMediaKeys(c *call) error {
	name, err := c.imageName()
	if err != nil {
		return err
	}
	id, err := imageID(c.Context(), s.db, name)
	if err == nil {
		err = s.mayHaveSome(c, id, name)
	}
	if err != nil {
		return err
	}
	keys, err := keysOf(c.Context(), s.db, id)
	if err != nil {
		return err
	}
	return c.reply(keys)
}

// mayHaveSome is mayHave for whatever version is meant for the caller.
func (s *Server) mayHaveSome(c *call, id, name string) error {
	if c.who.admin {
		return nil
	}
	gs, err := grants(c.Context(), s.db, c.who.name)
	if err != nil {
		return err
	}
	for _, g := range gs {
		if g.image == id {
			return nil
		}
	}
	return notFound("there is no image %s", name) // to the letter what imageID says
}

// maxMediaKeys bounds the keys of an image, so that an answer with all of them stays small.
const maxMediaKeys = 1000

// postMediaKey makes a new key of an image.
func (s *Server) postMediaKey(c *call) error {
	name, err := c.imageName()
	if err != nil {
		return err
	}
	c.subject = name
	var out api.MediaKey
	rand.Read(out.Key[:])
	out.ID = out.Key.ID()
	err = inTx(c.Context(), s.db, func(tx *sql.Tx) error {
		id, err := imageID(c.Context(), tx, name)
		if err != nil {
			return err
		}
		had, err := keysOf(c.Context(), tx, id)
		if err != nil {
			return err
		}
		if len(had) >= maxMediaKeys {
			return conflict("%s has %d media keys already", name, len(had))
		}
		_, err = tx.ExecContext(c.Context(), "INSERT INTO media_keys (image, id, key, made) VALUES (?, ?, ?, ?)",
			id, out.ID.String(), out.Key[:], stamp(s.now()))
		return err
	})
	if err != nil {
		return err
	}
	return c.reply(out)
}
