package synchronizer

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"disksync/api"
	"disksync/image"
)

func (s *Server) getAssignments(c *call) error {
	as, err := collect(c.Context(), s.db, func(r *sql.Rows, a *api.Assignment) error {
		return r.Scan(&a.Image, &a.To.Kind, &a.To.Name, &a.Version)
	}, `SELECT i.name, a.kind, a.name, a.version FROM assignments a JOIN images i ON i.id = a.image
		ORDER BY i.name, a.kind, a.name`)
	if err != nil {
		return err
	}
	return c.reply(as)
}

// assignment reads one from the body.
func (c *call) assignment() (api.Assignment, error) {
	var in api.Assignment
	if err := c.decode(&in); err != nil {
		return in, err
	}
	if err := image.CheckName(in.Image); err != nil {
		return in, invalid("%v", err)
	}
	if in.To == (api.Subject{}) {
		return in, invalid("to: want user:NAME or group:NAME")
	}
	c.subject = fmt.Sprintf("%s to %s", in.Image, in.To)
	return in, nil
}

func (s *Server) putAssignment(c *call) error {
	in, err := c.assignment()
	if err != nil {
		return err
	}
	return inTx(c.Context(), s.db, func(tx *sql.Tx) error {
		id, err := imageID(c.Context(), tx, in.Image)
		if err != nil {
			return err
		}
		if err := exists(c, tx, string(in.To.Kind)+"s", in.To.Name); err != nil {
			return err
		}
		if in.Version != 0 {
			if _, err := manifestOf(c.Context(), tx, id, in.Version); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(c.Context(), `INSERT INTO assignments (image, kind, name, version) VALUES (?, ?, ?, ?)
			ON CONFLICT (image, kind, name) DO UPDATE SET version = excluded.version`, id, in.To.Kind, in.To.Name, in.Version)
		return err
	})
}

func (s *Server) deleteAssignment(c *call) error {
	in, err := c.assignment()
	if err != nil {
		return err
	}
	res, err := s.db.ExecContext(c.Context(), `DELETE FROM assignments WHERE kind = ? AND name = ?
		AND image = (SELECT id FROM images WHERE name = ?)`, in.To.Kind, in.To.Name, in.Image)
	return changed(res, err, notFound("%s is not assigned to %s", in.Image, in.To))
}

// grant is what a user may have of an image.
type grant struct {
	image   string // its id
	name    string
	mode    image.Mode
	newest  image.Version
	version image.Version
	pinned  bool
}

// grants returns what is assigned to a user, by name of the image. Where several assignments of an image meet, the user's own
// counts before those of groups, and among groups the one with the highest version, or that is not pinned to it.
func grants(ctx context.Context, q querier, user string) ([]grant, error) {
	type row struct {
		grant
		kind api.SubjectKind
	}
	rows, err := collect(ctx, q, func(r *sql.Rows, g *row) error {
		return r.Scan(&g.image, &g.name, &g.mode, &g.newest, &g.version, &g.kind)
	}, `SELECT i.id, i.name, i.mode, (SELECT MAX(version) FROM versions v WHERE v.image = i.id), a.version, a.kind
		FROM assignments a JOIN images i ON i.id = a.image
		WHERE a.kind = 'user' AND a.name = ?1
		   OR a.kind = 'group' AND a.name IN (SELECT grp FROM members WHERE user = ?1)`, user)
	if err != nil {
		return nil, fmt.Errorf("look up assignments: %w", err)
	}
	best := map[string]row{}
	for _, g := range rows {
		g.pinned = g.version != 0
		if !g.pinned {
			g.version = g.newest
		}
		b, seen := best[g.image]
		higher := g.version > b.version || g.version == b.version && !g.pinned
		if !seen || g.kind == api.ToUser || b.kind == api.ToGroup && higher {
			best[g.image] = g
		}
	}
	out := []grant{}
	for _, g := range best {
		out = append(out, g.grant)
	}
	slices.SortFunc(out, func(a, b grant) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// allows reports whether the grant covers a version: the pinned one only, or any when none is pinned.
func (g grant) allows(v image.Version) bool { return !g.pinned || v == g.version }

// seenEvery is how old the time at which a device was last seen may be: an endpoint that polls is not to have the catalog written each time.
const seenEvery = 5 * time.Minute

// noteSeen notes when the device of the caller was seen.
func (s *Server) noteSeen(c *call) error {
	now := s.now()
	old, err := column(c.Context(), s.db, "SELECT last_seen FROM devices WHERE id = ? AND user = ? AND (last_seen <= ? OR last_seen > ?)",
		c.who.device, c.who.name, stamp(now.Add(-seenEvery)), stamp(now)) // the clock may have been set back
	if err != nil || len(old) == 0 {
		return err
	}
	_, err = s.db.ExecContext(c.Context(), "UPDATE devices SET last_seen = ? WHERE id = ? AND user = ?", stamp(now), c.who.device, c.who.name)
	return err
}

func (s *Server) getOffers(c *call) error {
	if err := s.noteSeen(c); err != nil {
		return err
	}
	gs, err := grants(c.Context(), s.db, c.who.name)
	if err != nil {
		return err
	}
	offers := []api.Offer{}
	for _, g := range gs {
		info, err := s.infoOf(c.Context(), s.db, g.image, g.version)
		if err != nil {
			return err
		}
		id, err := image.ParseUUID(g.image)
		if err != nil {
			return err
		}
		keys, err := keysOf(c.Context(), s.db, g.image)
		if err != nil {
			return err
		}
		var key image.KeyID
		if len(keys) > 0 {
			key = keys[0].ID
		}
		p, err := policyOf(c.Context(), s.db, g.image)
		if err != nil {
			return err
		}
		o := api.Offer{
			MediaKey: key, Backup: p.Backup, Image: g.name, ImageID: id, Version: g.version, Pinned: g.pinned, Newest: g.newest,
			Mode: g.mode, Note: info.Note, Created: info.Created,
		}
		for _, d := range info.Disks {
			o.Size += d.Size
		}
		offers = append(offers, o)
	}
	return c.reply(offers)
}

// mayHave returns an error unless the caller is an administrator or has a grant that covers the version. An image that is not
// assigned looks like one that is not there.
func (s *Server) mayHave(c *call, id, name string, v image.Version) error {
	if c.who.admin {
		return nil
	}
	gs, err := grants(c.Context(), s.db, c.who.name)
	if err != nil {
		return err
	}
	for _, g := range gs {
		if g.image != id {
			continue
		}
		if g.allows(v) {
			return nil
		}
		return &api.Error{Code: api.CodeForbidden,
			Message: fmt.Sprintf("version %d of %s is meant for you, not version %d", g.version, name, v)}
	}
	return notFound("there is no image %s", name) // to the letter what imageID says
}

// mayHaveLayer is mayHave for a layer: some granted version must need it, or it must lead to a state on the way to one; or it is of the
// caller's backups.
func (s *Server) mayHaveLayer(c *call, id image.LayerID) error {
	if c.who.admin {
		return nil
	}
	return s.userHasLayer(c.Context(), s.db, c.who.name, id)
}
