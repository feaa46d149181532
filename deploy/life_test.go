package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/faultfs"
	"disksync/internal/problem"
)

// house is a store and an image, for tests of a VM's life.
type house struct {
	*testing.T
	fsys *faultfs.FS
	s    *deploy.Store
	l    *line
}

func newHouse(t *testing.T) *house {
	t.Helper()
	fsys := newFS()
	return &house{t, fsys, openStore(t, fsys), newLine("house")}
}

// version adds a version to the image.
func (h *house) version(full bool, seeds ...uint64) {
	h.Helper()
	h.l.add(h, full, disk(1, seeds...))
}

// bring makes version n the current one of a VM.
func (h *house) bring(name string, n int) deploy.VM {
	h.Helper()
	v := h.l.version(n)
	if err := installAll(h.Context(), h.s, v, deploy.NewTally(), newSource(deploy.USB, v.layers...)); err != nil {
		h.Fatal(err)
	}
	vm, err := h.s.Commit(name, v.signed, nil)
	if err != nil {
		h.Fatal(err)
	}
	return vm
}

func (h *house) rollBack(name string) deploy.VM {
	h.Helper()
	vm, err := h.s.RollBack(name)
	if err != nil {
		h.Fatal(err)
	}
	return vm
}

// scribble writes to a leaf as a VM does and returns what the disk then holds.
func (h *house) scribble(leaf image.UUID, text string) []byte {
	h.Helper()
	writeDisk(h, h.fsys, leaf, block+512, []byte(text))
	b, err := readVHD(h.fsys, leaf)
	if err != nil {
		h.Fatal(err)
	}
	if !bytes.Equal(b[block+512:][:len(text)], []byte(text)) {
		h.Fatal("what was written is not there")
	}
	return b
}

// holds compares a disk with what it should hold.
func (h *house) holds(id image.UUID, want []byte) {
	h.Helper()
	if err := sameContent(h.fsys, id, want); err != nil {
		h.Error(err)
	}
}

// has compares the VHD files of the store with those that it should have: the golden ones of versions, and leaves.
func (h *house) has(versions []int, leaves ...image.UUID) {
	h.Helper()
	var want []string
	for _, n := range versions {
		id := image.VHDUUID(h.l.version(n).state.ID()).String()
		want = append(want, id+".vhd", id+".state")
	}
	for _, id := range leaves {
		want = append(want, id.String()+".vhd")
	}
	slices.Sort(want)
	got := slices.DeleteFunc(files(h, h.fsys, "disks"), func(name string) bool { return strings.HasSuffix(name, ".vhd.log") }) // of leaves in use
	if diff := cmp.Diff(want, got); diff != "" {
		h.Errorf("files in the store: %s", diff)
	}
}

// leafOf returns the leaf of a deployment with one disk.
func leafOf(d *deploy.Deployment) image.UUID { return d.Disks[0].Leaf }

// code returns the code of an error for people, and fails when it does not say what happened.
func code(t testing.TB, err error) string {
	t.Helper()
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok {
		t.Errorf("an error that nobody explained: %v", err)
		return ""
	}
	if p.What == "" {
		t.Errorf("%s does not say what happened", p.Code)
	}
	return p.Code
}

