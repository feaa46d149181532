package endpoint_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"disksync/api"
	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/publish"
)

func (w *world) vm(name string) deploy.VM {
	w.Helper()
	vm, err := w.e.Store().VM(name)
	if err != nil {
		w.Fatal(err)
	}
	return vm
}

// writes writes to a disk of a VM as the VM does.
func (w *world) writes(vm string, r image.Role, off int64, p []byte) {
	w.Helper()
	rec := w.vm(vm)
	d, ok := rec.Current.Disk(r)
	if !ok {
		w.Fatalf("VM %s has no %s disk", vm, r)
	}
	l, err := w.e.Store().OpenLive(d.Leaf)
	if err != nil {
		w.Fatal(err)
	}
	if _, err := l.Disk.WriteAt(p, off); err != nil {
		w.Fatal(err)
	}
	if err := l.Close(); err != nil {
		w.Fatal(err)
	}
}

// elsewhere is another machine of alice's, with a state folder of its own.
func (w *world) elsewhere() *world {
	w.Helper()
	other := *w
	other.dir = filepath.Join(w.TempDir(), "elsewhere")
	other.open()
	w.Cleanup(func() { other.close() })
	other.logIn()
	return &other
}

func (w *world) backUp(vm string) *endpoint.Receipt {
	w.Helper()
	rc := w.run(endpoint.Request{Kind: endpoint.Backup, VM: vm})
	if rc.Point == nil {
		w.Fatalf("%+v", rc)
	}
	return rc
}

// scribbles writes to a random place of VM win7 and of now, which is what the VM's disk holds.
func (w *world) scribbles(r *rand.Rand, now []byte) {
	w.Helper()
	p := make([]byte, 1+r.IntN(9000))
	p[0] = byte(1 + r.IntN(255))
	if r.IntN(4) > 0 { // else zeros
		for i := range p {
			p[i] ^= byte(r.Uint32() >> 8)
		}
	}
	off := r.Int64N(int64(len(now) - len(p)))
	copy(now[off:], p)
	w.writes("win7", image.System, off, p)
}

// points is how many points the tests make.
func points() int {
	if os.Getenv("DISKSYNC_SOAK") != "" {
		return 30
	}
	return 6
}

// TestBackupsOfAChangingDisk: each point is what the disk was, on another machine too, and stays so.
func TestBackupsOfAChangingDisk(t *testing.T) {
	w := ready(t, disk(1, 2, 3, 4))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	now := disk(1, 2, 3, 4)
	var past [][]byte
	r := rand.New(rand.NewPCG(1, 2))
	for i := range points() {
		for range 1 + r.IntN(3) {
			w.scribbles(r, now)
		}
		if i%5 == 3 {
			w.restart()
		}
		rc := w.backUp("win7")
		if int(rc.Point.Point) != i+1 || rc.Nothing != "" || rc.Point.Disks[0].Read > 6 || rc.Point.Consistency != image.Stopped {
			t.Fatalf("%+v", rc.Point)
		}
		past = append(past, slices.Clone(now))
		w.holds("win7", now)
		if d := w.vm("win7").Current.Disks[0]; len(d.Frozen) != 1 {
			t.Errorf("after point %d the disk has %d frozen VHDs", i+1, len(d.Frozen))
		}
	}
	if rc := w.backUp("win7"); rc.Nothing == "" || int(rc.Point.Point) != len(past) {
		t.Errorf("a backup of nothing: %+v", rc)
	}
	other := w.elsewhere()
	for n, i := range r.Perm(len(past))[:4] {
		for k, m := range []*world{w, other} {
			name := fmt.Sprintf("back%d-%d", n, k)
			rc := m.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", Point: image.Version(i + 1), VM: name})
			if int(rc.Point.Point) != i+1 || rc.Version != 1 || rc.Image != "win7" {
				t.Errorf("%+v", rc)
			}
			m.holds(name, past[i])
			m.run(endpoint.Request{Kind: endpoint.Verify, VM: name})
		}
	}
	lines, err := other.e.Backups(t.Context())
	if err != nil || len(lines) != 1 || len(lines[0].Points) != len(past) || lines[0].Name != "win7" {
		t.Errorf("%+v, %v", lines, err)
	}
}

