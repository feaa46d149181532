package synchronizer_test

import (
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	_ "modernc.org/sqlite"

	"disksync/api"
	"disksync/image"
)

// versionsOf is a house with an image of n versions, each of which changes the first of four blocks.
type versionsOf struct {
	*house
	disks  [][]byte
	states []image.State
	layers []packed
}

func newVersions(t *testing.T, n int) *versionsOf {
	h := &versionsOf{house: newHouse(t)}
	h.add(t, n)
	return h
}

func (h *versionsOf) add(t *testing.T, n int) {
	for range n {
		from := image.State{}
		if k := len(h.states); k > 0 {
			from = h.states[k-1]
		}
		d := disk(uint64(len(h.disks)+1), 101, 102, 103)
		p := h.publish(t, "golden", image.Version(len(h.disks)+1), from, d)
		h.disks, h.states, h.layers = append(h.disks, d), append(h.states, p.State), append(h.layers, p)
	}
}

// direct stores and enters the layer from one version to another; from 0 is nothing.
func (h *versionsOf) direct(t *testing.T, from, to int) packed {
	t.Helper()
	var st image.State
	if from > 0 {
		st = h.states[from-1]
	}
	p := pack(t, st, h.disks[to-1])
	h.store(t, p)
	h.must(t, "PUT", "/v1/images/golden/layers/"+p.id(), nil)
	return p
}

// told returns the layers that a caller is told of, as "from-to".
func (h *versionsOf) told(t *testing.T, token string, v int, query string) string {
	t.Helper()
	a := h.send(t, token, "GET", fmt.Sprintf("/v1/images/golden/versions/%d/layers%s", v, query), nil)
	if a.status != http.StatusOK {
		return string(a.code())
	}
	var out []string
	for _, l := range into[[]api.Layer](t, a) {
		out = append(out, fmt.Sprintf("%d-%d", l.FromVersion, l.ToVersion))
	}
	return strings.Join(out, " ")
}

// TestEdges: who is told of which layers, who may have them, and what becomes of them.
func TestEdges(t *testing.T) {
	h := newVersions(t, 4)
	h.user(t, "alice", false)
	h.user(t, "bob", false)
	h.user(t, "carol", false)
	h.assign(t, "golden", "user:alice", 0)
	h.assign(t, "golden", "user:bob", 2)
	direct, full, early := h.direct(t, 1, 4), h.direct(t, 0, 4), h.direct(t, 0, 2)
	alice, bob, carol := h.login(t, "alice", device(1)), h.login(t, "bob", device(2)), h.login(t, "carol", device(3))
	id := func(v int) string { return h.states[v-1].ID().String() }
	// On a disk of four blocks an index costs next to nothing, so that nearly everything may help.
	for _, c := range []struct {
		name, token string
		version     int
		query, want string
	}{
		{"nothing is there", alice, 4, "", "1-4 0-4 0-2"},
		{"the first version is there", alice, 4, "?have=" + id(1), "1-4 0-4 0-2"},
		{"the third one is there", alice, 4, "?have=" + id(3), "1-4 0-4 0-2"},
		{"it is there already", alice, 4, "?have=" + id(4), ""},
		{"the first is on a stick", alice, 4, "?have=" + id(3) + "&near=" + id(1), "1-4 0-4 0-2"},
		{"two are there", alice, 4, "?have=" + id(1) + "." + id(4), ""},
		{"a state of something else", alice, 4, "?have=" + strings.Repeat("ab", 32), "1-4 0-4 0-2"},
		{"an older version", alice, 2, "", "0-2"},
		{"the version that is meant", bob, 2, "", "0-2"},
		{"another than the pinned one", bob, 4, "", string(api.CodeForbidden)},
		{"nobody's", carol, 4, "", string(api.CodeNotFound)},
		{"no state", alice, 4, "?have=xyz", string(api.CodeInvalid)},
		{"too many", alice, 4, "?near=" + strings.Repeat(id(1)+".", 70) + id(1), string(api.CodeInvalid)},
		{"no such version", alice, 9, "", string(api.CodeNotFound)},
	} {
		if got := h.told(t, c.token, c.version, c.query); got != c.want {
			t.Errorf("%s: told of %q, want %q", c.name, got, c.want)
		}
	}
	for _, c := range []struct {
		name, token string
		layer       packed
		want        int
	}{
		{"direct", alice, direct, 200}, {"full", alice, full, 200}, {"early", alice, early, 200},
		{"early, pinned to 2", bob, early, 200}, {"direct to 4, pinned to 2", bob, direct, 404}, {"full 4, pinned to 2", bob, full, 404},
		{"nobody's", carol, early, 404},
	} {
		if a := h.send(t, c.token, "GET", "/v1/layers/"+c.layer.id(), nil); a.status != c.want {
			t.Errorf("%s: %v, want %d", c.name, a, c.want)
		}
	}
	if im := into[api.Image](t, h.must(t, "GET", "/v1/images/golden", nil)); len(im.Layers) != 3 || len(im.Versions) != 4 {
		t.Errorf("%+v", im)
	}
	h.must(t, "DELETE", "/v1/images/golden/layers/"+early.id(), nil)
	if a := h.send(t, bob, "GET", "/v1/layers/"+early.id(), nil); a.status != 404 {
		t.Errorf("a layer that was removed: %v", a)
	}
	if _, err := os.Stat(h.path("layers/" + early.id() + ".dsl")); err == nil {
		t.Error("its file is there")
	}
	for _, l := range []packed{early, h.layers[0]} {
		if a := h.send(t, asLocal, "DELETE", "/v1/images/golden/layers/"+l.id(), nil); a.code() != api.CodeNotFound {
			t.Errorf("removed: %v", a)
		}
	}
	h.must(t, "DELETE", "/v1/images/golden", nil)
	if left, err := filepath.Glob(h.path("layers/*")); err != nil || len(left) != 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	if left, err := filepath.Glob(h.path("states/*")); err != nil || len(left) != 0 {
		t.Errorf("states are left: %v, %v", left, err)
	}
}

