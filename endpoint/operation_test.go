package endpoint_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/config"
	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/testkit"
)

// gate holds up what is asked for of layers' frames, so that operations stand still where a test wants them.
type gate struct {
	mu      sync.Mutex
	open    chan struct{}
	waiting map[string]int // by layer
	asked   map[string]int
	// first is how many bytes of an answer pass before it is held up.
	first int
}

func (w *world) gate(first int) *gate {
	w.Helper()
	w.patient()
	g := &gate{open: make(chan struct{}), waiting: map[string]int{}, asked: map[string]int{}, first: first}
	w.front.answer(g.serve)
	w.Cleanup(g.lift) // before the server is closed, which waits for its requests
	return g
}

func (g *gate) serve(rw http.ResponseWriter, r *http.Request, next http.Handler) {
	layer, ok := strings.CutPrefix(r.URL.Path, "/v1/layers/")
	if !ok {
		next.ServeHTTP(rw, r)
		return
	}
	rec := record(r, next)
	b := rec.Body.Bytes()
	if strings.HasPrefix(string(b), "DSLINDEX") {
		pass(rw, rec, b)
		return
	}
	first := min(g.first, len(b))
	for k, v := range rec.Header() {
		rw.Header()[k] = v
	}
	rw.WriteHeader(rec.Code)
	if _, err := rw.Write(b[:first]); err != nil || http.NewResponseController(rw).Flush() != nil {
		return
	}
	g.note(layer, 1)
	defer g.note(layer, -1)
	select {
	case <-g.gate():
		_, _ = rw.Write(b[first:])
	case <-r.Context().Done():
	}
}

func (g *gate) gate() chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

func (g *gate) note(layer string, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting[layer] += n; g.waiting[layer] == 0 {
		delete(g.waiting, layer)
	}
	g.asked[layer] += max(n, 0)
}

// lift lets everything pass from now on.
func (g *gate) lift() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// layers returns how many layers are held up.
func (g *gate) layers() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting)
}

// seeds returns n different seeds.
func seeds(n int) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		out[i] = uint64(i + 1)
	}
	return out
}

