package table

import (
	"cmp"
	"io"
	"slices"
)

// Partition is a place on a disk.
type Partition struct {
	Number int
	Off    int64 // bytes
	Size   int64
}

// Partitions returns the partitions of a disk as far as its tables tell them: where they contradict each other, or themselves, the rest
// counts. A disk without a table has none. An error is one of reading.
func Partitions(r io.ReaderAt, size int64) ([]Partition, error) {
	if size < 2*sector {
		return nil, nil
	}
	b := make([]byte, sector)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, err
	}
	if !Signed(b) {
		return nil, nil
	}
	entries, _ := ReadMBR(b, size)
	if slices.ContainsFunc(entries, func(e Entry) bool { return e.Type == Protective }) {
		for _, sectorSize := range Sectors() {
			for _, lba := range []int64{1, size/sectorSize - 1} {
				g, ok, err := ReadGPT(r, size, sectorSize, lba)
				if err != nil {
					return nil, err
				}
				if ok {
					return g.places(), nil
				}
			}
		}
	}
	var out []Partition
	logical := 5
	for _, e := range entries {
		fits := e.Sane && e.Off > 0 && e.Size > 0 && e.Off < size
		switch {
		case !fits || e.Type == Protective:
		case e.Extended():
			more, _, err := Logicals(r, e, logical)
			if _, ok := err.(*Fault); err != nil && !ok {
				return nil, err
			}
			for _, l := range more {
				out = append(out, Partition{l.Number, l.Off, min(l.Size, size-l.Off)})
			}
			logical += len(more)
		default:
			out = append(out, Partition{e.Number, e.Off, min(e.Size, size-e.Off)})
		}
	}
	slices.SortStableFunc(out, func(a, b Partition) int { return cmp.Compare(a.Number, b.Number) })
	return out, nil
}

func (g *GPT) places() []Partition {
	var out []Partition
	for _, e := range g.Partitions() {
		if g.Sensible(e) {
			out = append(out, Partition{e.Number, e.First * g.Sector, (e.Last - e.First + 1) * g.Sector})
		}
	}
	return out
}
