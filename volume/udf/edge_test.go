package udf_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"disksync/volume"
	"disksync/volume/udf"
	"disksync/volume/volumetest"
)

// load reads an image into memory.
func load(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func inMemory(b []byte) *volume.Device { return volume.NewDevice(bytes.NewReader(b), int64(len(b))) }

// few is a source of little size.
func few(t testing.TB) string { return fewOf(t, "content ") }

// hollow is the same with zeros in the files, so that damage hits what is around them.
func hollow(t testing.TB) string { return fewOf(t, "\x00") }

func fewOf(t testing.TB, content string) string {
	t.Helper()
	dir := t.TempDir()
	for name, size := range map[string]int{"empty": 0, "small": 30, "d/medium": 5000, "d/e/large": 90_000, "größe": 3000} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, bytes.Repeat([]byte(content), size)[:size], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var kinds = []plan{
	{blockSize: 512, kind: "physical", alloc: 1, extended: true, piece: 3, perBlock: 3},
	{blockSize: 2048, kind: "physical", alloc: 3, chain: true},
	{blockSize: 512, kind: "sparable", alloc: 0, piece: 2, holes: true, use: 7},
	{blockSize: 2048, kind: "vat 1.50", alloc: 3, loop: true},
	{blockSize: 512, kind: "vat 2.00", alloc: 1, piece: 2, perBlock: 2},
	{blockSize: 512, kind: "metadata", alloc: 1, extended: true, metaBlocks: 70},
}

// TestOther: what is no UDF is not taken for it, whatever else is on it; an anchor alone is not enough.
func TestOther(t *testing.T) {
	t.Parallel()
	img := load(t, build(t, kinds[0], few(t)))
	for name, b := range map[string][]byte{
		"nothing": nil, "zeros": make([]byte, 2<<20), "no recognition": append(make([]byte, 40<<10), img[40<<10:]...), "short": img[:33<<10],
	} {
		if _, err := udf.Open(inMemory(b)); !errors.Is(err, volume.ErrOther) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := udf.Open(inMemory(img[:60<<10])); !errors.Is(err, volume.ErrDamaged) || errors.Is(err, volume.ErrOther) {
		t.Errorf("cut off before the anchor: %v", err)
	}
}

// TestCopies: of what is there twice one is enough: anchors, descriptors, metadata. The rest is told, and costs only what it is about.
func TestCopies(t *testing.T) {
	t.Parallel()
	src := few(t)
	for _, p := range kinds {
		if p.loop {
			continue
		}
		img := load(t, build(t, p, src))
		bs := p.blockSize
		wipe := func(from, blocks int) []byte {
			b := bytes.Clone(img)
			for i := from * bs; i < (from+blocks)*bs; i++ {
				b[i] ^= 0x5a
			}
			return b
		}
		cases := map[string][]byte{
			"main sequence": wipe(mainSequence, 4), "main logical volume": wipe(mainSequence+2, 1), "main primary": wipe(mainSequence, 1),
			"reserve sequence": wipe(reserveSequence, 4),
		}
		if p.kind == "metadata" {
			cases["metadata file entry"] = wipe(partitionStart, 1)
			cases["mirror file entry"] = wipe(partitionStart+1, 1)
			all := bytes.Clone(img)
			for k := range p.metaBlocks / 7 {
				clear(all[(partitionStart+2+15*k)*bs:][:7*bs])
			}
			cases["all metadata"] = all
		}
		for name, b := range cases {
			v, err := udf.Open(inMemory(b))
			if err != nil {
				t.Errorf("%v, %s: %v", p, name, err)
				continue
			}
			volumetest.Compare(t, v, src)
		}
		both := wipe(mainSequence, 4)
		copy(both[reserveSequence*bs:][:4*bs], wipe(reserveSequence, 4)[reserveSequence*bs:])
		if _, err := udf.Open(inMemory(both)); !errors.Is(err, volume.ErrDamaged) {
			t.Errorf("%v, without descriptors: %v", p, err)
		}
	}
}

// TestAnchors: an anchor is found at each of its places.
func TestAnchors(t *testing.T) {
	t.Parallel()
	src := few(t)
	p := kinds[0]
	img := load(t, build(t, p, src))
	img = append(img, make([]byte, 400*p.blockSize)...)
	anchor := bytes.Clone(img[256*p.blockSize:][:512])
	clear(img[256*p.blockSize:][:512])
	n := len(img) / p.blockSize
	for _, at := range []int{512, n - 1, n - 256, n - 257, n - 3, n - 151} {
		b := bytes.Clone(img)
		old := bytes.Clone(b[at*p.blockSize:][:512])
		if at == 512 && !bytes.Equal(old, make([]byte, 512)) {
			continue // a file is there
		}
		a := bytes.Clone(anchor)
		le.PutUint32(a[12:], uint32(at))
		copy(b[at*p.blockSize:], heal(a, 496))
		v, err := udf.Open(inMemory(b))
		if err != nil {
			t.Errorf("anchor at %d of %d: %v", at, n, err)
			continue
		}
		volumetest.Compare(t, v, src)
	}
}

// TestVATBehind: the table of virtual blocks is found though blocks follow it, and the newer label counts.
func TestVATBehind(t *testing.T) {
	t.Parallel()
	src := few(t)
	img := load(t, build(t, kinds[4], src))
	for _, behind := range []int{0, 1, 2, 7, 8, 150, 500} {
		v, err := udf.Open(inMemory(append(bytes.Clone(img), make([]byte, behind*kinds[4].blockSize)...)))
		if err != nil {
			t.Errorf("%d blocks: %v", behind, err)
			continue
		}
		volumetest.Compare(t, v, src)
		if label := v.Info().Label; label != "Newer label" {
			t.Errorf("label %q", label)
		}
	}
	if _, err := udf.Open(inMemory(append(img, make([]byte, 600*kinds[4].blockSize)...))); !errors.Is(err, volume.ErrDamaged) {
		t.Errorf("far behind: %v", err)
	}
}

// TestSparing: of the sparing tables the newest counts, wherever it is; one is enough, without any the volume is refused.
func TestSparing(t *testing.T) {
	t.Parallel()
	src, p := few(t), kinds[2]
	img := load(t, build(t, p, src))
	bs := p.blockSize
	first := bytes.Index(img, []byte("*UDF Sparing Table")) - 17
	table := func(from, to int) []byte {
		b := bytes.Clone(img[first+from*bs:][:bs])
		return tagged(0, b, uint32(first/bs+to))
	}
	newer, older, none := table(0, 0), table(1, 1), make([]byte, bs)
	for name, c := range map[string]struct {
		tables [2][]byte
		ok     bool
	}{
		"newer first": {[2][]byte{newer, older}, true},
		"older first": {[2][]byte{table(1, 0), table(0, 1)}, true},
		"first only":  {[2][]byte{newer, none}, true},
		"second only": {[2][]byte{none, table(0, 1)}, true},
		"none":        {[2][]byte{none, none}, false},
	} {
		b := bytes.Clone(img)
		copy(b[first:], c.tables[0])
		copy(b[first+bs:], c.tables[1])
		v, err := udf.Open(inMemory(b))
		if (err == nil) != c.ok || err != nil && !errors.Is(err, volume.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			volumetest.Compare(t, v, src)
		}
	}
}

// TestHoles: what was not recorded reads as zeros.
func TestHoles(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	b := make([]byte, 900_000)
	for _, at := range []int{0, 70_000, 70_001, 400_000, 899_999} {
		b[at] = 7
	}
	for name, content := range map[string][]byte{"some": b, "none": make([]byte, 100_000), "start": append(make([]byte, 300_000), b...)} {
		if err := os.WriteFile(filepath.Join(src, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, alloc := range []uint16{0, 1, 2} {
		img := build(t, plan{blockSize: 2048, kind: "physical", alloc: alloc, piece: 16, holes: true}, src)
		volumetest.Compare(t, open(t, img), src)
		st, err := os.Stat(img)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() > 1500<<10 {
			t.Errorf("the image has %d bytes: there are no holes in it", st.Size())
		}
	}
}

// TestLoop: a folder that is in itself ends at the greatest depth.
func TestLoop(t *testing.T) {
	t.Parallel()
	v := open(t, build(t, kinds[3], few(t)))
	name := "loop"
	for range volume.MaxDepth - 1 {
		if _, err := v.ReadDir(name); err != nil {
			t.Fatal(err)
		}
		name += "/loop"
	}
	if _, err := v.ReadDir(name + "/loop"); !errors.Is(err, volume.ErrLimit) {
		t.Error(err)
	}
}

// TestNames: names have to be as they are listed, of what is there.
func TestNames(t *testing.T) {
	t.Parallel()
	v := open(t, build(t, kinds[1], few(t)))
	for _, name := range []string{"Small", "d/none", "none/x", "small/x", "deleted", "hidden", "d", "."} {
		if _, err := v.Open(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %s: %v", name, err)
		}
	}
	for _, name := range []string{"small", "none", "D", "d/e/large"} {
		if _, err := v.ReadDir(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("list %s: %v", name, err)
		}
	}
}

// scratched is a device on which some bytes cannot be read.
type scratched struct {
	*bytes.Reader
	from, to int64
}

var errScratch = errors.New("scratch")

func (s scratched) ReadAt(p []byte, off int64) (int, error) {
	if off < s.to && off+int64(len(p)) > s.from {
		return 0, errScratch
	}
	return s.Reader.ReadAt(p, off)
}

// TestScratch: a block that cannot be read costs the names or the file that lie in it, and its error is the device's.
func TestScratch(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	for i := range 100 {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprintf("file %03d", i)), []byte("content"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	img := load(t, build(t, plan{blockSize: 512, kind: "physical", alloc: 0}, src))
	list := func(from, to int64) (names int, err error) {
		v, err := udf.Open(volume.NewDevice(scratched{bytes.NewReader(img), from, to}, int64(len(img))))
		if err != nil {
			return 0, err
		}
		entries, err := v.ReadDir(".")
		return len(entries), err
	}
	if n, err := list(0, 0); n != 100 || err != nil {
		t.Fatal(n, err)
	}
	name := int64(bytes.Index(img, []byte("file 050")))
	entry := int64(partitionStart+2+2*7) * 512 // that of some file
	for what, c := range map[string]struct {
		at   int64
		most int // names that may be lost
	}{"names": {name, 12}, "file entry": {entry, 1}} {
		n, err := list(c.at, c.at+1)
		if !errors.Is(err, errScratch) || n >= 100 || n < 100-c.most {
			t.Errorf("%s: %d names, %v", what, n, err)
		}
	}
	if _, err := list(256*512, 256*512+1); !errors.Is(err, errScratch) {
		t.Errorf("the anchor: %v", err)
	}
}

// TestMutate: damage anywhere is an error or other content, never a panic, a hang, or much memory; also where the checksums of what is
// damaged are right.
func TestMutate(t *testing.T) {
	t.Parallel()
	src := hollow(t)
	for _, p := range kinds {
		img := load(t, build(t, p, src))
		n := 1000 / len(kinds) // with wrong and with right checksums
		volumetest.Mutate(t, img, 0, n, udf.Open)
		volumetest.Mutate(t, img, 0, n, func(d *volume.Device) (volume.Volume, error) { return udf.Open(healed(t, d)) })
	}
}

// healed makes the checksums of all descriptors right.
func healed(t testing.TB, d *volume.Device) *volume.Device {
	t.Helper()
	b := make([]byte, d.Size())
	if _, err := d.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	healAll(b)
	return inMemory(b)
}

func healAll(b []byte) {
	for at := 0; at+512 <= len(b); at += 4 {
		p := b[at:]
		id, n := le.Uint16(p), int(le.Uint16(p[10:]))
		known := at%512 == 0 && (id >= 1 && id <= 9 || id >= 256 && id <= 266) || id == 257
		if p[2] == 3 && known && n+16 <= len(p) && n < 4096 {
			heal(p, n)
		}
	}
}

func FuzzOpen(f *testing.F) {
	src := hollow(f)
	for _, p := range kinds {
		p.blockSize = 512 // small inputs
		f.Add(load(f, build(f, p, src)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = volumetest.Exhaust(inMemory(b), udf.Open)
		b = bytes.Clone(b)
		healAll(b)
		_ = volumetest.Exhaust(inMemory(b), udf.Open)
	})
}
