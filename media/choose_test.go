package media_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/api"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/media"
)

// squash has the Synchronizer make a layer and waits for it.
func (s *shop) squash(t *testing.T, from, to image.Version) {
	t.Helper()
	if _, err := s.Admin.Squash(t.Context(), name, api.NewSquash{From: from, To: to, Keep: true}); err != nil {
		t.Fatal(err)
	}
	testkit.Until(t, "the layer is made", func() bool {
		all, err := s.Admin.Squashes(t.Context(), name)
		return err == nil && !slices.ContainsFunc(all, func(q api.Squash) bool { return !q.State.Over() })
	})
}

// kinds returns what the files of a result are, by their names.
func kinds(res media.Result) []string {
	out := []string{}
	for _, f := range res.Files {
		words := strings.Split(strings.TrimSuffix(f.Path[strings.LastIndex(f.Path, "/")+1:], ".dsl"), "-")
		out = append(out, strings.Join(words[2:len(words)-1], "-"))
	}
	return out
}

// tiny is lab.Disk with little in each block, for where sizes count and not how much there is.
func tiny(seeds ...uint64) []byte {
	d := make([]byte, len(seeds)*image.BlockSize)
	for i, seed := range seeds {
		if seed != 0 {
			lab.Fill(d[i*image.BlockSize:][:40<<10], seed)
		}
	}
	return d
}

