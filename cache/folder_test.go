package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"disksync/cache"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/volume"
	"disksync/volume/volumetest"
)

// folders opens a folder in both ways.
func folders(t *testing.T, dir string, test func(t *testing.T, f *cache.Folder)) {
	t.Helper()
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("without openat2: %v", old), func(t *testing.T) {
			f, err := cache.OpenFolder(dir, old)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			test(t, f)
		})
	}
}

// TestFolder: a folder as a Tree has what the kernel shows, and reads as it does.
func TestFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, n := range map[string]int{"a": 0, "b/c": 1, "b/d/e": 3 << 20, "ä ö": 70_000, "new\nline": 5} {
		write(t, dir, name, make([]byte, n))
	}
	write(t, dir, "b/f", disk(1, 2))
	if err := errors.Join(os.Symlink("a", filepath.Join(dir, "link")), os.Remove(filepath.Join(dir, "new\nline"))); err != nil {
		t.Fatal(err)
	}
	folders(t, dir, func(t *testing.T, f *cache.Folder) { volumetest.Compare(t, f, dir) })
}

// TestFolderEndsAtMounts: what is mounted within a folder is another medium.
func TestFolderEndsAtMounts(t *testing.T) {
	testkit.Root(t, "it mounts")
	dir := t.TempDir()
	write(t, dir, "inside/file", []byte("seen"))
	if err := os.Mkdir(filepath.Join(dir, "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", filepath.Join(dir, "other"), "tmpfs", 0, "size=1m"); err != nil {
		testkit.Missing(t, "a system that mounts: %v", err)
	}
	defer func() {
		if err := unix.Unmount(filepath.Join(dir, "other"), 0); err != nil {
			t.Error(err)
		}
	}()
	write(t, dir, "other/file", []byte("not seen"))
	folders(t, dir, func(t *testing.T, f *cache.Folder) {
		if _, err := f.ReadDir("other"); !errors.Is(err, unix.EXDEV) {
			t.Error("a mount was listed: ", err)
		}
		if _, err := f.Open("other/file"); err == nil {
			t.Error("a file of a mount was opened")
		}
		if _, err := f.Open("inside/file"); err != nil {
			t.Error(err)
		}
	})
}

// TestPlaceInFolder: where a file lies is what other programs say.
func TestPlaceInFolder(t *testing.T) {
	t.Parallel()
	filefrag := testkit.Tool(t, "filefrag")
	dir := t.TempDir()
	file := write(t, dir, "file", disk(1, 2, 3))
	fd, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fd.Sync(), fd.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := cache.OpenFolder(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o, err := f.Open("file")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for _, off := range []int64{-1, o.Size(), o.Size() + 1} {
		if at := o.Place(off); at != -1 {
			t.Errorf("byte %d is at %d", off, at)
		}
	}
	out, err := exec.Command(filefrag, "-b1", "-v", file).Output()
	m := regexp.MustCompile(`(?m)^ +0: +0\.\. *(\d+): +(\d+)\.\.`).FindSubmatch(out)
	if err != nil || m == nil {
		if at := o.Place(0); at != -1 && os.Geteuid() != 0 {
			t.Errorf("a file system that tells no places says %d", at)
		}
		t.Skipf("this file system tells no places: %s %v", out, err)
	}
	end, _ := strconv.ParseInt(string(m[1]), 10, 64)
	last := min(end, o.Size()-1)
	at, _ := strconv.ParseInt(string(m[2]), 10, 64)
	for _, off := range []int64{0, 1, last} {
		if got := o.Place(off); got != at+off {
			t.Errorf("byte %d is at %d, want %d", off, got, at+off)
		}
	}
}

// spread is a medium of two files whose bytes lie in turns, a unit of each.
type spread struct {
	files [2][]byte
	unit  int64
	reads *[]int64
}

func (s *spread) ReadDir(string) ([]volume.Entry, error) {
	return []volume.Entry{{Name: "0", Size: int64(len(s.files[0]))}, {Name: "1", Size: int64(len(s.files[1]))}}, nil
}

func (s *spread) Open(name string) (volume.File, error) {
	n := int(name[0] - '0')
	return &spreadFile{volume.Bytes(s.files[n], 0), s, int64(n)}, nil
}

func (s *spread) Close() error { return nil }

type spreadFile struct {
	volume.File
	s *spread
	n int64
}

func (f *spreadFile) Place(off int64) int64 {
	return off/f.s.unit*2*f.s.unit + f.n*f.s.unit + off%f.s.unit
}

func (f *spreadFile) ReadAt(p []byte, off int64) (int, error) {
	*f.s.reads = append(*f.s.reads, f.Place(off))
	return f.File.ReadAt(p, off)
}

// TestOnePassOverFiles: files of one medium are read together, in the order in which their pieces lie.
func TestOnePassOverFiles(t *testing.T) {
	t.Parallel()
	var s spread
	w := cache.Wanted{Blocks: map[image.Digest]bool{}}
	for i, d := range [][]byte{disk(1, 2, 3, 4, 5, 6), disk(11, 12, 13, 14, 15, 16)} {
		p, err := pack(image.State{}, d)
		if err != nil {
			t.Fatal(err)
		}
		s.files[i], w.Layers = p.file, append(w.Layers, p.Index)
		for d := range blocks(p.state) {
			w.Blocks[d] = true
		}
	}
	s.unit, s.reads = 5000, new([]int64)
	inv, err := cache.ScanTrees(t.Context(), cache.Medium{Kind: cache.DVD, Device: "/dev/sr0"}, []cache.Tree{{Tree: &s}}, &s)
	if err != nil {
		t.Fatal(err)
	}
	defer inv.Close()
	src := inv.Source(w)
	*s.reads = nil
	src.ReadAtLeast(1)
	h := fetch(t, src, w)
	if h.err != nil || len(h.bad) != 0 || len(h.good) != len(w.Blocks) {
		t.Fatalf("%d of %d blocks: %v %v", len(h.good), len(w.Blocks), h.bad, h.err)
	}
	back := 0
	for i, at := range *s.reads {
		if i > 0 && at < (*s.reads)[i-1] {
			back++
		}
	}
	if len(*s.reads) != len(w.Blocks) || back != 0 {
		t.Errorf("%d steps back in %d reads at %v", back, len(*s.reads), *s.reads)
	}
	if src.Name() != "/dev/sr0" {
		t.Errorf("it is called %s", src.Name())
	}
}

// broken is a tree whose root gives what it is told to.
type broken struct {
	volume.Tree
	entries []volume.Entry
	err     error
}

func (b broken) ReadDir(dir string) ([]volume.Entry, error) {
	if dir == "." {
		return b.entries, b.err
	}
	return b.Tree.ReadDir(dir)
}

// TestDamagedFolders: of a folder that cannot be read to its end that counts which can, and people are told; one volume that cannot be read
// costs none of the others.
func TestDamagedFolders(t *testing.T) {
	t.Parallel()
	g := get(t)
	dir := t.TempDir()
	write(t, dir, "layer", g.full.file)
	good, err := cache.OpenFolder(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	entry := []volume.Entry{{Name: "layer", Size: int64(len(g.full.file))}}
	for _, c := range []struct {
		name  string
		trees []cache.Tree
		found string // empty: it fails
		notes int
	}{
		{"half a folder", []cache.Tree{{Name: "partition 1", Tree: broken{good, entry, volume.Damaged("half")}}}, "1 layer", 1},
		{"no folder", []cache.Tree{{Tree: broken{good, nil, volume.Damaged("all")}}}, "", 0},
		{"one of two", []cache.Tree{{Name: "partition 1", Tree: broken{good, nil, volume.Damaged("all")}}, {Name: "partition 2", Tree: good}}, "1 layer", 1},
		{"nothing", nil, "", 0},
	} {
		inv, err := cache.ScanTrees(t.Context(), cache.Medium{Device: "d"}, c.trees, io.NopCloser(nil))
		if err != nil {
			if c.found != "" {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if inv.Summary() != c.found || len(inv.Notes) != c.notes {
			t.Errorf("%s: found %s, notes %q", c.name, inv.Summary(), inv.Notes)
		}
		inv.Close()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cache.ScanTrees(ctx, cache.Medium{}, []cache.Tree{{Tree: good}}, good); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
