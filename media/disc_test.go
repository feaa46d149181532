package media_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"disksync/cache"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/faultfs"
	"disksync/internal/problem"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/layer"
	"disksync/media"
	"disksync/media/disc"
)

// collect counts the good blocks of a layer in the files of a folder, each once.
func (s *shop) collect(t *testing.T, dir string, keys ...image.MediaKey) int {
	t.Helper()
	inv, err := cache.Scan(t.Context(), cache.Medium{Kind: cache.DVD, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer inv.Close()
	inv.Unlock(keys)
	x := source(t, s.Path(0), s.files[0].Layer).Index
	want := map[image.Digest]bool{}
	var all []image.Digest
	for i := range x.Len() {
		want[x.Frame(i).Digest] = true
	}
	src := inv.Source(cache.Wanted{Blocks: want, Layers: []*layer.Index{x}})
	for d := range want {
		if _, ok := src.Holds(d); ok {
			all = append(all, d)
		}
	}
	good := 0
	dec := layer.NewDecoder(1)
	defer dec.Close()
	err = src.Fetch(t.Context(), all, func(_ image.Digest, f layer.Frame, b []byte, err error) error {
		if err == nil {
			err = dec.Check(make([]byte, image.BlockSize), f, b)
		}
		if err == nil {
			good++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return good
}

// TestImages writes discs: one for everything, and several. Each is a source by itself, and other programs read it.
func TestImages(t *testing.T) {
	t.Parallel()
	sevenZip := testkit.Tool(t, "7z")
	s := open(t, lab.Disk(1, 2, 3, 4, 5, 6))
	key := image.MediaKey{}
	for _, test := range []struct {
		name  string
		o     media.Options
		discs int
	}{
		{"one", media.Options{}, 1},
		{"one, encrypted", media.Options{Encrypt: true}, 1},
		{"three", media.Options{Size: 3_200_000, Split: true}, 3},
		{"three, encrypted", media.Options{Size: 3_200_000, Split: true, Encrypt: true}, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			test.o.Want, test.o.Image = want(1), filepath.Join(dir, "disc.iso")
			res, err := media.WriteImage(t.Context(), s.Admin, test.o)
			if err != nil || len(res.Volumes) != test.discs {
				t.Fatalf("result %+v, %v", res, err)
			}
			if test.o.Encrypt {
				keys, err := s.Admin.MediaKeys(t.Context(), name)
				if err != nil || len(keys) != 1 {
					t.Fatal(keys, err)
				}
				key = keys[0].Key
			}
			total := 0
			for i, v := range res.Volumes {
				st, err := os.Stat(v.Path)
				if err != nil || st.Size() != v.Length || test.o.Size > 0 && v.Length > test.o.Size {
					t.Errorf("%+v: %v", v, err)
				}
				if test.discs > 1 && filepath.Base(v.Path) != fmt.Sprintf("disc-%d.iso", i+1) {
					t.Errorf("volume %s", v.Path)
				}
				out := t.TempDir()
				if b, err := exec.Command(sevenZip, "e", "-tudf", "-o"+out, v.Path).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, b)
				}
				n := s.collect(t, out, key)
				if total += n; n == 0 {
					t.Errorf("%s is no source by itself", v.Path)
				}
				if test.o.Encrypt && s.collect(t, out) != 0 {
					t.Error("blocks can be read without the key")
				}
				if b, _ := os.ReadFile(v.Path); test.o.Encrypt && (bytes.Contains(b, []byte(name)) || bytes.Contains(b, s.files[0].Layer[:])) {
					t.Error("the image says what is in it")
				}
				vo := media.VerifyOptions{Path: v.Path, Key: s.Server.SigningKey()}
				if _, err := media.Verify(t.Context(), vo); test.o.Encrypt && problem.Of(err).Code != "DS-MEDIA-KEY" || !test.o.Encrypt && err != nil {
					t.Errorf("verify: %v", err)
				}
				vo.Keys = []image.MediaKey{key}
				if _, err := media.Verify(t.Context(), vo); err != nil {
					t.Errorf("verify with the key: %v", err)
				}
			}
			if total != 6 {
				t.Errorf("%d blocks of 6", total)
			}
			res, err = media.WriteImage(t.Context(), s.Admin, test.o)
			if err != nil || slices.Contains(written(res), true) {
				t.Errorf("again: %+v, %v", res, err)
			}
		})
	}
	t.Run("too small", func(t *testing.T) {
		dir := t.TempDir()
		o := media.Options{Want: want(1), Image: filepath.Join(dir, "disc.iso"), Size: 3_200_000}
		if _, err := media.WriteImage(t.Context(), s.Admin, o); problem.Of(err).Code != "DS-MEDIA-SPACE" {
			t.Errorf("without --split: %v", err)
		}
		o.Size, o.Split = 800_000, true
		if _, err := media.WriteImage(t.Context(), s.Admin, o); problem.Of(err).Exit != problem.Usage {
			t.Errorf("without room for a block: %v", err)
		}
		put(t, dir, "disc.iso", "my own")
		o.Size, o.Split = 0, false
		if _, err := media.WriteImage(t.Context(), s.Admin, o); problem.Of(err).Code != "DS-MEDIA-EXISTS" || good(t, o.Image) != "my own" {
			t.Errorf("another file: %v", err)
		}
	})
}

// TestDamagedImage finds damage wherever it is in an image.
func TestDamagedImage(t *testing.T) {
	t.Parallel()
	s := open(t, small()[0])
	dir := t.TempDir()
	name := filepath.Join(dir, "disc.iso")
	if _, err := media.WriteImage(t.Context(), s.Admin, media.Options{Want: want(1), Image: name}); err != nil {
		t.Fatal(err)
	}
	b := []byte(good(t, name))
	l, _, err := disc.Open(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	end := l.Offset(1) + l.Files[1].Size
	for what, at := range map[string]int64{
		"tables": 16*2048 + 600, "manifest": l.Offset(0) + 300, "frame": l.Offset(1) + 20_000, "index": end - 100, "last sector": int64(len(b)) - 2048,
	} {
		b[at] ^= 4
		put(t, dir, "bad.iso", string(b))
		b[at] ^= 4
		_, err := media.Verify(t.Context(), media.VerifyOptions{Path: filepath.Join(dir, "bad.iso"), Key: s.Server.SigningKey()})
		if p := problem.Of(err); p == nil || p.Code != "DS-MEDIA-DAMAGED" && p.Code != "DS-MEDIA-MANIFEST" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := media.Verify(t.Context(), media.VerifyOptions{Path: filepath.Join(dir, "none")}); err == nil {
		t.Error("a file that is not there is good")
	}
	put(t, dir, "other", strings.Repeat("x", 100_000))
	if _, err := media.Verify(t.Context(), media.VerifyOptions{Path: filepath.Join(dir, "other")}); problem.Of(err).Code != "DS-MEDIA-EMPTY" {
		t.Errorf("another file: %v", err)
	}
}

// TestImageFaultAtEveryStep is TestFaultAtEveryStep for images and for encrypted files: whatever has its name is good, and the next run
// completes what there is.
func TestImageFaultAtEveryStep(t *testing.T) {
	t.Parallel()
	s := open(t, small()[0])
	if _, err := s.Admin.NewMediaKey(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	keys, err := s.Admin.MediaKeys(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	for what, o := range map[string]media.Options{
		"image": {Image: "disc.iso"}, "encrypted image": {Image: "disc.iso", Encrypt: true},
		"encrypted folder": {Dir: "stick", Encrypt: true}, "parts": {Dir: "stick", PartSize: 300_000},
	} {
		o.Want = want(1)
		run := media.WriteOn
		if o.Image != "" {
			run = media.WriteImageOn
		}
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			count := faultfs.New()
			if _, err := run(t.Context(), s.Admin, o, count); err != nil {
				t.Fatal(err)
			}
			checkAll(t, count, keys[0].Key)
			for _, fault := range []faultfs.Fault{faultfs.FailBefore, faultfs.Short, faultfs.PowerLoss} {
				for i := range count.Log() {
					at := i + 1
					fsys := faultfs.New()
					fsys.Arm(at, fault)
					_, _ = run(t.Context(), s.Admin, o, fsys)
					next := fsys
					if fault == faultfs.PowerLoss {
						next = fsys.Restart([]float64{0, 0.5, 1}[at%3], rand.New(rand.NewPCG(1, uint64(at))))
					}
					next.Arm(0, faultfs.None)
					checkAll(t, next, keys[0].Key)
					if _, err := run(t.Context(), s.Admin, o, next); err != nil {
						t.Errorf("%v at step %d: the next run: %v", fault, at, err)
					}
					if n := checkAll(t, next, keys[0].Key); n == 0 {
						t.Errorf("%v at step %d: nothing is there", fault, at)
					}
					entries, err := next.ReadDir(".")
					if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasSuffix(e.Name(), durable.TempSuffix) }) {
						t.Errorf("%v at step %d: left %v, %v", fault, at, entries, err)
					}
					if bad := append(fsys.UnsafeRenames(), next.UnsafeRenames()...); len(bad) > 0 {
						t.Errorf("%v at step %d: named before it was synced: %v", fault, at, bad)
					}
				}
			}
		})
	}
}

// checkAll makes sure that every file with its final name is good, and returns how many there are.
func checkAll(t *testing.T, fsys durable.FS, key image.MediaKey) int {
	t.Helper()
	entries, err := fsys.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	n := 0
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), durable.TempSuffix) {
			continue
		}
		n++
		put(t, dir, e.Name(), string(slurp(t, fsys, e.Name())))
		v, err := media.Verify(t.Context(), media.VerifyOptions{Path: filepath.Join(dir, e.Name()), Keys: []image.MediaKey{key}})
		if err != nil {
			t.Errorf("%s: %v, %+v", e.Name(), err, v.Files)
		}
	}
	return n
}
