package media

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"disksync/api"
	"disksync/image"
	"disksync/syncclient"
	"disksync/vhd"
)

// Want is a version of an image that is wanted on a medium.
type Want struct {
	Image   string
	Version image.Version // 0: the newest
}

// content is what goes onto a medium.
type content struct {
	items     []item
	manifests []envelope
	infos     []api.Image
	chains    []chain         // the path of each disk, from nothing on unless Direct is set
	key       image.PublicKey // that the manifests are signed with
}

// knownLayers returns the layers that the Synchronizer has of an image.
func knownLayers(info api.Image) map[image.LayerID]bool {
	out := map[image.LayerID]bool{}
	for _, v := range info.Versions {
		for _, d := range v.Disks {
			out[d.Layer] = true
		}
	}
	for _, l := range info.Layers {
		out[l.ID] = true
	}
	return out
}

// item is a layer that goes onto a medium.
type item struct {
	ref   image.LayerRef
	image string
	stem  string // of its name
	made  time.Time
}

// envelope is a signed manifest.
type envelope struct {
	Want
	bytes    []byte
	manifest *image.Manifest
}

// GroupWants returns the versions that are assigned to a group.
func GroupWants(ctx context.Context, c *syncclient.Client, group string) ([]Want, error) {
	all, err := c.Assignments(ctx)
	if err != nil {
		return nil, err
	}
	var out []Want
	for _, a := range all {
		if a.To == (api.Subject{Kind: api.ToGroup, Name: group}) {
			out = append(out, Want{a.Image, a.Version})
		}
	}
	if len(out) == 0 {
		return nil, &api.Error{Code: api.CodeNotFound, Message: "nothing is assigned to a group " + group}
	}
	return out, nil
}

// shelf is what the Synchronizer has of an image.
type shelf struct {
	info   api.Image
	key    image.PublicKey
	direct bool
	from   []image.Version
	taken  map[image.LayerID]bool
	here   map[image.LayerID]bool // on the medium already
}

// choose finds the layers that a medium is to have: for each disk of each version those that lead to it and have the fewest bytes
// together, where what is taken for one counts nothing for the next.
func choose(ctx context.Context, c *syncclient.Client, o Options) (content, error) {
	var out content
	server, err := c.Server(ctx)
	if err != nil {
		return out, err
	}
	out.key = server.SigningKey
	shelves := map[string]*shelf{}
	for _, want := range o.Want {
		s := shelves[want.Image]
		if s == nil {
			s = &shelf{key: server.SigningKey, direct: o.Direct || len(o.From) > 0, from: o.From, taken: map[image.LayerID]bool{}, here: o.here}
			if s.info, err = c.Image(ctx, want.Image); err != nil {
				return out, fmt.Errorf("look up version %d of %s: %w", want.Version, want.Image, err)
			}
			shelves[want.Image] = s
			out.infos = append(out.infos, s.info)
		}
		if err := s.add(ctx, c, want, &out); err != nil {
			return out, fmt.Errorf("look up version %d of %s: %w", want.Version, want.Image, err)
		}
	}
	return out, nil
}

// Newest returns the number of an image's newest version.
func Newest(ctx context.Context, c *syncclient.Client, name string) (image.Version, error) {
	info, err := c.Image(ctx, name)
	if err != nil {
		return 0, err
	}
	return newest(info)
}

// newest returns the newest version of an image.
func newest(info api.Image) (image.Version, error) {
	if len(info.Versions) == 0 {
		return 0, &api.Error{Code: api.CodeNotFound, Message: info.Name + " has no version"}
	}
	return info.Versions[len(info.Versions)-1].Version, nil
}

