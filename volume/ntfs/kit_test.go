package ntfs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"disksync/internal/testkit"
	"disksync/volume"
	"disksync/volume/ntfs"
)

// command runs a program and returns what it printed.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := try(t, name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

func try(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(testkit.Tool(t, name), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// format makes an image of so many MiB, sparse, with an NTFS volume.
func makeImage(t testing.TB, mib int64, args string) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "ntfs.img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, mib<<20); err != nil {
		t.Fatal(err)
	}
	command(t, "mkntfs", append(strings.Fields("-q -F -Q -p 0 -H 0 -S 0 "+args), img)...)
	return img
}

// mounted mounts an image with ntfs-3g and runs do on it. Where that cannot be done the test is skipped: a container may not let it.
func mounted(t testing.TB, img, options string, do func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	if out, err := try(t, "ntfs-3g", "-o", options, img, dir); err != nil {
		t.Skipf("no file system can be mounted here: %v: %s", err, out)
	}
	defer func() {
		// What the file system still writes is written when it is gone.
		if out, err := try(t, "umount", dir); err != nil {
			t.Fatalf("umount: %v: %s", err, out)
		}
	}()
	do(dir)
}

// device opens an image.
func device(t testing.TB, img string) *volume.Device {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return volume.NewDevice(f, st.Size())
}

// open opens the volume in an image.
func open(t testing.TB, img string) volume.Volume {
	t.Helper()
	v, err := ntfs.Open(device(t, img))
	if err != nil {
		t.Fatal(err)
	}
	return v
}
