package deploy_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"disksync/api"
	"disksync/cache"
	"disksync/deploy"
	"disksync/image"
	"disksync/layer"
	"disksync/syncclient"
)

// shop is a Synchronizer as far as a Job needs one.
type shop struct {
	layers map[string]made
	list   []api.Layer
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/layers") {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.list)
		return
	}
	id := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	m, ok := s.layers[id]
	if !ok {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(api.Error{Code: api.CodeNotFound, Message: "not here"})
		return
	}
	w.Header().Set("ETag", `"`+id+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.file))
}

// open returns the shop as a Net. It is there as long as the test.
func (s *shop) open(t *testing.T) *deploy.Net {
	t.Helper()
	n, _ := openShop(t, s)
	return n
}

// openShop returns a Synchronizer as a Net, and how it is reached.
func openShop(t *testing.T, h http.Handler) (*deploy.Net, syncclient.Options) {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	o := syncclient.Options{URL: u, Fingerprint: syncclient.Fingerprint(sha256.Sum256(srv.Certificate().RawSubjectPublicKeyInfo))}
	c, err := syncclient.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &deploy.Net{Client: c, MaxRange: 64 << 20, GiveUp: time.Nanosecond}, o
}

// TestPlanIsCheapest compares plans with a look at every path over all layers, with random disks installed and random layers and parts
// of them on media: the path costs no more than the cheapest one, but for what is negligible; what the plan says is what comes over the
// network; and the disk is right.
func TestPlanIsCheapest(t *testing.T) {
	s := &shop{}
	net := s.open(t)
	planned, direct := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		l := newLine("drawn")
		seeds := []uint64{1, 2, 3}
		for i := range 4 { // versions that change the same blocks again and again
			seeds[rapid.IntRange(0, 2).Draw(rt, "changed")] = uint64(10*i) + rapid.Uint64Range(0, 3).Draw(rt, "seed")
			if d := disk(rapid.IntRange(0, 1).Draw(rt, "sectors"), seeds...); i == 0 || !bytes.Equal(d, l.version(len(l.versions)).disk) {
				l.add(t, rapid.IntRange(0, 5).Draw(rt, "full") == 0, d)
			}
		}
		target := l.versions[len(l.versions)-1]
		all := slices.Clone(target.layers)
		s.layers, s.list = map[string]made{}, nil
		for range rapid.IntRange(1, 6).Draw(rt, "other layers") {
			from := rapid.IntRange(0, len(l.versions)).Draw(rt, "from")
			to := l.versions[rapid.IntRange(0, len(l.versions)-1).Draw(rt, "to")]
			var st image.State
			if from > 0 {
				st = l.versions[from-1].state
			}
			if st.ID() == to.state.ID() {
				continue
			}
			m, _ := encode(t, st, to.disk)
			if !slices.ContainsFunc(all, func(x made) bool { return x.ID() == m.ID() }) {
				all = append(all, m)
				s.list = append(s.list, api.Layer{LayerRef: m.Ref()})
			}
		}
		for _, m := range all {
			s.layers[m.ID().String()] = m
		}
		fsys := newFS()
		store := openStore(t, fsys)
		local := map[image.Digest]bool{}
		installed := []image.StateID{{}}
		install := func(d []byte) {
			m, st := encode(t, image.State{}, d)
			if ok, err := store.Installed(st.ID()); err != nil || ok {
				return
			}
			if _, err := store.Install(t.Context(), m.Index, []deploy.Source{newSource(deploy.USB, m)}, deploy.NewTally()); err != nil {
				rt.Fatal(err)
			}
			installed = append(installed, st.ID())
			for _, d := range st.Blocks {
				local[d] = true
			}
		}
		for i := range l.versions {
			if rapid.IntRange(0, 2).Draw(rt, "installed") == 0 {
				install(l.versions[i].disk)
			}
		}
		if rapid.Bool().Draw(rt, "another image") {
			install(drawDisk(rt))
		}
		var files [][]byte
		whole, parts := map[image.LayerID]bool{}, map[image.LayerID]int{}
		onMedium := map[image.Digest]bool{}
		for _, m := range all {
			switch rapid.IntRange(0, 3).Draw(rt, "on a medium") {
			case 0:
				files = append(files, m.file)
				whole[m.ID()] = true
				for i := range m.Len() {
					onMedium[m.Frame(i).Digest] = true
				}
			case 1:
				// A part is recognised by its first frame: of layers that begin alike it could be either's.
				alike := slices.ContainsFunc(all, func(o made) bool {
					return o.ID() != m.ID() && len(frames(o)) > 0 && len(frames(m)) > 0 && frames(o)[0].Digest == frames(m)[0].Digest
				})
				if m.Len() > 0 && !alike {
					cut := int(m.Frame(m.Len() - 1).Offset)
					files = append(files, m.file[:cut])
					parts[m.ID()] = cut
				}
			}
		}
		// The oracle: what each layer costs, and the least that any path does.
		var edges []deploy.Edge
		for _, m := range all {
			edges = append(edges, deploy.Edge{Ref: m.Ref(), Cost: trueCost(m, local, onMedium, whole[m.ID()], parts[m.ID()])})
		}
		best := int64(-1)
		walks(edges, target.state.ID(), installed, func(p []deploy.Edge) {
			if n := total(p, cost); best < 0 || n < best {
				best = n
			}
		})
		j := &deploy.Job{Store: store, Manifest: target.signed, Net: net, Tally: deploy.NewTally()}
		if len(files) > 0 {
			inv, remove := briefMedium(t, files)
			defer remove()
			j.Media = []*cache.Inventory{inv}
		}
		p, err := j.Plan(t.Context())
		if err != nil {
			rt.Fatal(err)
		}
		var path []deploy.Edge
		for _, st := range p.Disks[0].Steps {
			i := slices.IndexFunc(edges, func(e deploy.Edge) bool { return e.Ref.ID == st.Layer })
			path = append(path, edges[i])
		}
		checkWay(rt, path, target.state.ID(), installed)
		if n := total(path, cost); n > max(best+deploy.Slack(best), deploy.WorthAsking) {
			rt.Fatalf("the plan costs %d bytes, the cheapest path %d", n, best)
		} else if p.Bytes[deploy.Network] > n {
			rt.Fatalf("the plan says %d bytes, its path costs %d", p.Bytes[deploy.Network], n)
		}
		out, err := j.Run(t.Context(), p)
		if err != nil {
			rt.Fatal(err)
		}
		if out.Bytes[deploy.Network] != p.Bytes[deploy.Network] {
			rt.Fatalf("planned %v, got %v", p.Bytes, out.Bytes)
		}
		if err := sameContent(fsys, image.VHDUUID(target.state.ID()), target.disk); err != nil {
			rt.Fatal(err)
		}
		planned++
		if slices.ContainsFunc(path, func(e deploy.Edge) bool {
			return slices.ContainsFunc(s.list, func(l api.Layer) bool { return l.ID == e.Ref.ID })
		}) {
			direct++
		}
	})
	t.Logf("%d plans, %d with a layer besides the manifest's", planned, direct)
	if planned >= 100 && (direct == 0 || direct == planned) {
		t.Error("that is not a mixture")
	}
}