// add adds a version to what goes onto the medium.
func (s *shelf) add(ctx context.Context, c *syncclient.Client, want Want, out *content) error {
	if want.Version == 0 {
		var err error
		if want.Version, err = newest(s.info); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(out.manifests, func(e envelope) bool { return e.Want == want }) {
		return nil
	}
	env, err := c.Manifest(ctx, want.Image, want.Version)
	if err != nil {
		return err
	}
	v, err := image.VerifyManifest(env, s.key)
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	m := v.Manifest()
	if m.Image != want.Image || m.Version != want.Version || m.ImageID != s.info.ID {
		return errors.New("the manifest is not of this version any more; run the same command again")
	}
	out.manifests = append(out.manifests, envelope{want, env, m})
	for _, d := range m.Disks {
		path, err := s.cheapest(d, want.Version)
		if err != nil {
			return fmt.Errorf("%s disk: %w", d.Role, err)
		}
		out.chains = append(out.chains, chain{d.Role, want, path, vhd.TimestampOf(m.Created)})
		for _, l := range path {
			if !s.taken[l.ID] {
				s.taken[l.ID] = true
				out.items = append(out.items, item{ref: l, image: want.Image, stem: s.stem(d, l), made: m.Created})
			}
		}
	}
	return nil
}

// stem proposes a name that tells people what a file is. Programs do not look at it.
func (s *shelf) stem(d image.Disk, l image.LayerRef) string {
	way := ""
	for i, on := range d.Layers {
		if on.ID == l.ID {
			way = fmt.Sprintf("%03d", i+1)
		}
	}
	for _, x := range s.info.Layers {
		switch {
		case x.ID != l.ID || way != "":
		case x.From.IsZero():
			way = fmt.Sprintf("full-v%d", x.ToVersion)
		default:
			way = fmt.Sprintf("v%d-v%d", x.FromVersion, x.ToVersion)
		}
	}
	return fmt.Sprintf("%s-%s-%s-%s", s.info.Name, d.Role, way, l.ID.Short())
}

// cheapest returns the layers that bring an endpoint to a disk of a version: from nothing, or with direct from the disks that the
// versions before have, unless a full image is no larger than all of those together.
func (s *shelf) cheapest(d image.Disk, v image.Version) ([]image.LayerRef, error) {
	layers := slices.Clone(d.Layers)
	for _, l := range s.info.Layers {
		layers = append(layers, l.LayerRef)
	}
	taken := map[image.LayerID]bool{}
	for _, set := range []map[image.LayerID]bool{s.taken, s.here} {
		for id := range set {
			taken[id] = true
		}
	}
	full, ok := shortest(layers, taken, image.StateID{}, d.State)
	if !ok {
		return nil, errors.New("no path of layers leads there")
	}
	if !s.direct {
		return full, nil
	}
	starts, err := s.starts(d, v)
	if err != nil || len(starts) == 0 {
		return full, err
	}
	var all []image.LayerRef
	for _, from := range starts {
		path, ok := shortest(layers, taken, from, d.State)
		if !ok {
			return full, nil // an endpoint with that version needs everything
		}
		for _, l := range path {
			if !slices.ContainsFunc(all, func(had image.LayerRef) bool { return had.ID == l.ID }) {
				all = append(all, l)
			}
			taken[l.ID] = true
		}
	}
	if s.bytes(all) >= s.bytes(full) {
		return full, nil
	}
	return all, nil
}

// starts returns what the versions in the field have as a disk, the newest first: those that were named, or all before v.
func (s *shelf) starts(d image.Disk, v image.Version) ([]image.StateID, error) {
	for _, from := range s.from {
		if !slices.ContainsFunc(s.info.Versions, func(i api.VersionInfo) bool { return i.Version == from }) {
			return nil, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("%s has no version %d", s.info.Name, from)}
		}
	}
	var out []image.StateID
	for _, info := range slices.Backward(s.info.Versions) {
		if info.Version >= v || len(s.from) > 0 && !slices.Contains(s.from, info.Version) {
			continue
		}
		for _, disk := range info.Disks {
			if disk.Role == d.Role && disk.State != d.State && !slices.Contains(out, disk.State) {
				out = append(out, disk.State)
			}
		}
	}
	return out, nil
}

// bytes returns what layers take on the medium, besides those that it has anyway.
func (s *shelf) bytes(layers []image.LayerRef) int64 {
	n := int64(0)
	for _, l := range layers {
		if !s.taken[l.ID] && !s.here[l.ID] {
			n += l.Length
		}
	}
	return n
}

// shortest returns the path of layers that has the fewest bytes, not counting those of taken ones, and of equals one with few layers.
func shortest(layers []image.LayerRef, taken map[image.LayerID]bool, from, to image.StateID) (path []image.LayerRef, ok bool) {
	type step struct {
		bytes int64
		steps int
		via   int
	}
	best := map[image.StateID]step{from: {via: -1}}
	// A line of layers is in its order, so that one or two rounds do.
	for changed := true; changed; {
		changed = false
		for i, l := range layers {
			at, reached := best[l.From]
			if !reached {
				continue
			}
			next := step{at.bytes, at.steps + 1, i}
			if !taken[l.ID] {
				next.bytes += l.Length
			}
			had, there := best[l.To]
			if !there || next.bytes < had.bytes || next.bytes == had.bytes && next.steps < had.steps {
				best[l.To], changed = next, true
			}
		}
	}
	if _, ok := best[to]; !ok {
		return nil, false
	}
	for at := to; at != from; at = layers[best[at].via].From {
		path = append(path, layers[best[at].via])
	}
	slices.Reverse(path)
	return path, true
}
