package endpoint_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"disksync/api"
	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
)

// squash makes a direct layer and waits until it is stored.
func (w *world) squash(name string, from, to image.Version) api.Squash {
	w.Helper()
	if _, err := w.lab.Admin.Squash(w.Context(), name, api.NewSquash{From: from, To: to, Keep: true}); err != nil {
		w.Fatal(err)
	}
	var out api.Squash
	testkit.Until(w, fmt.Sprintf("there is a layer from version %d to %d", from, to), func() bool {
		all, err := w.lab.Admin.Squashes(w.Context(), name)
		if err != nil {
			w.Fatal(err)
		}
		for _, q := range all {
			if q.From == from && q.To == to && q.State.Over() {
				out = q
			}
		}
		return out.State != ""
	})
	if out.State != api.SquashStored && out.State != api.SquashUnchanged {
		w.Fatalf("%+v", out)
	}
	return out
}

// way writes the path of a receipt as "1-3 3-4"; 0 is nothing.
func way(rc *endpoint.Receipt) string {
	var out []string
	for _, st := range rc.Path {
		out = append(out, fmt.Sprintf("%d-%d", st.FromVersion, st.ToVersion))
	}
	return strings.Join(out, " ")
}

// four are versions that change the first block again and again, and another one at the end.
var four = [][]byte{disk(1, 9, 9), disk(2, 9, 9), disk(3, 9, 9), disk(4, 9, 8)}

// TestDirectLayer: an endpoint takes a direct layer when that is cheaper, and says so before and afterwards.
func TestDirectLayer(t *testing.T) {
	w := ready(t, four...)
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7", Version: 1})
	q := w.squash("win7", 1, 4)
	p, err := w.e.Plan(w.Context(), endpoint.Request{Kind: endpoint.Update, VM: "win7"})
	if err != nil || len(p.Disks[0].Steps) != 1 || p.Disks[0].StartVersion != 1 || p.Indexes == 0 || p.Bytes[deploy.Network] >= q.PathBytes {
		t.Fatalf("%+v, %v", p.Plan, err)
	}
	rc := w.run(endpoint.Request{Kind: endpoint.Update, VM: "win7"})
	if way(rc) != "1-4" || rc.Bytes[deploy.Network] != p.Bytes[deploy.Network] || rc.Detours != 0 {
		t.Errorf("%s, %+v", way(rc), rc)
	}
	w.holds("win7", four[3])
	// What stands on it can be verified, repaired and rolled back.
	w.run(endpoint.Request{Kind: endpoint.Verify, VM: "win7"})
	if _, err := w.e.RollBack("win7"); err != nil {
		t.Fatal(err)
	}
	w.holds("win7", four[0])
}