// TestWhatIsKept: each version has what it stands on, the one before stays, and what nobody needs any more goes.
func TestWhatIsKept(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2)
	h.version(false, 1, 3)
	h.version(false, 1, 3, 4)
	h.version(true, 5, 6)
	h.version(false, 5, 7)
	v1 := h.bring("vm", 1)
	h.has([]int{1}, leafOf(&v1.Current))
	v2 := h.bring("vm", 2)
	h.has([]int{1, 2}, leafOf(&v1.Current), leafOf(&v2.Current))
	v3 := h.bring("vm", 3)
	h.has([]int{1, 2, 3}, leafOf(&v2.Current), leafOf(&v3.Current))
	v4 := h.bring("vm", 4) // stands on nothing; version 3 is the previous one
	h.has([]int{1, 2, 3, 4}, leafOf(&v3.Current), leafOf(&v4.Current))
	other := h.bring("other", 2)
	v5 := h.bring("vm", 5)
	h.has([]int{1, 2, 4, 5}, leafOf(&other.Current), leafOf(&v4.Current), leafOf(&v5.Current))
	h.holds(leafOf(&other.Current), h.l.version(2).disk)
	h.holds(leafOf(v5.Previous), h.l.version(4).disk)
	h.holds(leafOf(&v5.Current), h.l.version(5).disk)
	if v5.Counter != 5 || v5.ID != v1.ID {
		t.Errorf("counter %d, id %s, was %s", v5.Counter, v5.ID, v1.ID)
	}
	// A new process finds the same.
	h.s = openStore(t, h.fsys)
	h.has([]int{1, 2, 4, 5}, leafOf(&other.Current), leafOf(&v4.Current), leafOf(&v5.Current))
	if err := h.s.Delete("other"); err != nil {
		t.Fatal(err)
	}
	h.has([]int{4, 5}, leafOf(&v4.Current), leafOf(&v5.Current))
	if err := h.s.Delete("vm"); err != nil {
		t.Fatal(err)
	}
	h.has(nil)
	if names := files(t, h.fsys, "vms"); len(names) != 0 {
		t.Errorf("records are left: %v", names)
	}
	if err := h.s.Delete("vm"); !errors.Is(err, deploy.ErrNoVM) {
		t.Errorf("deleted twice: %v", err)
	}
}

// TestRollBack: to and fro and on to the next version, with each version's user data as its user left it.
func TestRollBack(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2)
	h.version(false, 1, 3)
	h.version(false, 1, 3, 4)
	if _, err := h.s.RollBack("vm"); !errors.Is(err, deploy.ErrNoVM) {
		t.Errorf("there is no VM: %v", err)
	}
	v1 := h.bring("vm", 1)
	if _, err := h.s.RollBack("vm"); code(t, err) != "DS-NO-PREVIOUS" {
		t.Error(err)
	}
	first := h.scribble(leafOf(&v1.Current), "written under version 1")
	v2 := h.bring("vm", 2)
	second := h.scribble(leafOf(&v2.Current), "written under version 2")
	if bytes.Equal(first, second) {
		t.Fatal("both versions hold the same, so this tests nothing")
	}

	back := h.rollBack("vm")
	if back.Current.Version != 1 || back.Previous.Version != 2 || back.Counter != v2.Counter+1 {
		t.Errorf("rolled back to %+v", back)
	}
	h.holds(leafOf(&back.Current), first)
	h.holds(leafOf(back.Previous), second)
	forth := h.rollBack("vm")
	if diff := cmp.Diff(v2.Current, forth.Current); diff != "" {
		t.Error(diff)
	}
	h.holds(leafOf(&forth.Current), second)
	h.holds(leafOf(forth.Previous), first)

	// From the version that was returned to, on to the next: the one that was left is retired, but not what its user wrote.
	h.rollBack("vm")
	v3 := h.bring("vm", 3)
	if v3.Previous.Version != 1 || !slices.Equal(v3.Kept, []image.UUID{leafOf(&v2.Current)}) {
		t.Errorf("after the update %+v", v3)
	}
	h.holds(leafOf(&v3.Current), h.l.version(3).disk)
	h.holds(leafOf(v3.Previous), first)
	h.holds(v3.Kept[0], second)
	h.has([]int{1, 2, 3}, leafOf(&v1.Current), leafOf(&v2.Current), leafOf(&v3.Current))
	// The same version once more is another deployment, with a leaf of its own.
	h.bring("vm", 2)
	again := h.bring("vm", 3)
	if leafOf(&again.Current) == leafOf(&v3.Current) || len(again.Kept) != 2 {
		t.Errorf("deployed again: %+v", again)
	}
	h.holds(leafOf(&v2.Current), second)
	h.holds(leafOf(&v1.Current), first)
}

// TestRollBackToDamage: a previous version that cannot be opened is not returned to.
func TestRollBackToDamage(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2)
	h.version(true, 3, 4)
	v1 := h.bring("vm", 1)
	h.bring("vm", 2)
	if err := h.fsys.Remove(deploy.Path(v1.Current.Disks[0].Base)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.s.RollBack("vm"); code(t, err) != "DS-PREVIOUS-DAMAGED" {
		t.Error(err)
	}
	if vm, err := h.s.VM("vm"); err != nil || vm.Current.Version != 2 || vm.Counter != 2 {
		t.Errorf("the VM is not as it was: %+v, %v", vm, err)
	}
}

