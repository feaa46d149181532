// Package volumetest has what the tests of all readers of file systems share: a comparison with a folder, and volumes that are
// damaged on purpose.
package volumetest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"testing"
	"time"

	"disksync/volume"
)

// Compare holds a tree against a folder of this machine: the same regular files and folders, and no others, with the same content. Bytes
// are read in ascending order, and once more at random places and lengths.
func Compare(t *testing.T, tree volume.Tree, dir string) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(3, 4))
	files := 0
	var walk func(at string)
	walk = func(at string) {
		got, err := tree.ReadDir(at)
		if err != nil {
			t.Errorf("folder %s: %v", at, err)
		}
		want, err := os.ReadDir(filepath.Join(dir, filepath.FromSlash(at)))
		if err != nil {
			t.Fatal(err)
		}
		want = slices.DeleteFunc(want, func(e fs.DirEntry) bool { return !e.IsDir() && !e.Type().IsRegular() })
		left := map[string]volume.Entry{}
		for _, e := range got {
			if _, twice := left[e.Name]; twice || !volume.ValidName(e.Name) {
				t.Errorf("folder %s: name %q", at, e.Name)
			}
			left[e.Name] = e
		}
		for _, w := range want {
			g, ok := left[w.Name()]
			delete(left, w.Name())
			name := path.Join(at, w.Name())
			switch {
			case !ok:
				t.Errorf("%s is missing", name)
			case g.Dir != w.IsDir():
				t.Errorf("%s: folder: %v", name, g.Dir)
			case g.Dir:
				walk(name)
			default:
				files++
				compareFile(t, tree, g, name, filepath.Join(dir, filepath.FromSlash(name)), rnd)
			}
		}
		for name := range left {
			t.Errorf("%s should not be there", path.Join(at, name))
		}
	}
	walk(".")
	if files == 0 {
		t.Error("nothing was compared")
	}
}

func compareFile(t *testing.T, tree volume.Tree, e volume.Entry, name, file string, rnd *rand.Rand) {
	t.Helper()
	want, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	st, err := want.Stat()
	if err != nil {
		t.Fatal(err)
	}
	got, err := tree.Open(name)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	defer got.Close()
	if e.Size != st.Size() || got.Size() != st.Size() {
		t.Errorf("%s: %d bytes are listed, %d are in it, want %d", name, e.Size, got.Size(), st.Size())
		return
	}
	const most, random = 1 << 20, 70_000
	n := min(most, max(random, st.Size()))
	a, b := make([]byte, n), make([]byte, n)
	same := func(off int64, n int) bool {
		k, err := got.ReadAt(a[:n], off)
		m, _ := want.ReadAt(b[:n], off)
		if err != nil && !(errors.Is(err, io.EOF) && off+int64(k) == st.Size()) || !bytes.Equal(a[:k], b[:m]) {
			t.Errorf("%s: %d bytes at %d differ: %d bytes, %v", name, n, off, k, err)
			return false
		}
		return true
	}
	for off := int64(0); off <= st.Size(); off += int64(len(a)) {
		if !same(off, len(a)) {
			return
		}
	}
	for range 20 {
		if !same(rnd.Int64N(st.Size()+1), rnd.IntN(random)) {
			return
		}
	}
}

// What a damaged volume may cost: a second for everything, and for one call all that it takes together, in use at once or not, so
// that with what a volume may remember it stays under 64 MiB.
const (
	maxTime = time.Second
	maxCall = 64<<20 - volume.MaxCache
)