// TestEdgeOfTwoImages: a layer that two images have goes with the second.
func TestEdgeOfTwoImages(t *testing.T) {
	h := newVersions(t, 3)
	h.publish(t, "copy", 1, image.State{}, h.disks[0])
	h.publish(t, "copy", 2, h.states[0], h.disks[2])
	p := h.layers[1]
	direct := pack(t, h.states[0], h.disks[2]) // a line layer of copy, an edge of golden
	h.must(t, "PUT", "/v1/images/golden/layers/"+direct.id(), nil)
	if a := h.send(t, asLocal, "PUT", "/v1/images/copy/layers/"+p.id(), nil); a.code() != api.CodeConflict {
		t.Errorf("a layer to a state that the image does not have: %v", a)
	}
	if a := h.send(t, asLocal, "PUT", "/v1/images/golden/layers/"+strings.Repeat("ab", 32), nil); a.code() != api.CodeNotFound {
		t.Errorf("a layer that is not there: %v", a)
	}
	other := h.publish(t, "other", 1, image.State{}, disk(9))
	if a := h.send(t, asLocal, "PUT", "/v1/images/golden/layers/"+other.id(), nil); a.code() != api.CodeConflict {
		t.Errorf("another image's layer: %v", a)
	}
	there := func(want bool) {
		t.Helper()
		if _, err := os.Stat(h.path("layers/" + direct.id() + ".dsl")); (err == nil) != want {
			t.Errorf("the file: %v", err)
		}
	}
	h.must(t, "DELETE", "/v1/images/copy", nil)
	there(true)
	if got := h.told(t, asLocal, 3, ""); got != "1-3" {
		t.Errorf("told of %q", got)
	}
	h.must(t, "DELETE", "/v1/images/golden", nil)
	there(false)
}

// squash asks for layers, waits until they are made, and returns what became of them.
func (h *versionsOf) squash(t *testing.T, in api.NewSquash) []api.Squash {
	t.Helper()
	h.must(t, "POST", "/v1/images/golden/squashes", in)
	h.WaitVerified()
	var out []api.Squash
	for _, q := range into[[]api.Squash](t, h.must(t, "GET", "/v1/images/golden/squashes", nil)) {
		if q.From == in.From && (q.To == in.To || in.To == 0) {
			out = append(out, q)
		}
	}
	return out
}

