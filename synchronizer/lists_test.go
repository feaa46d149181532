package synchronizer_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"disksync/api"
	"disksync/image"
	"disksync/synchronizer"
)

// query asks the catalog for one value.
func query[T any](t *testing.T, h *house, text string, args ...any) T {
	t.Helper()
	var v T
	if err := h.Query(t.Context(), &v, text, args...); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

// exec changes the catalog behind the Synchronizer's back.
func (h *house) exec(t *testing.T, text string, args ...any) {
	t.Helper()
	if err := h.Exec(t.Context(), text, args...); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// described says what lists are to show of a manifest's disks.
func (h *house) described(t *testing.T, m *image.Manifest) []api.DiskInfo {
	t.Helper()
	var out []api.DiskInfo
	for _, d := range m.Disks {
		last := d.Layers[len(d.Layers)-1]
		out = append(out, api.DiskInfo{Role: d.Role, Size: d.Size, State: d.State, Layer: last.ID, Bytes: last.Length, Full: len(d.Layers) == 1,
			VHDUUIDs: last.VHDUUIDs, Blocks: query[int](t, h, "SELECT blocks FROM layers WHERE id = ?", last.ID.String())})
	}
	return out
}

// checkLists compares what lists say with the manifests, and with the slow ways to find it out.
func (w *writer) checkLists(t *testing.T) {
	t.Helper()
	id := w.line.ID.String()
	want := into[api.BackupLine](t, w.send(t, w.alice, "GET", "/v1/backups/"+id, nil))
	var numbers []image.Version
	damaged := 0
	for i := range want.Points {
		p := &want.Points[i]
		numbers = append(numbers, p.Point)
		m := w.manifest(t, p.Point)
		b := api.BackupPoint{Point: m.Version, Created: m.Created, Version: m.Point.Version, Consistency: m.Point.Consistency, Note: m.Note, Disks: w.described(t, m)}
		if good := query[string](t, w.house, `SELECT MIN(COALESCE(c.good, '')) FROM point_layers p LEFT JOIN checks c ON c.layer = p.layer
			WHERE p.line = ? AND p.point = ?`, id, p.Point); good != "" {
			var err error
			if b.Verified, err = time.Parse(time.RFC3339Nano, good); err != nil {
				t.Fatal(err)
			}
		}
		b.Damaged = query[string](t, w.house, `SELECT MAX(CASE WHEN COALESCE(c.damaged, '') = '' THEN '' WHEN p.own THEN c.damaged
			ELSE 'in the content of the image: ' || c.damaged END)
			FROM point_layers p LEFT JOIN checks c ON c.layer = p.layer WHERE p.line = ? AND p.point = ?`, id, p.Point)
		if b.Damaged != "" {
			damaged++
		}
		if diff := cmp.Diff(b, *p); diff != "" {
			t.Errorf("point %d (-manifest +list):\n%s", p.Point, diff)
		}
	}
	bytes := query[int64](t, w.house, `SELECT COALESCE(SUM(length), 0) FROM layers WHERE id IN (SELECT layer FROM point_layers WHERE line = ?1 AND own)
		AND id NOT IN (SELECT layer FROM point_layers WHERE line <> ?1) AND id NOT IN (SELECT layer FROM version_layers)`, id)
	if want.Bytes != bytes || want.Count != len(numbers) || want.Damaged != damaged {
		t.Errorf("the line has %d bytes, %d points, %d damaged, want %d, %d, %d", want.Bytes, want.Count, want.Damaged, bytes, len(numbers), damaged)
	}
	one := func(path, token string) api.BackupLine {
		lines := into[[]api.BackupLine](t, w.send(t, token, "GET", path, nil))
		i := slices.IndexFunc(lines, func(l api.BackupLine) bool { return l.ID == w.line.ID })
		if i < 0 {
			t.Fatalf("%s has no line %s", path, id)
		}
		return lines[i]
	}
	if diff := cmp.Diff(want, one("/v1/backups", w.alice)); diff != "" {
		t.Errorf("the list (-line +list):\n%s", diff)
	}
	want.Points = want.Points[max(0, len(want.Points)-1):]
	for path, token := range map[string]string{"/v1/backups?points=newest": w.alice, "/v1/backups?all=1": asLocal, "/v1/backups?user=alice": asLocal} {
		if diff := cmp.Diff(want, one(path, token)); diff != "" {
			t.Errorf("%s (-line +list):\n%s", path, diff)
		}
	}
	for _, off := range []string{
		`SELECT COUNT(*) FROM (SELECT line, layer, COUNT(*), SUM(own) FROM point_layers GROUP BY line, layer EXCEPT SELECT line, layer, points, own FROM line_layers)`,
		`SELECT COUNT(*) FROM (SELECT line, layer, points, own FROM line_layers EXCEPT SELECT line, layer, COUNT(*), SUM(own) FROM point_layers GROUP BY line, layer)`,
		`SELECT COUNT(*) FROM points p LEFT JOIN point_infos i ON i.line = p.line AND i.point = p.point WHERE i.created IS NOT p.created`,
		`SELECT (SELECT COUNT(*) FROM point_infos) - (SELECT COUNT(*) FROM points)`,
	} {
		if n := query[int](t, w.house, off); n != 0 {
			t.Errorf("%d rows: %s", n, off)
		}
	}
}

// checkVersions is checkLists for the image golden.
func (w *writer) checkVersions(t *testing.T) {
	t.Helper()
	im := into[api.Image](t, w.must(t, "GET", "/v1/images/golden", nil))
	if all := into[[]api.Image](t, w.must(t, "GET", "/v1/images", nil)); len(all) != 1 || cmp.Diff(im, all[0]) != "" {
		t.Errorf("%+v", all)
	}
	var newest *image.Manifest
	for _, v := range im.Versions {
		newest = w.house.manifest(t, asLocal, "golden", fmt.Sprint(v.Version))
		want := api.VersionInfo{Version: newest.Version, Created: newest.Created, Note: newest.Note, Disks: w.described(t, newest)}
		if diff := cmp.Diff(want, v); diff != "" {
			t.Errorf("version %d (-manifest +list):\n%s", v.Version, diff)
		}
	}
	offers := into[[]api.Offer](t, w.send(t, w.alice, "GET", "/v1/offers", nil))
	want := []api.Offer{{Image: "golden", ImageID: newest.ImageID, Version: newest.Version, Newest: newest.Version, Mode: newest.Mode, Size: newest.Size(),
		Note: newest.Note, Created: newest.Created}}
	if diff := cmp.Diff(want, offers); diff != "" {
		t.Errorf("offers (-manifest +list):\n%s", diff)
	}
}

// TestListsAreManifests: whatever happens to points and versions, lists say of them what their manifests say, in which each path is found
// anew; also when they have to open the manifests because nothing else is there.
func TestListsAreManifests(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		w := newWriter(t, seed+10)
		other := w.openLine(t, w.alice, "golden", 2)
		golden, version := small(1, 2, 3), image.Version(1)
		for range 14 {
			w.clock.advance(time.Minute)
			switch w.r.IntN(8) {
			case 0:
				w.remove(t)
			case 1:
				next := small(1, 2, byte(w.r.IntN(200)), byte(version))
				p := packOn(t, stateOf(golden), golden, next)
				w.store(t, p)
				version++
				in := seal(version, p)
				in.Note = fmt.Sprintf("number %d", version)
				w.must(t, "POST", "/v1/images/golden/versions", in)
				golden = next
			case 2:
				w.exec(t, "UPDATE checks SET damaged = CASE damaged WHEN '' THEN 'a test' ELSE '' END WHERE layer IN (SELECT layer FROM checks ORDER BY RANDOM() LIMIT 1)")
			case 3:
				w.exec(t, "UPDATE checks SET good = '' WHERE layer IN (SELECT layer FROM checks ORDER BY RANDOM() LIMIT 1)")
			case 4:
				// Another line with the same layer.
				if n := query[int](t, w.house, "SELECT newest FROM lines WHERE id = ?", other.ID.String()); w.next > 1 {
					in := sealPoint(image.Version(n+1), packed{})
					in.Disks[0] = api.PointDisk{Role: image.System, State: stateOf(w.now[image.System]).ID()}
					into[api.BackupPoint](t, w.send(t, w.alice, "POST", points(other), in))
				}
			default:
				w.point(t)
			}
			w.WaitVerified()
			w.checkLists(t)
			w.checkVersions(t)
		}
		before := w.send(t, w.alice, "GET", "/v1/backups", nil).String()
		w.exec(t, "DELETE FROM point_infos")
		w.exec(t, "DELETE FROM version_infos")
		if got := w.send(t, w.alice, "GET", "/v1/backups", nil).String(); got != before {
			t.Errorf("by the manifests %s, by the catalog %s", got, before)
		}
		w.checkVersions(t)
		w.exec(t, "UPDATE checks SET damaged = ''")
		w.restart(t)
		w.WaitVerified()
		w.checkLists(t)
		w.must(t, "DELETE", "/v1/backups/"+other.ID.String(), nil)
		w.checkLists(t)
		w.must(t, "DELETE", "/v1/users/alice", nil)
		for _, table := range []string{"points", "point_infos", "line_layers", "point_layers"} {
			if n := query[int](t, w.house, "SELECT COUNT(*) FROM "+table); n != 0 {
				t.Errorf("%d rows are left in %s", n, table)
			}
		}
	}
}

// TestUpgradeOfLists opens a catalog that an earlier release made, with a manifest in it that cannot be read.
func TestUpgradeOfLists(t *testing.T) {
	t.Parallel()
	dir, token := oldHouse(t, 3, 70)
	h := &house{dir: dir, clock: &clock{t: time.Now()}}
	h.open(t)
	defer func() { h.close(t) }()
	h.WaitVerified()
	lines := into[[]api.BackupLine](t, h.send(t, token, "GET", "/v1/backups", nil))
	for _, l := range lines {
		if l.Count != 70 || len(l.Points) != 70 || l.Bytes != 70<<20 || l.Points[69].Disks[0].Blocks != 102 || l.Points[69].Verified.IsZero() {
			t.Errorf("%s: %d points, %d bytes", l.Name, l.Count, l.Bytes)
		}
	}
	if n := query[int](t, h, "SELECT COUNT(*) FROM point_infos"); n != 210 || len(lines) != 3 {
		t.Errorf("%d points of %d lines are described", n, len(lines))
	}
	// The rewriting of a manifest leaves nothing behind that was said of the former.
	bad := lines[1].ID.String()
	h.exec(t, "UPDATE points SET manifest = substr(manifest, 2) WHERE line = ? AND point = 7", bad)
	h.restart(t)
	h.WaitVerified()
	if n := query[int](t, h, "SELECT COUNT(*) FROM point_infos"); n != 209 {
		t.Errorf("%d points are described", n)
	}
	// It is listed as damaged, and nothing else is kept back for it.
	want := lines[1]
	want.Points, want.Damaged = slices.Clone(want.Points), 1
	want.Points[6] = api.BackupPoint{Point: 7, Created: want.Points[6].Created.Truncate(time.Millisecond), Consistency: image.CrashConsistent, Disks: []api.DiskInfo{}}
	got := into[api.BackupLine](t, h.send(t, token, "GET", "/v1/backups/"+bad, nil))
	if len(got.Points) == 70 && strings.HasPrefix(got.Points[6].Damaged, "manifest ") {
		got.Points[6].Damaged = ""
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the line with the damaged manifest (-want +got):\n%s", diff)
	}
	for _, path := range []string{"/v1/backups/" + lines[0].ID.String(), "/v1/backups", "/v1/backups?points=newest", "/v1/offers"} {
		if a := h.send(t, token, "GET", path, nil); a.status != http.StatusOK {
			t.Errorf("%s: %v", path, a)
		}
	}
	// A description that cannot be read is none.
	h.exec(t, "UPDATE points SET manifest = '{' || manifest WHERE line = ? AND point = 7", bad)
	h.exec(t, "UPDATE point_infos SET info = '{' WHERE line = ? AND point = 8", bad)
	h.exec(t, "UPDATE version_infos SET info = ''")
	if diff := cmp.Diff(lines, into[[]api.BackupLine](t, h.send(t, token, "GET", "/v1/backups", nil))); diff != "" {
		t.Errorf("by some manifests (-before +after):\n%s", diff)
	}
	if a := h.send(t, token, "GET", "/v1/offers", nil); a.status != http.StatusOK {
		t.Error(a)
	}
}

// TestManifestsAreOpened: a manifest that is damaged after it was described is found by who looks for damage, and by itself within a month.
func TestManifestsAreOpened(t *testing.T) {
	t.Parallel()
	dir, token := oldHouse(t, 1, 5)
	h := &house{dir: dir, clock: &clock{t: time.Now()}}
	h.open(t)
	defer func() { h.close(t) }()
	h.WaitVerified()
	damaged := func(when, path string, n int) {
		t.Helper()
		l := into[api.BackupLine](t, h.send(t, token, "GET", path, nil))
		found := 0
		for _, p := range l.Points {
			if strings.HasPrefix(p.Damaged, "manifest ") { // and not its layers, which are not there
				found++
			}
		}
		if found != n || len(l.Points) != 5 {
			t.Errorf("%s: the manifests of %d of %d points are damaged, want %d of 5", when, found, len(l.Points), n)
		}
	}
	line := "/v1/backups/" + into[[]api.BackupLine](t, h.send(t, token, "GET", "/v1/backups", nil))[0].ID.String()
	h.exec(t, "DROP TRIGGER point_rewritten") // rot tells nobody
	h.exec(t, "DROP TRIGGER version_rewritten")
	damage := func(text string) { h.exec(t, "UPDATE "+text) }
	damage("points SET manifest = substr(manifest, 2) WHERE point = 2")
	damaged("before anybody looks", line, 0)
	h.must(t, "POST", line+"/verify", nil)
	h.WaitVerified()
	damaged("after it was looked for", line, 1)
	damage("points SET manifest = '{' || manifest WHERE point = 2")
	damaged("when it is whole again", line, 0)
	damage("points SET manifest = substr(manifest, 2) WHERE point = 3")
	damage("versions SET manifest = substr(manifest, 2)")
	h.KeepHouse()
	h.WaitVerified()
	damaged("at once", line, 0)
	if a := h.send(t, token, "GET", "/v1/offers", nil); a.status != http.StatusOK {
		t.Errorf("offers at once: %v", a)
	}
	h.clock.advance(synchronizer.CheckEvery + time.Hour)
	h.exec(t, "UPDATE tokens SET expires = expires + 9999999")
	h.KeepHouse()
	h.WaitVerified()
	damaged("after a month", line, 1)
	if a := h.send(t, token, "GET", "/v1/offers", nil); a.code() != api.CodeInternal {
		t.Errorf("offers after a month: %v", a)
	}
}

// TestListBounds: a list that is too long is refused with what to ask for, and can be had in parts.
func TestListBounds(t *testing.T) {
	v := newVault(t)
	one := v.backUp(t, 1, v.golden.State, disk(1, 20, 3))
	v.backUp(t, 2, one.State, disk(1, 21, 3))
	for vm := range byte(4) {
		v.openLine(t, v.alice, "golden", vm+2)
	}
	ask := func(path, token string, code api.Code, n int) []api.BackupLine {
		t.Helper()
		a := v.send(t, token, "GET", path, nil)
		if a.code() != code {
			t.Fatalf("%s: %v, want %q", path, a, code)
		}
		if code != "" {
			return nil
		}
		lines := into[[]api.BackupLine](t, a)
		if len(lines) != n {
			t.Errorf("%s: %d lines, want %d", path, len(lines), n)
		}
		return lines
	}
	v.SetListed(2, 2)
	ask("/v1/backups", v.alice, "", 5)
	ask("/v1/backups?all=1", asLocal, api.CodeTooLarge, 0)
	v.SetListed(1, 2)
	ask("/v1/backups", v.alice, api.CodeTooLarge, 0)
	ask("/v1/backups?points=newest", v.alice, "", 5)
	ask("/v1/backups?points=2", v.alice, api.CodeInvalid, 0)
	ask("/v1/backups?user=alice", v.alice, api.CodeForbidden, 0)
	ask("/v1/backups?after=00000000-0000-0000-0000-000000000000", v.alice, api.CodeForbidden, 0)
	ask("/v1/backups?user=bob", asLocal, "", 0)
	ask("/v1/backups?after=x", asLocal, api.CodeInvalid, 0)
	seen := map[image.UUID]bool{}
	var after image.UUID
	for _, n := range []int{2, 2, 1, 0} {
		for _, l := range ask("/v1/backups?all=1&after="+after.String(), asLocal, "", n) {
			seen[l.ID], after = true, l.ID
		}
	}
	if len(seen) != 5 {
		t.Errorf("pages have %d lines", len(seen))
	}
}

// TestLastSeen: polling writes when the device was seen only now and then.
func TestLastSeen(t *testing.T) {
	v := newVault(t)
	seen := func() string { return query[string](t, v.house, "SELECT last_seen FROM devices") }
	poll := func(after time.Duration) {
		t.Helper()
		v.clock.advance(after)
		if a := v.send(t, v.alice, "GET", "/v1/offers", nil); a.status != http.StatusOK {
			t.Fatal(a)
		}
	}
	poll(2 * synchronizer.SeenEvery)
	first := seen()
	poll(synchronizer.SeenEvery - time.Second)
	if got := seen(); got != first {
		t.Errorf("written at once: %s, %s", first, got)
	}
	poll(time.Second)
	second := seen()
	if second <= first {
		t.Errorf("not written after %v", synchronizer.SeenEvery)
	}
	poll(-time.Hour) // the clock is set back
	if got := seen(); got >= second {
		t.Errorf("not written by a clock that was set back: %s, %s", second, got)
	}
}

// TestTidiedWhenChanged: the hour's round leaves lines alone that nothing changed for, and finds all others.
func TestTidiedWhenChanged(t *testing.T) {
	w := newWriter(t, 5)
	at := func() int { return query[int](t, w.house, "SELECT changes - tidied FROM lines") }
	points := func(want int) {
		t.Helper()
		w.KeepHouse()
		w.WaitVerified()
		if n := query[int](t, w.house, "SELECT COUNT(*) FROM points"); n != want {
			t.Errorf("%d points, want %d", n, want)
		}
		if at() != 0 {
			t.Error("the line is not tidied up")
		}
	}
	for range 4 {
		w.point(t)
		w.clock.advance(time.Minute)
	}
	points(4)
	// What the round would do cannot be done behind its back.
	for _, table := range []string{"points", "point_infos"} {
		w.exec(t, "UPDATE "+table+" SET created = '2020-01-01T00:00:00.000Z' WHERE point < 4")
	}
	p := api.DefaultPolicy()
	p.Backup = &api.BackupPolicy{Manual: true, Hourly: 1}
	w.exec(t, "UPDATE lines SET tidied = changes + 1")
	w.must(t, "PUT", "/v1/images/golden/policy", p) // one change, so that the line is as it was
	points(4)
	p.Backup.Daily = 1
	w.must(t, "PUT", "/v1/images/golden/policy", p)
	points(1)
	// Young points go when they have grown older, though nothing else changes.
	for range 3 {
		w.clock.advance(time.Minute)
		w.point(t)
	}
	points(4)
	w.clock.advance(57 * time.Minute)
	points(3)
	w.clock.advance(time.Hour)
	points(1)
	// What is damaged stays, until it is known to be good.
	w.exec(t, "UPDATE checks SET damaged = 'a test' WHERE layer IN (SELECT layer FROM line_layers)")
	if at() == 0 {
		t.Error("damage is no change")
	}
	w.clock.advance(time.Hour)
	w.point(t)
	w.clock.advance(2 * time.Hour)
	points(2)
	w.exec(t, "UPDATE checks SET damaged = ''")
	points(1)
}
