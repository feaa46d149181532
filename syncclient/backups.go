package syncclient

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"

	"disksync/api"
	"disksync/image"
)

// Backups describes the lines of backups of the user, with all their points. Who wants one line asks for less with BackupLines and Backup.
func (c *Client) Backups(ctx context.Context) ([]api.BackupLine, error) {
	lines, err := c.backups(ctx, nil)
	if !tooLarge(err) {
		return lines, err
	}
	if lines, err = c.BackupLines(ctx); err != nil {
		return nil, err
	}
	for i := range lines {
		if lines[i], err = c.Backup(ctx, lines[i].ID); err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// BackupLines describes the lines of the user, each with its newest point; an early release answers with all of them.
func (c *Client) BackupLines(ctx context.Context) ([]api.BackupLine, error) {
	return c.backups(ctx, url.Values{"points": {"newest"}})
}

// AllBackups describes the lines of everybody, with their newest points. It is for administrators.
func (c *Client) AllBackups(ctx context.Context) ([]api.BackupLine, error) {
	lines, err := c.backups(ctx, url.Values{"all": {"1"}})
	if !tooLarge(err) {
		return lines, err
	}
	lines = nil
	for after := (image.UUID{}); ; after = lines[len(lines)-1].ID {
		page, err := c.backups(ctx, url.Values{"all": {"1"}, "after": {after.String()}})
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			break
		}
		if page[len(page)-1].ID.String() <= after.String() {
			return nil, &ProtocolError{"a page of a list that does not lead on"}
		}
		lines = append(lines, page...)
	}
	slices.SortFunc(lines, func(a, b api.BackupLine) int {
		return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID.String(), b.ID.String()))
	})
	return lines, nil
}

// BackupsOf describes the lines of a user, with their newest points; an early release answers with those of everybody. It is for administrators.
func (c *Client) BackupsOf(ctx context.Context, user string) ([]api.BackupLine, error) {
	return c.backups(ctx, url.Values{"all": {"1"}, "user": {user}})
}

func tooLarge(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Code == api.CodeTooLarge
}

func (c *Client) backups(ctx context.Context, query url.Values) ([]api.BackupLine, error) {
	req, err := c.request(ctx, http.MethodGet, query, nil, "backups")
	if err != nil {
		return nil, err
	}
	var v []api.BackupLine
	return v, c.callLong(req, api.MaxList, &v)
}

// Backup describes a line with all its points.
func (c *Client) Backup(ctx context.Context, line image.UUID) (api.BackupLine, error) {
	var v api.BackupLine
	req, err := c.request(ctx, http.MethodGet, nil, nil, "backups", line.String())
	if err != nil {
		return v, err
	}
	return v, c.callLong(req, api.MaxList, &v)
}

// OpenBackup begins a line of backups, or finds the VM's. The answer has the newest point alone.
func (c *Client) OpenBackup(ctx context.Context, in api.NewBackup) (api.BackupLine, error) {
	var v api.BackupLine
	return v, c.call(ctx, http.MethodPost, in, &v, "backups")
}

// SealPoint makes uploaded layers into a point. When an answer is lost, the same may be asked again: it gives the same point.
func (c *Client) SealPoint(ctx context.Context, line image.UUID, in api.SealPoint) (api.BackupPoint, error) {
	var v api.BackupPoint
	return v, c.call(ctx, http.MethodPost, in, &v, "backups", line.String(), "points")
}

// PointManifest returns the signed manifest of a point. It is checked by whoever knows the keys. A later one of the same point may name
// other layers, which lead to the same states.
func (c *Client) PointManifest(ctx context.Context, line image.UUID, point image.Version) ([]byte, error) {
	return c.manifest(ctx, "backups", line.String(), "points", point.String(), "manifest")
}

// PointLayers is [Client.Layers] for a point.
func (c *Client) PointLayers(ctx context.Context, line image.UUID, point image.Version, have, near []image.StateID) ([]api.Layer, error) {
	var out []api.Layer
	return out, c.callRaw(ctx, http.MethodGet, stateQuery(have, near), nil, &out, "backups", line.String(), "points", point.String(), "layers")
}

// The calls below are for administrators.

// DeleteBackup deletes a line of backups with all its points.
func (c *Client) DeleteBackup(ctx context.Context, line image.UUID) error {
	return c.call(ctx, http.MethodDelete, nil, nil, "backups", line.String())
}

// DeletePoint deletes a point. Those that follow stay what they are.
func (c *Client) DeletePoint(ctx context.Context, line image.UUID, point image.Version) error {
	return c.call(ctx, http.MethodDelete, nil, nil, "backups", line.String(), "points", point.String())
}

// PruneBackup deletes the points of a line that the policy of its image does not keep, and returns their numbers.
func (c *Client) PruneBackup(ctx context.Context, line image.UUID) ([]image.Version, error) {
	var v []image.Version
	return v, c.call(ctx, http.MethodPost, nil, &v, "backups", line.String(), "prune")
}

// VerifyBackup has all layers of a line read back and compared. Backup tells whether that goes on, and what was found.
func (c *Client) VerifyBackup(ctx context.Context, line image.UUID) error {
	return c.call(ctx, http.MethodPost, nil, nil, "backups", line.String(), "verify")
}