// TestDynamicLeaves: changes of the system disk of a dynamic VM are not meant to last.
func TestDynamicLeaves(t *testing.T) {
	h := newHouse(t)
	h.l.mode = image.Dynamic
	for n := range uint64(3) {
		h.version(true, n+1, n+2)
	}
	v1 := h.bring("vm", 1)
	h.scribble(leafOf(&v1.Current), "not meant to last")
	v2 := h.bring("vm", 2)
	h.scribble(leafOf(&v2.Current), "nor is this, but it is the previous version")
	v3 := h.bring("vm", 3)
	if len(v3.Kept) != 0 {
		t.Errorf("kept %v", v3.Kept)
	}
	h.has([]int{2, 3}, leafOf(&v2.Current), leafOf(&v3.Current))
}

// TestKeptDisk: an update leaves alone the disk that it is told to keep.
func TestKeptDisk(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2)
	h.version(true, 3, 4)
	h.version(true, 5, 6)
	user := newLine("user").add(t, true, disk(0, 7, 8)).version(1)
	sign := func(n int) image.Verified {
		v := h.l.version(n)
		sources := []deploy.Source{newSource(deploy.USB, append(slices.Clone(v.layers), user.layers...)...)}
		for _, w := range []version{v, user} {
			if err := installAll(t.Context(), h.s, w, deploy.NewTally(), sources...); err != nil {
				t.Fatal(err)
			}
		}
		return h.l.sign(t, image.Manifest{Version: v.number, Disks: []image.Disk{diskOf(image.System, v), diskOf(image.User, user)}})
	}
	if _, err := h.s.Commit("vm", sign(1), nil); err != nil {
		t.Fatal(err)
	}
	vm, err := h.s.VM("vm")
	if err != nil {
		t.Fatal(err)
	}
	mine, _ := vm.Current.Disk(image.User)
	want := h.scribble(mine.Leaf, "the user's own")
	changed, err := h.s.Changed(vm)
	if diff := cmp.Diff(map[image.Role]bool{image.User: true}, changed); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	for _, n := range []int{2, 3} {
		if vm, err = h.s.Commit("vm", sign(n), map[image.Role]bool{image.User: true}); err != nil {
			t.Fatal(err)
		}
		if d, _ := vm.Current.Disk(image.User); d == nil || !reflect.DeepEqual(d, mine) {
			t.Errorf("version %d has the user disk %+v, was %+v", n, d, mine)
		}
		h.holds(mine.Leaf, want)
		system, _ := vm.Current.Disk(image.System)
		h.holds(system.Leaf, h.l.version(n).disk)
	}
	if len(vm.Kept) != 0 {
		t.Errorf("the user disk is in use and set aside at once: %v", vm.Kept)
	}
	vm = h.rollBack("vm")
	if d, _ := vm.Current.Disk(image.User); d == nil || !reflect.DeepEqual(d, mine) {
		t.Errorf("rolled back to the user disk %+v", d)
	}
	h.holds(mine.Leaf, want)
}

// TestCommitRefuses: what cannot become the version of a VM leaves it as it is.
func TestCommitRefuses(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2)
	h.version(true, 3, 4)
	v1 := h.bring("vm", 1)
	before := h.fsys.Clone()
	if _, err := h.s.Commit("vm", h.l.version(2).signed, nil); err == nil {
		t.Error("a version was committed that is not installed")
	}
	other := newLine("other").add(t, true, h.l.version(1).disk)
	other.name = h.l.name // deleted and made anew
	_, err := h.s.Commit("vm", other.sign(t, image.Manifest{Version: 2, Disks: []image.Disk{diskOf(image.System, other.version(1))}}), nil)
	if code(t, err) != "DS-OTHER-IMAGE" {
		t.Error(err)
	}
	for _, name := range []string{"vms", "disks"} {
		if diff := cmp.Diff(files(t, before, name), files(t, h.fsys, name)); diff != "" {
			t.Errorf("in %s: %s", name, diff)
		}
	}
	if vm, err := h.s.VM("vm"); err != nil || vm.Counter != v1.Counter {
		t.Errorf("%+v, %v", vm, err)
	}
}