// TestDirectLayerIsLost: a layer that nobody vouches for cannot keep an endpoint from its version.
func TestDirectLayerIsLost(t *testing.T) {
	concerns := func(r *http.Request, id image.LayerID, index bool) bool {
		return strings.HasSuffix(r.URL.Path, id.String()) && (index || strings.HasPrefix(r.Header.Get("Range"), "bytes=16-")) // the frames are first
	}
	for _, c := range []struct {
		name    string
		index   bool // its index is gone as well
		answer  func(w http.ResponseWriter, r *http.Request, next http.Handler)
		detours int
	}{
		{"all of it", true, func(w http.ResponseWriter, r *http.Request, _ http.Handler) { http.Error(w, "gone", 404) }, 0},
		{"its frames", false, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"code":"not-found","message":"it was removed"}`)
		}, 1},
		{"what it holds", false, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(&spoiler{ResponseWriter: w}, r)
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := ready(t, four...)
			w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7", Version: 1})
			q := w.squash("win7", 1, 4)
			w.front.answer(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				if concerns(r, q.Layer, c.index) {
					c.answer(rw, r, next)
					return
				}
				next.ServeHTTP(rw, r)
			})
			rc := w.run(endpoint.Request{Kind: endpoint.Update, VM: "win7"})
			if way(rc) != "1-2 2-3 3-4" || rc.Detours != c.detours {
				t.Errorf("%s with %d detours", way(rc), rc.Detours)
			}
			w.holds("win7", four[3])
		})
	}
}

// spoiler changes a byte of every answer.
type spoiler struct {
	http.ResponseWriter
	done bool
}

func (s *spoiler) Write(p []byte) (int, error) {
	p = bytes.Clone(p)
	if len(p) > 0 && !s.done {
		p[len(p)/2] ^= 1
		s.done = true
	}
	return s.ResponseWriter.Write(p)
}

// TestLyingList: what a list of layers says is worth nothing unless their indexes bear it out.
func TestLyingList(t *testing.T) {
	w := ready(t, four...)
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7", Version: 1})
	im, err := w.lab.Admin.Image(w.Context(), "win7")
	if err != nil {
		t.Fatal(err)
	}
	words := strings.NewReplacer("ID", strings.Repeat("ab", 32), "FROM", im.Versions[0].Disks[0].State.String(),
		"TO", im.Versions[3].Disks[0].State.String(), "OTHER", im.Versions[1].Disks[0].Layer.String())
	for _, c := range []struct{ name, list string }{
		{"no layers", `[{},{"id":"x"}]`}, {"nothing of the kind", `{"a":1}`}, {"not JSON", `<html>`},
		{"lengths that make no sense", `[{"id":"ID","from":"FROM","to":"TO","length":9223372036854775807,"index_offset":9223372036854775807,"index_length":9223372036854775807}]`},
		{"below zero", `[{"id":"ID","from":"FROM","to":"TO","length":1000,"index_offset":-5,"index_length":168}]`},
		{"a layer that leads elsewhere", `[{"id":"OTHER","from":"FROM","to":"TO","length":1000,"index_offset":100,"index_length":168}]`},
		{"a layer that nobody has", `[{"id":"ID","from":"FROM","to":"TO","length":1000,"index_offset":100,"index_length":168}]`},
		{"a circle", `[{"id":"ID","from":"TO","to":"TO","length":1000,"index_offset":100,"index_length":168}]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked := atomic.Int32{}
			w.front.answer(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				if !strings.HasSuffix(r.URL.Path, "/layers") {
					next.ServeHTTP(rw, r)
					return
				}
				asked.Add(1)
				rw.Header().Set("Content-Type", "application/json")
				fmt.Fprint(rw, words.Replace(c.list))
			})
			p, err := w.e.Plan(t.Context(), endpoint.Request{Kind: endpoint.Update, VM: "win7"})
			if err != nil || len(p.Disks[0].Steps) != 3 || asked.Load() == 0 {
				t.Errorf("%+v, %v; asked %d times", p.Plan, err, asked.Load())
			}
		})
	}
	if rc := w.run(endpoint.Request{Kind: endpoint.Update, VM: "win7"}); way(rc) != "1-2 2-3 3-4" {
		t.Error(way(rc))
	}
	w.holds("win7", four[3])
}

// TestSmallConversation: the whole conversation for the change of one byte, from the first packet of TLS on, has room in 16 KiB, also
// when there are large images and many other ways.
func TestSmallConversation(t *testing.T) {
	const limit = 16 << 10
	small := func(last byte) []byte {
		d := make([]byte, 40*block)
		for i := range 40 {
			d[i*block], d[i*block+1] = byte(i+1), 7
		}
		d[5*block+100] = last
		return d
	}
	w := newWorld(t)
	const versions = 10 // the manifest names the layers of all of them
	for v := range byte(versions) {
		w.version("win7", small(v+1))
	}
	w.lab.Assign(w, "win7", "alice", versions-1)
	w.logIn()
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.squash("win7", 1, versions)
	w.squash("win7", 0, versions)
	w.lab.Assign(w, "win7", "alice", 0)
	var asked, packed atomic.Int32
	w.front.answer(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		asked.Add(1)
		next.ServeHTTP(rw, r)
		if strings.HasSuffix(r.URL.Path, "/manifest") && rw.Header().Get("Content-Encoding") == "gzip" {
			packed.Add(1)
		}
	})
	w.restart() // no connection is left
	rc := w.run(endpoint.Request{Kind: endpoint.Update, VM: "win7"})
	t.Logf("%d bytes over the line in %d requests", rc.Wire, asked.Load())
	if packed.Load() != 1 {
		t.Errorf("%d manifests were packed", packed.Load())
	}
	if way(rc) != fmt.Sprintf("%d-%d", versions-1, versions) || rc.Wire > limit {
		t.Errorf("%s took %d bytes over the line, more than %d", way(rc), rc.Wire, limit)
	}
	w.holds("win7", small(versions))
}

