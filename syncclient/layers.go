package syncclient

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"disksync/api"
	"disksync/image"
)

// Layers returns layers that are not in the manifest of a version and may make the way to it cheaper for who has the states have. A
// medium may have blocks that make the states near cheap as well.
func (c *Client) Layers(ctx context.Context, name string, v image.Version, have, near []image.StateID) ([]api.Layer, error) {
	var out []api.Layer
	return out, c.callRaw(ctx, http.MethodGet, stateQuery(have, near), nil, &out, "images", name, "versions", v.String(), "layers")
}

// stateQuery says which states a caller has, and which are near.
func stateQuery(have, near []image.StateID) url.Values {
	q := url.Values{}
	for key, ids := range map[string][]image.StateID{"have": have, "near": near} {
		if len(ids) > 0 {
			text := make([]string, len(ids))
			for i, id := range ids {
				text[i] = id.String()
			}
			q.Set(key, strings.Join(text, "."))
		}
	}
	return q
}