// TestSquash makes direct layers, and does not make those that are of no use.
func TestSquash(t *testing.T) {
	h := newVersions(t, 4)
	for _, c := range []struct {
		in          api.NewSquash
		state       api.SquashState
		path, least int // layers that it stands for
	}{
		{api.NewSquash{From: 1, To: 4}, api.SquashStored, 3, 1},
		{api.NewSquash{From: 1}, api.SquashStored, 1, 1}, // it is there
		{api.NewSquash{From: 3}, api.SquashStored, 1, 1}, // the line's own layer
		{api.NewSquash{From: 0}, api.SquashStored, 2, 4}, // over the direct layer
		{api.NewSquash{From: 2}, api.SquashStored, 2, 1}, //
		{api.NewSquash{From: 0, To: 1}, api.SquashStored, 1, 4},
	} {
		got := h.squash(t, c.in)
		if len(got) != 1 || got[0].State != c.state || got[0].PathLayers != c.path || got[0].Blocks != c.least || got[0].Role != image.System {
			t.Errorf("%+v: %+v", c.in, got)
		}
		if q := got[0]; q.Error != nil || q.Layer.IsZero() || q.Bytes <= 0 || q.PathLayers > 1 && q.Bytes >= q.PathBytes || q.Done != q.Total {
			t.Errorf("%+v: %+v", c.in, q)
		}
	}
	im := into[api.Image](t, h.must(t, "GET", "/v1/images/golden", nil))
	var got []string
	for _, l := range im.Layers {
		got = append(got, fmt.Sprintf("%d-%d", l.FromVersion, l.ToVersion))
	}
	if diff := cmp.Diff([]string{"1-4", "0-4", "2-4"}, got); diff != "" {
		t.Errorf("layers: %s", diff)
	}
	for _, c := range []struct {
		in   api.NewSquash
		want api.Code
	}{
		{api.NewSquash{From: 4, To: 4}, api.CodeInvalid}, {api.NewSquash{From: 4, To: 2}, api.CodeInvalid},
		{api.NewSquash{From: 1, To: 9}, api.CodeNotFound}, {api.NewSquash{From: 9}, api.CodeInvalid},
		{api.NewSquash{From: 1, Role: image.User}, api.CodeNotFound},
	} {
		if a := h.send(t, asLocal, "POST", "/v1/images/golden/squashes", c.in); a.code() != c.want {
			t.Errorf("%+v: %v", c.in, a)
		}
	}
	if a := h.send(t, asLocal, "POST", "/v1/images/silver/squashes", api.NewSquash{}); a.code() != api.CodeNotFound {
		t.Errorf("no such image: %v", a)
	}
	// What was there before is what is left after a crash in the middle: nothing but whole layers.
	if left, err := filepath.Glob(h.path("layers/*.tmp")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestSquashUseless: versions that change different blocks gain nothing by being put together.
func TestSquashUseless(t *testing.T) {
	h := newHouse(t)
	v := &versionsOf{house: h}
	var from image.State
	seeds := []uint64{1, 2, 3, 4}
	for i := range 3 {
		seeds[i] += 10
		from = h.publish(t, "golden", image.Version(i+1), from, disk(seeds...)).State
	}
	got := v.squash(t, api.NewSquash{From: 1})
	if len(got) != 1 || got[0].State != api.SquashUseless || got[0].Bytes == 0 || got[0].PathLayers != 2 {
		t.Errorf("%+v", got)
	}
	if im := into[api.Image](t, h.must(t, "GET", "/v1/images/golden", nil)); len(im.Layers) != 0 {
		t.Errorf("%+v", im.Layers)
	}
	got = v.squash(t, api.NewSquash{From: 1, Keep: true})
	if len(got) != 1 || got[0].State != api.SquashStored {
		t.Errorf("%+v", got)
	}
	// A disk that goes back to what it was.
	h.publish(t, "golden", 4, from, disk(11, 2, 3, 4))
	if got := v.squash(t, api.NewSquash{From: 1, To: 4}); len(got) != 1 || got[0].State != api.SquashUnchanged {
		t.Errorf("%+v", got)
	}
}

// edges lists the layers of an image besides those of the manifests.
func (h *versionsOf) edges(t *testing.T) string {
	t.Helper()
	h.WaitVerified()
	var out []string
	for _, l := range into[api.Image](t, h.must(t, "GET", "/v1/images/golden", nil)).Layers {
		out = append(out, fmt.Sprintf("%d-%d", l.FromVersion, l.ToVersion))
	}
	return strings.Join(out, " ")
}

// TestPolicy: full images when the line gets long, direct layers for sticks, and neither when that is off or saves little.
func TestPolicy(t *testing.T) {
	h := newVersions(t, 3)
	if p := into[api.Policy](t, h.must(t, "GET", "/v1/images/golden/policy", nil)); p != api.DefaultPolicy() {
		t.Errorf("%+v", p)
	}
	h.must(t, "PUT", "/v1/images/golden/versions/1/media", nil)
	h.add(t, 4)
	if got := h.edges(t); got != "" {
		t.Errorf("what saves little was made: %s", got)
	}
	h.must(t, "PUT", "/v1/images/golden/policy", api.Policy{FullFactor: 2, Direct: true, LeastSaving: 1000})
	if got := h.edges(t); got != "0-7 1-7" && got != "1-7 0-7" {
		t.Errorf("made: %s", got)
	}
	h.add(t, 1)
	if got := h.edges(t); got != "0-7 1-7 1-8" && got != "1-7 0-7 1-8" {
		t.Errorf("made for the next: %s", got)
	}
	h.must(t, "PUT", "/v1/images/golden/policy", api.Policy{})
	h.add(t, 3)
	if got := h.edges(t); strings.Contains(got, "11") {
		t.Errorf("made though it is off: %s", got)
	}
	h.assign(t, "golden", "user:"+func() string { h.user(t, "pinned", false); return "pinned" }(), 7)
	h.must(t, "PUT", "/v1/images/golden/policy", api.Policy{Direct: true, LeastSaving: 1000})
	h.add(t, 2)
	// Of those from version 1 the last two, and the one that somebody is tied to.
	if got := h.edges(t); !strings.Contains(got, "1-13") || !strings.Contains(got, "1-12") || !strings.Contains(got, "1-7") || strings.Contains(got, "1-8") || strings.Contains(got, "1-11") {
		t.Errorf("kept: %s", got)
	}
	// A new process goes on where the last one was cut off.
	h.must(t, "PUT", "/v1/images/golden/versions/5/media", nil)
	h.restart(t)
	if got := h.edges(t); !strings.Contains(got, "5-13") {
		t.Errorf("after a restart: %s", got)
	}
	for _, p := range []api.Policy{{FullFactor: 0.5}, {FullFactor: -1}, {FullFactor: 1e9}, {LeastSaving: -1}} {
		if a := h.send(t, asLocal, "PUT", "/v1/images/golden/policy", p); a.code() != api.CodeInvalid {
			t.Errorf("%+v: %v", p, a)
		}
	}
	if a := h.send(t, asLocal, "PUT", "/v1/images/silver/policy", api.Policy{}); a.code() != api.CodeNotFound {
		t.Errorf("of no image: %v", a)
	}
	if a := h.send(t, asLocal, "PUT", "/v1/images/golden/versions/99/media", nil); a.code() != api.CodeNotFound {
		t.Errorf("a medium with no version: %v", a)
	}
}

// TestSquashFails: what goes wrong there harms nothing else.
func TestSquashFails(t *testing.T) {
	h := newVersions(t, 3)
	h.must(t, "PUT", "/v1/images/golden/policy", api.Policy{FullFactor: 1, Direct: true, LeastSaving: 1})
	h.edges(t)
	name := h.path("layers/" + h.layers[0].id() + ".dsl")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	h.must(t, "PUT", "/v1/images/golden/versions/1/media", nil)
	for _, l := range into[api.Image](t, h.must(t, "GET", "/v1/images/golden", nil)).Layers {
		h.must(t, "DELETE", "/v1/images/golden/layers/"+l.ID.String(), nil)
	}
	h.add(t, 2) // publishing goes on
	got := h.squash(t, api.NewSquash{From: 0})
	if len(got) == 0 || got[len(got)-1].State != api.SquashFailed || got[len(got)-1].Error == nil {
		t.Errorf("%+v", got)
	}
	if left, err := filepath.Glob(h.path("layers/*.tmp")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if im := into[api.Image](t, h.must(t, "GET", "/v1/images/golden", nil)); len(im.Versions) != 5 {
		t.Errorf("%d versions", len(im.Versions))
	}
}

// TestUpgrade opens a data folder of the first release.
func TestUpgrade(t *testing.T) {
	h := newVersions(t, 2)
	h.close(t)
	db, err := sql.Open("sqlite", h.path("synchronizer.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `DROP TRIGGER policy_changed; DROP TRIGGER version_rewritten; DROP TABLE version_infos; DROP TABLE point_infos; DROP TABLE line_layers;
		DROP TABLE had; DROP TABLE checks; DROP TABLE user_layers; DROP TABLE point_layers; DROP TABLE points; DROP TABLE lines;
		DROP TABLE edges; DROP TABLE media; DROP TABLE media_keys; DROP INDEX layers_to_state; ALTER TABLE images DROP COLUMN policy; ALTER TABLE layers DROP COLUMN sealed;
		PRAGMA user_version = 1`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	h.open(t)
	h.add(t, 2)
	if got := h.squash(t, api.NewSquash{From: 1}); len(got) != 1 || got[0].State != api.SquashStored {
		t.Errorf("%+v", got)
	}
	h.restart(t)
	if got := h.edges(t); got != "1-4" {
		t.Errorf("layers: %s", got)
	}
}