// TestRestoreInPlace: what the VM was before is what a roll back returns to, and the backups go on from both.
func TestRestoreInPlace(t *testing.T) {
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	one, two := disk(1, 2, 3), disk(1, 2, 3)
	copy(one[700:], "first")
	w.writes("win7", image.System, 700, []byte("first"))
	w.backUp("win7")
	copy(two[700:], "other")
	w.writes("win7", image.System, 700, []byte("other"))
	if c, _ := w.fail(endpoint.Request{Kind: endpoint.Restore, From: "win7"}); c != "DS-EXISTS" {
		t.Error(c)
	}
	rc := w.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", InPlace: true})
	if rc.Previous != 1 || rc.VM != "win7" {
		t.Errorf("%+v", rc)
	}
	w.holds("win7", one)
	copy(one[9000:], "more")
	w.writes("win7", image.System, 9000, []byte("more"))
	if rc := w.backUp("win7"); rc.Point.Point != 2 || rc.Point.Disks[0].Read != 1 {
		t.Errorf("%+v", rc.Point)
	}
	if _, err := w.e.RollBack("win7"); err != nil {
		t.Fatal(err)
	}
	w.holds("win7", two)
	if rc := w.backUp("win7"); rc.Point.Point != 3 || rc.Point.Disks[0].Read != 1 {
		t.Errorf("%+v", rc.Point)
	}
	for n, want := range [][]byte{1: nil, 2: one, 3: two} {
		if want != nil {
			name := fmt.Sprintf("was%d", n)
			w.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", Point: image.Version(n), VM: name})
			w.holds(name, want)
		}
	}
}

// TestRestoredVMGoesOn: it counts as changed by its user, gets updates, and has backups of its own.
func TestRestoredVMGoesOn(t *testing.T) {
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	now := disk(1, 2, 3)
	copy(now[700:], "mine")
	w.writes("win7", image.System, 700, []byte("mine"))
	first := w.backUp("win7").Point.Line
	other := w.elsewhere()
	other.run(endpoint.Request{Kind: endpoint.Restore})
	vm := other.vm("win7")
	if changed, err := other.e.Store().Changed(vm); err != nil || !changed[image.System] {
		t.Errorf("%v, %v", changed, err)
	}
	w.version("win7", disk(1, 2, 9))
	if c, _ := other.fail(endpoint.Request{Kind: endpoint.Update, VM: "win7"}); c != "DS-STATIC-CHANGED" {
		t.Error(c)
	}
	rc := other.backUp("win7")
	if rc.Point.Line == first || rc.Point.Point != 1 || rc.Point.Disks[0].Read != 0 {
		t.Errorf("%+v", rc.Point)
	}
	copy(now[5000:], "and more")
	other.writes("win7", image.System, 5000, []byte("and more"))
	if rc = other.backUp("win7"); rc.Point.Point != 2 || rc.Point.Disks[0].Read != 1 {
		t.Errorf("%+v", rc.Point)
	}
	if c, _ := other.fail(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "x", Point: 7}); c != "DS-NO-POINT" {
		t.Error(c)
	}
	// On this machine a name means its own VM, elsewhere there are two.
	w.run(endpoint.Request{Kind: endpoint.Restore, From: rc.Point.Line.String(), VM: "again"})
	w.holds("again", now)
	third := w.elsewhere()
	for from, want := range map[string]string{"win7": "DS-CHOOSE", "": "DS-CHOOSE", "nobody": "DS-NO-BACKUP"} {
		if c, _ := third.fail(endpoint.Request{Kind: endpoint.Restore, From: from, VM: "x"}); c != want {
			t.Errorf("from %q: %s, want %s", from, c, want)
		}
	}
	rc = other.run(endpoint.Request{Kind: endpoint.Update, VM: "win7", Replace: true})
	if rc.Version != 2 {
		t.Errorf("%+v", rc)
	}
	other.holds("win7", disk(1, 2, 9))
	if rc = other.backUp("win7"); rc.Point.Point != 3 {
		t.Errorf("%+v", rc.Point)
	}
}

