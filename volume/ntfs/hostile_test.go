package ntfs_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"disksync/internal/testkit"
	"disksync/volume"
	"disksync/volume/ntfs"
	"disksync/volume/volumetest"
)

var update = flag.Bool("update", false, "make testdata/small.raw.gz anew; that needs root and ntfs-3g")

// TestMakeSmall makes the volume with one of everything that the others damage.
func TestMakeSmall(t *testing.T) {
	if !*update {
		if len(small(t)) == 0 {
			t.Error("testdata/small.raw.gz is empty")
		}
		return
	}
	img := makeImage(t, 12, "-c 512 -L small")
	mounted(t, img, "rw,compression", func(dir string) {
		at := func(name string) string { return filepath.Join(dir, name) }
		put(t, at("resident"), []byte("resident"))
		put(t, at("plain"), text(5000))
		put(t, at("folder/in/folders/deep"), []byte("deep"))
		for i := range 60 {
			put(t, at(fmt.Sprintf("many/a file with a long name, number %d", i)), fmt.Append(nil, i))
		}
		sparse(t, at("sparse"), 300_000, 100_000)
		if err := os.Mkdir(at("packed"), 0o755); err != nil {
			t.Fatal(err)
		}
		setAttributes(t, at("packed"), 0x810)
		put(t, at("packed/text"), text(50_000))
		put(t, at("packed/mixed"), append(append(text(9_000), make([]byte, 30_000)...), random(20_000)...))
		if err := errors.Join(os.Link(at("plain"), at("linked")), os.Symlink("plain", at("symlink"))); err != nil {
			t.Fatal(err)
		}
	})
	n := 0
	edit(t, img).scatter(func() int { n++; return 2 + n%5 })
	mounted(t, img, "rw", func(dir string) { put(t, filepath.Join(dir, "pieces"), numbered(600_000)) })
	if out := volumetest.Run(t, "ntfsinfo", "-f", "-v", "-F", "pieces", img); !strings.Contains(out, "attribute $ATTRIBUTE_LIST") {
		t.Fatal("a file is in too few pieces")
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	z, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
	_, err = z.Write(b)
	if err := errors.Join(err, z.Close(), os.WriteFile("testdata/small.raw.gz", out.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// numbered returns n bytes, with its number at each place where a cluster may begin.
func numbered(n int) []byte {
	b := make([]byte, n)
	for at := 0; at+512 <= n; at += 512 {
		copy(b[at:], fmt.Sprintf("piece %d\n", at/512))
	}
	return b
}

// small returns the volume with one of everything.
func small(t testing.TB) []byte {
	t.Helper()
	return testkit.Gunzip(t, "testdata/small.raw.gz")
}

func inMemory(b []byte) *volume.Device { return volume.NewDevice(bytes.NewReader(b), int64(len(b))) }

// TestSmall: the volume that the others damage is read.
func TestSmall(t *testing.T) {
	t.Parallel()
	v, err := ntfs.Open(inMemory(small(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := volumetest.Exhaust(inMemory(small(t)), ntfs.Open); err != nil || v.Info().Label != "small" || v.Info().Note != "" {
		t.Errorf("%+v, %v", v.Info(), err)
	}
	for name, want := range map[string][]byte{
		"pieces": numbered(600_000), "linked": text(5000), "packed/text": text(50_000),
		"packed/mixed": append(append(text(9_000), make([]byte, 30_000)...), random(20_000)...), "folder/in/folders/deep": []byte("deep"),
	} {
		if got := content(t, v, name); !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, not what was written", name, len(got))
		}
	}
}

// content reads a file.
func content(t testing.TB, v volume.Volume, name string) []byte {
	t.Helper()
	f, err := v.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, f.Size())
	if n, err := f.ReadAt(b, 0); n != len(b) || err != nil && err != io.EOF {
		t.Fatalf("%s: %d of %d bytes, %v", name, n, len(b), err)
	}
	return b
}

// TestConcurrent: open files are read by many at once, compressed ones too.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	v, err := ntfs.Open(inMemory(small(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"packed/text", "packed/mixed", "pieces"} {
		want := content(t, v, name)
		f, err := v.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for seed := range 4 {
			all.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(seed), 6))
				for range 200 {
					at, p := rnd.IntN(len(want)), make([]byte, 1+rnd.IntN(30_000))
					n, err := f.ReadAt(p, int64(at))
					if n != min(len(p), len(want)-at) || err != nil && err != io.EOF || !bytes.Equal(p[:n], want[at:at+n]) {
						t.Errorf("%s: %d bytes at %d: %v", name, n, at, err)
						return
					}
				}
			})
		}
		all.Wait()
	}
}

