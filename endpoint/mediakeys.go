package endpoint

import (
	"context"
	"fmt"
	"slices"

	"disksync/api"
	"disksync/cache"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/syncclient"
)

// mediaKeysFile has the keys of encrypted media, beside the token and like it for nobody else to read. They stay when there is no line,
// and go with the login.
const mediaKeysFile = "mediakeys.json"

// mediaKeys are the keys of media by the uuid of the image.
type mediaKeys map[string][]image.MediaKey

// maxMediaKeys bounds the keys of one image that are kept.
const maxMediaKeys = 1000

// knownKeys returns all keys that are here.
func (e *Engine) knownKeys() []image.MediaKey {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []image.MediaKey
	for _, keys := range e.keys {
		out = append(out, keys...)
	}
	return out
}

// learnKeys gets the media keys of an image when the offer names one that is not here. They come together with the offer and not when
// a medium is there, so that a medium is of use where there is no line.
func (e *Engine) learnKeys(ctx context.Context, c *syncclient.Client, o api.Offer) {
	if o.MediaKey.IsZero() || slices.ContainsFunc(e.knownKeys(), func(k image.MediaKey) bool { return k.ID() == o.MediaKey }) {
		return
	}
	got, err := c.MediaKeys(ctx, o.Image)
	if err == nil && len(got) > maxMediaKeys {
		err = fmt.Errorf("%d keys, at most %d make sense", len(got), maxMediaKeys)
	}
	if err == nil {
		err = e.keepKeys(o.ImageID, got)
	}
	if err != nil {
		// Without them encrypted media stay closed, and everything comes over the line.
		e.log.Info("no media keys", "image", o.Image, "error", err)
	}
}

func (e *Engine) keepKeys(id image.UUID, got []api.MediaKey) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := mediaKeys{}
	for k, v := range e.keys {
		all[k] = v
	}
	all[id.String()] = nil
	for _, k := range got {
		all[id.String()] = append(all[id.String()], k.Key)
	}
	if err := writeJSON(e.fsys, mediaKeysFile, all); err != nil {
		return err
	}
	e.keys = all
	return nil
}

// forgetKeys is called with mu held.
func (e *Engine) forgetKeys() error {
	e.keys = nil
	return durable.Remove(e.fsys, mediaKeysFile)
}

// unlockMedia opens encrypted files on media with the keys that are here.
func (e *Engine) unlockMedia(invs ...*cache.Inventory) {
	keys := e.knownKeys()
	for _, inv := range invs {
		inv.Unlock(keys)
	}
}
