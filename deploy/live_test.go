package deploy_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/deploy"
	"disksync/image"
	"disksync/internal/faultfs"
)

func (h *house) live(leaf image.UUID) *deploy.Live {
	h.Helper()
	l, err := h.s.OpenLive(leaf)
	if err != nil {
		h.Fatal(err)
	}
	return l
}

func (h *house) close(l *deploy.Live) {
	h.Helper()
	if err := l.Close(); err != nil {
		h.Fatal(err)
	}
}

// TestLive: what is written to a leaf in use is there afterwards; meanwhile nobody else writes to it, and the VM stays as it is.
func TestLive(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2)
	h.version(false, 1, 3)
	h.bring("vm", 1)
	vm := h.bring("vm", 2)
	l := h.live(leafOf(&vm.Current))
	want := slices.Clone(h.l.version(2).disk)
	copy(want[block+512:], "written by the guest")
	if _, err := l.Disk.WriteAt([]byte("written by the guest"), block+512); err != nil {
		t.Fatal(err)
	}
	if _, err := h.s.OpenLive(leafOf(&vm.Current)); !errors.Is(err, deploy.ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	for what, do := range map[string]func() error{
		"update":      func() error { _, err := h.s.Commit("vm", h.l.version(1).signed, nil); return err },
		"roll back":   func() error { _, err := h.s.RollBack("vm"); return err },
		"delete":      func() error { return h.s.Delete("vm") },
		"start anew":  func() error { _, err := h.s.Renew("vm", map[image.Role]bool{image.System: true}); return err },
		"as it is":    func() error { return nil },
		"other image": func() error { h.bring("other", 1); return h.s.Delete("other") },
	} {
		refused := what != "as it is" && what != "other image"
		if err := do(); refused && (err == nil || code(t, err) != "DS-RUNNING") || !refused && err != nil {
			t.Errorf("%s while it runs: %v", what, err)
		}
	}
	if now, err := h.s.VM("vm"); err != nil || !cmp.Equal(vm, now) {
		t.Errorf("the VM is not as it was: %s, %v", cmp.Diff(vm, now), err)
	}
	h.close(l)
	h.holds(leafOf(&vm.Current), want)
	h.rollBack("vm")
	if err := h.s.Delete("vm"); err != nil {
		t.Fatal(err)
	}
	h.has(nil)
}

// TestLiveMissing: a leaf that is not there, or that stands on nothing, is not opened, and nothing stays in use.
func TestLiveMissing(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2)
	vm := h.bring("vm", 1)
	if _, err := h.s.OpenLive(deploy.NewUUID()); err == nil {
		t.Error("a leaf was opened that is not there")
	}
	if err := h.fsys.Remove(deploy.Path(vm.Current.Disks[0].Base)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.s.OpenLive(leafOf(&vm.Current)); err == nil {
		t.Error("a leaf was opened whose parent is not there")
	}
	if err := h.s.Delete("vm"); err != nil {
		t.Error(err)
	}
}

// TestLiveKeepsFiles: what loses its last record while it is in use is removed when it is let go.
func TestLiveKeepsFiles(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2)
	h.version(true, 3, 4)
	h.version(true, 5, 6)
	h.bring("vm", 1)
	v2 := h.bring("vm", 2)
	other := h.bring("other", 1)
	l := h.live(leafOf(&other.Current))
	v3 := h.bring("vm", 3)
	h.has([]int{1, 2, 3}, leafOf(&v2.Current), leafOf(&v3.Current), leafOf(&other.Current))
	h.close(l)
	h.has([]int{1, 2, 3}, leafOf(&v2.Current), leafOf(&v3.Current), leafOf(&other.Current))
	// Deleted while somebody holds the store, and in use when that one lets go.
	letGo := h.s.Hold()
	if err := h.s.Delete("other"); err != nil {
		t.Fatal(err)
	}
	l = h.live(leafOf(&other.Current))
	if err := letGo(); err != nil {
		t.Fatal(err)
	}
	h.has([]int{1, 2, 3}, leafOf(&v2.Current), leafOf(&v3.Current), leafOf(&other.Current))
	h.close(l)
	h.has([]int{2, 3}, leafOf(&v2.Current), leafOf(&v3.Current))
}

// TestRenew: a disk that begins anew is as it was published, the others are as they were, and with a crash at any step it is one of
// both.
func TestRenew(t *testing.T) {
	h := newHouse(t)
	h.l.mode = image.Dynamic
	h.version(true, 1, 2)
	vm := h.bring("vm", 1)
	written := h.scribble(leafOf(&vm.Current), "not meant to last")
	system := map[image.Role]bool{image.System: true}
	if now, err := h.s.Renew("vm", map[image.Role]bool{image.User: true}); err != nil || !cmp.Equal(vm, now) {
		t.Fatalf("another disk: %s, %v", cmp.Diff(vm, now), err)
	}
	crashes := 0
	for k := 1; ; k++ {
		fsys := h.fsys.Clone()
		s := openStore(t, fsys)
		fsys.Arm(k, faultfs.PowerLoss)
		_, err := s.Renew("vm", system)
		if err == nil {
			break
		}
		crashes++
		fsys = fsys.Restart(0, rand.New(rand.NewPCG(uint64(k), 1)))
		s = openStore(t, fsys)
		now, err := s.VM("vm")
		if err != nil {
			t.Fatal(err)
		}
		want := written
		if leafOf(&now.Current) != leafOf(&vm.Current) {
			want = h.l.version(1).disk
		}
		if err := sameContent(fsys, leafOf(&now.Current), want); err != nil {
			t.Errorf("crash at step %d: %v", k, err)
		}
	}
	if crashes < 5 {
		t.Errorf("only %d crashes", crashes)
	}
	now, err := h.s.Renew("vm", system)
	if err != nil {
		t.Fatal(err)
	}
	h.holds(leafOf(&now.Current), h.l.version(1).disk)
	h.has([]int{1}, leafOf(&now.Current))
	if again, err := h.s.Renew("vm", system); err != nil || !cmp.Equal(now, again) {
		t.Errorf("nothing was written, and yet: %s, %v", cmp.Diff(now, again), err)
	}
}

