package cache_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"testing"

	"disksync/cache"
	"disksync/diskmap"
	"disksync/image"
	"disksync/layer"
	"disksync/vhd"
)

// TestFreeSpaceOfPlainDisks: a VHD that was published without what is in its free space still gives all its blocks from a medium,
// though the file has that; and one that was published whole does, too.
func TestFreeSpaceOfPlainDisks(t *testing.T) {
	f, err := os.Open("../diskmap/testdata/fat16.raw.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	d, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
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
	// A block that is damaged where something is used stays bad.
	p, err := pack(image.State{}, used)
	if err != nil {
		t.Fatal(err)
	}
	w := cache.Wanted{Blocks: blocks(p.state), Disks: []cache.Disk{{State: p.state, UUIDs: []image.UUID{id}}}}
	at := bytes.Index(file.b, []byte("what is in a letter"))
	file.b[at] ^= 1
	write(t, dir, "copy.vhd", file.b)
	if h := fetch(t, scan(t, dir).Source(w), w); len(h.bad) != 1 {
		t.Errorf("%d bad blocks, want 1", len(h.bad))
	}
}
