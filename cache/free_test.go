package cache_test

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"testing"

	"disksync/cache"
	"disksync/diskmap"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/layer"
	"disksync/vhd"
)

// TestFreeSpaceOfPlainDisks: a VHD that was published without what is in its free space still gives all its blocks from a medium,
// though the file has that; and one that was published whole does, too.
func TestFreeSpaceOfPlainDisks(t *testing.T) {
	d := testkit.Gunzip(t, "../diskmap/testdata/fat16.raw.gz")
	copy(d[600_000:], bytes.Repeat([]byte("what was deleted "), 10_000))
	copy(d[2_500_000:], bytes.Repeat([]byte("what was deleted "), 10_000))
	m, err := diskmap.Scan(memDisk(d))
	if err != nil || m.Free() == 0 {
		t.Fatal(m.Volumes(), err)
	}
	used := make([]byte, len(d))
	if _, err := m.Disk(memDisk(d)).ReadAt(used, 0); err != nil {
		t.Fatal(err)
	}
	file := &memFile{}
	id := image.UUID{3, 15: 3}
	if err := writeVHD(file, vhd.CreateOptions{Size: int64(len(d)), UUID: id}, nil, d); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, "copy.vhd", file.b)
	inv := scan(t, dir)
	looks := 0
	find := func(_ context.Context, name string, d *vhd.Chain) *diskmap.Map {
		looks++
		m, err := diskmap.Scan(d)
		if err != nil || name != "copy.vhd" {
			t.Errorf("%s: %v", name, err)
		}
		return m
	}
	inv.LookForFree(find)
	for _, published := range [][]byte{used, d} {
		p, err := pack(image.State{}, published)
		if err != nil {
			t.Fatal(err)
		}
		w := cache.Wanted{Blocks: blocks(p.state), Layers: []*layer.Index{p.Index}, Disks: []cache.Disk{{State: p.state, UUIDs: []image.UUID{id}}}}
		if h := fetch(t, inv.Source(w), w); h.err != nil || len(h.bad) != 0 || len(h.good) != len(w.Blocks) || len(h.good) == 0 {
			t.Errorf("%d of %d blocks are good: %v, %v", len(h.good), len(w.Blocks), h.bad, h.err)
		}
	}
	if looks != 1 {
		t.Errorf("the disk was looked at %d times, want once: for what was published without its free space", looks)
	}
	// A block that is damaged where something is used stays bad.
	p, err := pack(image.State{}, used)
	if err != nil {
		t.Fatal(err)
	}
	w := cache.Wanted{Blocks: blocks(p.state), Disks: []cache.Disk{{State: p.state, UUIDs: []image.UUID{id}}}}
	at := bytes.Index(file.b, []byte("what is in a letter"))
	file.b[at] ^= 1
	write(t, dir, "copy.vhd", file.b)
	inv = scan(t, dir)
	inv.LookForFree(find)
	if h := fetch(t, inv.Source(w), w); len(h.bad) != 1 {
		t.Errorf("%d bad blocks, want 1", len(h.bad))
	}
}

// TestFreeSpaceIsNotKnown: where nobody tells what is free, blocks are what they are; and somebody who was called off is asked again.
func TestFreeSpaceIsNotKnown(t *testing.T) {
	d := bytes.Repeat([]byte("deleted "), block/8)
	clear(d[:4096])
	used := bytes.Clone(d)
	clear(used[block/2:])
	p, err := pack(image.State{}, used)
	if err != nil {
		t.Fatal(err)
	}
	file, id := &memFile{}, image.UUID{3, 15: 3}
	if err := writeVHD(file, vhd.CreateOptions{Size: int64(len(d)), UUID: id}, nil, d); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, "copy.vhd", file.b)
	w := cache.Wanted{Blocks: blocks(p.state), Disks: []cache.Disk{{State: p.state, UUIDs: []image.UUID{id}}}}
	inv := scan(t, dir)
	if h := fetch(t, inv.Source(w), w); len(h.bad) != 1 || len(h.good) != 0 {
		t.Errorf("nobody looks: %v", h)
	}
	looks := 0
	ctx, cancel := context.WithCancel(t.Context())
	inv.LookForFree(func(context.Context, string, *vhd.Chain) *diskmap.Map {
		looks++
		cancel()
		return nil
	})
	src := inv.Source(w)
	claims := slices.Collect(maps.Keys(w.Blocks))
	ignore := func(image.Digest, layer.Frame, []byte, error) error { return nil }
	if err := src.Fetch(ctx, claims, ignore); err != nil {
		t.Error(err)
	}
	for range 3 {
		if h := fetch(t, src, w); len(h.bad) != 1 {
			t.Errorf("nothing is known: %v", h)
		}
	}
	if looks != 2 {
		t.Errorf("%d looks, want one that was called off and another", looks)
	}
}
