package main

import (
	"fmt"
	"io"
	"path/filepath"

	"disksync/vhd/vhdfile"
)

// runs are runs of sectors in rising order that do not touch.
type runs []vhdfile.Run

func (r runs) count() int64 {
	n := int64(0)
	for _, x := range r {
		n += x.Count
	}
	return n
}

// shared returns how many sectors are in both.
func shared(a, b runs) int64 {
	n := int64(0)
	for len(a) > 0 && len(b) > 0 {
		endA, endB := a[0].Start+a[0].Count, b[0].Start+b[0].Count
		n += max(min(endA, endB)-max(a[0].Start, b[0].Start), 0)
		if endA < endB {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return n
}

// union returns the sectors that are in one or both.
func union(a, b runs) runs {
	var out runs
	for len(a) > 0 || len(b) > 0 {
		if len(a) == 0 || len(b) > 0 && b[0].Start < a[0].Start {
			a, b = b, a
		}
		x := a[0]
		a = a[1:]
		if last := len(out) - 1; last >= 0 && out[last].Start+out[last].Count >= x.Start {
			out[last].Count = max(out[last].Count, x.Start+x.Count-out[last].Start)
			continue
		}
		out = append(out, x)
	}
	return out
}

func percent(n, of int64) float64 {
	if of == 0 {
		return 0
	}
	return 100 * float64(n) / float64(of)
}

// printStats prints what each file has of its own, the base first.
func printStats(w io.Writer, paths []string) error {
	var prev, all runs
	for i := len(paths) - 1; i >= 0; i-- {
		f, err := file(paths[i])
		if err != nil {
			return err
		}
		own, allocated, err := ownRuns(f)
		f.Close()
		if err != nil {
			return err
		}
		n := own.count()
		fmt.Fprintf(w, "%s: secs allocated: 0x%x secs written: 0x%x (%.2f%%)", filepath.Base(paths[i]), allocated, n, percent(n, allocated))
		if i < len(paths)-1 {
			up, uc := n-shared(own, prev), n-shared(own, all)
			fmt.Fprintf(w, " secs not in parent: 0x%x (%.2f%%) secs not in ancestors: 0x%x (%.2f%%)", up, percent(up, n), uc, percent(uc, n))
		}
		fmt.Fprintln(w)
		prev, all = own, union(all, own)
	}
	return nil
}

func ownRuns(f *vhdfile.File) (own runs, allocated int64, err error) {
	_, size := f.Blocks()
	if size == 0 {
		n := sectors(f.Size())
		return runs{{Start: 0, Count: n}}, n, nil
	}
	for r, err := range f.Runs(0, sectors(f.Size())) {
		if err != nil {
			return nil, 0, err
		}
		own = append(own, r)
	}
	return own, int64(f.AllocatedBlocks()) * sectors(size), nil
}
