package media

import (
	"context"
	"crypto/rand"
	"fmt"

	"disksync/api"
	"disksync/image"
	"disksync/syncclient"
)

// newSalt returns the salt of a sealed file.
func newSalt() (salt [32]byte) {
	rand.Read(salt[:])
	return salt
}

// keysFor returns the key for each image, none when nothing is to be sealed.
func keysFor(ctx context.Context, c *syncclient.Client, set content, o Options) (map[string]*image.MediaKey, error) {
	if !o.Encrypt {
		return nil, nil
	}
	out := map[string]*image.MediaKey{}
	for _, info := range set.infos {
		keys, err := c.MediaKeys(ctx, info.Name)
		if err == nil && (o.NewKey || len(keys) == 0) {
			var key api.MediaKey
			key, err = c.NewMediaKey(ctx, info.Name)
			keys = []api.MediaKey{key}
		}
		if err != nil {
			return nil, fmt.Errorf("key of %s: %w", info.Name, err)
		}
		out[info.Name] = &keys[0].Key
	}
	return out, nil
}

// allKeys returns the keys of all images.
func allKeys(ctx context.Context, c *syncclient.Client, images []api.Image) ([]image.MediaKey, error) {
	var out []image.MediaKey
	for _, info := range images {
		keys, err := c.MediaKeys(ctx, info.Name)
		if err != nil {
			return nil, fmt.Errorf("keys of %s: %w", info.Name, err)
		}
		for _, k := range keys {
			out = append(out, k.Key)
		}
	}
	return out, nil
}

// Secrets asks the Synchronizer for what it takes to verify its media.
func Secrets(ctx context.Context, c *syncclient.Client, o *VerifyOptions) error {
	server, err := c.Server(ctx)
	if err != nil {
		return err
	}
	images, err := c.Images(ctx)
	if err != nil {
		return err
	}
	o.Key = server.SigningKey
	o.Keys, err = allKeys(ctx, c, images)
	return err
}
