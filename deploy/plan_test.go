package deploy_test

import (
	"bytes"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/cache"
	"disksync/deploy"
	"disksync/image"
	"disksync/vhd"
)

// memory is a file in memory.
type memory struct{ b []byte }

func (m *memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m.b).ReadAt(p, off) }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if n := int(off) + len(p); n > len(m.b) {
		m.b = append(m.b, make([]byte, n-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func (m *memory) Sync() error { return nil }

// plainVHD is a VHD file with a uuid of its own that holds d.
func plainVHD(t testing.TB, id image.UUID, d []byte) []byte {
	t.Helper()
	m := &memory{}
	if err := vhd.Create(m, vhd.CreateOptions{Size: int64(len(d)), UUID: id}); err != nil {
		t.Fatal(err)
	}
	v, err := vhd.OpenDisk(m, int64(len(m.b)), nil)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(d); at += block {
		if b := d[at:min(at+block, len(d))]; !image.IsZero(b) {
			if _, err := v.WriteAt(b, int64(at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := v.Sync(); err != nil {
		t.Fatal(err)
	}
	return m.b
}

// TestPlanIsKept: what a plan says before a byte moves is what the receipt says afterwards.
func TestPlanIsKept(t *testing.T) {
	for _, c := range []struct {
		name  string
		media func(t *testing.T, layers []made, v []version) []*cache.Inventory
		// has is the version that is installed already, 0: none.
		has, to int
		bytes   map[string]int64 // by kind of source
		steps   int
	}{
		{"everything on a stick", func(t *testing.T, l []made, _ []version) []*cache.Inventory {
			return []*cache.Inventory{medium(t, cache.USB, l[0].file, l[1].file)}
		}, 0, 2, map[string]int64{deploy.USB: 5 * block}, 2},
		{"an update", func(t *testing.T, l []made, _ []version) []*cache.Inventory {
			return []*cache.Inventory{medium(t, cache.USB, l[1].file)}
		}, 1, 2, map[string]int64{deploy.USB: 2 * block}, 1},
		{"nothing to do", func(*testing.T, []made, []version) []*cache.Inventory { return nil }, 2, 2, map[string]int64{}, 0},
		{"a stick before a disc, whatever the order of their mounts", func(t *testing.T, l []made, _ []version) []*cache.Inventory {
			return []*cache.Inventory{medium(t, cache.DVD, l[0].file, l[1].file), medium(t, cache.USB, l[0].file)}
		}, 0, 2, map[string]int64{deploy.USB: 3 * block, deploy.DVD: 2 * block}, 2},
		{"half of it on a stick, all on a disc", func(t *testing.T, l []made, _ []version) []*cache.Inventory {
			f := l[0].Frame(2)
			return []*cache.Inventory{medium(t, cache.USB, l[0].file[:f.Offset]), medium(t, cache.DVD, l[0].file, l[1].file)}
		}, 0, 2, map[string]int64{deploy.USB: 2 * block, deploy.DVD: 3 * block}, 2},
		{"a plain VHD file, and an index", func(t *testing.T, l []made, v []version) []*cache.Inventory {
			// The layer's frames are on the disc; the stick comes first.
			id := image.VHDUUID(v[0].state.ID())
			return []*cache.Inventory{medium(t, cache.USB, plainVHD(t, id, v[0].disk)), medium(t, cache.DVD, l[0].file, l[1].file)}
		}, 0, 2, map[string]int64{deploy.USB: 3 * block, deploy.DVD: 2 * block}, 2},
		{"back to a version whose blocks are here", func(t *testing.T, l []made, _ []version) []*cache.Inventory {
			return []*cache.Inventory{medium(t, cache.USB, l[2].file)}
		}, 2, 3, map[string]int64{deploy.Local: 2 * block, deploy.USB: block}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t)
			h.version(true, 1, 2, 0, 2, 3) // two blocks are alike
			h.version(false, 1, 4, 0, 2, 5)
			h.version(true, 4, 5, 9) // another image of blocks that are here, and one that is not
			layers := []made{h.l.version(1).layers[0], h.l.version(2).layers[1], h.l.version(3).layers[0]}
			if c.has > 0 {
				h.bring("vm", c.has)
			}
			j := &deploy.Job{Store: h.s, Manifest: h.l.version(c.to).signed, Media: c.media(t, layers, h.l.versions), Tally: deploy.NewTally()}
			p, err := j.Plan(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if p.Missing != 0 || len(p.Disks) != 1 || len(p.Disks[0].Steps) != c.steps {
				t.Fatalf("plan %+v", p)
			}
			if diff := cmp.Diff(c.bytes, p.Bytes); diff != "" {
				t.Errorf("planned: %s", diff)
			}
			perStep := map[string]int64{}
			for _, st := range p.Disks[0].Steps {
				for kind, n := range st.Bytes {
					perStep[kind] += n
				}
			}
			if diff := cmp.Diff(p.Bytes, perStep); diff != "" {
				t.Errorf("the steps add up to something else: %s", diff)
			}
			var done []image.LayerID
			j.Installed = func(id image.LayerID) { done = append(done, id) }
			out, err := j.Run(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			maps.DeleteFunc(out.Bytes, func(_ string, n int64) bool { return n == 0 })
			if diff := cmp.Diff(p.Bytes, out.Bytes); diff != "" {
				t.Errorf("the receipt is not the plan: %s", diff)
			}
			blocks, reported := map[string]int{}, map[string]int64{}
			for _, s := range out.Sources {
				if s.Blocks > 0 {
					blocks[s.Kind] += s.Blocks
				}
				if s.Bytes > 0 {
					reported[s.Kind] += s.Bytes
				}
				if s.Bad > 0 || s.GivenUp != "" {
					t.Errorf("a source failed: %+v", s)
				}
			}
			if diff := cmp.Diff(p.Blocks, blocks); diff != "" {
				t.Errorf("blocks: %s", diff)
			}
			if diff := cmp.Diff(out.Bytes, reported); diff != "" {
				t.Errorf("the sources add up to something else: %s", diff)
			}
			if out.Layers != c.steps || len(done) != c.steps || out.Healed != 0 || out.Resumed != 0 {
				t.Errorf("%+v, %d layers told of", out, len(done))
			}
			h.holds(image.VHDUUID(h.l.version(c.to).state.ID()), h.l.version(c.to).disk)
			// A plan after the deed has nothing to do.
			if p, err = j.Plan(t.Context()); err != nil || len(p.Disks[0].Steps) != 0 || len(p.Bytes) != 0 || p.Needed != 0 {
				t.Errorf("afterwards %+v, %v", p, err)
			}
		})
	}
}

// TestPlanSeesParts: what an interrupted run has left is not planned again, and a part of nothing costs nothing but itself.
func TestPlanSeesParts(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2, 3, 4)
	v := h.l.version(1)
	some := newSource(deploy.USB, v.layers...)
	for _, b := range []int{1, 3} {
		delete(some.frames, v.state.Blocks[b])
	}
	if _, err := h.s.Install(t.Context(), v.layers[0].Index, []deploy.Source{some}, deploy.NewTally()); err == nil {
		t.Fatal("installed without all of its blocks")
	}
	j := &deploy.Job{Store: h.s, Manifest: v.signed, Media: []*cache.Inventory{medium(t, cache.USB, v.layers[0].file)}, Tally: deploy.NewTally()}
	p, err := j.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int64{deploy.USB: 2 * block}, p.Bytes); diff != "" || p.Here != 2 {
		t.Errorf("%d blocks are here; %s", p.Here, diff)
	}
	out, err := j.Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if out.Bytes[deploy.USB] != p.Bytes[deploy.USB] || out.Resumed != p.Here {
		t.Errorf("the receipt is not the plan: %+v", out)
	}
	h.holds(image.VHDUUID(v.state.ID()), v.disk)
}

// TestPlanRefuses: what cannot succeed is refused before anything is written.
func TestPlanRefuses(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2, 3, 4)
	h.version(false, 1, 5, 3, 4)
	layers := h.l.version(2).layers
	all := []*cache.Inventory{medium(t, cache.USB, layers[0].file, layers[1].file)}
	for _, c := range []struct {
		name    string
		free    int64 // below 0: so much less than is needed
		missing int
		want    string
	}{
		{"too little space", 1 << 20, 0, "DS-SPACE"},
		{"one byte too little", -1, 0, "DS-SPACE"},
		{"a block that nobody has", 1 << 40, 1, "DS-MISSING"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := &deploy.Job{Store: h.s, Manifest: h.l.version(2).signed, Media: all, Tally: deploy.NewTally()}
			h.fsys.SetFree(1 << 40)
			p, err := j.Plan(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if c.free < 0 {
				c.free += p.Needed
			}
			h.fsys.SetFree(c.free)
			if p, err = j.Plan(t.Context()); err != nil || p.Free != c.free {
				t.Fatalf("%+v, %v", p, err)
			}
			p.Missing += c.missing
			before := h.fsys.Clone()
			if _, err := j.Run(t.Context(), p); code(t, err) != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if diff := cmp.Diff(files(t, before, "disks"), files(t, h.fsys, "disks")); diff != "" {
				t.Errorf("something was written: %s", diff)
			}
		})
	}
	// Without the index of a layer there is no plan.
	some := &deploy.Job{Store: h.s, Manifest: h.l.version(2).signed, Media: []*cache.Inventory{medium(t, cache.USB, layers[0].file)}, Tally: deploy.NewTally()}
	if _, err := some.Plan(t.Context()); !errorSays(err, layers[1].ID().Short()) {
		t.Errorf("a layer that nobody has: %v", err)
	}
	// Exactly enough is enough.
	j := &deploy.Job{Store: h.s, Manifest: h.l.version(2).signed, Media: all, Tally: deploy.NewTally()}
	p, err := j.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.Free = p.Needed
	if _, err := j.Run(t.Context(), p); err != nil {
		t.Error(err)
	}
	used := int64(0)
	for _, name := range files(t, h.fsys, "disks") {
		st, err := h.fsys.Stat("disks/" + name)
		if err != nil {
			t.Fatal(err)
		}
		used += st.Size()
	}
	if used > p.Needed {
		t.Errorf("%d bytes were needed, the plan said %d", used, p.Needed)
	}
}
