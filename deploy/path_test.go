package deploy_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"disksync/deploy"
	"disksync/image"
)

func stateID(n int) image.StateID {
	if n == 0 {
		return image.StateID{}
	}
	return image.StateID{31: byte(n)}
}

// drawGraph draws a graph of states, of which 0 is nothing.
func drawGraph(rt *rapid.T, states int) []deploy.Edge {
	var out []deploy.Edge
	scale := rapid.SampledFrom([]int64{1, 100, 5000, 1 << 20}).Draw(rt, "scale")
	for i := range rapid.IntRange(0, 14).Draw(rt, "edges") {
		from, to := rapid.IntRange(0, states-1).Draw(rt, "from"), rapid.IntRange(1, states-1).Draw(rt, "to")
		if from == to {
			continue
		}
		e := deploy.Edge{
			Ref:   image.LayerRef{ID: image.LayerID{0: byte(i), 31: 1}, From: stateID(from), To: stateID(to)},
			Least: rapid.Int64Range(0, 20).Draw(rt, "least") * scale, Space: rapid.Int64Range(0, 1<<12).Draw(rt, "space") << 20,
			Dead: rapid.IntRange(0, 9).Draw(rt, "dead") == 0,
		}
		e.Cost = e.Least + rapid.Int64Range(0, 60).Draw(rt, "frames")*scale
		e.Ref.IndexLength, e.Ref.Length = e.Least, e.Cost+rapid.Int64Range(0, 50).Draw(rt, "held")*scale
		out = append(out, e)
	}
	return out
}

// walks calls f with every path to goal that visits no state twice.
func walks(edges []deploy.Edge, goal image.StateID, starts []image.StateID, f func(path []deploy.Edge)) {
	var from func(at image.StateID, path []deploy.Edge)
	from = func(at image.StateID, path []deploy.Edge) {
		if at == goal {
			f(path)
			return
		}
		for _, e := range edges {
			seen := slices.ContainsFunc(path, func(p deploy.Edge) bool { return p.Ref.From == e.Ref.To })
			if e.Ref.From == at && !seen && e.Ref.To != at {
				from(e.Ref.To, append(slices.Clone(path), e))
			}
		}
	}
	for _, s := range append([]image.StateID{{}}, starts...) {
		from(s, nil)
	}
}

func total(path []deploy.Edge, of func(deploy.Edge) int64) int64 {
	var n int64
	for _, e := range path {
		n += of(e)
	}
	return n
}

func cost(e deploy.Edge) int64  { return e.Cost }
func least(e deploy.Edge) int64 { return e.Least }

// TestPathIsCheapest compares the search with a look at every path that there is: it finds the cheapest one, takes another only when
// the difference is negligible, and fetches no index that could not have been on a cheaper path.
func TestPathIsCheapest(t *testing.T) {
	found, none, asked := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		states := rapid.IntRange(2, 6).Draw(rt, "states")
		edges := drawGraph(rt, states)
		cut := rapid.IntRange(0, len(edges)).Draw(rt, "told of at first")
		goal := stateID(states - 1)
		var starts []image.StateID
		for i := 1; i < states; i++ {
			if rapid.IntRange(0, 3).Draw(rt, "installed") == 0 {
				starts = append(starts, stateID(i))
			}
		}
		alive := slices.DeleteFunc(slices.Clone(edges), func(e deploy.Edge) bool { return e.Dead })
		best := int64(-1)
		walks(alive, goal, starts, func(path []deploy.Edge) {
			if n := total(path, cost); best < 0 || n < best {
				best = n
			}
		})
		f, err := deploy.Search(slices.Clone(edges[:cut]), edges[cut:], goal, starts...)
		if best < 0 {
			none++
			if err == nil {
				rt.Fatalf("found %v where no path is", f.Path)
			}
			return
		}
		if err != nil {
			rt.Fatal(err)
		}
		found++
		if f.Asked {
			asked++
		}
		path := byID(alive, f.Path)
		checkWay(rt, path, goal, starts)
		switch got := total(path, cost); {
		case !f.Asked && f.Strict <= deploy.WorthAsking:
			// Nobody was asked for more: nothing to save.
		case f.Strict != best:
			rt.Fatalf("the cheapest path costs %d, the search says %d", best, f.Strict)
		case got > best+deploy.Slack(best):
			rt.Fatalf("the path costs %d, the cheapest one %d", got, best)
		}
		for _, id := range f.Priced {
			least := leastWith(edges, goal, starts, id)
			if least > max(f.Strict, deploy.WorthAsking) { // what is cheap is looked at before anybody is asked for more
				rt.Fatalf("the index of %v was fetched; a path with it costs %d at least, the best one %d", id, least, f.Strict)
			}
		}
		if len(slices.Compact(slices.SortedFunc(slices.Values(f.Priced), image.LayerID.Compare))) != len(f.Priced) {
			rt.Fatalf("an index was fetched twice: %v", f.Priced)
		}
	})
	t.Logf("%d paths found, %d graphs without one, asked for more %d times", found, none, asked)
	if found == 0 || none == 0 || asked == 0 || asked == found {
		t.Error("that is not a mixture")
	}
}

