package syncclient

import (
	"context"
	"net/http"

	"disksync/api"
	"disksync/image"
)

// The calls below are for administrators.

// Images describes all images.
func (c *Client) Images(ctx context.Context) ([]api.Image, error) {
	var v []api.Image
	req, err := c.request(ctx, http.MethodGet, nil, nil, "images")
	if err != nil {
		return nil, err
	}
	return v, c.callLong(req, api.MaxList, &v)
}

// Image describes an image.
func (c *Client) Image(ctx context.Context, name string) (api.Image, error) {
	var v api.Image
	req, err := c.request(ctx, http.MethodGet, nil, nil, "images", name)
	if err != nil {
		return v, err
	}
	return v, c.callLong(req, api.MaxList, &v)
}

// DeleteImage deletes an image with all its versions.
func (c *Client) DeleteImage(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, nil, nil, "images", name)
}

// Seal makes uploaded layers into a version.
func (c *Client) Seal(ctx context.Context, name string, in api.Seal) (api.VersionInfo, error) {
	var v api.VersionInfo
	return v, c.call(ctx, http.MethodPost, in, &v, "images", name, "versions")
}

// MediaFiles tells which files a medium needs for a version.
func (c *Client) MediaFiles(ctx context.Context, name string, version image.Version) ([]api.MediaFile, error) {
	var v []api.MediaFile
	return v, c.call(ctx, http.MethodGet, nil, &v, "images", name, "versions", version.String(), "files")
}

// NoteMedium tells the Synchronizer that a version was written to a medium.
func (c *Client) NoteMedium(ctx context.Context, name string, version image.Version) error {
	return c.call(ctx, http.MethodPut, nil, nil, "images", name, "versions", version.String(), "media")
}

// AddLayer makes a stored layer one that leads to a version of an image, besides those of its manifests.
func (c *Client) AddLayer(ctx context.Context, name string, id image.LayerID) (api.Layer, error) {
	var v api.Layer
	return v, c.call(ctx, http.MethodPut, nil, &v, "images", name, "layers", id.String())
}

// RemoveLayer takes such a layer away again.
func (c *Client) RemoveLayer(ctx context.Context, name string, id image.LayerID) error {
	return c.call(ctx, http.MethodDelete, nil, nil, "images", name, "layers", id.String())
}

// Squash has layers made that lead directly from one version to another. Squashes tells how far they are.
func (c *Client) Squash(ctx context.Context, name string, in api.NewSquash) ([]api.Squash, error) {
	var v []api.Squash
	return v, c.call(ctx, http.MethodPost, in, &v, "images", name, "squashes")
}

// Squashes describes layers in the making, and the last ones that were made.
func (c *Client) Squashes(ctx context.Context, name string) ([]api.Squash, error) {
	var v []api.Squash
	return v, c.call(ctx, http.MethodGet, nil, &v, "images", name, "squashes")
}

// Policy returns the policy of an image.
func (c *Client) Policy(ctx context.Context, name string) (api.Policy, error) {
	var v api.Policy
	return v, c.call(ctx, http.MethodGet, nil, &v, "images", name, "policy")
}

// SetPolicy replaces the policy of an image.
func (c *Client) SetPolicy(ctx context.Context, name string, p api.Policy) error {
	return c.call(ctx, http.MethodPut, p, nil, "images", name, "policy")
}

// State returns the digests of a state that some stored layer leads to.
func (c *Client) State(ctx context.Context, id image.StateID) (image.State, error) {
	if id.IsZero() {
		return image.State{}, nil
	}
	req, err := c.request(ctx, http.MethodGet, nil, nil, "states", id.String())
	if err != nil {
		return image.State{}, err
	}
	resp, err := c.do(req, http.StatusOK)
	if err != nil {
		return image.State{}, err
	}
	defer resp.Body.Close()
	b, err := c.readAll(resp, image.EncodedStateSize(image.MaxDiskSize))
	if err != nil {
		return image.State{}, err
	}
	return image.ParseState(b, id)
}

// Users describes all users.
func (c *Client) Users(ctx context.Context) ([]api.User, error) {
	var v []api.User
	return v, c.call(ctx, http.MethodGet, nil, &v, "users")
}

// AddUser makes a user.
func (c *Client) AddUser(ctx context.Context, u api.NewUser) error {
	return c.call(ctx, http.MethodPost, u, nil, "users")
}

// DeleteUser deletes a user with all that is assigned to it.
func (c *Client) DeleteUser(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, nil, nil, "users", name)
}

// SetPassword replaces a user's password and ends the user's logins.
func (c *Client) SetPassword(ctx context.Context, name, password string) error {
	return c.call(ctx, http.MethodPut, api.Password{Password: password}, nil, "users", name, "password")
}

// Groups describes all groups.
func (c *Client) Groups(ctx context.Context) ([]api.Group, error) {
	var v []api.Group
	return v, c.call(ctx, http.MethodGet, nil, &v, "groups")
}

// AddGroup makes a group; it is no error when it is there.
func (c *Client) AddGroup(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodPut, nil, nil, "groups", name)
}

// DeleteGroup deletes a group with all that is assigned to it.
func (c *Client) DeleteGroup(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, nil, nil, "groups", name)
}

// AddMember puts a user into a group.
func (c *Client) AddMember(ctx context.Context, group, user string) error {
	return c.call(ctx, http.MethodPut, nil, nil, "groups", group, "members", user)
}

// RemoveMember takes a user out of a group.
func (c *Client) RemoveMember(ctx context.Context, group, user string) error {
	return c.call(ctx, http.MethodDelete, nil, nil, "groups", group, "members", user)
}

// Assignments returns all assignments.
func (c *Client) Assignments(ctx context.Context) ([]api.Assignment, error) {
	var v []api.Assignment
	return v, c.call(ctx, http.MethodGet, nil, &v, "assignments")
}

// Assign gives an image to a user or group, or changes the version.
func (c *Client) Assign(ctx context.Context, a api.Assignment) error {
	return c.call(ctx, http.MethodPut, a, nil, "assignments")
}

// Unassign takes an image away again.
func (c *Client) Unassign(ctx context.Context, a api.Assignment) error {
	return c.call(ctx, http.MethodDelete, a, nil, "assignments")
}

// Devices describes all registered endpoints.
func (c *Client) Devices(ctx context.Context) ([]api.DeviceInfo, error) {
	var v []api.DeviceInfo
	return v, c.call(ctx, http.MethodGet, nil, &v, "devices")
}

// DeleteDevice ends the registration and the logins of an endpoint.
func (c *Client) DeleteDevice(ctx context.Context, id image.UUID) error {
	return c.call(ctx, http.MethodDelete, nil, nil, "devices", id.String())
}

// Audit returns the newest entries of the audit log, newest first.
func (c *Client) Audit(ctx context.Context) ([]api.AuditEntry, error) {
	var v []api.AuditEntry
	return v, c.call(ctx, http.MethodGet, nil, &v, "audit")
}
