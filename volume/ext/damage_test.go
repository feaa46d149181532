package ext_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"disksync/volume/ext"
	"disksync/volume/volumetest"
)

// small returns small volumes without checksums, with files in pieces and folders.
func small(t testing.TB) (names []string, images [][]byte) {
	t.Helper()
	src := t.TempDir()
	for i := range 12 {
		volumetest.Put(t, src, fmt.Sprintf("folder %d/a long name with number %d", i%3, i), int64(i)*3000)
	}
	for i := range 3 {
		volumetest.Put(t, src, fmt.Sprintf("tiny %d", i), 50+40*int64(i))
	}
	f, err := os.Create(filepath.Join(src, "pieces"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range int64(100) {
		if _, err := f.WriteAt(make([]byte, 10), i*9000); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("something"), i*9000); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range []string{
		"-t ext2 -b 1024", "-t ext2 -r 0 -b 1024 -I 128", "-t ext4 -b 1024 -O ^metadata_csum,^has_journal",
		"-t ext4 -b 1024 -I 256 -O ^metadata_csum,^has_journal,inline_data,meta_bg,^resize_inode,bigalloc",
	} {
		img := volumetest.Image(t, 1500<<10)
		volumetest.Run(t, "mke2fs", append(append([]string{"-q", "-F", "-m", "0", "-N", "64", "-d", src}, strings.Fields(args)...), img)...)
		names, images = append(names, args), append(images, volumetest.Blank(volumetest.Read(t, img)))
	}
	return names, images
}

// TestMutate: damage costs no more than an error.
func TestMutate(t *testing.T) {
	names, images := small(t)
	for i, b := range images {
		t.Run(names[i], func(t *testing.T) { volumetest.Mutate(t, b, 0, volumetest.Rounds(500), ext.Open) })
	}
}

// FuzzOpen: no volume makes the reader panic or loop.
func FuzzOpen(f *testing.F) {
	_, images := small(f)
	volumetest.Fuzz(f, images, ext.Open)
}
