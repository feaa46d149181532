package vhd_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"disksync/vhd"
)

func openAhead(t testing.TB, f roomyFile, ahead, most int64, parents ...*vhd.Image) *vhd.Disk {
	t.Helper()
	d, err := vhd.OpenDisk(f, f.size(), parents, vhd.Ahead(ahead, most))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestAhead: a file in which room was taken ahead is in the end like another one, with every block in the same place, and each block was written
// where there was room already.
func TestAhead(t *testing.T) {
	t.Parallel()
	const blocks = 40
	o := vhd.CreateOptions{Size: blocks * testBlock, BlockSize: testBlock, UUID: newUUID(1)}
	order := rand.New(rand.NewPCG(1, 1)).Perm(blocks)[:blocks-5]
	fill := func(d *vhd.Disk, numbers []int) {
		for _, n := range numbers {
			if _, err := d.WriteAt(noise(testBlock-512, uint64(n)), int64(n)*testBlock); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	plain := create(t, o)
	fill(openDisk(t, plain), order)
	most := plain.size() + 5
	for _, full := range []bool{false, true} {
		f := roomyFile{create(t, o), full, map[int64]bool{}}
		d := openAhead(t, f, 6*testBlock, most)
		fill(d, order[:17])
		if used := openImage(t, plain).Size(); f.size() >= used {
			t.Errorf("the file has %d bytes with 17 of %d blocks", f.size(), blocks)
		}
		if spare := openImage(t, f.memFile).Spare(); spare <= 0 || spare > 6*testBlock {
			t.Errorf("%d bytes are taken ahead", spare)
		}
		// What a process that was killed has taken ahead is used by the next one.
		d = openAhead(t, f, 4*testBlock, most)
		fill(d, order[17:])
		if f.size() > most {
			t.Errorf("the file has %d bytes, and may have %d", f.size(), most)
		}
		// Nor does what one has taken stay that was killed when all was written.
		f.data = overlay(f.data, f.data[f.size()-vhd.FooterSize:], f.size()+3*testBlock)
		d = openAhead(t, f, 6*testBlock, most)
		if err := d.Trim(); err != nil {
			t.Fatal(err)
		}
		m, want := openImage(t, f.memFile), openImage(t, plain)
		if f.size() != plain.size() || !bytes.Equal(content(t, f.memFile), content(t, plain)) {
			t.Errorf("full %v: %d bytes, want %d with the same content", full, f.size(), plain.size())
		}
		for n := range blocks {
			place, ok := m.Place(n)
			if at, _ := want.Place(n); place != at {
				t.Errorf("full %v: block %d is at %d, want %d", full, n, place, at)
			}
			if ok && (!f.taken[place/512] || !f.taken[(place+testBlock)/512-1]) {
				t.Errorf("block %d is at %d, where no room was taken", n, place)
			}
		}
		if spare := m.Spare(); spare != 0 {
			t.Errorf("%d bytes are left over", spare)
		}
	}
}
