package deploy

import (
	"fmt"

	"golang.org/x/sync/errgroup"

	"disksync/cache"
	"disksync/image"
	"disksync/layer"
	"disksync/syncclient"
)

// holdings are the blocks that need not come over the network, for all disks of a plan.
type holdings struct {
	local map[image.Digest]bool  // of installed disks, and what earlier steps of the plan bring
	plain []cache.Disk           // states that some medium has as VHD files, as far as their digests are known
	seen  map[image.StateID]bool // whether plain has it
}

// holdings returns what is on this machine.
func (s *Store) holdings() (*holdings, error) {
	h := &holdings{local: map[image.Digest]bool{}, seen: map[image.StateID]bool{}}
	ids, err := s.States()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		st, err := s.State(id)
		if err != nil {
			return nil, err
		}
		for _, d := range st.Blocks {
			if !d.IsZero() {
				h.local[d] = true
			}
		}
	}
	return h, nil
}

// priceAll finds out what layers cost.
func (r *router) priceAll(todo []*edge) error {
	if err := r.fetchIndexes(todo); err != nil {
		return err
	}
	for _, e := range todo {
		if e.dead != nil {
			continue
		}
		if err := r.priceOne(e); err != nil {
			return err
		}
	}
	return nil
}

// fetchIndexes gets the indexes of layers, from media where they are. One that is not what it should be is the end of that layer
// only; that of the line is the end of the search.
func (r *router) fetchIndexes(todo []*edge) error {
	var fetch []*edge
	for _, e := range todo {
		if r.indexes[e.ref.ID] != nil {
			continue
		}
		if x := r.j.mediaIndex(e.ref.ID); x != nil {
			r.take(e, x)
		} else {
			fetch = append(fetch, e)
		}
	}
	if len(fetch) == 0 {
		return nil
	}
	found := make([]*layer.Index, len(fetch))
	g, ctx := errgroup.WithContext(r.ctx)
	g.SetLimit(indexFetches)
	for i, e := range fetch {
		g.Go(func() error {
			x, err := r.j.index(ctx, e.ref)
			if err != nil && (ctx.Err() != nil || syncclient.Interrupted(err)) {
				return err
			}
			found[i] = x
			if err != nil {
				e.dead = err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, e := range fetch {
		if found[i] != nil {
			// A medium that lost its index on the way makes it cost what it costs elsewhere.
			e.cost = e.ref.Look()
			r.fetched += e.ref.Look()
			r.take(e, found[i])
		}
	}
	return nil
}

// take notes the index of a layer, unless it is of no use.
func (r *router) take(e *edge, x *layer.Index) {
	if x.From() != e.ref.From || x.To() != e.ref.To {
		e.dead = fmt.Errorf("%w: layer %s leads from %s to %s", ErrPlan, x.ID().Short(), x.From().Short(), x.To().Short())
		return
	}
	r.indexes[e.ref.ID] = x
}

// mediaIndex returns a layer's index from a medium, nil when none has it.
func (j *Job) mediaIndex(id image.LayerID) *layer.Index {
	for _, m := range j.Media {
		if x, ok := m.Index(id); ok {
			return x
		}
	}
	return nil
}

// priceOne works out what a layer costs whose index is here: the frames whose blocks neither this machine nor a medium has, and
// its index.
func (r *router) priceOne(e *edge) error {
	x := r.indexes[e.ref.ID]
	here, err := r.j.Store.leftOver(image.VHDUUID(x.To()), x.From())
	if err != nil {
		return err
	}
	wanted, lengths := map[image.Digest]bool{}, map[image.Digest]int64{}
	e.space = here.space(x)
	for i := range x.Len() {
		f := x.Frame(i)
		if !here.blocks[f.Block] && f.Codec != layer.Zero && !r.here.local[f.Digest] {
			wanted[f.Digest], lengths[f.Digest] = true, int64(f.Length)
		}
	}
	for _, inv := range r.j.Media {
		if len(wanted) == 0 {
			break
		}
		src := inv.Source(cache.Wanted{Blocks: wanted, Layers: []*layer.Index{x}, Disks: r.here.plain})
		for d := range wanted {
			if _, ok := src.Holds(d); ok {
				delete(wanted, d)
			}
		}
	}
	e.cost, e.exact = 0, true
	if r.j.mediaIndex(x.ID()) == nil {
		e.cost = e.ref.Look()
	}
	for d := range wanted {
		e.cost += lengths[d]
	}
	return nil
}

// learn finds out which blocks the VHD files on media hold: those of states whose digests are not known yet, where the indexes that
// tell cost less than the path does. It returns true when the search has to be done again.
func (r *router) learn(path []*edge) (again bool, err error) {
	var total sum
	for _, e := range path {
		total = total.add(e)
	}
	for _, e := range r.edges {
		id := e.ref.To
		if e.dead != nil || r.here.seen[id] || r.starts[id] || !r.j.hasVHD(r.uuids(id)) {
			continue
		}
		way, cost, ok := r.byIndexes(id)
		if !ok || cost >= total.net {
			continue
		}
		if _, err := r.j.Store.State(way[0].ref.From); err != nil {
			continue // damaged; nobody needs it here
		}
		again = true
		if err := r.fetchIndexes(way); err != nil {
			return false, err
		}
		if err := r.apply(way); err != nil {
			return false, err
		}
	}
	if again {
		err = r.priceAgain()
	}
	return again, err
}

// byIndexes returns the path to a state whose indexes cost the least, with what they cost.
func (r *router) byIndexes(id image.StateID) (path []*edge, cost int64, ok bool) {
	s := search{goal: id, starts: r.starts}
	for _, e := range r.edges {
		x := &edge{ref: e.ref, dead: e.dead}
		if r.indexes[e.ref.ID] == nil && !r.j.onMedium(e.ref.ID) {
			x.cost = e.ref.Look()
		}
		s.edges = append(s.edges, x)
	}
	found, total, ok := s.cheapest(byNet, false)
	for _, x := range found {
		path = append(path, r.known[x.ref.ID])
	}
	return path, total.net, ok
}

// priceAgain works out what layers cost now that more is known of what media have.
func (r *router) priceAgain() error {
	for _, e := range r.edges {
		if e.exact && e.dead == nil {
			if err := r.priceOne(e); err != nil {
				return err
			}
		}
	}
	return nil
}
