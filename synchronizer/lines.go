package synchronizer

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"

	"disksync/api"
	"disksync/image"
)

// line is a line of backups in the catalog.
type line struct {
	id, user, vm, name, device, deviceName string
	image, imageID                         string
	mode                                   image.Mode
	newest                                 image.Version
	known                                  bool // its user had the image when it began
}

const lineColumns = "id, user, vm, name, device, device_name, image, image_id, mode, newest, known"

func scanLine(row *sql.Rows, l *line) error {
	return row.Scan(&l.id, &l.user, &l.vm, &l.name, &l.device, &l.deviceName, &l.image, &l.imageID, &l.mode, &l.newest, &l.known)
}

// noLine is what is said of a line that is not there, or somebody else's.
func noLine(id image.UUID) error { return notFound("there is no line of backups %s", id) }

// lineByID returns a line.
func lineByID(ctx context.Context, q querier, id image.UUID) (line, error) {
	ls, err := collect(ctx, q, scanLine, "SELECT "+lineColumns+" FROM lines WHERE id = ?", id.String())
	if err != nil {
		return line{}, err
	}
	if len(ls) == 0 {
		return line{}, noLine(id)
	}
	return ls[0], nil
}

// line returns the line that the path names, when it is the caller's or the caller is an administrator.
func (s *Server) line(c *call) (line, error) {
	id, err := image.ParseUUID(c.PathValue("line"))
	if err != nil {
		return line{}, invalid("%v", err)
	}
	c.subject = id.String()
	l, err := lineByID(c.Context(), s.db, id)
	if err == nil && !c.who.admin && l.user != c.who.name {
		err = noLine(id)
	}
	if err == nil {
		c.subject = fmt.Sprintf("%s of %s (%s)", l.name, l.user, l.id)
	}
	return l, err
}

// backupPolicyOf returns what the policy of a line's image says about backups; nil when nothing was said, or the image is gone.
func backupPolicyOf(ctx context.Context, q querier, l line) (*api.BackupPolicy, error) {
	if !l.known {
		return nil, nil
	}
	p, err := policyOf(ctx, q, l.imageID)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return p.Backup, err
}

// mayBackUp returns an error when an image's policy has turned backups off.
func mayBackUp(ctx context.Context, q querier, l line) error {
	p, err := backupPolicyOf(ctx, q, l)
	if err == nil && p != nil && !p.Manual && p.Every == 0 {
		err = &api.Error{Code: api.CodeForbidden, Message: "backups of VMs of this image are turned off"}
	}
	return err
}

// postBackup begins a line, or finds it.
func (s *Server) postBackup(c *call) error {
	var in api.NewBackup
	if err := c.decode(&in); err != nil {
		return err
	}
	for _, name := range []string{in.Name, in.Image} {
		if err := image.CheckName(name); err != nil {
			return invalid("%v", err)
		}
	}
	if in.VM.IsZero() || in.ImageID.IsZero() {
		return invalid("vm and image_id must be there")
	}
	if c.who.device == "" {
		return invalid("backups are made by endpoints, with the token of a user's device")
	}
	c.subject = fmt.Sprintf("of %s (VM %s)", in.Name, in.VM)
	if len(in.Starts) > api.MaxStarts {
		return invalid("%d starts, at most %d can be named", len(in.Starts), api.MaxStarts)
	}
	if err := image.CheckSealed(in.Sealed); err != nil {
		return invalid("%v", err)
	}
	var l line
	err := inTx(c.Context(), s.db, func(tx *sql.Tx) (err error) {
		l, err = s.openLine(c, tx, in)
		return err
	})
	if err != nil {
		return err
	}
	// Outside: it may take long, and is looked at again when a layer is sent.
	starts, err := s.starts(c.Context(), s.db, l, c.who.admin, in)
	if err != nil {
		return err
	}
	out, err := s.describeLine(c.Context(), l, false)
	if err != nil {
		return err
	}
	out.Starts = starts
	return c.reply(out)
}

// openLine finds the line of the caller's VM, or makes it.
func (s *Server) openLine(c *call, tx *sql.Tx, in api.NewBackup) (line, error) {
	ctx := c.Context()
	l := line{
		user: c.who.name, vm: in.VM.String(), name: in.Name, device: c.who.device, image: in.Image, imageID: in.ImageID.String(), mode: in.Mode,
	}
	err := tx.QueryRowContext(ctx, "SELECT name FROM devices WHERE id = ? AND user = ?", l.device, l.user).Scan(&l.deviceName)
	if err != nil {
		return l, err
	}
	found, err := collect(ctx, tx, scanLine, "SELECT "+lineColumns+" FROM lines WHERE user = ? AND vm = ?", l.user, l.vm)
	if err != nil {
		return l, err
	}
	if len(found) > 0 {
		_, err := tx.ExecContext(ctx, "UPDATE lines SET name = ?, device = ?, device_name = ? WHERE id = ?", l.name, l.device, l.deviceName, found[0].id)
		found[0].name, found[0].device, found[0].deviceName = l.name, l.device, l.deviceName
		return found[0], err
	}
	if err := s.imageOfLine(c, tx, &l); err != nil {
		return l, err
	}
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM lines WHERE user = ?", l.user).Scan(&n); err != nil {
		return l, err
	}
	if n >= api.MaxLines {
		return l, &api.Error{Code: api.CodeTooLarge, Message: fmt.Sprintf("there are %d lines of backups of this user already; have some deleted", n)}
	}
	if l.id, err = newLineID(ctx, tx); err != nil {
		return l, err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO lines ("+lineColumns+", created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
		l.id, l.user, l.vm, l.name, l.device, l.deviceName, l.image, l.imageID, l.mode, l.known, stamp(s.now()))
	return l, err
}

// imageOfLine takes name and mode from the catalog where the user may have some version of the image, or had. Of any other image the
// catalog tells nothing, not even whether it is there: a VM may be backed up whose image was taken away.
func (s *Server) imageOfLine(c *call, q querier, l *line) error {
	ctx := c.Context()
	if l.mode == "" {
		l.mode = image.Static
	}
	gs, err := grants(ctx, q, l.user)
	if err != nil {
		return err
	}
	had, err := column(ctx, q, "SELECT DISTINCT image FROM had WHERE user = ? AND image = ?", l.user, l.imageID)
	if err != nil {
		return err
	}
	l.known = len(had) > 0 || c.who.admin
	for _, g := range gs {
		l.known = l.known || g.image == l.imageID
	}
	if !l.known {
		return nil
	}
	if err := mayBackUp(ctx, q, *l); err != nil {
		return err
	}
	return ignoreNone(q.QueryRowContext(ctx, "SELECT name, mode FROM images WHERE id = ?", l.imageID).Scan(&l.image, &l.mode))
}

// newLineID makes up an id that no line and no image has.
func newLineID(ctx context.Context, q querier) (string, error) {
	for {
		var random [16]byte
		rand.Read(random[:])
		id := image.RandomUUID(random).String()
		taken, err := column(ctx, q, "SELECT id FROM images WHERE id = ?1 UNION SELECT id FROM lines WHERE id = ?1", id)
		if err != nil || len(taken) == 0 {
			return id, err
		}
	}
}
