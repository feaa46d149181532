package deploy

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"slices"

	"disksync/image"
)

// This file is the search for the cheapest path and nothing else: states are nodes, layers are edges, and what an edge costs is
// the number of bytes that have to come over the network for it. Nothing here reads or fetches; price and more do.

const (
	// worthAsking is how many bytes the best known path must cost before the Synchronizer is asked for further layers: the
	// question and its answer take about a KiB themselves.
	worthAsking = 2 << 10
	// indexBatch bounds the indexes that are fetched at once, in bytes. One is always fetched, however large it is.
	indexBatch = 32 << 10
	// A path may cost a little more than the cheapest one when it takes fewer steps or less space: this many bytes, and one
	// part in 1<<negligibleShift of what the cheapest one costs.
	negligible      = 4 << 10
	negligibleShift = 7
	// What a step and a byte on this machine's disk count against a byte over the network where the difference is negligible. A
	// disk is some thousand times as fast as a poor line; a step is a file that every reader has to open from then on.
	stepWeight = 4 << 10
	spaceShift = 10
)

// edge is a layer as the search sees it.
type edge struct {
	ref image.LayerRef
	// cost is what has to come over the network for it, in bytes. As long as exact is false it may cost more, but not less.
	cost  int64
	space int64 // that it takes on this machine's disk, bytes; only when exact
	exact bool
	dead  error // why it is of no use; nil: it is
}

// sum is what the edges of a path add up to.
type sum struct {
	net   int64 // bytes over the network
	steps int
	space int64 // bytes on this machine's disk
}

func (s sum) add(e *edge) sum { return sum{s.net + e.cost, s.steps + 1, s.space + e.space} }

// weight is one number for all that a path takes.
func (s sum) weight() int64 { return s.net + int64(s.steps)*stepWeight + s.space>>spaceShift }

// byNet orders by the bytes over the network; of equals the fewer steps, then the less space.
func byNet(a, b sum) int {
	return cmp.Or(cmp.Compare(a.net, b.net), cmp.Compare(a.steps, b.steps), cmp.Compare(a.space, b.space))
}

func byWeight(a, b sum) int { return cmp.Compare(a.weight(), b.weight()) }

// search finds the cheapest path to a state. Costs become exact one edge at a time, and only those edges' that may be on it: to
// know what a layer costs takes its index, which costs bytes too.
type search struct {
	goal   image.StateID
	starts map[image.StateID]bool // where a path may begin, besides nothing
	edges  []*edge
	// price makes the costs of edges exact, or declares them dead. It may change what other edges cost. No edge may become cheaper
	// than it was before it was exact.
	price func([]*edge) error
	// more adds edges, when it is worth while; nil: there are no more.
	more func() error
}

// errNoPath says that no path of layers leads to the state.
var errNoPath = errors.New("no path of layers leads there")

// run returns the edges of the path in order; none when the goal is a start.
func (s *search) run() ([]*edge, error) {
	for {
		path, total, ok := s.cheapest(byNet, false)
		if s.more != nil && (!ok || total.net > worthAsking) {
			more := s.more
			s.more = nil
			if err := more(); err != nil {
				return nil, err
			}
			continue
		}
		if !ok {
			return nil, errNoPath
		}
		// What is exact may be on the path for less than anything else could be, as soon as all of it is exact.
		todo := batch(path)
		if len(todo) == 0 {
			return s.prefer(path, total), nil
		}
		if err := s.price(todo); err != nil {
			return nil, err
		}
		for _, e := range todo {
			if !e.exact && e.dead == nil {
				return nil, fmt.Errorf("deploy: internal error: layer %s has no price", e.ref.ID.Short())
			}
		}
	}
}

// batch chooses those edges of a path whose costs are to become exact next. The largest come first: they are the most likely to
// show that the path is none.
func batch(path []*edge) []*edge {
	todo := slices.DeleteFunc(slices.Clone(path), func(e *edge) bool { return e.exact })
	slices.SortStableFunc(todo, func(a, b *edge) int { return cmp.Compare(b.ref.Length, a.ref.Length) })
	var bytes int64
	for i, e := range todo {
		if bytes += e.ref.Look(); i > 0 && bytes > indexBatch {
			return todo[:i]
		}
	}
	return todo
}

// prefer returns a path that takes fewer steps or less space and costs only negligibly more; else the path that it is given. It
// looks at edges that are exact: an index is not worth fetching for that.
func (s *search) prefer(path []*edge, total sum) []*edge {
	other, t, ok := s.cheapest(byWeight, true)
	if ok && t.net <= total.net+negligible+total.net>>negligibleShift {
		return other
	}
	return path
}

// node is a state that the search has reached.
type node struct {
	state image.StateID
	sum
	via  *edge // nil where a path begins
	done bool
}

// cheapest is Dijkstra's algorithm: all that is added up is never negative, and both orders keep their sense when the same is
// added to both sides.
func (s *search) cheapest(order func(a, b sum) int, onlyExact bool) (path []*edge, total sum, ok bool) {
	out := map[image.StateID][]*edge{}
	for _, e := range s.edges {
		if e.dead == nil && (e.exact || !onlyExact) {
			out[e.ref.From] = append(out[e.ref.From], e)
		}
	}
	nodes := map[image.StateID]*node{{}: {}}
	for id := range s.starts {
		nodes[id] = &node{state: id}
	}
	q := &frontier{order: order}
	for _, n := range nodes {
		heap.Push(q, n)
	}
	for q.Len() > 0 {
		n := heap.Pop(q).(*node)
		if n.done || nodes[n.state] != n {
			continue // it was reached for less meanwhile
		}
		n.done = true
		if n.state == s.goal {
			for at := n; at.via != nil; at = nodes[at.via.ref.From] {
				path = append(path, at.via)
			}
			slices.Reverse(path)
			return path, n.sum, true
		}
		for _, e := range out[n.state] {
			next := &node{state: e.ref.To, sum: n.add(e), via: e}
			if had := nodes[next.state]; had == nil || !had.done && order(next.sum, had.sum) < 0 {
				nodes[next.state] = next
				heap.Push(q, next)
			}
		}
	}
	return nil, sum{}, false
}

// frontier is a heap of nodes.
type frontier struct {
	nodes []*node
	order func(a, b sum) int
}

func (q *frontier) Len() int { return len(q.nodes) }

// Less puts the cheaper node first. Any rule is better than chance for those that cost the same.
func (q *frontier) Less(i, j int) bool {
	a, b := q.nodes[i], q.nodes[j]
	return cmp.Or(q.order(a.sum, b.sum), b.state.Compare(a.state)) < 0
}

func (q *frontier) Swap(i, j int) { q.nodes[i], q.nodes[j] = q.nodes[j], q.nodes[i] }
func (q *frontier) Push(x any)    { q.nodes = append(q.nodes, x.(*node)) }

func (q *frontier) Pop() any {
	n := q.nodes[len(q.nodes)-1]
	q.nodes = q.nodes[:len(q.nodes)-1]
	return n
}