// TestAnyPath: whatever is installed, on media or among the Synchronizer's layers, and wherever a transfer is interrupted and goes on
// another way, the disk is the one that was published.
func TestAnyPath(t *testing.T) {
	rounds := 8
	if os.Getenv("DISKSYNC_SOAK") != "" {
		rounds = 200
	}
	ways := map[string]int{}
	for seed := range rounds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			for _, k := range anyPath(t, rand.New(rand.NewPCG(uint64(seed), 1))) {
				ways[k]++
			}
		})
	}
	t.Logf("%d ways: %v", len(ways), ways)
	if len(ways) < 4 || ways["interrupted"] == 0 {
		t.Error("that is not a mixture")
	}
}

func anyPath(t *testing.T, rnd *rand.Rand) (ways []string) {
	w := newWorld(t)
	n := 3 + rnd.IntN(3)
	var disks [][]byte
	seeds := []uint64{1, 2, 3, 4, 5}
	for len(disks) < n {
		for range 1 + rnd.IntN(3) {
			seeds[rnd.IntN(len(seeds))] = rnd.Uint64N(6)
		}
		if d := disk(seeds[:3+rnd.IntN(3)]...); len(disks) == 0 || !bytes.Equal(d, disks[len(disks)-1]) {
			disks = append(disks, d)
			w.version("win7", d)
		}
	}
	w.lab.Assign(w, "win7", "alice", 0)
	w.version("other", disk(seeds[4], seeds[3], 77))
	w.lab.Assign(w, "other", "alice", 0)
	w.logIn()
	if rnd.IntN(2) == 0 {
		w.run(endpoint.Request{Kind: endpoint.Download, Image: "other"})
	}
	start := image.Version(rnd.IntN(n))
	if start > 0 {
		w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7", Version: start, VM: "win7"})
	}
	r := endpoint.Request{Kind: endpoint.Download, Image: "win7", VM: "win7"}
	if start > 0 {
		r = endpoint.Request{Kind: endpoint.Update, VM: "win7"}
	}
	for range rnd.IntN(5) {
		w.disturb(rnd, n)
		r.Media = w.sticks(rnd, n, disks)
		w.cutAfter(rnd.IntN(5))
		s := w.wait(w.start(r))
		if s.State == endpoint.Finished {
			ways = append(ways, way(s.Receipt))
			break
		}
		ways = append(ways, "interrupted")
		if rnd.IntN(2) == 0 {
			w.restart()
		}
	}
	w.front.honest()
	if vm, err := w.e.VMs(); err != nil {
		t.Fatal(err)
	} else if i := slices.IndexFunc(vm, func(v endpoint.VMInfo) bool { return v.Name == "win7" }); i < 0 || int(vm[i].Version) != n {
		ways = append(ways, way(w.run(r)))
	}
	w.holds("win7", disks[n-1])
	w.run(endpoint.Request{Kind: endpoint.Verify, VM: "win7"})
	return ways
}

