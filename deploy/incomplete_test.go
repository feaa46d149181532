package deploy_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"disksync/deploy"
	"disksync/image"
)

// TestIncomplete: a version that is not all here is kept with everything that it needs, and what needs all of it is refused; what its
// user writes meanwhile is there when it is whole; and with the VM everything goes.
func TestIncomplete(t *testing.T) {
	fsys := newFS()
	l := newLine("incomplete").add(t, true, disk(0, 1, 2, 3)).add(t, false, disk(0, 1, 4, 3)).add(t, false, disk(0, 5, 4, 3))
	v := l.version(3)
	s := newScene(t, openStore(t, fsys), v)
	other := l.version(1)
	if err := bringAs(t, s.store, "other", other); err != nil {
		t.Fatal(err)
	}
	j := s.job()
	p, err := j.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	vm, err := s.store.CommitEarly("vm", v.signed, nil, p)
	if err != nil || len(vm.Current.Incomplete) != 3 {
		t.Fatalf("%+v, %v", vm, err)
	}
	e, err := j.OpenEarly(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	d := vm.Current.Disks[0]
	live, err := s.store.OpenLiveEarly(d, e.Disks[0].Reader(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := live.Disk.WriteAt([]byte("mine"), block+100); err != nil {
		t.Fatal(err)
	}
	if err := live.Close(); err != nil {
		t.Fatal(err)
	}
	e.Close()
	want := bytes.Clone(v.disk)
	copy(want[block+100:], "mine")
	fsys = fsys.Clone() // another process
	s.store = openStore(t, fsys)
	for what, do := range map[string]func() error{
		"updated":     func() error { _, err := s.store.Commit("vm", other.signed, nil); return err },
		"rolled back": func() error { _, err := s.store.RollBack("vm"); return err },
		"verified":    func() error { _, err := s.store.Verify(t.Context(), "vm", deploy.NewTally(), l.public()); return err },
		"exported": func() error {
			_, err := s.store.Export(t.Context(), "vm", image.System, nil, deploy.NewTally())
			return err
		},
	} {
		if err := do(); err == nil || what != "rolled back" && code(t, err) != "DS-INCOMPLETE" {
			t.Errorf("it was %s: %v", what, err)
		}
	}
	if _, err := s.store.Complete("vm"); err == nil {
		t.Error("it is complete without its disks")
	}
	// What it stands on stays, though the VM that it was brought for goes, and so does what was built of it.
	parts := strings.Count(strings.Join(files(t, fsys, "disks"), " "), ".part")
	for _, id := range vm.Current.Incomplete {
		if err := s.store.DropPart(id); err != nil {
			t.Error(err)
		}
	}
	if err := s.store.Delete("other"); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.store.Installed(other.state.ID()); !ok || err != nil {
		t.Errorf("what it stands on is gone: %v", err)
	}
	if now := strings.Count(strings.Join(files(t, fsys, "disks"), " "), ".part"); now != parts || parts == 0 {
		t.Errorf("%d parts, there were %d", now, parts)
	}
	gone := fsys.Clone()
	if err := openStore(t, gone).Delete("vm"); err != nil {
		t.Fatal(err)
	}
	if left := files(t, gone, "disks"); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
	if _, err := s.install(t.Context(), s.job()); err != nil {
		t.Fatal(err)
	}
	if vm, err = s.store.Complete("vm"); err != nil || vm.Current.Incomplete != nil {
		t.Fatalf("%+v, %v", vm, err)
	}
	if err := sameContent(fsys, vm.Current.Disks[0].Leaf, want); err != nil {
		t.Error(err)
	}
	if _, err := s.store.RollBack("vm"); err == nil || errors.Is(err, deploy.ErrNoVM) {
		t.Error(err)
	}
}

// bringAs installs a version as the VM with that name.
func bringAs(t *testing.T, s *deploy.Store, name string, v version) error {
	for _, m := range v.layers {
		if _, err := s.Install(t.Context(), m.Index, []deploy.Source{newSource(deploy.USB, m)}, deploy.NewTally()); err != nil {
			return err
		}
	}
	_, err := s.Commit(name, v.signed, nil)
	return err
}