// TestHold: as long as somebody holds the store, nothing is removed; then it is.
func TestHold(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2)
	h.version(true, 3, 4)
	h.version(true, 5, 6)
	v1 := h.bring("vm", 1)
	first, second := h.s.Hold(), h.s.Hold()
	v2 := h.bring("vm", 2)
	v3 := h.bring("vm", 3)
	all := []image.UUID{leafOf(&v1.Current), leafOf(&v2.Current), leafOf(&v3.Current)}
	h.has([]int{1, 2, 3}, all...)
	if err := first(); err != nil {
		t.Fatal(err)
	}
	h.has([]int{1, 2, 3}, all...)
	// What was without use comes into use again.
	other := h.bring("other", 1)
	if err := second(); err != nil {
		t.Fatal(err)
	}
	h.has([]int{1, 2, 3}, append(all[1:], leafOf(&other.Current))...)
	h.holds(leafOf(&other.Current), h.l.version(1).disk)
}

// TestParts: what an interrupted download has built outlives a restart, is not removed while somebody builds on it, and goes when it
// is given up.
func TestParts(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2, 3)
	v := h.l.version(1)
	id := image.VHDUUID(v.state.ID())
	part := []string{id.String() + ".vhd.part"}
	src := newSource(deploy.USB, v.layers...)
	ctx, cancel := context.WithCancel(t.Context())
	src.after = func(int) error {
		if err := h.s.DropPart(id); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(part, files(t, h.fsys, "disks")); diff != "" {
			t.Errorf("while it was built: %s", diff)
		}
		cancel()
		return nil
	}
	if _, err := h.s.Install(ctx, v.layers[0].Index, []deploy.Source{src}, deploy.NewTally()); !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	h.s = openStore(t, h.fsys)
	if diff := cmp.Diff(part, files(t, h.fsys, "disks")); diff != "" {
		t.Error(diff)
	}
	for range 2 {
		if err := h.s.DropPart(id); err != nil {
			t.Fatal(err)
		}
	}
	h.has(nil)
	h.bring("vm", 1)
	if err := h.s.DropPart(id); err != nil {
		t.Fatal(err)
	}
	if ok, err := h.s.Installed(v.state.ID()); !ok || err != nil {
		t.Errorf("what was installed went with its part: %v", err)
	}
}

// TestForeignFiles: what others put into the store's folders is not touched and does not get in the way.
func TestForeignFiles(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2)
	for _, name := range []string{
		"disks/notes.txt", "disks/my.vhd", "disks/00000000-0000-4000-8000-000000000000.vhd", "disks/x.state", "vms/readme", "vms/x.json",
		"disks/00000000-0000-4000-8000-000000000001.state",
	} {
		if err := durable.WriteFile(h.fsys, name, []byte("mine: "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := append(files(t, h.fsys, "disks"), files(t, h.fsys, "vms")...)
	h.s = openStore(t, h.fsys)
	h.bring("vm", 1)
	h.bring("other", 1)
	for _, name := range []string{"vm", "other"} {
		if err := h.s.Delete(name); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, append(files(t, h.fsys, "disks"), files(t, h.fsys, "vms")...)); diff != "" {
		t.Error(diff)
	}
}

// TestDamagedRecord: a record that cannot be read is an error that says which file it is, and nothing is removed because of it.
func TestDamagedRecord(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2)
	vm := h.bring("vm", 1)
	name := "vms/" + vm.ID.String() + ".json"
	good, err := durable.ReadFile(h.fsys, name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "{", strings.Replace(string(good), `"format": 1`, `"format": 2`, 1), strings.Replace(string(good), vm.ID.String(), vm.ImageID.String(), 1)} {
		if bad == string(good) {
			t.Fatal("nothing is damaged")
		}
		if err := durable.WriteFile(h.fsys, name, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		before := files(t, h.fsys, "disks")
		if _, err := h.s.VMs(); code(t, err) != "DS-RECORD" || !errorSays(err, vm.ID.String()) {
			t.Error(err)
		}
		if _, err := deploy.OpenStore(h.fsys, nowForTests); err == nil {
			t.Error("a store with a damaged record was opened: nobody knows what its VM needs")
		}
		if diff := cmp.Diff(before, files(t, h.fsys, "disks")); diff != "" {
			t.Error(diff)
		}
	}
	if err := durable.WriteFile(h.fsys, name, good, 0o600); err != nil {
		t.Fatal(err)
	}
	h.s = openStore(t, h.fsys)
	h.holds(leafOf(&vm.Current), h.l.version(1).disk)
}
