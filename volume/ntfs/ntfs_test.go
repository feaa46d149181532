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

// plant fills a folder with what a medium may have, many files in one of its folders among it.
func plant(t testing.TB, dir string, many int) {
	t.Helper()
	for _, n := range []int{0, 1, 300, 700, 1024, 4095, 4096, 4097, 65536, 300_000} {
		put(t, filepath.Join(dir, fmt.Sprintf("sizes/%d", n)), random(n))
	}
	for _, name := range []string{"ä ö ü.vhd", "日本語", "𝄞 beyond the BMP 🎵.txt", "a.b.c", " begins with a space", strings.Repeat("ü", 127)} {
		put(t, filepath.Join(dir, "names", name), []byte(name))
	}
	for i := range many {
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
	sparse(t, filepath.Join(dir, "sparse"), 20_000_000, 1<<20, 10_000_000, 19_000_000)
}

// sparse makes a file of a size that has something only at some places.
func sparse(t testing.TB, name string, size int64, places ...int64) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range places {
		if _, err := f.WriteAt(random(50_000), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

// TestVolumes: volumes of all sizes of clusters, records and sectors read as ntfs-3g reads them.
func TestVolumes(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"", "-c 512", "-c 1024 -s 1024", "-c 2048 -z 0", "-c 65536", "-c 2097152", "-s 4096 -c 4096", "-s 4096 -c 65536", "-s 2048 -c 8192"} {
		t.Run("mkntfs"+strings.ReplaceAll(args, " ", ""), func(t *testing.T) {
			t.Parallel()
			img := makeImage(t, 1024, args)
			many := 150
			if args == "" || args == "-c 512" {
				many = 2000
			}
			mounted(t, img, "rw", func(dir string) { plant(t, dir, many) })
			mounted(t, img, "ro", func(dir string) { volumetest.Compare(t, open(t, img), dir) })
		})
	}
}

// TestLarge: a file over 4 GiB, most of which is nowhere, and one whose clusters are in two places of a large volume.
func TestLarge(t *testing.T) {
	t.Parallel()
	img := makeImage(t, 20<<10, "-c 4096")
	mounted(t, img, "rw", func(dir string) {
		sparse(t, filepath.Join(dir, "sparse"), 5<<30+1, 1<<20, 4<<30-25_000, 5<<30-50_000)
	})
	mounted(t, img, "ro", func(dir string) {
		v := open(t, img)
		got, err := v.Open("sparse")
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.Open(filepath.Join(dir, "sparse"))
		if err != nil {
			t.Fatal(err)
		}
		defer want.Close()
		if got.Size() != 5<<30+1 {
			t.Fatalf("%d bytes", got.Size())
		}
		for _, at := range []int64{0, 1 << 20, 4<<30 - 100_000, 5<<30 - 100_000} {
			a, b := make([]byte, 200_000), make([]byte, 200_000)
			n, e := got.ReadAt(a, at)
			m, f := want.ReadAt(b, at)
			if n != m || e != f || !bytes.Equal(a, b) {
				t.Errorf("at %d: %d bytes and %v, want %d and %v", at, n, e, m, f)
			}
		}
	})
}

// plantCompressed makes files in a folder that compresses them: packed, partly packed, not to be packed, with holes of all lengths.
func plantCompressed(t testing.TB, dir string, mixed int) {
	t.Helper()
	at := filepath.Join(dir, "compressed")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	setAttributes(t, at, 0x810)
	for _, n := range []int{0, 10, 5000, 65535, 65536, 65537, 1_000_000} {
		put(t, filepath.Join(at, fmt.Sprintf("text %d", n)), text(n))
		put(t, filepath.Join(at, fmt.Sprintf("random %d", n)), random(n))
		put(t, filepath.Join(at, fmt.Sprintf("zeros %d", n)), make([]byte, n))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range mixed {
		var b []byte
		for range 1 + r.IntN(12) {
			n := 1 + r.IntN(200_000)
			switch r.IntN(4) {
			case 0:
				b = append(b, text(n)...)
			case 1:
				b = append(b, random(n)...)
			case 2:
				b = append(b, make([]byte, n)...)
			case 3:
				b = append(b, bytes.Repeat([]byte{byte(n)}, n)...)
			}
		}
		put(t, filepath.Join(at, fmt.Sprintf("mixed %d", i)), b)
	}
	sparse(t, filepath.Join(at, "sparse"), 3_000_000, 0, 300_000, 2_000_000)
	f, err := os.Create(filepath.Join(at, "grown"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(text(100_000)); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(500_000); err != nil {
		t.Fatal(err)
	}
}

// TestCompressed: what ntfs-3g compresses reads as ntfs-3g reads it.
func TestCompressed(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"-c 512", "-c 1024", "-c 4096"} {
		t.Run("mkntfs"+strings.ReplaceAll(args, " ", ""), func(t *testing.T) {
			t.Parallel()
			img := makeImage(t, 200, args)
			mounted(t, img, "rw,compression", func(dir string) { plantCompressed(t, dir, 30) })
			out := volumetest.Run(t, "ntfsinfo", "-f", "-v", "-F", "compressed/text 1000000", img)
			if !strings.Contains(out, "Compression unit:\t 4") || !strings.Contains(out, "COMPRESSED") {
				t.Fatalf("nothing was compressed: %s", out)
			}
			mounted(t, img, "ro", func(dir string) { volumetest.Compare(t, open(t, img), dir) })
			out = t.TempDir()
			volumetest.Run(t, "7z", "x", "-bd", "-y", "-tntfs", "-o"+out, img, "compressed")
			volumetest.Compare(t, open(t, img), out)
		})
	}
}

// TestFragments: files in so many pieces that it takes dozens of records to say where they are, the master file table
// and the index of a folder among them.
func TestFragments(t *testing.T) {
	t.Parallel()
	img := makeImage(t, 100, "-c 512")
	r := rand.New(rand.NewPCG(7, 8))
	edit(t, img).scatter(func() int { return 1 + r.IntN(3) })
	mounted(t, img, "rw,compression", func(dir string) {
		put(t, filepath.Join(dir, "dozens"), random(10_000_000))
		for i := range 1500 {
			put(t, filepath.Join(dir, fmt.Sprintf("many/%d", i)), random(i))
		}
		plantCompressed(t, dir, 3)
	})
	for _, args := range [][]string{{"-i", "0"}, {"-F", "dozens"}, {"-F", "many"}} {
		out := volumetest.Run(t, "ntfsinfo", append([]string{"-f", "-v", img}, args...)...)
		if !strings.Contains(out, "attribute $ATTRIBUTE_LIST") {
			t.Errorf("%v has too few pieces for this test: %s", args, out)
		}
	}
	mounted(t, img, "ro", func(dir string) { volumetest.Compare(t, open(t, img), dir) })
}