// briefMedium is medium for as long as the caller needs it.
func briefMedium(t *testing.T, files [][]byte) (inv *cache.Inventory, remove func()) {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if inv, err = cache.Scan(t.Context(), cache.Medium{Kind: cache.USB, Dir: dir}); err != nil {
		t.Fatal(err)
	}
	return inv, func() {
		inv.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}
}

// trueCost is what has to come over the network for a layer: frames whose blocks are nowhere else, and its index.
func trueCost(m made, local, onMedium map[image.Digest]bool, whole bool, part int) int64 {
	var n int64
	if !whole {
		n = m.Ref().IndexLength
	}
	seen := map[image.Digest]bool{}
	for i := range m.Len() {
		f := m.Frame(i)
		d := f.Digest
		inPart := slices.ContainsFunc(frames(m), func(o layer.Frame) bool { return o.Digest == d && o.Offset+int64(o.Length) <= int64(part) })
		if f.Codec == layer.Zero || seen[d] || local[d] || onMedium[d] || part > 0 && inPart {
			continue
		}
		seen[d] = true
		n += int64(f.Length)
	}
	return n
}

func frames(m made) []layer.Frame {
	var out []layer.Frame
	for i := range m.Len() {
		if f := m.Frame(i); f.Alone() {
			out = append(out, f)
		}
	}
	return out
}