// TestBackupInterrupted: wherever the line fails, and when the process dies too, the same request goes on with what was frozen.
func TestBackupInterrupted(t *testing.T) {
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	now := disk(1, 2, 3)
	r := rand.New(rand.NewPCG(3, 4))
	broken := 0
	for i := range points() {
		w.scribbles(r, now)
		want := slices.Clone(now)
		var seen atomic.Int64
		at, way := int64(1+i), i%3
		reached := make(chan struct{})
		w.front.answer(func(rw http.ResponseWriter, req *http.Request, next http.Handler) {
			n := seen.Add(1)
			if n == at {
				close(reached)
			}
			switch {
			case n < at || way == 0 && n > at:
				next.ServeHTTP(rw, req)
			case way == 0:
				next.ServeHTTP(discard{http.Header{}}, req) // one answer is lost
				fallthrough
			default:
				panic(http.ErrAbortHandler)
			}
		})
		o := w.start(endpoint.Request{Kind: endpoint.Backup, VM: "win7"})
		ended := make(chan endpoint.Status, 1)
		go func() { ended <- w.wait(o) }()
		var s endpoint.Status
		select {
		case <-reached:
			switch way {
			case 1:
				o.Stop()
			case 2:
				w.restart()
			}
			s = <-ended
		case s = <-ended:
		}
		w.front.honest()
		if s.State != endpoint.Finished {
			broken++
			if w.vm("win7").Instant != nil {
				w.scribbles(r, now) // is in the next point
			} else {
				want = now
			}
		}
		w.run(endpoint.Request{Kind: endpoint.Backup, VM: "win7"})
		name := fmt.Sprintf("back%d", i)
		w.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: name})
		w.holds(name, want)
		w.holds("win7", now)
	}
	if broken < points()/2 {
		t.Errorf("only %d backups were interrupted", broken)
	}
	lines, err := w.e.Backups(t.Context())
	if err != nil || len(lines) != 1 || len(lines[0].Points) > 2*points() {
		t.Errorf("%+v, %v", lines, err)
	}
}

// discard takes an answer that nobody gets.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

func (w *world) policy(p *api.BackupPolicy) {
	w.Helper()
	all, err := w.lab.Admin.Policy(w.Context(), "win7")
	if err != nil {
		w.Fatal(err)
	}
	all.Backup = p
	if err := w.lab.Admin.SetPolicy(w.Context(), "win7", all); err != nil {
		w.Fatal(err)
	}
}