// disturb makes layers, or removes one.
func (w *world) disturb(rnd *rand.Rand, n int) {
	from, to := image.Version(rnd.IntN(n)), image.Version(1+rnd.IntN(n))
	if from < to {
		w.squash("win7", from, to)
	}
	im, err := w.lab.Admin.Image(w.Context(), "win7")
	if err != nil {
		w.Fatal(err)
	}
	if len(im.Layers) > 1 && rnd.IntN(3) == 0 {
		if err := w.lab.Admin.RemoveLayer(w.Context(), "win7", im.Layers[rnd.IntN(len(im.Layers))].ID); err != nil {
			w.Fatal(err)
		}
	}
}

// sticks writes some of the Synchronizer's layers, or parts of them, to a folder, some with bad places.
func (w *world) sticks(rnd *rand.Rand, n int, disks [][]byte) []string {
	files, err := filepath.Glob(filepath.Join(w.lab.Dir, "layers", "*.dsl"))
	if err != nil {
		w.Fatal(err)
	}
	dir := w.TempDir()
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil || rnd.IntN(2) == 0 {
			continue
		}
		switch rnd.IntN(4) {
		case 0:
			b = b[:len(b)/2+rnd.IntN(len(b)/2)]
		case 1:
			b[16+rnd.IntN(len(b)-16)] ^= 0x10
		}
		w.write(filepath.Join(dir, filepath.Base(name)), b)
	}
	if rnd.IntN(2) == 0 {
		return nil
	}
	return []string{dir}
}

// cutAfter breaks the line in the middle of the answer to some request for a layer, and with all that follow.
func (w *world) cutAfter(requests int) {
	var seen atomic.Int32
	w.front.answer(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.Contains(r.URL.Path, "/v1/layers/") {
			next.ServeHTTP(rw, r)
			return
		}
		switch k := int(seen.Add(1)); {
		case k > requests:
			panic(http.ErrAbortHandler)
		case k == requests:
			next.ServeHTTP(&half{ResponseWriter: rw}, r)
		default:
			next.ServeHTTP(rw, r)
		}
	})
}

// half passes on half of an answer.
type half struct {
	http.ResponseWriter
	sent int
}

func (h *half) Write(p []byte) (int, error) {
	if h.sent > 4000 {
		panic(http.ErrAbortHandler)
	}
	h.sent += len(p)
	return h.ResponseWriter.Write(p)
}

// TestTimeIsMeasured: how long an update takes is told by what earlier transfers have measured, also by a process before.
func TestTimeIsMeasured(t *testing.T) {
	const rate = 4 << 20
	w := newWorld(t)
	w.publish("win7", lab.Disk(1, 2), lab.Disk(1, 3))
	line := w.lab.Line(t, rate)
	if _, err := w.e.Register(t.Context(), line.URL, w.lab.Fingerprint, false); err != nil {
		t.Fatal(err)
	}
	if err := w.e.Login(t.Context(), "alice", lab.Password); err != nil {
		t.Fatal(err)
	}
	r := endpoint.Request{Kind: endpoint.Download, Image: "win7", Version: 1}
	p, err := w.e.Plan(t.Context(), r)
	if err != nil || p.Seconds != 0 || !slices.Contains(p.Unknown, deploy.Network) {
		t.Errorf("before: %v s, unknown: %v, %v", p.Seconds, p.Unknown, err)
	}
	w.run(r)
	w.restart()
	p, err = w.e.Plan(t.Context(), endpoint.Request{Kind: endpoint.Update})
	want := float64(p.Bytes[deploy.Network]) / rate
	if err != nil || len(p.Unknown) != 0 || p.Seconds < want/3 || p.Seconds > 10*want {
		t.Errorf("%v s for what takes %v; unknown: %v, %v", p.Seconds, want, p.Unknown, err)
	}
	w.close()
	w.write(filepath.Join(w.dir, "rates.json"), []byte("{"))
	w.open()
	if p, err = w.e.Plan(t.Context(), endpoint.Request{Kind: endpoint.Update}); err != nil || p.Seconds != 0 {
		t.Errorf("with a damaged file: %v s, %v", p.Seconds, err)
	}
}
