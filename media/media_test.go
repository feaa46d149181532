package media_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"disksync/api"
	"disksync/cache"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/layer"
	"disksync/media"
)

// shop is a Synchronizer with an image of two versions.
type shop struct {
	*lab.Lab
	disks [][]byte // of the versions, the first one first
	files []api.MediaFile
}

const name = "golden"

// open makes a shop whose versions hold the disks.
func open(t *testing.T, disks ...[]byte) *shop {
	t.Helper()
	s := &shop{Lab: lab.Start(t), disks: disks}
	for _, d := range disks {
		s.Publish(t, name, d)
	}
	var err error
	if s.files, err = s.Admin.MediaFiles(t.Context(), name, image.Version(len(disks))); err != nil {
		t.Fatal(err)
	}
	if len(s.files) != len(disks) {
		t.Fatalf("a medium takes %d files, want one a version", len(s.files))
	}
	return s
}

// small returns two versions whose layers have a few hundred KiB, for where names and faults count and not sizes.
func small() [][]byte {
	first := make([]byte, image.BlockSize)
	lab.Fill(first[:300<<10], 1)
	second := bytes.Clone(first)
	lab.Fill(second[:200<<10], 2)
	return [][]byte{first, second}
}

// write writes a version to a folder, which has to work.
func (s *shop) write(t *testing.T, v image.Version, dir string) media.Result {
	t.Helper()
	res, err := media.Write(t.Context(), s.Admin, media.Options{Want: want(v), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// written returns which files of a result were written, and which were there.
func written(res media.Result) []bool {
	var out []bool
	for _, f := range res.Files {
		out = append(out, f.Written)
	}
	return out
}

// check makes sure that a folder has what an endpoint needs of a version: it finds the layers, every block is good, and together they
// give the disk.
func (s *shop) check(t *testing.T, v image.Version, dir string) {
	t.Helper()
	inv, err := cache.Scan(t.Context(), cache.Medium{Kind: cache.USB, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer inv.Close()
	for _, f := range s.files[:v] {
		if x, ok := inv.Index(f.Layer); !ok || x.ID() != f.Layer {
			t.Errorf("an endpoint does not find layer %s: %s, %v", f.Layer.Short(), inv.Summary(), inv.Notes)
		}
	}
	var paths []layer.Source
	for _, f := range s.files[:v] {
		paths = append(paths, source(t, filepath.Join(dir, nameOf(t, dir, f.Layer)), f.Layer))
	}
	s.checkPath(t, v, paths)
}

// nameOf returns the name of the file in dir that is a layer.
func nameOf(t *testing.T, dir string, id image.LayerID) string {
	t.Helper()
	for n, b := range contents(t, dir) {
		if got, err := layer.ReadID(strings.NewReader(b), int64(len(b))); err == nil && got == id {
			return n
		}
	}
	t.Fatalf("layer %s is not in %s", id.Short(), dir)
	return ""
}

// checkPath makes sure that layers are good and give the disk of a version.
func (s *shop) checkPath(t *testing.T, v image.Version, paths []layer.Source) {
	t.Helper()
	for _, p := range paths {
		if err := layer.Verify(t.Context(), p.R, p.Index, nil, nil, func(_ layer.Frame, err error) error { return err }); err != nil {
			t.Errorf("layer %s: %v", p.Index.ID().Short(), err)
		}
	}
	r, err := layer.NewReader(paths, testkit.Scratch(t))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil || !bytes.Equal(got, s.disks[v-1]) {
		t.Errorf("the layers do not give the disk of version %d: %d bytes, %v", v, len(got), err)
	}
}

// source opens a layer's file.
func source(t *testing.T, file string, want image.LayerID) layer.Source {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	x, err := layer.ReadIndex(f, st.Size())
	if err != nil || x.ID() != want {
		t.Fatalf("%s is not layer %s: %v", file, want.Short(), err)
	}
	return layer.Source{Index: x, R: f}
}

// contents returns the regular files of a folder.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

// identity tells a file from one that was written in its place, with the same content or not.
type identity struct {
	Inode    uint64
	Modified time.Time
}

func identities(t *testing.T, dir string) map[string]identity {
	t.Helper()
	all := map[string]identity{}
	for n := range contents(t, dir) {
		st, err := os.Stat(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		all[n] = identity{st.Sys().(*syscall.Stat_t).Ino, st.ModTime()}
	}
	return all
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	return slices.Sorted(maps.Keys(contents(t, dir)))
}

func put(t *testing.T, dir, file, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// steps collects what Progress is told.
type steps map[string][]int64

func (s steps) note(t *testing.T) func(stage string, done, total int64) {
	return func(stage string, done, total int64) {
		if done < 0 || done > total {
			t.Errorf("%s: %d of %d", stage, done, total)
		}
		s[stage] = append(s[stage], total-done)
	}
}

// TestWrite writes versions to a stick, again, one beside the other, and where files of ours were damaged.
func TestWrite(t *testing.T) {
	t.Parallel()
	s := open(t, lab.Disk(1, 0, 2, 3), lab.Disk(1, 4, 2, 0))
	dir := filepath.Join(t.TempDir(), "not", "there")
	first, second := s.files[0], s.files[1]

	seen := steps{}
	res, err := media.Write(t.Context(), s.Admin, media.Options{Want: want(1), Dir: dir, Progress: seen.note(t)})
	if err != nil {
		t.Fatal(err)
	}
	want := media.Result{Dir: dir, Files: []media.File{
		{Path: filepath.Join(dir, first.Name), Layer: first.Layer, Length: first.Length, Blocks: 3, Written: true},
	}}
	if diff := cmp.Diff(want, res); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{first.Name, name + "-v1.manifest.json"}, names(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	s.check(t, 1, dir)
	for _, stage := range []string{"write ", "verify "} {
		left := seen[stage+first.Name]
		if len(left) < 2 || left[len(left)-1] != 0 || !slices.IsSortedFunc(left, func(a, b int64) int { return int(b - a) }) {
			t.Errorf("%s: progress leaves %d bytes", stage, left)
		}
	}
	if len(seen) != 2 {
		t.Errorf("stages %v", slices.Collect(maps.Keys(seen)))
	}

	t.Run("again", func(t *testing.T) {
		before := identities(t, dir)
		if res := s.write(t, 1, dir); res.Files[0].Written || res.Files[0].Blocks != 3 {
			t.Errorf("result %+v", res)
		}
		if diff := cmp.Diff(before, identities(t, dir)); diff != "" {
			t.Errorf("something was written (-before +after):\n%s", diff)
		}
	})
	t.Run("version 2 beside it", func(t *testing.T) {
		before := identities(t, dir)
		if got := written(s.write(t, 2, dir)); !slices.Equal(got, []bool{false, true}) {
			t.Errorf("written: %v", got)
		}
		s.check(t, 1, dir)
		s.check(t, 2, dir)
		after := identities(t, dir)
		for n, id := range before {
			if after[n] != id {
				t.Errorf("%s was written again", n)
			}
		}
		if diff := cmp.Diff([]string{first.Name, second.Name, name + "-v1.manifest.json", name + "-v2.manifest.json"}, names(t, dir)); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
	})
	t.Run("manifest", func(t *testing.T) {
		for v := image.Version(1); v <= 2; v++ {
			env := contents(t, dir)[fmt.Sprintf("%s-v%d.manifest.json", name, v)]
			m, err := image.VerifyManifest([]byte(env), s.Server.SigningKey())
			if err != nil || m.Manifest().Image != name || m.Manifest().Version != v {
				t.Errorf("manifest of version %d: %v", v, err)
			}
		}
	})
	t.Run("damaged", func(t *testing.T) { s.testDamaged(t, dir) })
}

// testDamaged damages files of ours on a medium that has version 2.
func (s *shop) testDamaged(t *testing.T, dir string) {
	manifest := name + "-v2.manifest.json"
	good := contents(t, dir)
	tests := []struct {
		name, file string
		damage     func(b []byte) []byte
	}{
		{"a bit in a frame", s.files[1].Name, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }},
		{"a bit in the index", s.files[1].Name, func(b []byte) []byte { b[len(b)-100] ^= 1; return b }},
		{"cut short", s.files[0].Name, func(b []byte) []byte { return b[:len(b)/2] }},
		{"cut in the trailer", s.files[0].Name, func(b []byte) []byte { return b[:len(b)-1] }},
		{"longer", s.files[0].Name, func(b []byte) []byte { return append(b, make([]byte, 512)...) }},
		{"header only", s.files[0].Name, func(b []byte) []byte { return b[:layer.HeaderSize] }},
		{"manifest cut short", manifest, func(b []byte) []byte { return b[:len(b)/2] }},
		{"a bit in the manifest", manifest, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }},
		{"what a crash left", s.files[0].Name + ".tmp", func([]byte) []byte { return []byte(good[s.files[0].Name][:1000]) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			put(t, dir, test.file, string(test.damage([]byte(good[test.file]))))
			if strings.HasSuffix(test.file, ".tmp") {
				put(t, dir, s.files[0].Name, "\x89DSL\r\n\x1a\nno more of it") // so that the name is needed
			}
			before := identities(t, dir)
			res := s.write(t, 2, dir)
			if diff := cmp.Diff(good, contents(t, dir)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff[:min(len(diff), 500)])
			}
			for i, f := range s.files {
				damaged := strings.TrimSuffix(test.file, ".tmp") == f.Name
				if same := identities(t, dir)[f.Name] == before[f.Name]; same == damaged || res.Files[i].Written != damaged {
					t.Errorf("%s: damaged %v, the same file afterwards %v, result %+v", f.Name, damaged, same, res.Files[i])
				}
			}
		})
	}
}

// TestForeignFiles puts other things under the names that files are to get.
func TestForeignFiles(t *testing.T) {
	t.Parallel()
	s := open(t, small()...)
	first, manifest := s.files[0].Name, name+"-v1.manifest.json"
	stem := strings.TrimSuffix(first, ".dsl")
	other := good(t, s.Path(1)) // a layer, but not the one that the name is for
	tests := []struct {
		name    string
		prepare func(t *testing.T, dir string)
		want    []string // regular files that are there besides what was
	}{
		{"beside", func(t *testing.T, dir string) {
			put(t, dir, "family.jpg", "smile")
			put(t, dir, "notes.tmp", "not ours to clean up")
			put(t, dir, name+"-v2.manifest.json", "of another version")
		}, []string{first, manifest}},
		{"text", func(t *testing.T, dir string) { put(t, dir, first, "my diary") },
			[]string{stem + "-2.dsl", manifest}},
		{"text, and again", func(t *testing.T, dir string) {
			put(t, dir, first, "my diary")
			put(t, dir, stem+"-2.dsl", "my diary, volume 2")
		}, []string{stem + "-3.dsl", manifest}},
		{"empty", func(t *testing.T, dir string) { put(t, dir, first, "") },
			[]string{stem + "-2.dsl", manifest}},
		{"another layer", func(t *testing.T, dir string) { put(t, dir, first, other) },
			[]string{stem + "-2.dsl", manifest}},
		{"temporary name", func(t *testing.T, dir string) { put(t, dir, first+".tmp", "my diary") },
			[]string{stem + "-2.dsl", manifest}},
		{"manifest", func(t *testing.T, dir string) { put(t, dir, manifest, `{"name": "of an app"}`) },
			[]string{first, name + "-v1-2.manifest.json"}},
		{"temporary name of the manifest", func(t *testing.T, dir string) { put(t, dir, manifest+".tmp", "x") },
			[]string{first, name + "-v1-2.manifest.json"}},
		{"folder", func(t *testing.T, dir string) {
			if err := os.MkdirAll(filepath.Join(dir, first, "holidays"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, []string{stem + "-2.dsl", manifest}},
		{"link to nothing", func(t *testing.T, dir string) { link(t, "nothing", filepath.Join(dir, first)) },
			[]string{stem + "-2.dsl", manifest}},
		{"link out of the folder", func(t *testing.T, dir string) { link(t, "../secret", filepath.Join(dir, first)) },
			[]string{stem + "-2.dsl", manifest}},
		{"pipe", func(t *testing.T, dir string) {
			if err := syscall.Mkfifo(filepath.Join(dir, first), 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{stem + "-2.dsl", manifest}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "stick")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			put(t, filepath.Dir(dir), "secret", "of somebody else")
			test.prepare(t, dir)
			before, beforeIDs, shape := contents(t, dir), identities(t, dir), listing(t, dir)
			res := s.write(t, 1, dir)
			if got := written(res); !slices.Equal(got, []bool{true}) {
				t.Errorf("written: %v", got)
			}
			for i, f := range res.Files {
				if good(t, f.Path) != good(t, s.Path(i)) {
					t.Errorf("%s is not layer %s", f.Path, f.Layer.Short())
				}
			}
			after, afterIDs := contents(t, dir), identities(t, dir)
			var added []string
			for n := range after {
				if _, ok := before[n]; !ok {
					added = append(added, n)
				} else if after[n] != before[n] || afterIDs[n] != beforeIDs[n] {
					t.Errorf("%s was touched", n)
				}
			}
			slices.Sort(added)
			slices.Sort(test.want)
			if diff := cmp.Diff(test.want, added); diff != "" {
				t.Errorf("new files (-want +got):\n%s", diff)
			}
			for n, kind := range shape {
				if now := listing(t, dir)[n]; now != kind {
					t.Errorf("%s was %v, is %v", n, kind, now)
				}
			}
			if b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "secret")); err != nil || string(b) != "of somebody else" {
				t.Errorf("a file outside of the folder: %q, %v", b, err)
			}
			// What got another name is found there by the next run.
			if got := written(s.write(t, 1, dir)); !slices.Equal(got, []bool{false}) {
				t.Errorf("the second time, written: %v", got)
			}
			if diff := cmp.Diff(afterIDs, identities(t, dir)); diff != "" {
				t.Errorf("the second time changed something:\n%s", diff)
			}
		})
	}
	t.Run("all names", func(t *testing.T) {
		dir := t.TempDir()
		put(t, dir, first, "taken")
		for n := range 100 {
			put(t, dir, fmt.Sprintf("%s-%d.dsl", stem, n), "taken")
		}
		before := identities(t, dir)
		_, err := media.Write(t.Context(), s.Admin, media.Options{Want: want(2), Dir: dir})
		if err == nil || !strings.Contains(err.Error(), first) {
			t.Errorf("error %v", err)
		}
		if diff := cmp.Diff(before, identities(t, dir)); diff != "" {
			t.Errorf("something was written:\n%s", diff)
		}
	})
}

// Path returns where the Synchronizer keeps the layer of that place.
func (s *shop) Path(i int) string { return s.files[i].Path }

func good(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func link(t *testing.T, to, file string) {
	t.Helper()
	if err := os.Symlink(to, file); err != nil {
		t.Fatal(err)
	}
}

// listing returns the kind of everything in a folder.
func listing(t *testing.T, dir string) map[string]os.FileMode {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]os.FileMode{}
	for _, e := range entries {
		all[e.Name()] = e.Type()
	}
	return all
}

// TestFolders writes to what is no folder, and versions that are not there.
func TestFolders(t *testing.T) {
	t.Parallel()
	s := open(t, small()...)
	base := t.TempDir()
	put(t, base, "file", "of somebody")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name string
		ctx  context.Context
		o    media.Options
		want string
	}{
		{"a file", t.Context(), media.Options{Want: want(1), Dir: "file"}, "open the medium"},
		{"below a file", t.Context(), media.Options{Want: want(1), Dir: "file/stick"}, "open the medium"},
		{"no such image", t.Context(), media.Options{Want: []media.Want{{Image: "silver", Version: 1}}, Dir: "new"}, "no image silver"},
		{"no such version", t.Context(), media.Options{Want: want(3), Dir: "new"}, "no version 3"},
		{"no image", t.Context(), media.Options{Want: []media.Want{{Version: 1}}, Dir: "new"}, "look up version 1"},
		{"canceled", canceled, media.Options{Want: want(1), Dir: "new"}, "canceled"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := test.o
			o.Dir = filepath.Join(base, o.Dir)
			res, err := media.Write(test.ctx, s.Admin, o)
			if err == nil || !strings.Contains(err.Error(), test.want) || len(res.Files) > 0 {
				t.Errorf("result %+v, error %v, want %q", res, err, test.want)
			}
			if diff := cmp.Diff(map[string]string{"file": "of somebody"}, contents(t, base)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if len(listing(t, base)) != 1 {
				t.Errorf("a folder was made: %v", listing(t, base))
			}
		})
	}
}

// TestLocate copies by hand what the Synchronizer names, under other names, into a folder of the medium.
func TestLocate(t *testing.T) {
	t.Parallel()
	s := open(t, small()...)
	for v := image.Version(1); v <= 2; v++ {
		files, err := s.Admin.MediaFiles(t.Context(), name, v)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s.files[:v], files); diff != "" {
			t.Fatalf("version %d (-want +got):\n%s", v, diff)
		}
		dir := t.TempDir()
		below := filepath.Join(dir, "a folder")
		if err := os.Mkdir(below, 0o700); err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for i, f := range files {
			st, err := os.Stat(f.Path)
			if err != nil || st.Size() != f.Length || f.Role != image.System || !filepath.IsAbs(f.Path) || seen[f.Name] {
				t.Errorf("file %+v: %v", f, err)
			}
			seen[f.Name] = true
			put(t, below, fmt.Sprint("copy ", i), good(t, f.Path))
		}
		s.check(t, v, below)
		inv, err := cache.Scan(t.Context(), cache.Medium{Kind: cache.USB, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if len(inv.Layers()) != int(v) {
			t.Errorf("version %d: an endpoint finds %s", v, inv.Summary())
		}
		inv.Close()
	}
}

// want returns the choice of one version of the shop's image.
func want(v image.Version) []media.Want { return []media.Want{{Image: name, Version: v}} }