// TestMediumAlone: a layer that only a medium has is a way, and when its blocks turn out to be bad there is the manifest's.
func TestMediumAlone(t *testing.T) {
	s := &shop{layers: map[string]made{}}
	net := s.open(t)
	for _, bad := range []bool{false, true} {
		h := newHouse(t)
		h.version(true, 1, 2, 3)
		h.version(false, 4, 2, 3)
		h.version(false, 5, 2, 3)
		h.bring("vm", 1)
		target := h.l.version(3)
		for _, m := range target.layers {
			s.layers[m.ID().String()] = m
		}
		direct, _ := encode(t, h.l.version(1).state, target.disk)
		file := bytes.Clone(direct.file)
		if bad {
			file[5000+int(5%512)*2048] ^= 1 // the noise of seed 5
		}
		j := &deploy.Job{Store: h.s, Manifest: target.signed, Net: net, Tally: deploy.NewTally(), Media: []*cache.Inventory{medium(t, cache.USB, file)}}
		p, err := j.Plan(t.Context())
		if err != nil || len(p.Disks[0].Steps) != 1 || p.Disks[0].Steps[0].Layer != direct.ID() || p.Bytes[deploy.Network] != 0 {
			t.Fatalf("%+v, %v", p, err)
		}
		out, err := j.Run(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]int{false: 0, true: 1}[bad]; out.Detours != want || len(out.Steps) != 1+want {
			t.Errorf("bad: %v: %+v", bad, out)
		}
		h.holds(image.VHDUUID(target.state.ID()), target.disk)
	}
}

// TestRepairElsewhere: a disk that stands on one which the manifest does not lead to is mended by building it on another.
func TestRepairElsewhere(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2, 3)
	h.version(true, 4, 2, 3) // from nothing: version 1 is not on its way
	h.version(false, 4, 2, 5)
	target := h.l.version(3)
	h.bring("vm", 1)
	direct, _ := encode(t, h.l.version(1).state, target.disk)
	if _, err := h.s.Install(t.Context(), direct.Index, []deploy.Source{newSource(deploy.USB, direct)}, deploy.NewTally()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.s.Commit("vm", target.signed, nil); err != nil {
		t.Fatal(err)
	}
	below := h.l.version(1).state.ID()
	flip(t, h.fsys, deploy.Path(image.VHDUUID(below)), 3*block/2, 5)
	res := h.verify("vm")
	damaged := map[image.StateID]bool{below: true}
	j := &deploy.Job{
		Store: h.s, Manifest: target.signed, Tally: deploy.NewTally(),
		Media: []*cache.Inventory{medium(t, cache.USB, target.layers[0].file, target.layers[1].file)},
	}
	out, err := j.Repair(context.Background(), damaged)
	if err != nil {
		t.Fatal(err, res)
	}
	h.holds(image.VHDUUID(target.state.ID()), target.disk)
	if res := h.verify("vm"); len(res.Bad) != 0 || len(out.Steps) != 2 {
		t.Errorf("%+v, %+v", res, out)
	}
	damaged = map[image.StateID]bool{{1}: true}
	if _, err := j.Repair(context.Background(), damaged); code(t, err) != "DS-CANNOT-REPAIR" || errors.Is(err, context.Canceled) {
		t.Errorf("a disk that is not below: %v", err)
	}
}

// crossroads is two ways from nothing to a version, over a and over b, of which the manifest has the one over b.
type crossroads struct {
	*house
	toA, fromA, toB, fromB made
	other                  made // full images of other disks
	net                    *deploy.Net
}

func newCrossroads(t *testing.T) *crossroads {
	s := &shop{layers: map[string]made{}}
	c := &crossroads{house: newHouse(t), net: s.open(t)}
	c.version(true, 13, 2, 3, 6)
	c.version(false, 4, 2, 3, 6)
	target := c.l.version(2)
	c.toB, c.fromB = target.layers[0], target.layers[1]
	var a image.State
	c.toA, a = encode(t, image.State{}, disk(1, 11, 12, 3, 6))
	c.fromA, _ = encode(t, a, target.disk)
	c.other, _ = encode(t, image.State{}, disk(1, 0, 11, 12))
	for _, m := range []made{c.toA, c.fromA, c.toB, c.fromB} {
		s.layers[m.ID().String()] = m
	}
	s.list = []api.Layer{{LayerRef: c.toA.Ref()}, {LayerRef: c.fromA.Ref()}}
	return c
}

