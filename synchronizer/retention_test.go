package synchronizer_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"disksync/api"
	"disksync/image"
	"disksync/internal/faultfs"
	"disksync/layer"
	"disksync/synchronizer"
)

// manifest returns a point's manifest as its user gets it.
func (v *vault) manifest(t *testing.T, n image.Version) *image.Manifest {
	t.Helper()
	a := v.send(t, v.alice, "GET", fmt.Sprintf("%s/%d/manifest", points(v.line), n), nil)
	m, err := image.VerifyManifest(a.body, v.SigningKey())
	if err != nil {
		t.Fatalf("point %d: %v: %v", n, a, err)
	}
	return m.Manifest()
}

// build makes the disk of a manifest from the layers that it names, as they are given to alice.
func (v *vault) build(t *testing.T, d image.Disk) []byte {
	t.Helper()
	key := ""
	for _, l := range d.Layers {
		key += l.ID.String()
		if a := v.send(t, v.alice, "HEAD", "/v1/layers/"+l.ID.String(), nil); a.status != http.StatusOK {
			t.Fatalf("layer %s: %v", l.ID.Short(), a)
		}
	}
	if b, ok := v.built[key]; ok {
		return b
	}
	var path []layer.Source
	for _, l := range d.Layers {
		a := v.send(t, v.alice, "GET", "/v1/layers/"+l.ID.String(), nil)
		if a.status != http.StatusOK {
			t.Fatalf("layer %s: %v", l.ID.Short(), a)
		}
		x, err := layer.ReadIndex(bytes.NewReader(a.body), int64(len(a.body)))
		if err != nil {
			t.Fatal(err)
		}
		path = append(path, layer.Source{Index: x, R: bytes.NewReader(a.body)})
	}
	r, err := layer.NewReader(path, new(room))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b := make([]byte, r.Size())
	if _, err := io.ReadFull(io.NewSectionReader(r, 0, r.Size()), b); err != nil {
		t.Fatal(err)
	}
	if v.built != nil {
		v.built[key] = b
	}
	return b
}

// room is memory for unpacked blocks.
type room struct {
	mu sync.Mutex
	b  []byte
}

func (r *room) WriteAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if end := int(off) + len(p); end > len(r.b) {
		r.b = append(r.b, make([]byte, end-len(r.b))...)
	}
	return copy(r.b[off:], p), nil
}

func (r *room) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.NewReader(r.b).ReadAt(p, off)
}

// written is what a point was made of: its disks by role.
type written map[image.Role][]byte

// checkPoints builds all points of alice's line and compares them with what was backed up.
func (v *vault) checkPoints(t *testing.T, want map[image.Version]written) {
	t.Helper()
	line := into[api.BackupLine](t, v.send(t, v.alice, "GET", "/v1/backups/"+v.line.ID.String(), nil))
	var got []image.Version
	for _, p := range line.Points {
		got = append(got, p.Point)
		if p.Damaged != "" || p.Verified.IsZero() {
			t.Errorf("point %d: %+v", p.Point, p)
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), got); diff != "" {
		t.Fatalf("points (-want +got):\n%s", diff)
	}
	for n, disks := range want {
		m := v.manifest(t, n)
		if len(m.Disks) != len(disks) {
			t.Errorf("point %d: %d disks", n, len(m.Disks))
		}
		for _, d := range m.Disks {
			if !bytes.Equal(v.build(t, d), disks[d.Role]) {
				t.Errorf("point %d: the %s disk is another one", n, d.Role)
			}
		}
	}
}

// packOn is pack with frames that hold differences.
func packOn(t *testing.T, from image.State, old, disk []byte) packed {
	t.Helper()
	var b bytes.Buffer
	o := layer.EncodeOptions{Level: 1, Workers: 1, Near: true}
	if old != nil {
		o.FromDisk = bytes.NewReader(old)
	}
	res, err := layer.Encode(t.Context(), &b, from, memDisk(disk), o)
	if err != nil {
		t.Fatal(err)
	}
	return packed{res, res.Index.ID(), b.Bytes()}
}

// stateOf returns the state of a disk.
func stateOf(disk []byte) image.State {
	st := image.State{Size: int64(len(disk)), Blocks: make([]image.Digest, image.BlockCount(int64(len(disk))))}
	block := make([]byte, image.BlockSize)
	for i := range st.Blocks {
		clear(block[copy(block, disk[i*image.BlockSize:]):])
		st.Blocks[i] = image.SumBlock(block)
	}
	return st
}

