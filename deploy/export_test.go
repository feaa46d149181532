package deploy

import (
	"context"

	"disksync/image"
	"disksync/layer"
	"disksync/syncclient"
)

// Install installs one layer from any sources.
func (s *Store) Install(ctx context.Context, x *layer.Index, sources []Source, t *Tally) ([]SourceReport, error) {
	return s.InstallWith(ctx, x, sources, t, nil)
}

// Got counts a block from a kind of source.
func (t *Tally) Got(kind string) { t.got(kind, 1, 1, false) }

// Board is where sources join and leave.
type Board struct{ b *board }

// Join adds a source.
func (b Board) Join(s Source) { b.b.join(s) }

// Leave takes a source away.
func (b Board) Leave(kind, name string, why error) { b.b.leave(kind, name, why) }

// InstallWith is Install where visit is given the board when there is one.
func (s *Store) InstallWith(ctx context.Context, x *layer.Index, sources []Source, t *Tally, visit func(Board)) ([]SourceReport, error) {
	from, err := s.State(x.From())
	if err != nil {
		return nil, err
	}
	done, err := s.parts.start(ctx, image.VHDUUID(x.To()))
	if err != nil {
		return nil, err
	}
	defer done()
	y, err := s.site(ctx, x)
	if err != nil {
		return nil, err
	}
	defer y.release()
	g := guests{sources: sources}
	if visit != nil {
		g.visit = func(_ context.Context, b *board) { visit(Board{b}) }
	}
	in, err := s.install(ctx, y, from, image.System, g, t)
	out := &Outcome{}
	if in != nil {
		in.report(out, map[string]int{})
	}
	return out.Sources, err
}

// Checksum is what read-back compares.
type Checksum = checksum

// ChecksumOf returns the checksum of a block.
func ChecksumOf(b []byte) Checksum { return checksumOf(b) }

// NextContent returns the first run of b that is written.
func NextContent(b []byte, at int) (from, to int) { return nextContent(b, at) }

// Counts returns what only receipts show.
func (t *Tally) Counts() (verified, resumed, zero int) { return t.counts() }

// NewLocal returns the source of blocks that are on this machine.
func (s *Store) NewLocal(wanted map[image.Digest]bool) (Source, error) { return s.newLocal(wanted) }

// Edge is an edge of the search: at least Least, exactly Cost.
type Edge struct {
	Ref                image.LayerRef
	Least, Cost, Space int64
	Dead               bool // turns out to be of no use
}

// Found is what a search found and did.
type Found struct {
	Path   []image.LayerID // nil: none
	Strict int64           // the least bytes over the network
	Priced []image.LayerID
	Asked  bool
}

// Slack returns the bytes that a path may cost more than the cheapest one.
func Slack(n int64) int64 { return negligible + n>>negligibleShift }

// WorthAsking is the cost up to which nobody is asked for more.
const WorthAsking = worthAsking

// Search runs the search on a graph of which more is told when it is asked for.
func Search(edges, more []Edge, goal image.StateID, starts ...image.StateID) (Found, error) {
	var f Found
	s := &search{goal: goal, starts: map[image.StateID]bool{}}
	truth := map[*edge]Edge{}
	add := func(es []Edge) {
		for _, e := range es {
			n := &edge{ref: e.Ref, cost: e.Least}
			truth[n] = e
			s.edges = append(s.edges, n)
		}
	}
	for _, id := range starts {
		s.starts[id] = true
	}
	add(edges)
	s.more = func() error {
		f.Asked = true
		add(more)
		return nil
	}
	s.price = func(todo []*edge) error {
		for _, e := range todo {
			f.Priced = append(f.Priced, e.ref.ID)
			if truth[e].Dead {
				e.dead = errNoSource
				continue
			}
			e.cost, e.space, e.exact = truth[e].Cost, truth[e].Space, true
		}
		return nil
	}
	path, err := s.run()
	if err != nil {
		return f, err
	}
	_, strict, _ := s.cheapest(byNet, false)
	f.Strict = strict.net
	f.Path = []image.LayerID{}
	for _, e := range path {
		f.Path = append(f.Path, e.ref.ID)
	}
	return f, nil
}

// NewNetSource returns the Synchronizer as the source of a layer's blocks.
func (n *Net) NewNetSource(x *layer.Index) Source { return n.source(x) }

// OneRange reports whether the Synchronizer was found to give one range a request only.
func (n *Net) OneRange() bool { return n.oneRange.Load() }

// Reach returns what one request of a run of frames asks for.
func (n *Net) Reach(t []layer.Frame, have, gap int64) (spans []syncclient.Span, frames int) {
	return n.reach(t, have, gap, n.most())
}