// TestPathByHoldings: what is on this machine, on media or left of an interrupted run decides which way is the cheapest.
func TestPathByHoldings(t *testing.T) {
	for _, c := range []struct {
		name  string
		set   func(t *testing.T, c *crossroads, j *deploy.Job)
		overA bool
		bytes int64 // blocks over the network
	}{
		{"nothing", func(*testing.T, *crossroads, *deploy.Job) {}, false, 5},
		{"blocks on a medium, in a layer of something else", func(t *testing.T, c *crossroads, j *deploy.Job) {
			j.Media = []*cache.Inventory{medium(t, cache.USB, c.other.file)}
		}, true, 4},
		{"blocks on this machine, in a disk of something else", func(t *testing.T, c *crossroads, _ *deploy.Job) {
			if _, err := c.s.Install(t.Context(), c.other.Index, []deploy.Source{newSource(deploy.USB, c.other)}, deploy.NewTally()); err != nil {
				t.Fatal(err)
			}
		}, true, 4},
		{"an interrupted run", func(t *testing.T, c *crossroads, _ *deploy.Job) {
			some := newSource(deploy.USB, c.toA)
			delete(some.frames, stateOf(disk(1, 11, 12, 3, 6)).Blocks[3])
			if _, err := c.s.Install(t.Context(), c.toA.Index, []deploy.Source{some}, deploy.NewTally()); err == nil {
				t.Fatal("installed without all of its blocks")
			}
		}, true, 3},
		{"a VHD file", func(t *testing.T, c *crossroads, j *deploy.Job) {
			a := disk(1, 11, 12, 3, 6)
			j.Media = []*cache.Inventory{medium(t, cache.USB, plainVHD(t, image.VHDUUID(stateOf(a).ID()), a))}
		}, true, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newCrossroads(t)
			j := &deploy.Job{Store: x.s, Manifest: x.l.version(2).signed, Net: x.net, Tally: deploy.NewTally()}
			c.set(t, x, j)
			p, err := j.Plan(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want := x.toB.ID()
			if c.overA {
				want = x.toA.ID()
			}
			if p.Disks[0].Steps[0].Layer != want || p.Bytes[deploy.Network] != c.bytes*block {
				t.Errorf("%d blocks over the network, %+v", p.Bytes[deploy.Network]/block, p.Disks[0].Steps)
			}
			out, err := j.Run(t.Context(), p)
			if err != nil || out.Bytes[deploy.Network] != p.Bytes[deploy.Network] {
				t.Errorf("%+v, %v", out, err)
			}
			x.holds(image.VHDUUID(x.l.version(2).state.ID()), x.l.version(2).disk)
		})
	}
}

// TestPartOnAnother: what was built on one disk is of no use on another way.
func TestPartOnAnother(t *testing.T) {
	x := newCrossroads(t)
	target := x.l.version(2)
	full, _ := encode(t, image.State{}, target.disk)
	if _, err := x.s.Install(t.Context(), x.toA.Index, []deploy.Source{newSource(deploy.USB, x.toA)}, deploy.NewTally()); err != nil {
		t.Fatal(err)
	}
	some := newSource(deploy.USB, x.fromA)
	delete(some.frames, target.state.Blocks[1])
	if _, err := x.s.Install(t.Context(), x.fromA.Index, []deploy.Source{some}, deploy.NewTally()); err == nil {
		t.Fatal("installed without all of its blocks")
	}
	l := newLine("full").add(t, true, target.disk)
	j := &deploy.Job{Store: x.s, Manifest: l.version(1).signed, Tally: deploy.NewTally(), Media: []*cache.Inventory{medium(t, cache.USB, full.file)}}
	p, err := j.Plan(t.Context())
	if err != nil || p.Here != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	out, err := j.Run(t.Context(), p)
	if err != nil || out.Resumed != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	x.holds(image.VHDUUID(target.state.ID()), target.disk)
}

// TestEstimate: a plan says how long it takes by the rates that are known, and which are not.
func TestEstimate(t *testing.T) {
	for _, c := range []struct {
		rates   map[string]float64
		seconds float64
		unknown []string
	}{
		{nil, 0, []string{deploy.Network}},
		{map[string]float64{deploy.USB: 1e6}, 0, []string{deploy.Network}},
		{map[string]float64{deploy.Network: block}, 5, nil},
		{map[string]float64{deploy.Network: block, deploy.ReadBack: block}, 10, nil},
	} {
		x := newCrossroads(t)
		j := &deploy.Job{Store: x.s, Manifest: x.l.version(2).signed, Net: x.net, Tally: deploy.NewTally(), Rates: c.rates}
		p, err := j.Plan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if p.Seconds != c.seconds || !slices.Equal(p.Unknown, c.unknown) {
			t.Errorf("%v: %v s, unknown: %v", c.rates, p.Seconds, p.Unknown)
		}
	}
}
