package synchronizer

import (
	"slices"

	"disksync/image"
)

// This file is about the graph of layers and nothing else.

// unreachable is a distance that no path has.
const unreachable = int64(1) << 62

// distances returns how far each state is from the nearest of starts, or with backward set how far each is from one of them.
func distances(layers []image.LayerRef, starts map[image.StateID]bool, backward bool, cost func(image.LayerRef) int64) map[image.StateID]int64 {
	d := map[image.StateID]int64{}
	at := func(id image.StateID) int64 {
		if n, ok := d[id]; ok {
			return n
		}
		return unreachable
	}
	for id := range starts {
		d[id] = 0
	}
	// Lines are long and have few branches; in the order of the line one pass is nearly enough.
	order := layers
	if backward {
		order = slices.Clone(layers)
		slices.Reverse(order)
	}
	for changed := true; changed; {
		changed = false
		for _, l := range order {
			from, to := l.From, l.To
			if backward {
				from, to = to, from
			}
			if n := at(from); n < unreachable && n+cost(l) < at(to) {
				d[to], changed = n+cost(l), true
			}
		}
	}
	for _, l := range layers {
		for _, id := range []image.StateID{l.From, l.To} {
			d[id] = at(id)
		}
	}
	return d
}

// usefulTo returns the layers that may be on the cheapest path to goal for somebody who has the states have, and perhaps the states
// near, such as from a medium. A path costs at most the sum of its files, and at least that of its indexes: blocks may be found
// elsewhere. What a medium leads to may even come with its index.
func usefulTo(goal image.StateID, layers []image.LayerRef, have, near map[image.StateID]bool) map[image.LayerID]bool {
	start, lucky := map[image.StateID]bool{{}: true}, map[image.StateID]bool{{}: true}
	for id := range have {
		start[id], lucky[id] = true, true
	}
	for id := range near {
		lucky[id] = true
	}
	least := func(l image.LayerRef) int64 {
		if near[l.To] {
			return 0
		}
		return l.IndexLength
	}
	most := distances(layers, start, false, func(l image.LayerRef) int64 { return l.Length })
	before := distances(layers, lucky, false, least)
	behind := distances(layers, map[image.StateID]bool{goal: true}, true, least)
	best, ok := most[goal]
	if !ok {
		best = unreachable
	}
	out := map[image.LayerID]bool{}
	for _, l := range layers {
		a, b := before[l.From], behind[l.To]
		if a < unreachable && b < unreachable && a+l.IndexLength+b <= best { // it may be on the best way itself
			out[l.ID] = true
		}
	}
	return out
}

// shortest returns the path from one of starts, or nothing, to goal whose files are the smallest together.
func shortest(layers []image.LayerRef, goal image.StateID, starts ...image.StateID) (path []image.LayerRef, bytes int64, ok bool) {
	from := map[image.StateID]bool{{}: true}
	for _, id := range starts {
		from[id] = true
	}
	length := func(l image.LayerRef) int64 { return l.Length }
	d := distances(layers, from, false, length)
	if n, known := d[goal]; from[goal] || !known || n == unreachable {
		return nil, 0, from[goal]
	}
	for at := goal; !from[at]; {
		i := slices.IndexFunc(layers, func(l image.LayerRef) bool {
			return l.To == at && d[l.From] < unreachable && d[l.From]+l.Length == d[at]
		})
		path = append(path, layers[i])
		at = layers[i].From
	}
	slices.Reverse(path)
	return path, d[goal], true
}