// small returns a disk of a few blocks with hardly anything in them.
func small(seeds ...byte) []byte {
	d := make([]byte, len(seeds)*image.BlockSize)
	for i, s := range seeds {
		for at := range 64 {
			d[i*image.BlockSize+at*517] = s + byte(at)*s
		}
	}
	return d
}

// writer makes points that change at random.
type writer struct {
	*vault
	r    *rand.Rand
	want map[image.Version]written
	now  written
	next image.Version
}

// point makes the next point from the one before.
func (w *writer) point(t *testing.T) {
	t.Helper()
	next := written{}
	in := api.SealPoint{Point: w.next, Version: 1, Consistency: image.CrashConsistent}
	for _, role := range []image.Role{image.System, image.User} {
		old, ok := w.now[role]
		if !ok && role == image.System {
			old = small(1, 2, 3)
		}
		d := bytes.Clone(old)
		if old == nil || w.r.IntN(4) > 0 {
			if old == nil {
				d = small(4, 5)
			}
			if w.r.IntN(5) == 0 {
				d = append(d, small(byte(w.r.IntN(3)))...)
			}
			block := w.r.IntN(len(d) / image.BlockSize)
			copy(d[block*image.BlockSize:], small(byte(w.r.IntN(4)))) // which it may have been before
		}
		pd := api.PointDisk{Role: role, State: stateOf(d).ID()}
		if !bytes.Equal(d, old) || old == nil {
			var from image.State
			if old != nil {
				from = stateOf(old)
			}
			p := packOn(t, from, old, d)
			if u := w.uploadAs(t, w.alice, p); u.State != api.Stored {
				t.Fatalf("upload: %+v %v", u, u.Error)
			}
			pd.Layer = p.name
		}
		in.Disks = append(in.Disks, pd)
		next[role] = d
	}
	into[api.BackupPoint](t, w.send(t, w.alice, "POST", points(w.line), in))
	w.want[w.next], w.now = next, next
	w.next++
}

// remove deletes a point other than the newest.
func (w *writer) remove(t *testing.T) {
	t.Helper()
	all := slices.Sorted(maps.Keys(w.want))
	if len(all) < 2 {
		return
	}
	n := all[w.r.IntN(len(all)-1)]
	w.must(t, "DELETE", fmt.Sprintf("%s/%d", points(w.line), n), nil)
	delete(w.want, n)
}

func newWriter(t *testing.T, seed uint64) *writer {
	t.Helper()
	v := &vault{house: newHouse(t)}
	v.user(t, "alice", false)
	v.publish(t, "golden", 1, image.State{}, small(1, 2, 3))
	v.assign(t, "golden", "user:alice", 0)
	v.alice = v.login(t, "alice", device(1))
	v.line = v.openLine(t, v.alice, "golden", 1)
	return &writer{v, rand.New(rand.NewPCG(seed, 1)), map[image.Version]written{}, written{}, 1}
}

// TestPointsStayExact: whichever points are deleted, and whenever the Synchronizer is stopped, all others are what was backed up, and in
// the end nothing is left that none of them needs.
func TestPointsStayExact(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		w := newWriter(t, seed)
		w.built = map[string][]byte{}
		for range 12 {
			w.clock.advance(time.Hour)
			switch w.r.IntN(5) {
			case 0, 1:
				w.remove(t)
			default:
				w.point(t)
			}
			switch w.r.IntN(4) {
			case 0:
				w.restart(t) // in the middle of whatever it does
			case 1:
				w.WaitVerified()
			}
			w.checkPoints(t, w.want)
		}
		w.KeepHouse()
		w.WaitVerified()
		w.clock.advance(synchronizer.UserLayerLife + time.Hour)
		w.KeepHouse()
		w.WaitVerified()
		w.built = nil
		w.checkPoints(t, w.want)
		w.nothingElse(t)
	}
}

