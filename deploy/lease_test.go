package deploy_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"disksync/deploy"
	"disksync/internal/durable"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// TestOthersKeepFromDisksInUse: a leaf that is open for writing, and what it stands on, is locked against programs such as vhd-util, and the
// other way round; looking at it does no harm.
func TestOthersKeepFromDisksInUse(t *testing.T) {
	l := newLine("locks")
	l.add(t, true, disk(1, 1, 2))
	v := l.version(1)
	folder := t.TempDir()
	dir, err := durable.Dir(folder)
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, dir)
	if err := installAll(t.Context(), s, v, deploy.NewTally(), newSource(deploy.USB, v.layers...)); err != nil {
		t.Fatal(err)
	}
	vm, err := s.Commit("vm", v.signed, nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf := filepath.Join(folder, deploy.Path(leafOf(&vm.Current)))
	golden := filepath.Join(folder, deploy.Path(vm.Current.Disks[0].Base))

	live, err := s.OpenLive(leafOf(&vm.Current))
	if err != nil {
		t.Fatal(err)
	}
	again, err := live.Again()
	if err != nil {
		t.Fatal(err)
	}
	if err := live.Close(); err != nil {
		t.Fatal(err)
	}
	mine := []byte("written by the guest")
	if _, err := again.Disk.WriteAt(mine, block); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(vhdfile.LogName(leaf))
	if err != nil || len(log) <= vhd.EmptyLogSize {
		t.Fatalf("the log: %d bytes, %v", len(log), err)
	}
	for _, name := range []string{leaf, golden} {
		if _, err := vhdfile.OpenWritable(name); !errors.Is(err, vhdfile.ErrInUse) {
			t.Errorf("%s was opened for writing: %v", name, err)
		}
		if _, err := vhdfile.OpenDisk(name, vhdfile.Options{}); !errors.Is(err, vhdfile.ErrInUse) {
			t.Errorf("%s was opened as a disk: %v", name, err)
		}
		c, err := vhdfile.OpenChain(name, vhdfile.Options{})
		if err != nil {
			t.Fatalf("look at %s: %v", name, err)
		}
		c.Close()
	}
	if now, err := os.ReadFile(vhdfile.LogName(leaf)); err != nil || !bytes.Equal(now, log) {
		t.Errorf("whoever looked took what was in the log: %d bytes of %d, %v", len(now), len(log), err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}

	d, err := vhdfile.OpenDisk(leaf, vhdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(mine))
	if _, err := d.ReadAt(got, block); err != nil || string(got) != string(mine) {
		t.Errorf("the disk holds %q, %v", got, err)
	}
	if _, err := s.OpenLive(leafOf(&vm.Current)); code(t, err) != "DS-IN-USE" {
		t.Errorf("opened while another program writes: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if live, err = s.OpenLive(leafOf(&vm.Current)); err != nil {
		t.Fatal(err)
	}
	if err := live.Close(); err != nil {
		t.Fatal(err)
	}
}
