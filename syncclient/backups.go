package syncclient

import (
	"context"
	"net/http"
	"net/url"

	"disksync/api"
	"disksync/image"
)

// Backups describes the lines of backups of the user, with all their points.
func (c *Client) Backups(ctx context.Context) ([]api.BackupLine, error) {
	return c.backups(ctx, nil)
}

// AllBackups describes the lines of everybody, with their newest points. It is for administrators.
func (c *Client) AllBackups(ctx context.Context) ([]api.BackupLine, error) {
	return c.backups(ctx, url.Values{"all": {"1"}})
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
