package udf_test

import (
	"testing"

	"disksync/volume/volumetest"
)

// TestBuilt: all kinds of partitions, file entries and allocation descriptors, and the table of virtual blocks in both of its forms.
func TestBuilt(t *testing.T) {
	t.Parallel()
	many, src := volumetest.Source(t), volumetest.Source(t, volumetest.NoMany)
	for _, p := range []plan{
		{blockSize: 512, kind: "physical", alloc: 3},
		{blockSize: 1024, kind: "physical", alloc: 1, extended: true, piece: 3, perBlock: 5},
		{blockSize: 2048, kind: "physical", alloc: 2, piece: 2, perBlock: 40},
		{blockSize: 4096, kind: "physical", alloc: 0, piece: 1, use: 300},
		{blockSize: 2048, kind: "physical", alloc: 0, chain: true},
		{blockSize: 2048, kind: "sparable", alloc: 3, piece: 5},
		{blockSize: 512, kind: "sparable", alloc: 1, extended: true},
		{blockSize: 2048, kind: "vat 1.50", alloc: 3, piece: 9},
		{blockSize: 2048, kind: "vat 2.00", alloc: 1, extended: true, perBlock: 3, piece: 2},
		{blockSize: 2048, kind: "metadata", alloc: 3, extended: true, piece: 9},
		{blockSize: 512, kind: "metadata", alloc: 0, extended: true, piece: 7, perBlock: 4},
	} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			src := src
			if p.blockSize == 2048 && p.kind == "metadata" {
				src = many
			}
			volumetest.Compare(t, open(t, build(t, p, src)), src)
		})
	}
}
