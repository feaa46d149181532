package deploy_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/vhd"
)

// taken returns how much room a VHD of a store in a folder takes.
func taken(t *testing.T, dir string, id image.UUID) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, "disks", id.String()+".vhd"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// canPunch skips the test where the file system makes no holes.
func canPunch(t *testing.T, fsys durable.FS) {
	t.Helper()
	f, err := fsys.Create("probe", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.(vhd.Puncher).Punch(0, 4096); errors.Is(err, errors.ErrUnsupported) {
		t.Skip("the file system makes no holes")
	} else if err != nil {
		t.Fatal(err)
	}
	if err := durable.Remove(fsys, "probe"); err != nil {
		t.Fatal(err)
	}
}

// TestTrimGivesRoomBack: what a VM trims takes no room in its leaf any more, reads as zeros also when the disk is opened anew, and can be
// written again; what was frozen for a backup, and what lies beside it, stay as they were.
func TestTrimGivesRoomBack(t *testing.T) {
	dir := t.TempDir()
	fsys, err := durable.Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	canPunch(t, fsys)
	s := openStore(t, fsys)
	v := newLine("trims").add(t, true, disk(1, 1, 2, 3)).version(1)
	if err := bring(t.Context(), s, v, newSource(deploy.USB, v.layers...)); err != nil {
		t.Fatal(err)
	}
	vm, err := s.VM("vm")
	if err != nil {
		t.Fatal(err)
	}
	writeDisk(t, fsys, leafOf(&vm.Current), 0, []byte("frozen"))
	if vm, err = s.Freeze("vm", nil, image.Stopped); err != nil {
		t.Fatal(err)
	}
	d := vm.Current.Disks[0]
	frozen, err := os.ReadFile(filepath.Join(dir, deploy.Path(d.Frozen[0])))
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(v.disk)
	copy(want, "frozen")
	live, err := s.OpenLive(d.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 2*image.BlockSize)
	noise(p, 7)
	if _, err := live.Disk.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	copy(want, p)
	if err := live.Disk.Sync(); err != nil {
		t.Fatal(err)
	}
	before := taken(t, dir, d.Leaf)
	for _, r := range [][2]int64{{0, image.BlockSize}, {image.BlockSize + 5000, 300000}, {2*image.BlockSize - 100, 200}} {
		if err := live.Disk.Discard(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
		clear(want[r[0] : r[0]+r[1]])
	}
	if err := live.Disk.Sync(); err != nil {
		t.Fatal(err)
	}
	if gone := before - taken(t, dir, d.Leaf); gone < image.BlockSize+280000 {
		t.Errorf("%d bytes of %d were given back", gone, before)
	}
	if _, err := live.Disk.WriteAt([]byte("again"), 70000); err != nil {
		t.Fatal(err)
	}
	copy(want[70000:], "again")
	if err := live.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sameContent(fsys, d.Leaf, want); err != nil {
		t.Error(err)
	}
	if now, err := os.ReadFile(filepath.Join(dir, deploy.Path(d.Frozen[0]))); err != nil || !bytes.Equal(now, frozen) {
		t.Errorf("what was frozen is another file, %v", err)
	}
}
