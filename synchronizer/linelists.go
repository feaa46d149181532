package synchronizer

import (
	"context"
	"fmt"
	"net/url"

	"disksync/api"
	"disksync/image"
)

// A list of backups is bounded: by lines, points and bytes. Who has more asks for the lines first, and then for the points of each.

// getBackups lists the caller's lines, or for an administrator who asks so those of everybody or of some user, without older points.
func (s *Server) getBackups(c *call) error {
	query := c.URL.Query()
	all := query.Get("all") != "" || query.Has("user") || query.Has("after")
	if all && !c.who.admin {
		return &api.Error{Code: api.CodeForbidden, Message: "only administrators see backups of others"}
	}
	newest := query.Get("points") == "newest"
	if query.Has("points") && !newest {
		return invalid("points: want newest, or nothing for all of them")
	}
	var lines []line
	var err error
	switch {
	case all:
		lines, err = s.linesOfAll(c.Context(), query)
	case newest:
		lines, err = linesWhere(c.Context(), s.db, "user = ? ORDER BY name, id", c.who.name)
	default:
		lines, err = s.linesWithPoints(c)
	}
	if err != nil {
		return err
	}
	d := describer{Server: s, policies: map[string]*api.BackupPolicy{}}
	out := []api.BackupLine{}
	for _, l := range lines {
		b, err := d.describe(c.Context(), l, !all && !newest)
		if err != nil {
			return err
		}
		out = append(out, b)
	}
	return c.replyList(out)
}

func linesWhere(ctx context.Context, q querier, rest string, args ...any) ([]line, error) {
	return collect(ctx, q, scanLine, "SELECT "+lineColumns+" FROM lines WHERE "+rest, args...)
}

// linesOfAll returns the lines that an administrator asks for: of everybody, of one user, or of everybody a page in the order of ids.
func (s *Server) linesOfAll(ctx context.Context, query url.Values) ([]line, error) {
	if query.Has("after") {
		id, err := image.ParseUUID(query.Get("after"))
		if err != nil {
			return nil, invalid("after: %v", err)
		}
		return linesWhere(ctx, s.db, "id > ? ORDER BY id LIMIT ?", id.String(), s.page)
	}
	lines, err := linesWhere(ctx, s.db, "user = ?1 OR ?2 ORDER BY user, name, id LIMIT ?3", query.Get("user"), !query.Has("user"), s.listed+1)
	if err == nil && len(lines) > s.listed {
		err = tooMany("there are backups of more than %d VMs; ask for those of one user, or for one page after the other", s.listed)
	}
	return lines, err
}

// linesWithPoints returns the caller's lines, unless there are too many points to list all of them.
func (s *Server) linesWithPoints(c *call) ([]line, error) {
	var n int
	err := s.db.QueryRowContext(c.Context(), `SELECT COUNT(*) FROM (SELECT 1 FROM lines n JOIN points p ON p.line = n.id WHERE n.user = ? LIMIT ?)`,
		c.who.name, s.listed+1).Scan(&n)
	if err != nil {
		return nil, err
	}
	if n > s.listed {
		return nil, tooMany("you have more than %d backups; ask for the VMs with their newest ones, and then for those of one VM", s.listed)
	}
	return linesWhere(c.Context(), s.db, "user = ? ORDER BY name, id", c.who.name)
}

func tooMany(format string, args ...any) error {
	return &api.Error{Code: api.CodeTooLarge, Message: fmt.Sprintf(format, args...)}
}

func (s *Server) getBackup(c *call) error {
	l, err := s.line(c)
	if err != nil {
		return err
	}
	b, err := s.describeLine(c.Context(), l, true)
	if err != nil {
		return err
	}
	return c.replyList(b)
}

// describer describes lines, of which many have the same policy.
type describer struct {
	*Server
	policies map[string]*api.BackupPolicy // by the image
}

// describeLine collects what its user sees of a line, with all its points or the newest alone.
func (s *Server) describeLine(ctx context.Context, l line, all bool) (api.BackupLine, error) {
	d := describer{Server: s, policies: map[string]*api.BackupPolicy{}}
	return d.describe(ctx, l, all)
}

func (d *describer) describe(ctx context.Context, l line, all bool) (api.BackupLine, error) {
	b := api.BackupLine{
		Name: l.name, User: l.user, DeviceName: l.deviceName, Image: l.image, Mode: l.mode, Newest: l.newest,
		Verifying: d.checking(l.id),
	}
	var err error
	for text, id := range map[string]*image.UUID{l.id: &b.ID, l.vm: &b.VM, l.device: &b.Device, l.imageID: &b.ImageID} {
		if *id, err = image.ParseUUID(text); err != nil {
			return b, err
		}
	}
	p, err := d.policy(ctx, l)
	if err != nil {
		return b, err
	}
	if p != nil {
		b.Every, b.Encrypt, b.Recipients, b.AllBlocks = p.Every, p.Encrypt, p.Recipients, p.AllBlocks
	}
	if err := d.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM points WHERE line = ?", l.id).Scan(&b.Count); err != nil {
		return b, err
	}
	damaged, err := damagedPoints(ctx, d.db, l.id)
	if err != nil {
		return b, err
	}
	if b.Bytes, err = usage(ctx, d.db, l.id); err != nil {
		return b, err
	}
	limit := 1
	if all {
		limit = api.MaxPoints
	}
	b.Points, err = d.pointsOf(ctx, d.db, l.id, limit)
	for _, p := range b.Points {
		if p.Damaged != "" {
			damaged[p.Point] = true // which is not all of them: of older points' manifests nothing is known where those are not listed
		}
	}
	b.Damaged = len(damaged)
	return b, err
}

// policy is backupPolicyOf.
func (d *describer) policy(ctx context.Context, l line) (*api.BackupPolicy, error) {
	if !l.known {
		return nil, nil
	}
	p, ok := d.policies[l.imageID]
	if ok {
		return p, nil
	}
	p, err := backupPolicyOf(ctx, d.db, l)
	d.policies[l.imageID] = p
	return p, err
}

// usage returns the bytes of the layers that are there for a line alone.
func usage(ctx context.Context, q querier, line string) (n int64, err error) {
	return n, q.QueryRowContext(ctx, `SELECT COALESCE(SUM(l.length), 0) FROM line_layers x JOIN layers l ON l.id = x.layer WHERE x.line = ?1 AND x.own > 0
		AND NOT EXISTS (SELECT 1 FROM line_layers o WHERE o.layer = x.layer AND o.line <> ?1)
		AND NOT EXISTS (SELECT 1 FROM version_layers v WHERE v.layer = x.layer)`, line).Scan(&n)
}
