package main

import (
	"io"
	"slices"
	"strings"

	"disksync/internal/cli"
)

func printScanned(w io.Writer, list []*scanned) error {
	if list == nil {
		list = []*scanned{}
	}
	return cli.JSON(w, list)
}

// drawAll draws the disks as a tree: each below its parent, indented. Roots that are hidden come first, as they are what the
// others stand on; among children they come last.
func (s *scan) drawAll(w io.Writer, list []*scanned) {
	list = slices.DeleteFunc(slices.Clone(list), func(x *scanned) bool { return x.err != nil })
	slices.SortFunc(list, func(a, b *scanned) int { return strings.Compare(a.Name, b.Name) })
	list = slices.CompactFunc(list, func(a, b *scanned) bool { return a.Name == b.Name })
	byName := map[string]*scanned{}
	for _, x := range list {
		byName[x.Name] = x
	}
	for _, x := range list {
		if p := byName[x.Parent]; p != nil {
			p.children = append(p.children, x)
		}
	}
	root := func(x *scanned) bool { return byName[x.Parent] == nil }
	for _, first := range []func(*scanned) bool{
		func(x *scanned) bool { return root(x) && x.Hidden != 0 },
		root,
		func(*scanned) bool { return true }, // what stands on itself
	} {
		for _, x := range list {
			if !x.placed && first(x) {
				s.draw(w, x, 0, byName)
			}
		}
	}
}

const indentation = 3

func (s *scan) draw(w io.Writer, x *scanned, depth int, byName map[string]*scanned) {
	if x.placed {
		return
	}
	x.placed = true
	remark := ""
	if x.Parent != "" && byName[x.Parent] == nil {
		remark = " (not found in scan)"
	}
	s.print(w, x, depth*indentation, remark)
	for _, hidden := range []bool{false, true} {
		for _, c := range x.children {
			if (c.Hidden != 0) == hidden {
				s.draw(w, c, depth+1, byName)
			}
		}
	}
}
