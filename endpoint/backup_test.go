package endpoint_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"disksync/endpoint"
	"disksync/image"
)

// writes writes to the disk of a VM as the VM does.
func (w *world) writes(vm string, off int64, p []byte) {
	w.Helper()
	vms, err := w.e.VMs()
	if err != nil {
		w.Fatal(err)
	}
	i := slices.IndexFunc(vms, func(v endpoint.VMInfo) bool { return v.Name == vm })
	if i < 0 {
		w.Fatalf("no VM %s", vm)
	}
	id, err := image.ParseUUID(strings.TrimSuffix(filepath.Base(vms[i].Disks[0].Leaf), ".vhd"))
	if err != nil {
		w.Fatal(err)
	}
	l, err := w.e.Store().OpenLive(id)
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

func TestBackupAndRestore(t *testing.T) {
	w := ready(t, disk(1, 2, 3, 4))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	now := disk(1, 2, 3, 4)
	var past [][]byte
	for i := range 4 {
		text := []byte{'r', 'o', 'u', 'n', 'd', byte('0' + i)}
		copy(now[block+i*700:], text)
		w.writes("win7", int64(block+i*700), text)
		rc := w.run(endpoint.Request{Kind: endpoint.Backup, VM: "win7"})
		if rc.Point == nil || int(rc.Point.Point) != i+1 || rc.Nothing != "" || len(rc.Point.Disks) != 1 || rc.Point.Disks[0].Read != 1 {
			t.Fatalf("%+v", rc.Point)
		}
		past = append(past, slices.Clone(now))
		w.holds("win7", now)
	}
	if rc := w.run(endpoint.Request{Kind: endpoint.Backup, VM: "win7"}); rc.Nothing == "" || rc.Point.Point != 4 {
		t.Errorf("a backup of nothing: %+v", rc)
	}
	for i, want := range past {
		name := "back" + string(rune('1'+i))
		rc := w.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", Point: image.Version(i + 1), VM: name})
		if rc.Point.Point != image.Version(i+1) || rc.Version != 1 {
			t.Errorf("%+v", rc)
		}
		w.holds(name, want)
	}
}
