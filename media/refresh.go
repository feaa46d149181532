package media

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
	"disksync/syncclient"
)

// Refresh brings a medium that was written before up to date: it adds the newest versions of the images that it has something of, in
// the same manner, encrypted or not, for everybody or for those who have an earlier version. What is on it counts nothing where ways
// to a version are compared, so that only what is new is added. With Prune what nobody needs any more is taken away.
func Refresh(ctx context.Context, c *syncclient.Client, o Options) (Result, error) {
	fsys, err := durable.Dir(o.Dir)
	if err != nil {
		return Result{}, fmt.Errorf("open the medium: %w", err)
	}
	if err := takeStock(ctx, c, &o, fsys); err != nil {
		return Result{}, err
	}
	return write(ctx, c, o, func() (durable.FS, error) { return fsys, nil })
}

// takeStock finds out which images a medium has something of, and how it was written.
func takeStock(ctx context.Context, c *syncclient.Client, o *Options, fsys durable.FS) error {
	server, err := c.Server(ctx)
	if err != nil {
		return err
	}
	images, err := c.Images(ctx)
	if err != nil {
		return err
	}
	keys, err := allKeys(ctx, c, images)
	if err != nil {
		return err
	}
	there, err := survey(fsys, keys, server.SigningKey)
	if err != nil {
		return fmt.Errorf("read the medium: %w", err)
	}
	o.here = map[image.LayerID]bool{}
	full := false
	for _, h := range there {
		if !h.layer.IsZero() {
			o.here[h.layer] = true
			full = full || h.full
			o.Encrypt = o.Encrypt || !h.key.IsZero()
		}
	}
	for _, info := range images {
		known := knownLayers(info)
		has := slices.ContainsFunc(there, func(h held) bool {
			return known[h.layer] || h.manifest != nil && h.manifest.ImageID == info.ID
		})
		if has && len(info.Versions) > 0 {
			o.Want = append(o.Want, Want{Image: info.Name})
		}
	}
	if len(o.Want) == 0 {
		return nothingOfUse(o.Dir)
	}
	o.Direct = o.Direct || len(o.here) > 0 && !full
	return nil
}

func nothingOfUse(dir string) error {
	return problem.New("DS-MEDIA-EMPTY", problem.NotFound, nil, "there is nothing of this Synchronizer's images on "+dir, "nothing was changed",
		"`synchronizer media write` writes an image to it")
}

// superseded returns the names of files that an earlier run wrote of the images, and that are none of those that are wanted now.
func (w *writer) superseded(ctx context.Context, set content, outs []*output) ([]string, error) {
	if !w.Prune {
		return nil, nil
	}
	keys, err := allKeys(ctx, w.c, set.infos)
	if err != nil {
		return nil, err
	}
	there, err := survey(w.fsys, keys, set.key)
	if err != nil {
		return nil, err
	}
	known := map[image.LayerID]bool{}
	for _, info := range set.infos {
		for id := range knownLayers(info) {
			known[id] = true
		}
	}
	var names []string
	for _, h := range there {
		old := known[h.layer] && !slices.ContainsFunc(outs, h.is)
		switch {
		case h.manifest != nil:
			wanted := slices.ContainsFunc(set.manifests, func(e envelope) bool {
				return e.manifest.ImageID == h.manifest.ImageID && e.Version == h.manifest.Version
			})
			ours := slices.ContainsFunc(set.manifests, func(e envelope) bool { return e.manifest.ImageID == h.manifest.ImageID })
			old = ours && (!wanted || w.Encrypt)
		case h.layer.IsZero(): // unfinished; it is known by its name
			old = !slices.ContainsFunc(outs, func(o *output) bool { return h.name == o.name+durable.TempSuffix }) && namesOne(h.name, known)
		}
		if old {
			names = append(names, h.name)
		}
	}
	return names, nil
}

// namesOne reports whether a name is one that a layer's file gets.
func namesOne(name string, known map[image.LayerID]bool) bool {
	for id := range known {
		if strings.Contains(name, "-"+id.Short()+layerSuffix) || strings.Contains(name, "-"+id.Short()+"-part") {
			return true
		}
	}
	return false
}