// leastWith is the least that a path with the layer can cost, by what is known without indexes.
func leastWith(edges []deploy.Edge, goal image.StateID, starts []image.StateID, id image.LayerID) int64 {
	best := int64(1) << 62
	walks(edges, goal, starts, func(path []deploy.Edge) {
		if slices.ContainsFunc(path, func(e deploy.Edge) bool { return e.Ref.ID == id }) {
			best = min(best, total(path, least))
		}
	})
	return best
}

func byID(edges []deploy.Edge, ids []image.LayerID) []deploy.Edge {
	var out []deploy.Edge
	for _, id := range ids {
		i := slices.IndexFunc(edges, func(e deploy.Edge) bool { return e.Ref.ID == id })
		if i < 0 {
			return nil
		}
		out = append(out, edges[i])
	}
	return out
}

// checkWay fails unless the path leads from a start, or nothing, to the goal.
func checkWay(rt *rapid.T, path []deploy.Edge, goal image.StateID, starts []image.StateID) {
	if len(path) == 0 {
		if !slices.Contains(starts, goal) {
			rt.Fatal("an empty path to a state that is not there")
		}
		return
	}
	at := path[0].Ref.From
	if !at.IsZero() && !slices.Contains(starts, at) {
		rt.Fatalf("the path begins with %v, which is not there", at)
	}
	for _, e := range path {
		if e.Ref.From != at {
			rt.Fatalf("a layer from %v follows %v", e.Ref.From, at)
		}
		at = e.Ref.To
	}
	if at != goal {
		rt.Fatalf("the path ends in %v", at)
	}
}

// TestNoDetourIsCheaper: to go from one version to a third never costs more than to go over the second.
func TestNoDetourIsCheaper(t *testing.T) {
	compared := 0
	rapid.Check(t, func(rt *rapid.T) {
		edges := slices.DeleteFunc(drawGraph(rt, 5), func(e deploy.Edge) bool { return e.Dead })
		cheapest := func(from, to int) (int64, bool) {
			f, err := deploy.Search(edges, nil, stateID(to), stateID(from))
			return f.Strict, err == nil
		}
		direct, ok := cheapest(1, 3)
		first, ok1 := cheapest(1, 2)
		second, ok2 := cheapest(2, 3)
		if !ok1 || !ok2 {
			return
		}
		compared++
		if !ok || direct > first+second {
			rt.Fatalf("from 1 to 3: %d, over 2: %d and %d", direct, first, second)
		}
	})
	if compared == 0 {
		t.Error("nothing was compared")
	}
}

// TestPathPrefers: between paths that cost nearly the same, the shorter one and the one that takes less space is better; for what
// counts, it is not.
func TestPathPrefers(t *testing.T) {
	const mib = 1 << 20
	e := func(id byte, from, to int, cost, space int64) deploy.Edge {
		return deploy.Edge{Ref: image.LayerRef{ID: image.LayerID{id}, From: stateID(from), To: stateID(to)}, Least: cost / 2, Cost: cost, Space: space}
	}
	for _, c := range []struct {
		name  string
		edges []deploy.Edge
		want  string
	}{
		{"a chain that saves a few bytes", []deploy.Edge{e(1, 1, 2, 50_000, 2*mib), e(2, 2, 3, 50_000, 2*mib), e(3, 1, 3, 100_200, 2*mib)}, "3"},
		{"a chain that saves much", []deploy.Edge{e(1, 1, 2, 50_000, 2*mib), e(2, 2, 3, 50_000, 2*mib), e(3, 1, 3, 120_000, 2*mib)}, "1 2"},
		{"a full image that saves a few bytes", []deploy.Edge{e(1, 1, 2, 50_000, 2*mib), e(2, 2, 3, 50_000, 2*mib), e(3, 0, 3, 99_000, 9000*mib)}, "1 2"},
		{"all on media: the difference", []deploy.Edge{e(1, 1, 3, 0, 2*mib), e(2, 0, 3, 0, 9000*mib)}, "1"},
		{"all on media: one step", []deploy.Edge{e(1, 1, 2, 0, 2*mib), e(2, 2, 3, 0, 2*mib), e(3, 1, 3, 0, 3*mib)}, "3"},
		{"a full image that saves much", []deploy.Edge{e(1, 1, 3, 90*mib, 2*mib), e(2, 0, 3, 10*mib, 9000*mib)}, "2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := deploy.Search(c.edges, nil, stateID(3), stateID(1))
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, id := range f.Path {
				got += fmt.Sprintf(" %d", id[0])
			}
			if got != " "+c.want {
				t.Errorf("path%s, want %s", got, c.want)
			}
		})
	}
}
