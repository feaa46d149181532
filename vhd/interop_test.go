package vhd_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"disksync/internal/testkit"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// qemuImg runs qemu-img. Only fixed and dynamic disks are compared with it: it opens a differencing one without its parent.
func qemuImg(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command(testkit.Tool(t, "qemu-img"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %v: %v\n%s", args, err, out)
	}
}

// patchy returns a disk with data, compressible data, zeros and a last partial block.
func patchy(size int) []byte {
	b := make([]byte, size)
	copy(b, noise(3<<20, 1))
	copy(b[size/2+777*512:], noise(1<<20, 2))
	copy(b[size-700:], noise(700, 3))
	return b
}

// TestQemuReadsOurs: what is written here is what qemu-img reads, sizes included.
func TestQemuReadsOurs(t *testing.T) {
	for _, size := range []int{9<<20 + 512*3, 16 << 20} {
		dir := t.TempDir()
		name := filepath.Join(dir, "ours.vhd")
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := vhd.Create(f, vhd.CreateOptions{Size: int64(size), UUID: newUUID(1)}); err != nil {
			t.Fatal(err)
		}
		fileSize, err := vhdfile.Size(f)
		if err != nil {
			t.Fatal(err)
		}
		d, err := vhd.OpenDisk(f, fileSize, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := patchy(size)
		if _, err := d.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		raw := filepath.Join(dir, "raw")
		qemuImg(t, "convert", "-f", "vpc", "-O", "raw", name, raw)
		got, err := os.ReadFile(raw)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("size %d: qemu-img reads %d bytes, and others than were written", size, len(got))
		}
	}
}

// TestWeReadQemus: what qemu-img writes is what is read here.
func TestWeReadQemus(t *testing.T) {
	for _, subformat := range []string{"fixed", "dynamic"} {
		dir := t.TempDir()
		raw, name := filepath.Join(dir, "raw"), filepath.Join(dir, "q.vhd")
		want := patchy(11<<20 + 512*5)
		if err := os.WriteFile(raw, want, 0o600); err != nil {
			t.Fatal(err)
		}
		qemuImg(t, "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on,subformat="+subformat, raw, name)
		c, err := vhdfile.OpenChain(name, vhdfile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if !bytes.Equal(readAll(t, c, c.Size()), want) {
			t.Errorf("%s: content differs", subformat)
		}
	}
}
