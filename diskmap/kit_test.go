package diskmap_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"disksync/diskmap"
)

// garbage is what free space is full of before a file system is made on it, as if something had been deleted everywhere.
const garbage = "what somebody has deleted here! "

// imageFile is a disk in a file.
type imageFile struct {
	*os.File
	size int64
}

func (f imageFile) Size() int64 { return f.size }

// NextData asks for the holes of the file, so that the large ones take no time.
func (f imageFile) NextData(off int64) (int64, error) {
	next, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	if err != nil {
		return f.size, nil //nolint:nilerr // a hole up to the end
	}
	return next, nil
}

func open(t testing.TB, name string) imageFile {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return imageFile{f, st.Size()}
}

// filled makes a file of so many MiB, all of it garbage.
func filled(t testing.TB, mib int) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range mib {
		if _, err := f.Write(bytes.Repeat([]byte(garbage), 1<<20/len(garbage))); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// scan maps a disk, which must be free of surprises: volumes are where they can be.
func scan(t testing.TB, d diskmap.Disk) *diskmap.Map {
	t.Helper()
	m, err := diskmap.Scan(d)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// one returns the only volume of a map.
func one(t testing.TB, m *diskmap.Map) diskmap.Volume {
	t.Helper()
	if v := m.Volumes(); len(v) == 1 {
		return v[0]
	}
	t.Fatalf("volumes %+v, want one", m.Volumes())
	return diskmap.Volume{}
}

// trim writes a copy of a disk as its map sees it. It reads in odd pieces, and checks that only zeros take the place of something.
func trim(t testing.TB, name string) (string, *diskmap.Map) {
	t.Helper()
	d := open(t, name)
	m := scan(t, d)
	v := m.Disk(d)
	out := filepath.Join(t.TempDir(), "trimmed.raw")
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(d.size); err != nil {
		t.Fatal(err)
	}
	got, was := make([]byte, 300_001), make([]byte, 300_001)
	for off, end := int64(0), int64(0); off < d.size; off += end {
		next, err := v.NextData(off)
		if err != nil || next < off {
			t.Fatalf("data behind %d is at %d: %v", off, next, err)
		}
		if off, end = next, min(int64(len(got)), d.size-next); end == 0 {
			break
		}
		if _, err := v.ReadAt(got[:end], off); err != nil {
			t.Fatal(err)
		}
		if _, err := d.ReadAt(was[:end], off); err != nil {
			t.Fatal(err)
		}
		if at := onlyZeros(was[:end], got[:end]); at >= 0 {
			t.Fatalf("byte %d became %d", off+int64(at), got[at])
		}
		if _, err := f.WriteAt(got[:end], off); err != nil {
			t.Fatal(err)
		}
	}
	return out, m
}

// onlyZeros returns the first byte that is neither what it was nor zero; -1 when there is none.
func onlyZeros(was, is []byte) int {
	const step = 512
	for at := 0; at < len(is); at += step {
		end := min(at+step, len(is))
		if bytes.Equal(is[at:end], was[at:end]) || bytes.Count(is[at:end], []byte{0}) == end-at {
			continue
		}
		for i := at; i < end; i++ {
			if is[i] != was[i] && is[i] != 0 {
				return i
			}
		}
	}
	return -1
}

// changed returns in how many bytes two contents of the same length differ.
func changed(a, b []byte) int64 {
	const step = 512
	n := int64(0)
	for at := 0; at < len(a); at += step {
		end := min(at+step, len(a))
		if bytes.Equal(a[at:end], b[at:end]) {
			continue
		}
		for i := at; i < end; i++ {
			if a[i] != b[i] {
				n++
			}
		}
	}
	return n
}

// tree is a folder with files, by their paths.
type tree map[string][]byte

// plant makes files of all sizes; those whose names begin with "gone" are to be deleted.
func plant(seed uint64, files, largest int) tree {
	r := rand.New(rand.NewPCG(seed, 1))
	out := tree{}
	for i := range files {
		n := r.IntN(1 + largest>>r.IntN(10))
		b := bytes.Repeat(fmt.Appendf(nil, "file %d of %d. ", i, seed), n/8+1)[:n]
		if i%3 == 0 {
			for j := range b {
				b[j] = byte(r.Uint32())
			}
		}
		name := fmt.Sprintf("dir%d/file%d", i%5, i)
		if i%4 == 1 {
			name = fmt.Sprintf("dir%d/gone%d", i%5, i)
			b = bytes.Repeat([]byte(garbage), n/len(garbage)+1)
		}
		out[name] = b
	}
	return out
}

// remain returns the files that are not to be deleted.
func (tr tree) remain() tree {
	out := tree{}
	for name, b := range tr {
		if !strings.Contains(name, "gone") {
			out[name] = b
		}
	}
	return out
}

// write makes the files in a folder.
func (tr tree) write(t testing.TB, dir string) string {
	t.Helper()
	for name, b := range tr {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// readTree returns the files in a folder.
func readTree(t testing.TB, dir string) tree {
	t.Helper()
	out := tree{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err == nil {
			out[rel], err = os.ReadFile(p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// same fails the test unless a folder has exactly the files.
func (tr tree) same(t testing.TB, dir string) {
	t.Helper()
	got := readTree(t, dir)
	for name, want := range tr {
		if b, ok := got[name]; !ok || !bytes.Equal(b, want) {
			t.Errorf("%s is not what it was (there: %v)", name, ok)
		}
	}
	if len(got) != len(tr) {
		t.Errorf("%d files are there, want %d", len(got), len(tr))
	}
}

// bytesOf reads a file.
func bytesOf(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