// Mutate damages an image in n ways, each in a few bytes, and goes through everything that open finds there: errors are right, a panic,
// more than a second or more than 64 MiB of memory are not. The places of the damage are those that hold anything but zeros; only those before
// limit when it is not 0, to leave out what files hold. Where it fails, the seed that is printed is one of those tried.
func Mutate(t *testing.T, img []byte, limit int64, n int, open func(*volume.Device) (volume.Volume, error)) {
	t.Helper()
	const sector = 512
	if limit == 0 || limit > int64(len(img)) {
		limit = int64(len(img))
	}
	var used []int
	for at := 0; at+sector <= int(limit); at += sector {
		if slices.ContainsFunc(img[at:at+sector], func(b byte) bool { return b != 0 }) {
			used = append(used, at)
		}
	}
	if len(used) == 0 {
		t.Fatal("the image is empty")
	}
	work := slices.Clone(img)
	damaged := 0
	for seed := range n {
		rnd := rand.New(rand.NewPCG(uint64(seed), 5))
		for range 1 + rnd.IntN(4) {
			at := used[rnd.IntN(len(used))]
			Damage(work[at:at+sector], rnd)
		}
		start := time.Now()
		most := uint64(0)
		err := exhaust(volume.NewDevice(bytes.NewReader(work), int64(len(work))), open, func(do func()) {
			before := allocated()
			do()
			most = max(most, allocated()-before)
		})
		if err != nil {
			damaged++
		}
		if took := time.Since(start); took > maxTime || most > maxCall {
			t.Errorf("seed %d: %v, one call took %d bytes", seed, took, most)
		}
		copy(work, img)
	}
	if damaged == 0 {
		t.Error("nothing was found damaged: the damage hits nothing that matters")
	}
	t.Logf("%d of %d were found damaged", damaged, n)
}

// Damage changes some bytes of a sector, in ways that numbers in it become small, large, or one of each other.
func Damage(sector []byte, rnd *rand.Rand) {
	at := rnd.IntN(len(sector))
	switch rnd.IntN(5) {
	case 0:
		sector[at] ^= 1 << rnd.IntN(8)
	case 1:
		sector[at] = byte(rnd.Uint32())
	case 2:
		for i := at; i < min(at+4, len(sector)); i++ {
			sector[i] = 0xff
		}
	case 3:
		clear(sector[at:min(at+1+rnd.IntN(16), len(sector))])
	case 4:
		copy(sector[at:], sector[rnd.IntN(len(sector)):])
	}
}

// allocated is how many bytes were ever taken.
func allocated() uint64 {
	m := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(m)
	return m[0].Value.Uint64()
}

// Of a damaged volume so much is read: sizes and counts may be anything.
const (
	maxNames  = 500
	maxLevels = 4
	readSize  = 8192
)

// Exhaust opens a volume, lists its folders and reads the beginnings, middles and ends of its files. It returns the errors that were met.
func Exhaust(d *volume.Device, open func(*volume.Device) (volume.Volume, error)) error {
	return exhaust(d, open, func(do func()) { do() })
}

// exhaust runs each call through around.
func exhaust(d *volume.Device, open func(*volume.Device) (volume.Volume, error), around func(do func())) (err error) {
	var v volume.Volume
	around(func() { v, err = open(d) })
	if err != nil {
		return err
	}
	v.Info()
	left := maxNames
	var walk func(dir string, depth int)
	walk = func(dir string, depth int) {
		var entries []volume.Entry
		var e error
		around(func() { entries, e = v.ReadDir(dir) })
		err = errors.Join(err, e)
		for _, x := range entries {
			if left--; left < 0 {
				return
			}
			name := path.Join(dir, x.Name)
			switch {
			case !x.Dir:
				around(func() { e = touch(v, name) })
				err = errors.Join(err, e)
			case depth < maxLevels:
				walk(name, depth+1)
			}
		}
	}
	walk(".", 0)
	return err
}

// touch reads a little of a file.
func touch(v volume.Volume, name string) error {
	f, err := v.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, readSize)
	for _, off := range []int64{0, f.Size() / 2, f.Size() - readSize/2} {
		if _, e := f.ReadAt(buf, max(off, 0)); e != nil && !errors.Is(e, io.EOF) {
			err = errors.Join(err, e)
		}
		f.Place(off)
	}
	return err
}
