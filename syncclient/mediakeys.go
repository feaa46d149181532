package syncclient

import (
	"context"
	"net/http"

	"disksync/api"
)

// MediaKeys returns the keys that media with an image may be sealed with, the newest first; none when there never was such a medium.
func (c *Client) MediaKeys(ctx context.Context, name string) ([]api.MediaKey, error) {
	var v []api.MediaKey
	return v, c.call(ctx, http.MethodGet, nil, &v, "images", name, "keys")
}

// NewMediaKey makes a new key of an image. It is for administrators.
func (c *Client) NewMediaKey(ctx context.Context, name string) (api.MediaKey, error) {
	var v api.MediaKey
	return v, c.call(ctx, http.MethodPost, nil, &v, "images", name, "keys")
}