// TestLiveDies: what a guest has written is there when the process has died without a word, and not otherwise counted on when the machine
// has started anew.
func TestLiveDies(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2)
	vm := h.bring("vm", 1)
	leaf := leafOf(&vm.Current)
	l := h.live(leaf)
	want := slices.Clone(h.l.version(1).disk)
	copy(want[700:], "acknowledged")
	if _, err := l.Disk.WriteAt([]byte("acknowledged"), 700); err != nil {
		t.Fatal(err)
	}
	dead := h.fsys.Clone() // the files as the system has them when the process is gone
	if changed, err := h.s.Changed(vm); err != nil || !changed[image.System] {
		t.Errorf("while it runs: changed %v, %v", changed, err)
	}
	h.close(l)
	s := openStore(t, dead)
	if err := sameContent(dead, leaf, want); err != nil {
		t.Error(err)
	}
	if now, err := s.VM("vm"); err != nil || !cmp.Equal(vm, now) {
		t.Errorf("the record differs: %s, %v", cmp.Diff(vm, now), err)
	}
	if names := files(t, dead, "disks"); slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".log") }) {
		t.Errorf("a log is left: %v", names)
	}
	if err := s.Delete("vm"); err != nil {
		t.Error(err)
	}
}

// TestPending: a version that waits for its VM's start keeps what it stands on, becomes the current one when it can, and can be forgotten.
func TestPending(t *testing.T) {
	h := newHouse(t)
	for n := range uint64(4) {
		h.version(true, n+1, n+2)
	}
	v1 := h.bring("vm", 1)
	other := h.bring("other", 2)
	install := func(n int) image.Verified {
		v := h.l.version(n)
		if err := installAll(t.Context(), h.s, v, deploy.NewTally(), newSource(deploy.USB, v.layers...)); err != nil {
			t.Fatal(err)
		}
		return v.signed
	}
	l := h.live(leafOf(&v1.Current))
	vm, err := h.s.Postpone("vm", install(2), false)
	if err != nil || vm.Pending == nil || vm.Pending.Version != 2 || !cmp.Equal(vm.Current, v1.Current) {
		t.Fatalf("%+v, %v", vm, err)
	}
	if err := h.s.Delete("other"); err != nil {
		t.Fatal(err)
	}
	h.has([]int{1, 2}, leafOf(&v1.Current)) // version 2 stays for the VM that waits
	_ = other
	if _, err := h.s.Apply("vm", h.l.version(2).signed, nil); code(t, err) != "DS-RUNNING" {
		t.Errorf("while it runs: %v", err)
	}
	if _, err = h.s.Postpone("vm", install(3), false); err != nil {
		t.Fatal(err)
	}
	h.has([]int{1, 3}, leafOf(&v1.Current))
	h.close(l)
	h.s = openStore(t, h.fsys)
	vm, err = h.s.Apply("vm", h.l.version(3).signed, nil)
	if err != nil || vm.Pending != nil || vm.Current.Version != 3 || vm.Previous.Version != 1 {
		t.Fatalf("%+v, %v", vm, err)
	}
	h.holds(leafOf(&vm.Current), h.l.version(3).disk)
	if _, err = h.s.Postpone("vm", install(4), false); err != nil {
		t.Fatal(err)
	}
	if vm, err = h.s.Forget("vm"); err != nil || vm.Pending != nil {
		t.Fatalf("%+v, %v", vm, err)
	}
	h.has([]int{1, 3}, leafOf(&v1.Current), leafOf(&vm.Current))
	if _, err = h.s.Postpone("vm", install(4), false); err != nil {
		t.Fatal(err)
	}
	if vm = h.rollBack("vm"); vm.Pending != nil || vm.Current.Version != 1 {
		t.Errorf("%+v", vm)
	}
	if err := h.s.Delete("vm"); err != nil {
		t.Fatal(err)
	}
	h.has(nil)
}

// TestSaveChanges: only the system disk of a dynamic VM can be told to stay, and then what is on it is its user's.
func TestSaveChanges(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2)
	h.bring("vm", 1)
	if _, err := h.s.SaveChanges("vm", true); code(t, err) != "DS-USAGE" {
		t.Error(err)
	}
	h = newHouse(t)
	h.l.mode = image.Dynamic
	for n := range uint64(3) {
		h.version(true, n+1, n+2)
	}
	v1 := h.bring("vm", 1)
	if vm, err := h.s.SaveChanges("vm", true); err != nil || !vm.SaveChanges {
		t.Fatalf("%+v, %v", vm, err)
	}
	h.scribble(leafOf(&v1.Current), "meant to last")
	h.bring("vm", 2)
	if v3 := h.bring("vm", 3); !v3.SaveChanges || !slices.Equal(v3.Kept, []image.UUID{leafOf(&v1.Current)}) {
		t.Errorf("%+v", v3)
	}
}