// TestFewReads: opening a volume, listing a folder and opening a file in it take few reads of the device.
func TestFewReads(t *testing.T) {
	t.Parallel()
	img := small(t)
	c := &counting{r: bytes.NewReader(img)}
	v, err := ntfs.Open(volume.NewDevice(c, int64(len(img))))
	if err != nil {
		t.Fatal(err)
	}
	opened := c.n
	if entries, err := v.ReadDir("many"); err != nil || len(entries) != 60 {
		t.Fatalf("%d names, %v", len(entries), err)
	}
	listed := c.n - opened
	f, err := v.Open("plain")
	if err != nil {
		t.Fatal(err)
	}
	found := c.n - opened - listed
	if _, err := f.ReadAt(make([]byte, 5000), 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	read := c.n - opened - listed - found
	if opened > 15 || listed > 20 || found > 1 || read > 1 {
		t.Errorf("%d reads to open the volume, %d to list 60 files, %d to open one, %d to read it", opened, listed, found, read)
	}
	t.Logf("%d reads to open the volume, %d to list 60 files, %d to open one, %d to read it", opened, listed, found, read)
}

// counting counts reads.
type counting struct {
	r io.ReaderAt
	n int
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	c.n++
	return c.r.ReadAt(p, off)
}

func TestHostile(t *testing.T) { // alone: memory is counted
	volumetest.Mutate(t, small(t), 0, 300, ntfs.Open)
}

// TestStructures damages only what the volume says of itself, and makes the ends of sectors as they have to be, so that damage is not
// found by them.
func TestStructures(t *testing.T) { // alone: memory is counted
	s := structures(small(t))
	volumetest.Mutate(t, s.bytes(), 0, 2000, func(d *volume.Device) (volume.Volume, error) {
		return ntfs.Open(volume.NewDevice(s.with(d), int64(len(s.img))))
	})
}

// overlay is an image of which some parts are elsewhere: the records, the blocks of indexes, the boot sector.
type overlay struct {
	img   []byte
	parts map[int]int // their places, and lengths
	order []int
}

func structures(img []byte) *overlay {
	o := &overlay{img, map[int]int{}, nil}
	for at := 0; at+512 <= len(img); at += 512 {
		n := map[string]int{"FILE": 1024, "INDX": 4096, "\xebR\x90N": 512}[string(img[at:at+4])]
		if n > 0 && at < len(img)-512 { // but for the last sector, the copy of the first
			o.parts[at] = n
			o.order = append(o.order, at)
			at += n - 512
		}
	}
	return o
}

func (o *overlay) bytes() (b []byte) {
	for _, at := range o.order {
		b = append(b, o.img[at:at+o.parts[at]]...)
	}
	return b
}

// with returns the image with other parts, as bytes gave them; it is the one image, changed.
func (o *overlay) with(d *volume.Device) io.ReaderAt {
	parts := make([]byte, d.Size())
	if _, err := d.ReadAt(parts, 0); err != nil {
		panic(err)
	}
	le := binary.LittleEndian
	for _, at := range o.order {
		n := o.parts[at]
		b := o.img[at : at+n]
		parts = parts[copy(b, parts):]
		ends := int(le.Uint16(b[4:]))
		if n == 512 || ends+2*(n/512+1) > 500 {
			continue
		}
		for end := 512; end <= n; end += 512 {
			copy(b[end-2:end], b[ends:ends+2])
		}
	}
	return bytes.NewReader(o.img)
}

// FuzzOpen changes the volume with one of everything: each six bytes are a place, a count and a value.
func FuzzOpen(f *testing.F) {
	img := small(f)
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0, 0, 0})
	f.Add([]byte{13, 0, 0, 0, 0, 8, 64, 0, 0, 0, 0, 1})
	work := bytes.Clone(img)
	f.Fuzz(func(t *testing.T, patches []byte) {
		var changed []int
		for ; len(patches) >= 6; patches = patches[6:] {
			at := int(binary.LittleEndian.Uint32(patches)) % len(img)
			for i := at; i < min(at+1+int(patches[4]%8), len(img)); i++ {
				work[i] = patches[5]
				changed = append(changed, i)
			}
		}
		if err := volumetest.Exhaust(inMemory(work), ntfs.Open); err != nil && err.Error() == "" {
			t.Error("an error that says nothing")
		}
		for _, i := range changed {
			work[i] = img[i]
		}
	})
}
