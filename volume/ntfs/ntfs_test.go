package ntfs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"disksync/volume/volumetest"
)

// put writes a file.
func put(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// random returns n bytes that cannot be compressed; text returns some that can.
func random(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func text(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "line %d of a file, %d\n", i, i*i)
	}
	return b.Bytes()[:n]
}

// plant fills a folder with what a medium may have.
func plant(t testing.TB, dir string) {
	t.Helper()
	for _, n := range []int{0, 1, 300, 700, 1024, 4095, 4096, 4097, 65536, 300_000} {
		put(t, filepath.Join(dir, fmt.Sprintf("sizes/%d", n)), random(n))
	}
	for _, name := range []string{"ä ö ü.vhd", "日本語", "𝄞 beyond the BMP 🎵.txt", "a.b.c", " begins with a space", strings.Repeat("ü", 127)} {
		put(t, filepath.Join(dir, "names", name), []byte(name))
	}
	for i := range 2000 {
		put(t, filepath.Join(dir, fmt.Sprintf("many/file number %d", i)), fmt.Append(nil, i))
	}
	put(t, filepath.Join(dir, "1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/deep"), []byte("deep"))
	for _, e := range []error{
		os.Link(filepath.Join(dir, "sizes/300000"), filepath.Join(dir, "names/linked")),
		os.Symlink("sizes/1", filepath.Join(dir, "symlink")),
		os.Symlink(strings.Repeat("../", 300)+"x", filepath.Join(dir, "names/long symlink")),
		os.Mkdir(filepath.Join(dir, "empty folder"), 0o755),
	} {
		if e != nil {
			t.Fatal(e)
		}
	}
	f, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{1 << 20, 10_000_000, 5 << 30} {
		if _, err := f.WriteAt(random(50_000), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(6 << 30); err != nil {
		t.Fatal(err)
	}
}

// TestVolumes: volumes of all sizes of clusters, records and sectors read as ntfs-3g reads them.
func TestVolumes(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"", "-c 512", "-c 1024 -s 1024", "-c 2048 -z 0", "-c 65536", "-c 2097152", "-s 4096 -c 4096", "-s 4096 -c 65536", "-s 2048 -c 8192"} {
		t.Run("mkntfs"+strings.ReplaceAll(args, " ", ""), func(t *testing.T) {
			t.Parallel()
			img := makeImage(t, 8192, args)
			mounted(t, img, "rw", func(dir string) { plant(t, dir) })
			mounted(t, img, "ro", func(dir string) { volumetest.Compare(t, open(t, img), dir) })
			t.Logf("%+v", open(t, img).Info())
		})
	}
}
