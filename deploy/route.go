package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"disksync/api"
	"disksync/cache"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/layer"
	"disksync/syncclient"
)

// router finds the path to the state of one disk: it knows what the search has to know about media, this machine and the
// Synchronizer.
type router struct {
	search
	j       *Job
	ctx     context.Context //nolint:containedctx // of the one call that a router lives for
	d       *image.Disk
	here    *holdings
	known   map[image.LayerID]*edge
	vhds    map[image.StateID][]image.UUID // published as VHD files with these uuids
	indexes map[image.LayerID]*layer.Index
	fetched int64 // bytes of indexes that came over the network
	names   versions
	unsound func(image.StateID) bool // of an installed state: it is not to begin with; nil: none is
}

// indexFetches is how many indexes are asked for at once, so that a line with long round trips is not waited for one by one.
const indexFetches = 8

// newRouter returns a router that knows the manifest's layers and those on media.
func (j *Job) newRouter(ctx context.Context, d *image.Disk, here *holdings, unsound func(image.StateID) bool) (*router, error) {
	r := &router{
		j: j, ctx: ctx, d: d, here: here, unsound: unsound, known: map[image.LayerID]*edge{}, vhds: map[image.StateID][]image.UUID{},
		indexes: map[image.LayerID]*layer.Index{},
	}
	r.search = search{goal: d.State, starts: map[image.StateID]bool{}, price: r.priceAll}
	for _, ref := range d.Layers {
		r.add(ref)
	}
	if !j.Line {
		r.addMedia()
		if j.Net != nil {
			r.more = r.ask
		}
	}
	r.names = j.versionsOf(d)
	return r, r.findStarts()
}

// add makes a layer an edge of the search, once.
func (r *router) add(ref image.LayerRef) {
	if len(ref.VHDUUIDs) > 0 {
		r.vhds[ref.To] = append(r.vhds[ref.To], ref.VHDUUIDs...)
	}
	if r.known[ref.ID] != nil {
		return
	}
	e := &edge{ref: ref, cost: ref.Look(), dead: r.j.banned.of(ref.ID)}
	if onMedium := r.j.onMedium(ref.ID); onMedium {
		e.cost = 0
	} else if r.j.Net == nil && e.dead == nil {
		e.dead = fmt.Errorf("layer %s: %w", ref.ID.Short(), errNoSource)
	}
	r.known[ref.ID] = e
	r.edges = append(r.edges, e)
}

// addMedia adds the layers on media, which say themselves what they are.
func (r *router) addMedia() {
	for _, m := range r.j.Media {
		for _, id := range m.Layers() {
			if x, ok := m.Index(id); ok {
				r.add(x.Ref())
			}
		}
	}
}

// findStarts looks which states of the graph are installed.
func (r *router) findStarts() error {
	seen := map[image.StateID]bool{{}: true}
	for _, e := range r.edges {
		for _, id := range []image.StateID{e.ref.From, e.ref.To} {
			if seen[id] {
				continue
			}
			seen[id] = true
			ok, err := r.j.Store.Installed(id)
			if err != nil {
				return err
			}
			if ok && (r.unsound == nil || !r.unsound(id)) {
				r.starts[id] = true
			}
		}
	}
	return nil
}

// maxHave bounds the states that are named in a question for layers.
const maxHave = 32

// ask asks the Synchronizer for layers besides those of the manifest. Without an answer there are those.
func (r *router) ask() error {
	if r.d.Size == 0 {
		return nil // a part of a version, which has no state of its own to ask for
	}
	var have, near []image.StateID
	seen := map[image.StateID]bool{{}: true}
	for _, e := range slices.Backward(r.edges) {
		for _, id := range []image.StateID{e.ref.To, e.ref.From} {
			switch {
			case seen[id]:
			case r.starts[id] && len(have) < maxHave:
				have = append(have, id)
			case id == e.ref.To && (r.j.onMedium(e.ref.ID) || r.j.hasVHD(r.uuids(id))) && len(near) < maxHave:
				near = append(near, id)
			default:
				continue
			}
			seen[id] = true
		}
	}
	layers, err := r.j.Net.layers(r.ctx, r.j.Manifest.Manifest(), have, near)
	if err != nil {
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
		if syncclient.Interrupted(err) {
			return err
		}
		return nil
	}
	for _, l := range layers {
		r.names.add(l)
		if sane(l.LayerRef) {
			r.add(l.LayerRef)
		}
	}
	return r.findStarts()
}