// nothingElse fails the test when there are layers that no version and no point needs, or points need states that have gone.
func (w *writer) nothingElse(t *testing.T) {
	t.Helper()
	want := map[string]bool{}
	stays := map[image.StateID]bool{stateOf(small(1, 2, 3)).ID(): true}
	for n := range w.want {
		for _, d := range w.manifest(t, n).Disks {
			stays[d.State] = true
		}
	}
	for n := range w.want {
		for _, d := range w.manifest(t, n).Disks {
			for _, l := range d.Layers {
				want[l.ID.String()+".dsl"] = true
				if !stays[l.To] {
					t.Errorf("point %d is reached over a state that is no point's", n)
				}
			}
		}
	}
	a := w.must(t, "GET", "/v1/images/golden", nil)
	want[into[api.Image](t, a).Versions[0].Disks[0].Layer.String()+".dsl"] = true
	var got []string
	names, err := filepath.Glob(w.path("layers/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		got = append(got, filepath.Base(name))
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	var rows int
	if err := w.Query(t.Context(), &rows, "SELECT COUNT(*) FROM layers"); err != nil || rows != len(want) {
		t.Errorf("the catalog has %d layers, want %d: %v", rows, len(want), err)
	}
}

// TestJoinFaults fails, and cuts the power, at every step of what follows the deletion of a point.
func TestJoinFaults(t *testing.T) {
	t.Parallel()
	disks := [][]byte{small(1), small(7), small(8), small(9)}
	// start makes a line of three points on golden.
	start := func(t *testing.T, fsys *faultfs.FS) *vault {
		v := &vault{house: &house{dir: t.TempDir(), clock: &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}}}
		v.openOn(t, fsys)
		v.user(t, "alice", false)
		v.publish(t, "golden", 1, image.State{}, disks[0])
		v.assign(t, "golden", "user:alice", 0)
		v.alice = v.login(t, "alice", device(1))
		v.line = v.openLine(t, v.alice, "golden", 1)
		for i := range 3 {
			p := packOn(t, stateOf(disks[i]), disks[i], disks[i+1])
			v.uploadAs(t, v.alice, p)
			into[api.BackupPoint](t, v.send(t, v.alice, "POST", points(v.line), sealPoint(image.Version(i+1), p)))
		}
		v.WaitVerified()
		return v
	}
	left := map[image.Version]written{1: {image.System: disks[1]}, 3: {image.System: disks[3]}}
	run := func(t *testing.T, v *vault) {
		v.must(t, "DELETE", points(v.line)+"/2", nil)
		v.WaitVerified()
	}
	before := faultfs.New()
	first := start(t, before)
	first.close(t)
	// again returns a copy of how things were then.
	again := func(t *testing.T, fsys *faultfs.FS) *vault {
		v := &vault{house: &house{dir: t.TempDir(), clock: first.clock}, alice: first.alice, line: first.line}
		if err := os.CopyFS(v.dir, os.DirFS(first.dir)); err != nil {
			t.Fatal(err)
		}
		v.openOn(t, fsys)
		v.WaitVerified()
		return v
	}
	count := before.Clone()
	v := again(t, count)
	count.Arm(0, faultfs.None)
	run(t, v)
	v.close(t)
	steps := count.Steps()
	if steps < 5 {
		t.Fatalf("%d steps", steps)
	}
	if bad := count.UnsafeRenames(); len(bad) > 0 {
		t.Errorf("named before synced: %v", bad)
	}
	for step := 1; step <= steps; step++ {
		others := []faultfs.Fault{faultfs.FailBefore, faultfs.FailAfter, faultfs.NoSpace}
		for i, fault := range []faultfs.Fault{others[step%3], faultfs.PowerLoss} {
			fsys := before.Clone()
			v := again(t, fsys)
			fsys.Arm(step, fault)
			run(t, v)
			if !fsys.Fired() {
				t.Fatalf("step %d was not reached", step)
			}
			keep := []float64{0, 0.5, 1}[(step+i)%3]
			if err := v.Reboot(fsys.Restart(keep, rand.New(rand.NewPCG(uint64(step), uint64(i))))); err != nil {
				t.Fatal(err)
			}
			v.checkPoints(t, left)
			v.KeepHouse()
			v.WaitVerified()
			v.checkPoints(t, left)
			if n := len(v.manifest(t, 3).Disks[0].Layers); n != 3 {
				t.Errorf("step %d, fault %d: point 3 has %d layers", step, fault, n)
			}
			v.close(t)
		}
	}
}

// TestLongLine: the newest point's way does not grow for ever.
func TestLongLine(t *testing.T) {
	t.Parallel()
	w := newWriter(t, 1)
	w.SetLongest(5)
	old := small(1, 2, 3)
	const n = 13
	for i := range n {
		d := small(byte(i+1), 2, 3)
		if i == 0 {
			d[image.BlockSize] ^= 1
		}
		d[image.BlockSize] = byte(i)
		p := packOn(t, stateOf(old), old, d)
		w.uploadAs(t, w.alice, p)
		into[api.BackupPoint](t, w.send(t, w.alice, "POST", points(w.line), sealPoint(image.Version(i+1), p)))
		w.WaitVerified()
		w.want[image.Version(i+1)], old = written{image.System: d}, d
	}
	if got := len(w.manifest(t, n).Disks[0].Layers); got > 7 {
		t.Errorf("%d layers", got)
	}
	for i := range image.Version(n) {
		if i%4 != 0 && i+2 < n {
			delete(w.want, i+1)
			w.must(t, "DELETE", fmt.Sprintf("%s/%d", points(w.line), i+1), nil)
		}
	}
	w.WaitVerified()
	w.checkPoints(t, w.want)
}

// TestKept goes through policies.
func TestKept(t *testing.T) {
	now := time.Date(2026, 3, 31, 12, 30, 0, 0, time.UTC)
	hours := func(ago ...int) []synchronizer.Aged {
		var out []synchronizer.Aged
		for i, h := range ago {
			out = append(out, synchronizer.NewAged(image.Version(i+1), now.Add(-time.Duration(h)*time.Hour), false))
		}
		return out
	}
	damaged := hours(5, 4, 3)
	damaged[1] = synchronizer.NewAged(2, now.Add(-4*time.Hour), true)
	for _, c := range []struct {
		name string
		ps   []synchronizer.Aged
		p    api.BackupPolicy
		want string
	}{
		{"nothing there", nil, api.BackupPolicy{Hourly: 1}, ""},
		{"nothing said", hours(5000, 50, 3, 2), api.BackupPolicy{}, "1 2 3 4"},
		{"the newest stays", hours(5000), api.BackupPolicy{Hourly: 1}, "1"},
		{"young ones stay", hours(9, 0, 0, 0), api.BackupPolicy{Hourly: 1}, "2 3 4"},
		{"hourly", hours(9, 5, 4, 3, 2), api.BackupPolicy{Hourly: 3}, "3 4 5"},
		{"hours without any do not count", hours(900, 500, 2), api.BackupPolicy{Hourly: 2}, "2 3"},
		{"two in an hour", append(hours(5, 5), hours(3)...), api.BackupPolicy{Hourly: 9}, "1 2"},
		{"daily", hours(72, 50, 49, 26, 25, 3, 2), api.BackupPolicy{Daily: 3}, "3 5 7"},
		{"weekly", hours(24*21, 24*8, 24*7, 24, 2), api.BackupPolicy{Weekly: 2}, "3 5"},
		{"monthly", hours(24*80, 24*60, 24*40, 24*31, 2), api.BackupPolicy{Monthly: 3}, "2 4 5"},
		{"together", hours(24*60, 24*40, 50, 26, 5, 4, 2), api.BackupPolicy{Hourly: 2, Daily: 2, Monthly: 2}, "2 4 6 7"},
		{"damaged ones stay and do not count", damaged, api.BackupPolicy{Hourly: 2}, "1 2 3"},
	} {
		if c.name == "two in an hour" {
			c.ps = []synchronizer.Aged{c.ps[0], synchronizer.NewAged(2, now.Add(-5*time.Hour+time.Minute), false), synchronizer.NewAged(3, now.Add(-3*time.Hour), false)}
			c.want = "2 3"
		}
		if got := strings.Trim(fmt.Sprint(slices.Sorted(maps.Keys(synchronizer.Kept(c.ps, c.p, now)))), "[]"); got != c.want {
			t.Errorf("%s: %s stay, want %s", c.name, got, c.want)
		}
	}
}

// TestPrune: the policy of the image is applied by itself and when somebody asks for it, and by nobody when it says nothing.
func TestPrune(t *testing.T) {
	w := newWriter(t, 3)
	there := func() string {
		w.WaitVerified()
		var out []image.Version
		for _, p := range into[api.BackupLine](t, w.send(t, w.alice, "GET", "/v1/backups/"+w.line.ID.String(), nil)).Points {
			out = append(out, p.Point)
		}
		return strings.Trim(fmt.Sprint(out), "[]")
	}
	for range 4 {
		w.clock.advance(2 * time.Hour)
		w.point(t)
	}
	w.clock.advance(2 * time.Hour)
	if got := there(); got != "1 2 3 4" {
		t.Errorf("without a policy %s stay", got)
	}
	p := api.DefaultPolicy()
	p.Backup = &api.BackupPolicy{Every: 60, Hourly: 3}
	w.must(t, "PUT", "/v1/images/golden/policy", p)
	if o := into[[]api.Offer](t, w.send(t, w.alice, "GET", "/v1/offers", nil)); len(o) != 1 || o[0].Backup == nil || !o[0].Backup.Equal(*p.Backup) {
		t.Errorf("offers: %+v", o)
	}
	removed := into[[]image.Version](t, w.must(t, "POST", "/v1/backups/"+w.line.ID.String()+"/prune", nil))
	if got := there(); got != "2 3 4" || !slices.Equal(removed, []image.Version{1}) {
		t.Errorf("%s stay, %v removed", got, removed)
	}
	w.point(t)
	if got := there(); got != "3 4 5" {
		t.Errorf("after a backup %s stay", got)
	}
	p.Backup.Hourly = 1
	w.must(t, "PUT", "/v1/images/golden/policy", p)
	w.clock.advance(2 * time.Hour)
	w.KeepHouse()
	if got := there(); got != "5" {
		t.Errorf("an hour later %s stay", got)
	}
	for n := range image.Version(4) {
		delete(w.want, n+1)
	}
	w.checkPoints(t, w.want)
	for _, bad := range []api.BackupPolicy{{Every: -1}, {Every: 1}, {Every: 1 << 30}, {Hourly: -1}, {Daily: 1 << 20}, {Weekly: -1}, {Monthly: -1}} {
		p.Backup = &bad
		if a := w.send(t, asLocal, "PUT", "/v1/images/golden/policy", p); a.code() != api.CodeInvalid {
			t.Errorf("%+v: %v", bad, a)
		}
	}
	p.Backup = &api.BackupPolicy{}
	w.must(t, "PUT", "/v1/images/golden/policy", p)
	if a := w.send(t, w.alice, "POST", points(w.line), api.SealPoint{Point: 6, Version: 1, Consistency: image.Stopped,
		Disks: []api.PointDisk{{Role: image.System, State: stateOf(w.now[image.System]).ID()}}}); a.code() != api.CodeForbidden {
		t.Errorf("a backup where they are off: %v", a)
	}
}

// TestWhatOutlivesWhat: images, devices, users, lines and points, each deleted in turn.
func TestWhatOutlivesWhat(t *testing.T) {
	w := newWriter(t, 5)
	for range 3 {
		w.clock.advance(time.Hour)
		w.point(t)
	}
	w.WaitVerified()
	w.must(t, "DELETE", "/v1/images/golden", nil)
	w.checkPoints(t, w.want)
	w.must(t, "DELETE", "/v1/devices/"+device(1).ID.String(), nil)
	w.alice = w.login(t, "alice", device(2))
	w.checkPoints(t, w.want)
	// Another laptop goes on with the line.
	in := api.NewBackup{VM: w.line.VM, Name: "renamed", Image: "golden", ImageID: w.line.ImageID}
	line := into[api.BackupLine](t, w.send(t, w.alice, "POST", "/v1/backups", in))
	if line.ID != w.line.ID || line.Name != "renamed" || line.DeviceName != "laptop 2" || line.Newest != 3 || len(line.Points) != 1 || line.Count != 3 {
		t.Errorf("%+v", line)
	}
	w.point(t)
	// A VM that was restored as another one goes on from a point of the first one's line.
	in.VM = image.RandomUUID([16]byte{15: 99})
	other := into[api.BackupLine](t, w.send(t, w.alice, "POST", "/v1/backups", in))
	d := bytes.Clone(w.want[2][image.System])
	d[0] ^= 1
	p := packOn(t, stateOf(w.want[2][image.System]), w.want[2][image.System], d)
	w.uploadAs(t, w.alice, p)
	into[api.BackupPoint](t, w.send(t, w.alice, "POST", points(other), sealPoint(1, p)))
	w.must(t, "DELETE", "/v1/backups/"+w.line.ID.String(), nil)
	w.WaitVerified()
	if a := w.send(t, w.alice, "GET", points(w.line)+"/2/manifest", nil); a.code() != api.CodeNotFound {
		t.Errorf("a point of a line that was deleted: %v", a)
	}
	w.line = other
	w.checkPoints(t, map[image.Version]written{1: {image.System: d}})
	w.must(t, "DELETE", "/v1/users/alice", nil)
	w.WaitVerified()
	for _, dir := range []string{"layers", "states"} {
		if left, err := os.ReadDir(w.path(dir)); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v", dir, left, err)
		}
	}
	if all := into[[]api.BackupLine](t, w.must(t, "GET", "/v1/backups?all=1", nil)); len(all) != 0 {
		t.Errorf("%+v", all)
	}
}