func TestBackupPolicy(t *testing.T) {
	w := ready(t, disk(1, 2))
	clock := time.Now()
	w.close()
	w.now = func() time.Time { return clock }
	w.open()
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	backups := func() (n int) {
		for _, o := range w.e.Operations() {
			if s := w.wait(o); s.Request.Kind == endpoint.Backup {
				n++
				if s.State != endpoint.Finished {
					t.Errorf("%+v", problem.Of(s.Outcome()))
				}
			}
		}
		return n
	}
	w.policy(&api.BackupPolicy{Every: 60})
	c, s := w.fail(endpoint.Request{Kind: endpoint.Backup, VM: "win7"})
	if c != "DS-BACKUP-POLICY" || !strings.Contains(problem.Of(s.Outcome()).Next, "every 60 minutes") {
		t.Errorf("%s, %v", c, s.Outcome())
	}
	for _, o := range w.e.Operations() {
		if err := o.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.e.AskPolicies(t.Context())
	for _, step := range []struct {
		gone time.Duration
		want int
	}{{59 * time.Minute, 0}, {time.Minute, 1}, {time.Second, 1}, {59 * time.Minute, 1}, {5 * time.Hour, 2}, {time.Minute, 2}} {
		clock = clock.Add(step.gone)
		w.e.StartDue()
		if n := backups(); n != step.want {
			t.Fatalf("after %v there were %d backups, want %d", step.gone, n, step.want)
		}
		w.restart() // what the policy was is remembered
	}
	w.policy(&api.BackupPolicy{Manual: true})
	w.run(endpoint.Request{Kind: endpoint.Backup, VM: "win7"})
	clock = clock.Add(24 * time.Hour)
	w.e.StartDue()
	if n := backups(); n != 3 {
		t.Errorf("%d backups without a schedule", n)
	}
}

// TestBackupOfUserDisk: of a VM that has one, the user disk alone is backed up, and in place it alone is brought back.
func TestBackupOfUserDisk(t *testing.T) {
	for _, mode := range []image.Mode{image.StaticProfile, image.Dynamic} {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t)
			var disks []publish.Disk
			for i, role := range image.Roles() {
				file := filepath.Join(t.TempDir(), string(role)+".raw")
				w.write(file, disk(uint64(i+1)))
				disks = append(disks, publish.Disk{Role: role, Path: file})
			}
			o := publish.Options{Image: "win7", Mode: mode, Spool: t.TempDir(), Level: 1, Disks: disks}
			if _, err := publish.Run(t.Context(), w.lab.Admin, o); err != nil {
				t.Fatal(err)
			}
			w.lab.Assign(w, "win7", "alice", 0)
			w.logIn()
			w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
			for _, role := range image.Roles() {
				w.writes("win7", role, 512, []byte("written"))
			}
			rc := w.backUp("win7")
			for _, d := range rc.Point.Disks {
				if (d.Role == image.User) == d.Layer.IsZero() {
					t.Errorf("%+v", d)
				}
			}
			w.writes("win7", image.User, 512, []byte("spoiled"))
			rc = w.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", InPlace: true})
			back := w.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "back"})
			if len(rc.Disks) != 3 || len(back.Disks) != 3 {
				t.Fatalf("%+v, %+v", rc.Disks, back.Disks)
			}
			for i, role := range image.Roles() {
				published, written := disk(uint64(i+1)), disk(uint64(i+1))
				copy(written[512:], "written")
				w.holdsDisk("win7", role, written)
				if role != image.User {
					written = published
				}
				w.holdsDisk("back", role, written)
			}
		})
	}
}

func (w *world) holdsDisk(vm string, r image.Role, want []byte) {
	w.Helper()
	out := make(mem, len(want))
	if _, err := w.e.Export(w.Context(), vm, r, out, deploy.NewTally()); err != nil || !bytes.Equal(out, want) {
		w.Errorf("the %s disk of VM %s is not what it should be: %v", r, vm, err)
	}
}

// TestPointsAreDeleted: whichever points an administrator deletes, the others stay what they were, and the backups go on.
func TestPointsAreDeleted(t *testing.T) {
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	now := disk(1, 2, 3)
	past := map[image.Version][]byte{}
	r := rand.New(rand.NewPCG(5, 6))
	var line image.UUID
	for range 2 * points() {
		w.scribbles(r, now)
		rc := w.backUp("win7")
		line = rc.Point.Line
		past[rc.Point.Point] = slices.Clone(now)
		if len(past) < 3 || r.IntN(3) == 0 {
			continue
		}
		numbers := slices.Sorted(maps.Keys(past))
		gone := numbers[r.IntN(len(numbers))]
		if err := w.lab.Admin.DeletePoint(t.Context(), line, gone); err != nil {
			t.Fatal(err)
		}
		delete(past, gone)
	}
	other := w.elsewhere()
	for n, want := range past {
		name := fmt.Sprintf("back%d", n)
		other.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", Point: n, VM: name})
		other.holds(name, want)
	}
	// Without any point, and without the line, the next backup is whole all the same.
	for n := range past {
		if err := w.lab.Admin.DeletePoint(t.Context(), line, n); err != nil {
			t.Fatal(err)
		}
	}
	w.scribbles(r, now)
	w.backUp("win7")
	if err := w.lab.Admin.DeleteBackup(t.Context(), line); err != nil {
		t.Fatal(err)
	}
	w.scribbles(r, now)
	if rc := w.backUp("win7"); rc.Point.Line == line || rc.Point.Point != 1 {
		t.Errorf("%+v", rc.Point)
	}
	other.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "last"})
	other.holds("last", now)
}
