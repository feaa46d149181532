package vhd_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"disksync/vhd"
)

// eachCrash runs op on copies of start, cutting the power at every write and sync, with none, some or all of the unsynced
// sectors kept, and calls check with what the file then is. It returns the number of cuts.
func eachCrash(t *testing.T, start []byte, op func(f *memFile) error, check func(cut int, after *memFile)) int {
	t.Helper()
	begin := func(failAt int) *memFile {
		return &memFile{data: bytes.Clone(start), synced: bytes.Clone(start), failAt: failAt}
	}
	whole := begin(0)
	if err := op(whole); err != nil {
		t.Fatal(err)
	}
	if len(whole.pending) > 0 {
		t.Errorf("%d writes are not synced at the end", len(whole.pending))
	}
	check(0, &memFile{data: whole.data, synced: bytes.Clone(whole.data)})
	for cut := 1; cut <= whole.ops; cut++ {
		f := begin(cut)
		if err := op(f); !errors.Is(err, errInjected) {
			t.Fatalf("cut %d did not happen: %v", cut, err)
		}
		for seed, keep := range []float64{0, 1, 0.5, 0.5} {
			check(cut, f.afterPowerLoss(keep, rand.New(rand.NewPCG(uint64(cut), uint64(seed)))))
		}
	}
	return whole.ops
}

// content opens a file with its parents and reads all of it.
func content(t testing.TB, f *memFile, parents ...*vhd.Image) []byte {
	t.Helper()
	m, err := vhd.Open(f, f.size())
	if err != nil {
		t.Fatal(err)
	}
	c, err := vhd.NewChain(append([]*vhd.Image{m}, parents...)...)
	if err != nil {
		t.Fatal(err)
	}
	return readAll(t, c, c.Size())
}

// resized returns b with another length, filled up with zeros.
func resized(b []byte, size int64) []byte {
	out := make([]byte, size)
	copy(out, b)
	return out
}
