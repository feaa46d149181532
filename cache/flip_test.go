package cache_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"disksync/cache"
	"disksync/volume"
	"disksync/volume/detect"
	"disksync/volume/volumetest"
)

// TestFlippedBits: whatever bit of a medium's file system is another, no block passes that is not what it is called (see fetch), nothing
// panics, and most of what is good is found still.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	g := get(t)
	dir := t.TempDir()
	write(t, dir, "one.dsl", g.full.file)
	write(t, dir, "two/three.dsl", g.diff.file)
	for _, c := range []struct {
		name string
		make func(file string)
	}{
		{"udf", func(file string) { volumetest.Run(t, "genisoimage", "-quiet", "-udf", "-R", "-J", "-o", file, dir) }},
		{"iso9660", func(file string) { volumetest.Run(t, "genisoimage", "-quiet", "-R", "-o", file, dir) }},
		{"ext4", func(file string) { volumetest.Run(t, "mke2fs", "-q", "-t", "ext4", "-d", dir, file, "4M") }},
		{"fat", func(file string) {
			volumetest.Run(t, "mkfs.fat", "-C", file, "4096")
			volumetest.Run(t, "mcopy", "-s", "-i", file, filepath.Join(dir, "one.dsl"), filepath.Join(dir, "two"), "::")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "image")
			c.make(file)
			good := volumetest.Read(t, file)
			var used []int
			for at := 0; at < len(good); at += 512 {
				if len(bytes.Trim(good[at:min(at+512, len(good))], "\x00")) > 0 {
					used = append(used, at)
				}
			}
			rnd := rand.New(rand.NewPCG(3, 4))
			w := g.wanted()
			whole, some, none := 0, 0, 0
			for i := range 100 {
				b := bytes.Clone(good)
				if i > 0 {
					b[used[rnd.IntN(len(used))]+rnd.IntN(512)] ^= 1 << rnd.IntN(8)
				}
				found, _, err := detect.Volumes(volume.NewDevice(bytes.NewReader(b), int64(len(b))))
				if err != nil {
					none++
					continue
				}
				inv, err := cache.ScanTrees(t.Context(), cache.Medium{Device: file}, []cache.Tree{{Tree: found[0]}}, io.NopCloser(nil))
				if err != nil {
					none++
					continue
				}
				switch h := fetch(t, inv.Source(w), w); {
				case h.err != nil:
					t.Errorf("flip %d: %v", i, h.err)
				case len(h.good) == len(w.Blocks):
					whole++
				case i == 0:
					t.Errorf("the image as it is gives %d of %d blocks: %v", len(h.good), len(w.Blocks), h.bad)
				default:
					some++
				}
				inv.Close()
			}
			t.Logf("%d times everything, %d times a part, %d times nothing", whole, some, none)
			if whole < 10 || some+none == 0 {
				t.Errorf("%d times everything, %d times a part, %d times nothing", whole, some, none)
			}
		})
	}
}
