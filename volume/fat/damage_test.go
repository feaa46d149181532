package fat_test

import (
	"fmt"
	"strings"
	"testing"

	"disksync/volume/fat"
	"disksync/volume/volumetest"
)

// small returns small volumes with files in pieces and folders.
func small(t testing.TB) (names []string, images [][]byte) {
	t.Helper()
	src := t.TempDir()
	for i := range 12 {
		volumetest.Put(t, src, fmt.Sprintf("folder %d/a long name with number %d", i%3, i), int64(i)*3000)
	}
	for _, k := range []struct {
		kib  int64
		args string
	}{{720, "-F 12 -s 1"}, {4400, "-F 16 -s 1"}, {34_000, "-F 32 -s 1"}} {
		img := volumetest.Image(t, k.kib<<10)
		volumetest.Run(t, "mkfs.fat", append(strings.Fields(k.args), "-n", "LABEL", img)...)
		fill(t, img, src)
		pieces(t, img, 200_000)
		names, images = append(names, k.args), append(images, volumetest.Blank(volumetest.Read(t, img)))
	}
	return names, images
}

// pieces writes a file that is all over the volume.
func pieces(t testing.TB, img string, n int64) {
	t.Helper()
	src := t.TempDir()
	volumetest.Put(t, src, "pieces", n)
	for i := range 40 {
		volumetest.Put(t, src, fmt.Sprintf("p%d", i), n/40)
	}
	args := []string{"-Q", "-i", img}
	for i := range 40 {
		args = append(args, fmt.Sprintf("%s/p%d", src, i))
	}
	volumetest.Run(t, "mcopy", append(args, "::")...)
	args = args[1:3]
	for i := range 40 {
		if i%2 == 0 {
			args = append(args, fmt.Sprintf("::p%d", i))
		}
	}
	volumetest.Run(t, "mdel", args...)
	volumetest.Run(t, "mcopy", "-Q", "-i", img, src+"/pieces", "::")
}

// TestMutate: damage costs no more than an error.
func TestMutate(t *testing.T) {
	names, images := small(t)
	for i, b := range images {
		t.Run(names[i], func(t *testing.T) {
			n := volumetest.Rounds(1000)
			if len(b) > 1<<20 { // copying it takes the time
				n = n * (1 << 20) / len(b)
			}
			volumetest.Mutate(t, b, 0, n, fat.Open)
		})
	}
}

// FuzzOpen: no volume makes the reader panic or loop.
func FuzzOpen(f *testing.F) {
	_, images := small(f)
	volumetest.Fuzz(f, images[:2], fat.Open)
}
