package guest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"disksync/internal/testkit/guest"
)

// TestGuest: the guest boots from its disk, keeps what it writes, and is found clean.
func TestGuest(t *testing.T) {
	t.Parallel()
	disk := filepath.Join(t.TempDir(), "disk")
	if out, err := exec.Command("cp", "--sparse=always", guest.Image(t), disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data := filepath.Join(t.TempDir(), "data")
	guest.Disk(t, data, 32<<20)
	drives := []string{"driver=raw,file.driver=file,file.filename=" + disk, "driver=raw,file.driver=file,file.filename=" + data}
	m := guest.Start(t, drives...)
	m.Ready()
	m.WriteFiles("/mnt/data/f", 1, 20, 70000)
	m.WriteFiles("/disk/b/f", 5, 9, 100)
	m.CheckFiles("/mnt/data/f", 1, 20, 70000)
	m.Off()
	m.Kill()
	m = guest.Start(t, drives...)
	m.Ready()
	m.CheckFiles("/mnt/data/f", 1, 20, 70000)
	m.CheckFiles("/disk/b/f", 5, 9, 100)
	m.WriteFiles("/mnt/data/f", 21, 22, 70000)
	m.Kill()
	guest.CheckRoot(t, disk)
	if st, err := os.Stat(disk); err != nil || st.Size() != guest.Size {
		t.Errorf("%v, %v", st, err)
	}
}
