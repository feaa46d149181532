package synchronizer_test

import (
	"testing"

	"pgregory.net/rapid"

	"disksync/api"
	"disksync/image"
	"disksync/synchronizer"
)

func node(n int) image.StateID {
	if n == 0 {
		return image.StateID{}
	}
	return image.StateID{31: byte(n)}
}

// cheapest looks at every path and returns the least that one costs.
func cheapest(layers []image.LayerRef, starts map[image.StateID]bool, goal image.StateID, cost map[image.LayerID]int64) int64 {
	best := int64(1) << 60
	var walk func(at image.StateID, n int64, seen map[image.StateID]bool)
	walk = func(at image.StateID, n int64, seen map[image.StateID]bool) {
		if at == goal {
			best = min(best, n)
			return
		}
		seen[at] = true
		for _, l := range layers {
			if l.From == at && !seen[l.To] {
				walk(l.To, n+cost[l.ID], seen)
			}
		}
		delete(seen, at)
	}
	for s := range starts {
		walk(s, 0, map[image.StateID]bool{})
	}
	return best
}

// TestUsefulLayers: whatever an endpoint has and finds elsewhere, the layers that it is told of make its way no more expensive than all
// layers would; and layers that cannot help are left out.
func TestUsefulLayers(t *testing.T) {
	left := 0
	rapid.Check(t, func(rt *rapid.T) {
		const states = 6
		m := &image.Manifest{Disks: []image.Disk{{Role: image.System, State: node(states - 1)}}}
		var all []image.LayerRef
		add := func(from, to int) image.LayerRef {
			l := image.LayerRef{
				ID: image.LayerID{byte(len(all) + 1)}, From: node(from), To: node(to), IndexLength: rapid.Int64Range(1, 30).Draw(rt, "index"),
			}
			l.Length = l.IndexLength + rapid.Int64Range(0, 200).Draw(rt, "frames")
			all = append(all, l)
			return l
		}
		for i := 1; i < states; i++ {
			m.Disks[0].Layers = append(m.Disks[0].Layers, add(i-1, i))
		}
		var extra []api.Layer
		for range rapid.IntRange(0, 8).Draw(rt, "extra") {
			from, to := rapid.IntRange(0, states-1).Draw(rt, "from"), rapid.IntRange(1, states-1).Draw(rt, "to")
			if from != to {
				extra = append(extra, api.Layer{LayerRef: add(from, to)})
			}
		}
		have, near, starts := map[image.StateID]bool{}, map[image.StateID]bool{}, map[image.StateID]bool{{}: true}
		for i := 1; i < states; i++ {
			if rapid.IntRange(0, 4).Draw(rt, "has") == 0 {
				have[node(i)], starts[node(i)] = true, true
			}
		}
		// What each layer costs this endpoint: some or all of its frames, and its index unless a medium has the whole layer.
		cost := map[image.LayerID]int64{}
		onMedium := map[image.LayerID]bool{}
		for _, l := range all {
			cost[l.ID] = l.IndexLength + rapid.Int64Range(0, l.Length-l.IndexLength).Draw(rt, "missing")
			if rapid.IntRange(0, 4).Draw(rt, "on a medium") == 0 {
				cost[l.ID], onMedium[l.ID], near[l.To] = 0, true, true
			}
		}
		told := synchronizer.UsefulLayers(m, extra, have, near)
		left += len(extra) - len(told)
		known := m.Disks[0].Layers
		for _, l := range all {
			if onMedium[l.ID] {
				known = append(known, l) // it says itself what it is
			}
		}
		for _, l := range told {
			known = append(known, l.LayerRef)
		}
		goal := node(states - 1)
		if got, want := cheapest(known, starts, goal, cost), cheapest(all, starts, goal, cost); got != want {
			rt.Fatalf("with the layers that it is told of the way costs %d, with all of them %d", got, want)
		}
	})
	if left == 0 {
		t.Error("no layer was ever left out")
	}
}