// TestRestartInTheMiddle: an operation that the end of the process stopped is there afterwards, goes on when it is told to, and
// fetches what is missing and no more; so are the settings.
func TestRestartInTheMiddle(t *testing.T) {
	t.Parallel()
	const n = 8
	want := disk(seeds(n)...)
	w := ready(t, want)
	plan, err := w.e.Plan(t.Context(), endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	if err != nil {
		t.Fatal(err)
	}
	total := plan.Bytes[deploy.Network]
	w.set(config.EnableUSBCache, false)
	w.set(config.MaxParallelTasks, int32(3))
	g := w.gate(int(total) * 2 / 3)
	o := w.start(endpoint.Request{Kind: endpoint.Download, Image: "win7", VM: "mine"})
	testkit.Until(w, "a few blocks", func() bool { s := o.Status(); return s.Progress.PlanDone > total/4 && g.layers() == 1 })
	if s := o.Status(); s.State != endpoint.InProgress || !s.Active || s.Progress.Stage != deploy.StageTransfer || s.Progress.PlanTotal != total {
		t.Errorf("in the middle %+v", s)
	}
	w.close()
	if s := o.Status(); s.State != endpoint.Stopped || s.Active {
		t.Errorf("after the end %+v", s)
	}
	if err := o.Resume(); err == nil {
		t.Error("an engine that is closed goes on")
	}
	w.open()
	if w.e.Settings().Bool(config.EnableUSBCache) || w.e.Settings().Int(config.MaxParallelTasks) != 3 {
		t.Error("settings are lost")
	}
	w.nothingInstalled()
	again, err := w.e.Operation(o.ID())
	if err != nil {
		t.Fatal(err)
	}
	if s := again.Status(); s.State != endpoint.Stopped || s.Active || s.VM != "mine" || s.Image != "win7" || len(s.Disks) != 1 {
		t.Errorf("after the restart %+v", s)
	}
	g.lift()
	w.e.ResumeAll()
	s := w.wait(again)
	if err := s.Outcome(); err != nil {
		t.Fatal(err)
	}
	if rc := s.Receipt; rc.Resumed < 2 || rc.Bytes[deploy.Network] >= total || rc.Resumed+rc.Sources[0].Blocks != n {
		t.Errorf("%d blocks were kept, %d of %d bytes were fetched again: %+v", rc.Resumed, rc.Bytes[deploy.Network], total, rc)
	}
	w.holds("mine", want)
	w.restart()
	if again, err = w.e.Operation(o.ID()); err != nil || again.Status().State != endpoint.Finished || again.Status().Receipt == nil {
		t.Errorf("a finished operation after a restart: %v", err)
	}
}

// TestPauseAndDelete: a pause lasts over a restart until somebody ends it, and what was given up leaves nothing behind.
func TestPauseAndDelete(t *testing.T) {
	t.Parallel()
	want := disk(seeds(6)...)
	w := ready(t, want)
	g := w.gate(100 << 10)
	o := w.start(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	testkit.Until(w, "a download that stands still", func() bool { return g.layers() == 1 })
	o.Pause()
	if s := w.wait(o); s.State != endpoint.Paused || s.Active || code(t, s.Outcome()) != "DS-STOPPED" {
		t.Errorf("paused: %+v", s)
	}
	w.restart()
	w.e.ResumeAll()
	o, err := w.e.Find("win7")
	if err != nil {
		t.Fatal(err)
	}
	if s := o.Status(); s.State != endpoint.Paused || s.Active {
		t.Errorf("after a restart: %+v", s)
	}
	if err := o.Resume(); err != nil {
		t.Fatal(err)
	}
	testkit.Until(w, "a download that stands still again", func() bool { return g.layers() == 1 && o.Status().State == endpoint.InProgress })
	o.Stop()
	if s := w.wait(o); s.State != endpoint.Stopped {
		t.Errorf("stopped: %+v", s)
	}
	if len(w.files("disks", ".part")) != 1 {
		t.Error("what was got is not kept")
	}
	if err := errors.Join(o.Resume(), o.Resume()); err != nil {
		t.Fatal(err)
	}
	testkit.Until(w, "a download that stands still once more", func() bool { return g.layers() == 1 && o.Status().State == endpoint.InProgress })
	if err := o.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.e.Operation(o.ID()); code(t, err) != "DS-NO-OPERATION" {
		t.Error(err)
	}
	if err := o.Resume(); code(t, err) != "DS-NO-OPERATION" {
		t.Error(err)
	}
	if got := append(w.files("disks", ""), w.files("operations", "")...); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	w.restart()
	if len(w.e.Operations()) != 0 {
		t.Error("it comes back")
	}
	g.lift()
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.holds("win7", want)
}

// TestQueue: operations run in the order in which they were asked for, as many at once as the setting says and no more.
func TestQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	names := []string{"one", "two", "three", "four"}
	for i, name := range names {
		w.publish(name, disk(uint64(10*i+1), uint64(10*i+2)))
	}
	w.logIn()
	for _, limit := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d at once", limit), func(t *testing.T) {
			w := w.in(t)
			w.set(config.MaxParallelTasks, int32(limit))
			g := w.gate(0)
			var mu sync.Mutex
			var begun []string
			most := 0
			active := map[string]bool{}
			end := w.e.Watch(func(s endpoint.Status) {
				mu.Lock()
				defer mu.Unlock()
				if s.State == endpoint.InProgress && !slices.Contains(begun, s.VM) {
					begun = append(begun, s.VM)
				}
				active[s.VM] = s.State == endpoint.InProgress
				n := 0
				for _, on := range active {
					if on {
						n++
					}
				}
				most = max(most, n)
			})
			defer end()
			var all []*endpoint.Operation
			for _, name := range names {
				all = append(all, w.start(endpoint.Request{Kind: endpoint.Download, Image: name, VM: fmt.Sprintf("%s-%d", name, limit)}))
			}
			testkit.Until(w, "as many as may run", func() bool { return g.layers() == limit })
			for i, o := range all {
				s := o.Status()
				want := endpoint.Stopped // queued
				if i < limit {
					want = endpoint.InProgress
				}
				if s.State != want || !s.Active {
					t.Errorf("%s is %s, active: %v; want %s", s.VM, s.State, s.Active, want)
				}
			}
			// One that waits gives up its place when it is stopped; a second request for the same is the same operation.
			all[2].Stop()
			if s := all[2].Status(); s.Active || s.State != endpoint.Stopped {
				t.Errorf("stopped while it waited: %+v", s)
			}
			if same := w.start(all[3].Status().Request); same != all[3] {
				t.Error("the same request made another operation")
			}
			g.lift()
			for _, i := range []int{0, 1, 3} {
				if err := new(w.wait(all[i])).Outcome(); err != nil {
					t.Error(err)
				}
			}
			end()
			want := []string{fmt.Sprintf("one-%d", limit), fmt.Sprintf("two-%d", limit), fmt.Sprintf("four-%d", limit)}
			// Of those that begin together either may be the first to say so.
			slices.Sort(begun[:min(limit, len(begun))])
			if diff := cmp.Diff(want, begun); diff != "" {
				t.Errorf("begun: %s", diff)
			}
			if most != limit {
				t.Errorf("%d ran at once, want %d", most, limit)
			}
			// The disks are here now; what comes next would have nothing to fetch.
			for _, i := range []int{0, 1, 3} {
				if err := w.e.Remove(all[i].Status().VM); err != nil {
					t.Error(err)
				}
			}
			if err := all[2].Delete(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFind: the operation that somebody means is found by its VM, or because it is the only one.
func TestFind(t *testing.T) {
	t.Parallel()
	w := newWorld(t) // not registered: everything fails at once
	if _, err := w.e.Find(""); code(t, err) != "DS-NO-OPERATION" {
		t.Error(err)
	}
	w.fail(endpoint.Request{Kind: endpoint.Download, Image: "one"})
	if o, err := w.e.Find(""); err != nil || o.Status().VM != "one" {
		t.Error(err)
	}
	w.fail(endpoint.Request{Kind: endpoint.Download, Image: "one", VM: "two"})
	if _, err := w.e.Find(""); code(t, err) != "DS-CHOOSE" {
		t.Error(err)
	}
	if o, err := w.e.Find("two"); err != nil || o.Status().VM != "two" {
		t.Error(err)
	}
	if _, err := w.e.Find("three"); code(t, err) != "DS-NO-OPERATION" {
		t.Error(err)
	}
	w.restart()
	if o, err := w.e.Find("one"); err != nil || o.Status().State != endpoint.Failed || o.Status().Problem == nil || o.Status().Problem.Code != "DS-NOT-REGISTERED" {
		t.Errorf("a failure is forgotten: %v", err)
	}
	for _, name := range []string{"../x", "a/b", ".", strings.Repeat("x", 500), "a\x00b"} {
		if _, err := w.e.Start(endpoint.Request{Kind: endpoint.Download, Image: "one", VM: name}); code(t, err) != "DS-USAGE" {
			t.Errorf("VM %q: %v", name, err)
		}
	}
}

// TestForgotten: of what is over, a bounded number is remembered; a damaged file of an operation costs that one.
func TestForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 30 {
		w.fail(endpoint.Request{Kind: endpoint.Verify, VM: fmt.Sprintf("vm%d", i)})
	}
	if n := len(w.e.Operations()); n != 20 {
		t.Errorf("%d operations are remembered", n)
	}
	names := w.files("operations", ".json")
	if len(names) != 20 {
		t.Errorf("%d files of operations", len(names))
	}
	w.close()
	for i, bad := range []string{"", "{", "[]", `{"id":"00000000-0000-4000-8000-000000000000"}`} {
		w.write(filepath.Join(w.dir, "operations", names[i]), []byte(bad))
	}
	w.write(filepath.Join(w.dir, "operations", "not ours.json"), []byte("x"))
	w.open()
	if n := len(w.e.Operations()); n != 16 {
		t.Errorf("%d operations are left, want 16", n)
	}
	if got := w.files("operations", ""); len(got) != 17 || !slices.Contains(got, "not ours.json") {
		t.Errorf("files: %v", got)
	}
}

// TestRepairOverTheLine: a damaged block comes from the Synchronizer, and no other.
func TestRepairOverTheLine(t *testing.T) {
	t.Parallel()
	want := disk(1, 2, 3, 4, 5)
	w := ready(t, want)
	first := w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	base := first.Disks[0].Base
	b, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(b), string(want[3*block+4*4096:][:64])) // in block 3
	if at < 0 {
		t.Fatal("block 3 is not in the file")
	}
	b[at+10] ^= 1
	if err := errors.Join(os.Remove(base), os.WriteFile(base, b, 0o444)); err != nil {
		t.Fatal(err)
	}
	if got, s := w.fail(endpoint.Request{Kind: endpoint.Verify, VM: "win7"}); got != "DS-DISK-DAMAGED" || s.Receipt == nil || len(s.Receipt.Verify.Bad) != 1 || s.Receipt.Verify.Bad[0].Block != 3 {
		t.Errorf("%s: %+v", got, s)
	}
	rc := w.run(endpoint.Request{Kind: endpoint.Repair, VM: "win7"})
	if len(rc.Sources) != 2 || rc.Bytes[deploy.Network] == 0 || rc.Bytes[deploy.Network] > first.Bytes[deploy.Network]/3 {
		t.Errorf("repaired with %+v", rc)
	}
	for _, s := range rc.Sources {
		if s.Kind == deploy.Network && s.Blocks != 1 {
			t.Errorf("%d blocks were fetched", s.Blocks)
		}
	}
	w.run(endpoint.Request{Kind: endpoint.Verify, VM: "win7"})
	w.holds("win7", want)
	if rc := w.run(endpoint.Request{Kind: endpoint.Repair, VM: "win7"}); rc.Nothing == "" {
		t.Errorf("repaired what is not damaged: %+v", rc)
	}
}

// TestLifeOfAVM goes the way of a user: download, update, roll back, update again, remove.
func TestLifeOfAVM(t *testing.T) {
	t.Parallel()
	w := ready(t, disk(1, 2))
	if rc := w.run(endpoint.Request{Kind: endpoint.Download}); rc.VM != "win7" || rc.Version != 1 || rc.Previous != 0 {
		t.Errorf("%+v", rc)
	}
	if rc := w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"}); rc.Nothing == "" {
		t.Errorf("downloaded twice: %+v", rc)
	}
	w.version("win7", disk(1, 3, 4))
	if rc := w.run(endpoint.Request{Kind: endpoint.Update}); rc.Version != 2 || rc.Previous != 1 || len(rc.Path) != 1 || rc.Wire < rc.Bytes[deploy.Network] {
		t.Errorf("%+v", rc)
	}
	w.holds("win7", disk(1, 3, 4))
	info, err := w.e.RollBack("")
	if err != nil || info.Version != 1 || info.Previous != 2 {
		t.Errorf("%+v, %v", info, err)
	}
	w.holds("win7", disk(1, 2))
	// The version that is here still comes back without the line.
	plan, err := w.e.Plan(t.Context(), endpoint.Request{Kind: endpoint.Update})
	if err != nil || len(plan.Bytes) != 0 {
		t.Errorf("%+v, %v", plan.Bytes, err)
	}
	if rc := w.run(endpoint.Request{Kind: endpoint.Update}); rc.Version != 2 || rc.Previous != 1 || rc.Bytes[deploy.Network] != 0 {
		t.Errorf("%+v", rc)
	}
	w.holds("win7", disk(1, 3, 4))
	w.restart()
	vms, err := w.e.VMs()
	if err != nil || len(vms) != 1 || vms[0].Version != 2 || vms[0].Previous != 1 || len(vms[0].Changed) != 0 || vms[0].Mode != image.Static {
		t.Errorf("%+v, %v", vms, err)
	}
	if err := w.e.Remove("win7"); err != nil {
		t.Fatal(err)
	}
	w.nothingInstalled()
}

// TestBusyVM: while an operation works on a VM nobody else may.
func TestBusyVM(t *testing.T) {
	t.Parallel()
	w := ready(t, disk(1, 2))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.version("win7", disk(1, 3))
	g := w.gate(0)
	o := w.start(endpoint.Request{Kind: endpoint.Update, VM: "win7"})
	testkit.Until(w, "an update that stands still", func() bool { return g.layers() == 1 })
	if _, err := w.e.RollBack("win7"); code(t, err) != "DS-BUSY" {
		t.Error(err)
	}
	if err := w.e.Remove("win7"); code(t, err) != "DS-BUSY" {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("waited on: %v", err)
	}
	g.lift()
	if err := new(w.wait(o)).Outcome(); err != nil {
		t.Error(err)
	}
	if _, err := w.e.RollBack("win7"); err != nil {
		t.Error(err)
	}
}
