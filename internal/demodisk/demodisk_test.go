package demodisk_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"disksync/internal/demodisk"
)

const imageSize = 48 << 20 // the smallest

// TestLifeOfAnImage builds an image, updates it, and has other programs judge each version.
func TestLifeOfAnImage(t *testing.T) {
	t.Parallel()
	source := t.TempDir()
	want := makeTree(t, source, 600) // more than one directory is given
	path := filepath.Join(t.TempDir(), "disk.raw")

	built, err := demodisk.Build(t.Context(), path, demodisk.Options{Source: source, Size: imageSize})
	if err != nil {
		t.Fatal(err)
	}
	first := judge(t, path)
	if diff := gocmp.Diff(contents(want), contents(first)); diff != "" {
		t.Errorf("content differs from the source (-source +image):\n%s", diff)
	}
	if diff := gocmp.Diff(totalOf(first), built.Total); diff != "" {
		t.Errorf("total (-listing +report):\n%s", diff)
	}
	if built.Size != imageSize {
		t.Errorf("size of image: %d", built.Size)
	}
	if built.Skipped != 2 { // the empty file and the link
		t.Errorf("%d files skipped, want 2", built.Skipped)
	}
	before := read(t, path)

	updated, err := demodisk.Update(t.Context(), path, demodisk.Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	second := judge(t, path)
	got := changes(first, second)
	if diff := gocmp.Diff(got, demodisk.Report{
		Replaced: updated.Replaced, Added: updated.Added, Moved: updated.Moved, Deleted: updated.Deleted,
	}); diff != "" {
		t.Errorf("changes (-listings +report):\n%s", diff)
	}
	n := len(first)
	for what, c := range map[string][2]int{
		"replaced": {updated.Replaced.Files, n * 3 / 100},
		"added":    {updated.Added.Files, n * 2 / 100},
		"moved":    {updated.Moved.Files, n / 100},
		"deleted":  {updated.Deleted.Files, n / 100},
	} {
		if c[0] != c[1] {
			t.Errorf("%d files %s of %d, want %d", c[0], what, n, c[1])
		}
	}
	if diff := gocmp.Diff(totalOf(second), updated.Total); diff != "" {
		t.Errorf("total after update (-listing +report):\n%s", diff)
	}
	if used, changed := compare(before, read(t, path)); changed == 0 || changed > used/3 {
		t.Errorf("%d of %d KiB changed on disk: not an update in place", changed*4, used*4)
	}
}

// TestAwkwardNames checks that names which FAT or its driver cannot store end up as others, and that all others stay.
func TestAwkwardNames(t *testing.T) {
	t.Parallel()
	source := t.TempDir()
	for i, name := range []string{
		"README", "go.mod", "long name with spaces.text", "two.dots.go", // stay
		".gitignore", ".gitattributes", // an empty short name
		"typedef.elf", "typedef.elf4", "typedef.elf5", // the same short name
		"a+b.go", "a,b.go", // likewise
		"Same.txt", "same.txt", // the same name but for the case
		"Þfoo.go", "q?.go", "dot.", "tail~1.go", // not storable
		strings.Repeat("x", 250) + ".go",
		filepath.Join("testdata.old", "a.go"), filepath.Join("testdata.older", "b.go"),
	} {
		put(t, source, name, []byte{byte(i + 1)})
	}
	path := filepath.Join(t.TempDir(), "disk.raw")
	if _, err := demodisk.Build(t.Context(), path, demodisk.Options{Source: source, Size: imageSize}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range judge(t, path) {
		got = append(got, f.Path)
	}
	want := []string{
		"README", "go.mod", "long name with spaces.text", "two.dots.go",
		"dot.gitattributes", "dot-00000002.gitignore",
		"typedef.elf", "typedef-00000002.elf4", "typedef-00000002.elf5",
		"a+b.go", "a,b-00000002.go",
		"Same.txt", "same-00000002.txt",
		"_foo.go", "q_.go", "dot._", "tail_1.go",
		strings.Repeat("x", 200),
		"testdata.old/a.go", "testdata-00000002.older/b.go",
	}
	slices.Sort(want)
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

// TestReproducible checks that only the tree and the seed decide what the bytes are, and not the clock, which the library
// lets the environment set.
func TestReproducible(t *testing.T) {
	source := t.TempDir()
	makeTree(t, source, 600)
	version := func(seed uint64, clock string) [sha256.Size]byte {
		t.Setenv("SOURCE_DATE_EPOCH", clock)
		path := filepath.Join(t.TempDir(), "disk.raw")
		if _, err := demodisk.Build(t.Context(), path, demodisk.Options{Source: source, Size: imageSize}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := demodisk.Update(t.Context(), path, demodisk.Options{Seed: seed}); err != nil {
				t.Fatal(err)
			}
		}
		return sha256.Sum256(read(t, path))
	}
	a, again, b := version(2, "1700000000"), version(2, "1723456789"), version(1, "1700000000")
	if a != again {
		t.Error("same seed, other bytes")
	}
	if a == b {
		t.Error("other seed, same bytes")
	}
}

// TestManyUpdates ages an image and has other programs judge the outcome.
func TestManyUpdates(t *testing.T) {
	t.Parallel()
	source := t.TempDir()
	makeTree(t, source, 200)
	path := filepath.Join(t.TempDir(), "disk.raw")
	if _, err := demodisk.Build(t.Context(), path, demodisk.Options{Source: source, Size: imageSize}); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(8) {
		if _, err := demodisk.Update(t.Context(), path, demodisk.Options{Seed: seed}); err != nil {
			t.Fatalf("update %d: %v", seed, err)
		}
	}
	judge(t, path)
}

// TestToolchain fills an image with the default tree, or some of it.
func TestToolchain(t *testing.T) {
	t.Parallel()
	const limit = 4 << 20
	path := filepath.Join(t.TempDir(), "disk.raw")
	r, err := demodisk.Build(t.Context(), path, demodisk.Options{MaxBytes: limit})
	if err != nil {
		t.Fatal(err)
	}
	if r.Total.Bytes > limit || r.Total.Bytes < limit/2 {
		t.Errorf("%d bytes, want nearly %d", r.Total.Bytes, limit)
	}
	files, err := demodisk.Check(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(totalOf(files), r.Total); diff != "" {
		t.Errorf("total (-listing +report):\n%s", diff)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	source := t.TempDir()
	for i := range 13 {
		put(t, source, fmt.Sprintf("d%d/file%d", i%3, i), make([]byte, 4<<20))
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	tests := []struct {
		name string
		ctx  context.Context
		opts demodisk.Options
	}{
		{"no source", t.Context(), demodisk.Options{Source: filepath.Join(source, "absent")}},
		{"nothing in source", t.Context(), demodisk.Options{Source: t.TempDir()}},
		{"too small for FAT32", t.Context(), demodisk.Options{Source: source, Size: 32 << 20}},
		{"not whole sectors", t.Context(), demodisk.Options{Source: source, Size: imageSize + 1}},
		{"too small for the tree", t.Context(), demodisk.Options{Source: source, Size: imageSize}},
		{"stopped", stopped, demodisk.Options{Source: source}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.raw")
			if _, err := demodisk.Build(tt.ctx, path, tt.opts); err == nil {
				t.Error("no error")
			}
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("image is left behind: %v", err)
			}
		})
	}

	other := filepath.Join(t.TempDir(), "disk.raw")
	content := bytes.Repeat([]byte("not a disk"), 1000)
	put(t, filepath.Dir(other), "disk.raw", content)
	if _, err := demodisk.Build(t.Context(), other, demodisk.Options{Source: source}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("build over a file: %v", err)
	}
	if _, err := demodisk.Update(t.Context(), other, demodisk.Options{}); err == nil {
		t.Error("update of a file that is no image: no error")
	}
	if _, err := demodisk.Check(t.Context(), other); err == nil {
		t.Error("check of a file that is no image: no error")
	}
	if !bytes.Equal(content, read(t, other)) {
		t.Error("a file that is no image was changed")
	}
}

// makeTree writes a tree of somewhat more than n files and 5 MiB, and returns its files, but for those that cannot be
// stored.
func makeTree(t *testing.T, root string, n int) []demodisk.File {
	t.Helper()
	random := rand.NewChaCha8(sha256.Sum256([]byte("tree")))
	var files []demodisk.File
	add := func(name string, size int) {
		b := make([]byte, size)
		if _, err := random.Read(b); err != nil {
			t.Fatal(err)
		}
		put(t, root, name, b)
		files = append(files, demodisk.File{Path: name, Size: int64(size), SHA256: sha256.Sum256(b)})
	}
	for i := range n / 2 {
		add(fmt.Sprintf("many/file number %d.txt", i), 1+int(random.Uint64()%4096))
	}
	for i := range n / 2 {
		add(fmt.Sprintf("deep/%d/%d/some rather long name of a directory/%d/source.go", i%3, i%7, i), 1+int(random.Uint64()%20000))
	}
	for i := range 40 { // first on the disk: where one is deleted, there is room for others
		add(fmt.Sprintf("big/tool%d", i), 100<<10+i*1234)
	}
	for _, size := range []int{1, 511, 512, 513, 4096, 1 << 20} {
		add(fmt.Sprintf("sizes/%d", size), size)
	}
	put(t, root, "empty", nil)
	if err := os.Symlink("empty", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	return files
}

// put writes a file.
func put(t *testing.T, root, name string, content []byte) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// contents returns what is in files, whatever their names.
func contents(files []demodisk.File) []string {
	var all []string
	for _, f := range files {
		all = append(all, fmt.Sprintf("%x %d", f.SHA256, f.Size))
	}
	slices.Sort(all)
	return all
}

func totalOf(files []demodisk.File) demodisk.Count {
	var c demodisk.Count
	for _, f := range files {
		count(&c, f)
	}
	return c
}

func count(c *demodisk.Count, f demodisk.File) {
	c.Files++
	c.Bytes += f.Size
}

// changes tells from two listings what happened between them. No two files of the tree have the same content.
func changes(before, after []demodisk.File) demodisk.Report {
	var r demodisk.Report
	for _, f := range after {
		i := slices.IndexFunc(before, func(b demodisk.File) bool { return b.Path == f.Path })
		switch known := has(before, f); {
		case i >= 0 && before[i].SHA256 == f.SHA256: // as it was
		case i >= 0:
			count(&r.Replaced, f)
		case known:
			count(&r.Moved, f)
		default:
			count(&r.Added, f)
		}
	}
	for _, f := range before {
		gone := !slices.ContainsFunc(after, func(a demodisk.File) bool { return a.Path == f.Path })
		if gone && !has(after, f) {
			count(&r.Deleted, f)
		}
	}
	return r
}

func has(files []demodisk.File, want demodisk.File) bool {
	return slices.ContainsFunc(files, func(f demodisk.File) bool { return f.SHA256 == want.SHA256 })
}

// compare counts the 4 KiB pieces of a disk that are in use, and those that differ.
func compare(before, after []byte) (used, changed int) {
	zero := make([]byte, 4096)
	for i := 0; i < len(before); i += len(zero) {
		b, a := before[i:i+len(zero)], after[i:i+len(zero)]
		if !bytes.Equal(b, zero) || !bytes.Equal(a, zero) {
			used++
		}
		if !bytes.Equal(b, a) {
			changed++
		}
	}
	return used, changed
}

// byPath orders files as Check does.
func byPath(a, b demodisk.File) int { return cmp.Compare(a.Path, b.Path) }