// TestChoice writes what the fewest bytes lead with to the wanted versions.
func TestChoice(t *testing.T) {
	t.Parallel()
	s := open(t, tiny(1, 2, 3, 4), tiny(1, 2, 30, 40), tiny(1, 2, 31, 41), tiny(1, 2, 32, 42))
	tests := []struct {
		name string
		o    media.Options
		line []string // with the line of layers only
		more []string // with a full image of version 4 and a layer from 2 to 4
	}{
		{"newest", media.Options{Want: want(0)}, []string{"001", "002", "003", "004"}, []string{"full-v4"}},
		{"an old one", media.Options{Want: want(1)}, []string{"001"}, []string{"001"}},
		{"an old one and the newest", media.Options{Want: append(want(1), want(4)...)}, []string{"001", "002", "003", "004"}, []string{"001", "full-v4"}},
		{"twice the same", media.Options{Want: append(want(1), want(1)...)}, []string{"001"}, []string{"001"}},
		// The line takes six blocks, the full image four.
		{"direct", media.Options{Want: want(4), Direct: true}, []string{"004", "003", "002"}, []string{"full-v4"}},
		{"direct from 3", media.Options{Want: want(4), From: []image.Version{3}}, []string{"004"}, []string{"004"}},
		{"direct from 2", media.Options{Want: want(4), From: []image.Version{2}}, []string{"003", "004"}, []string{"v2-v4"}},
		{"direct from 2 to 3", media.Options{Want: want(3), From: []image.Version{2}}, []string{"003"}, []string{"003"}},
	}
	for _, more := range []bool{false, true} {
		if more {
			s.squash(t, 0, 4)
			s.squash(t, 2, 4)
		}
		for _, test := range tests {
			test.o.Dir = t.TempDir()
			res, err := media.Write(t.Context(), s.Admin, test.o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[bool][]string{false: test.line, true: test.more}[more], kinds(res)); diff != "" {
				t.Errorf("%s, more layers %v (-want +got):\n%s", test.name, more, diff)
			}
		}
	}
	_, err := media.Write(t.Context(), s.Admin, media.Options{Want: want(4), From: []image.Version{9}, Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "no version 9") {
		t.Errorf("from a version that is not there: %v", err)
	}
}

// TestGroup writes what a group may have.
func TestGroup(t *testing.T) {
	t.Parallel()
	s := open(t, small()...)
	s.Publish(t, "silver", small()[0])
	if err := s.Admin.AddGroup(t.Context(), "sales"); err != nil {
		t.Fatal(err)
	}
	if _, err := media.GroupWants(t.Context(), s.Admin, "sales"); err == nil {
		t.Error("nothing is assigned, and nobody says so")
	}
	for _, a := range []api.Assignment{{Image: name, Version: 1}, {Image: "silver"}} {
		a.To = api.Subject{Kind: api.ToGroup, Name: "sales"}
		if err := s.Admin.Assign(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	wants, err := media.GroupWants(t.Context(), s.Admin, "sales")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := media.Write(t.Context(), s.Admin, media.Options{Want: wants, Dir: dir}); err != nil {
		t.Fatal(err)
	}
	got := names(t, dir)
	if len(got) != 4 || !slices.Contains(got, "silver-v1.manifest.json") || !slices.Contains(got, name+"-v1.manifest.json") {
		t.Errorf("files %v", got)
	}
}

// TestRefresh brings media up to date.
func TestRefresh(t *testing.T) {
	t.Parallel()
	disks := [][]byte{tiny(1, 2, 5, 6, 3, 4), tiny(1, 2, 5, 6, 30, 40), tiny(1, 2, 5, 6, 31, 41)}
	s := open(t, disks[0])
	all, updates := t.TempDir(), t.TempDir()
	s.write(t, 1, all)
	put(t, all, "diary", "my own")
	s.Publish(t, name, disks[1])
	if _, err := media.Write(t.Context(), s.Admin, media.Options{Want: want(2), Direct: true, Dir: updates}); err != nil {
		t.Fatal(err)
	}
	s.Publish(t, name, disks[2])
	s.squash(t, 0, 3)
	s.disks = disks
	var err error
	if s.files, err = s.Admin.MediaFiles(t.Context(), name, 3); err != nil {
		t.Fatal(err)
	}

	// What is there counts nothing: the line is gone on with, though the full image is smaller than all of it.
	res, err := media.Refresh(t.Context(), s.Admin, media.Options{Dir: all, Prune: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"001", "002", "003"}, kinds(res)); diff != "" {
		t.Errorf("layers (-want +got):\n%s", diff)
	}
	if n := slices.Index(names(t, all), "diary"); n < 0 {
		t.Error("what is not ours was removed")
	}
	if slices.Contains(names(t, all), name+"-v1.manifest.json") || !slices.Contains(names(t, all), name+"-v3.manifest.json") {
		t.Errorf("files %v", names(t, all))
	}
	// A medium of updates stays one.
	res, err = media.Refresh(t.Context(), s.Admin, media.Options{Dir: updates})
	if err != nil || !slices.Equal(kinds(res), []string{"003", "002"}) {
		t.Errorf("updates: %v, %v", kinds(res), err)
	}
	if len(res.Removed) > 0 || !slices.Contains(names(t, updates), name+"-v2.manifest.json") {
		t.Errorf("removed unasked: %v", res.Removed)
	}
	if p := problem.Of(refreshErr(t, s, t.TempDir())); p == nil || p.Code != "DS-MEDIA-EMPTY" || p.Exit != problem.NotFound {
		t.Errorf("an empty medium: %v", p)
	}
}

func refreshErr(t *testing.T, s *shop, dir string) error {
	t.Helper()
	_, err := media.Refresh(t.Context(), s.Admin, media.Options{Dir: dir})
	return err
}

// TestParts writes layers in parts: each file is small enough, and together they have every block.
func TestParts(t *testing.T) {
	t.Parallel()
	s := open(t, lab.Disk(1, 2, 3, 4, 5))
	dir := t.TempDir()
	o := media.Options{Want: want(1), Dir: dir, PartSize: 2_500_000}
	res, err := media.Write(t.Context(), s.Admin, o)
	if err != nil {
		t.Fatal(err)
	}
	blocks := 0
	for _, f := range res.Files {
		blocks += f.Blocks
		if !f.Part || !f.Written || f.Length > o.PartSize {
			t.Errorf("file %+v", f)
		}
	}
	if blocks != 5 || len(res.Files) != 3 {
		t.Errorf("%d blocks in %d files", blocks, len(res.Files))
	}
	// A part that was cut short is gone on with, one that is damaged is written again, good ones stay.
	cut, damaged := res.Files[0].Path, res.Files[1].Path
	b := good(t, cut)
	put(t, dir, cut[len(dir)+1:]+".tmp", b[:len(b)-1000])
	put(t, dir, cut[len(dir)+1:], b[:100])
	b = good(t, damaged)
	put(t, dir, damaged[len(dir)+1:], b[:len(b)/2]+"x"+b[len(b)/2+1:])
	v, err := media.Verify(t.Context(), media.VerifyOptions{Path: dir})
	if p := problem.Of(err); p == nil || p.Code != "DS-MEDIA-DAMAGED" || p.Exit != problem.Damaged {
		t.Errorf("verdict %+v, %v", v, err)
	}
	res, err = media.Write(t.Context(), s.Admin, o)
	if err != nil || res.Files[0].Resumed != 1 || !slices.Equal(written(res), []bool{true, true, false}) {
		t.Errorf("result %+v, %v", res, err)
	}
	if v, err := media.Verify(t.Context(), media.VerifyOptions{Path: dir, Key: s.Server.SigningKey()}); err != nil || len(v.Files) != 4 {
		t.Errorf("verdict %+v, %v", v, err)
	}
	o.PartSize = 1000
	if _, err := media.Write(t.Context(), s.Admin, o); problem.Of(err) == nil || problem.Of(err).Exit != problem.Usage {
		t.Errorf("parts without room: %v", err)
	}
}

// TestResume interrupts a run at each block: the next one fetches only what is missing.
func TestResume(t *testing.T) {
	t.Parallel()
	s := open(t, tiny(1, 2, 3, 4))
	whole := good(t, s.Path(0))
	x := source(t, s.Path(0), s.files[0].Layer).Index
	for i := range x.Len() {
		for _, more := range []int64{0, 1, int64(x.Frame(i).Length) - 1} {
			dir := t.TempDir()
			put(t, dir, s.files[0].Name+".tmp", whole[:x.Frame(i).Offset+more])
			var began int64 = -1
			res, err := media.Write(t.Context(), s.Admin, media.Options{Want: want(1), Dir: dir, Progress: func(stage string, done, _ int64) {
				if began < 0 && strings.HasPrefix(stage, "write ") {
					began = done
				}
			}})
			if err != nil || res.Files[0].Resumed != i {
				t.Errorf("cut %d bytes into block %d: %+v, %v", more, i, res.Files, err)
			}
			if began < x.Frame(i).Offset {
				t.Errorf("block %d: began to write at %d", i, began)
			}
			s.check(t, 1, dir)
		}
	}
	// What a loss of power left of a file need not be its beginning.
	dir := t.TempDir()
	holes := []byte(whole)
	clear(holes[x.Frame(1).Offset:][:5000])
	put(t, dir, s.files[0].Name+".tmp", string(holes))
	if res := s.write(t, 1, dir); res.Files[0].Resumed != 1 {
		t.Errorf("a hole in block 1: %+v", res)
	}
	s.check(t, 1, dir)
}