// sane reports whether an entry of a list that nobody signed can be a layer's.
func sane(l image.LayerRef) bool {
	return l.From != l.To && !l.To.IsZero() && l.Length > 0 && l.IndexOffset >= 0 && l.IndexLength > 0 && l.IndexLength <= layer.MaxIndexSize &&
		l.IndexOffset <= l.Length && l.IndexLength <= l.Length-l.IndexOffset
}

// layers asks for the layers of a version, or of a point of backups, besides its manifest's.
func (n *Net) layers(ctx context.Context, m *image.Manifest, have, near []image.StateID) ([]api.Layer, error) {
	var out []api.Layer
	err := n.persist(ctx, func() (bool, error) {
		var err error
		if m.Point != nil {
			out, err = n.Client.PointLayers(ctx, m.ImageID, m.Version, have, near)
		} else {
			out, err = n.Client.Layers(ctx, m.Image, m.Version, have, near)
		}
		return err == nil, err
	})
	return out, err
}

// onMedium reports whether a medium has a layer with its index.
func (j *Job) onMedium(id image.LayerID) bool {
	return slices.ContainsFunc(j.Media, func(m *cache.Inventory) bool { return m.HasLayer(id) })
}

// route returns the cheapest path whose layers lead where they say.
func (r *router) route() ([]*edge, error) {
	for {
		path, err := r.run()
		if errors.Is(err, errNoPath) {
			return nil, r.whyNoPath()
		}
		if err != nil {
			return nil, err
		}
		again, err := r.learn(path)
		if err == nil && !again {
			again, err = r.walk(path)
		}
		if err != nil || !again {
			return path, err
		}
	}
}

// whyNoPath finds the reason among the layers that are of no use: one of the manifest's, if there is one.
func (r *router) whyNoPath() error {
	for _, e := range r.edges { // those of the manifest come first
		if e.dead != nil {
			return e.dead
		}
	}
	return fmt.Errorf("%w: %s", errNoPath, r.goal.Short())
}

// walk applies the layers of the path that was found. It returns true when the search has to be done again: a layer does not lead
// where it says, or a state became known that a medium has as VHD files.
func (r *router) walk(path []*edge) (again bool, err error) {
	known := len(r.here.plain)
	if err := r.apply(path); err != nil {
		return false, err
	}
	if slices.ContainsFunc(path, func(e *edge) bool { return e.dead != nil }) {
		return true, nil
	}
	if n := len(path); n > 0 && r.d.Size != 0 && r.indexes[path[n-1].ref.ID].Size() != r.d.Size {
		// The state has one size only; the manifest contradicts itself.
		return false, fmt.Errorf("%w: they end in a disk of %d bytes", ErrPlan, r.indexes[path[n-1].ref.ID].Size())
	}
	if len(r.here.plain) == known {
		return false, nil
	}
	return true, r.priceAgain()
}

// apply applies the layers of a path one after the other, up to one that does not lead where it says, which is then dead. Their indexes
// are here, but for those of dead ones.
func (r *router) apply(path []*edge) error {
	if len(path) == 0 {
		return nil
	}
	state, err := r.j.Store.State(path[0].ref.From)
	if err != nil {
		return problem.New("DS-DISK-DAMAGED", problem.Damaged, err, "the digest list of an installed disk is damaged",
			"nothing was changed", "run `verify --repair` on the VM first")
	}
	for _, e := range path {
		if e.dead != nil {
			return nil
		}
		if state, err = r.indexes[e.ref.ID].Apply(state); err != nil {
			e.dead = fmt.Errorf("%w: %w", ErrPlan, err)
			return nil
		}
		r.keepPlain(state, e.ref.To)
	}
	return nil
}

// keepPlain notes a state that some medium has as VHD files. The digests of every state on a long path would take much memory; only
// those that help are kept.
func (r *router) keepPlain(st image.State, id image.StateID) {
	if uuids := r.j.onMedia(r.uuids(id)); len(uuids) > 0 && !r.here.seen[id] {
		r.here.seen[id] = true
		r.here.plain = append(r.here.plain, cache.Disk{State: st, UUIDs: uuids})
	}
}

// uuids returns those of VHD files that hold a state.
func (r *router) uuids(id image.StateID) []image.UUID {
	return append([]image.UUID{image.VHDUUID(id)}, r.vhds[id]...)
}

// hasVHD reports whether some medium has one of the VHD files.
func (j *Job) hasVHD(ids []image.UUID) bool { return len(j.onMedia(ids)) > 0 }

// onMedia returns those of the uuids that are VHD files on some medium.
func (j *Job) onMedia(ids []image.UUID) []image.UUID {
	return slices.DeleteFunc(slices.Clone(ids), func(id image.UUID) bool {
		return !slices.ContainsFunc(j.Media, func(inv *cache.Inventory) bool { return inv.HasVHD(id) })
	})
}
