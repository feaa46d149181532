package hotplug_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"disksync/internal/testkit"
)

// mustAttach shows a file as a block device until the test ends.
func mustAttach(t *testing.T) {
	t.Helper()
	tool := testkit.Tool(t, "losetup")
	file := filepath.Join(t.TempDir(), "disk.img")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 1<<20)); err != nil {
		t.Fatal(err)
	}
	device, err := exec.Command(tool, "-f", "--show", "-r", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := exec.Command(tool, "-d", strings.TrimSpace(string(device))).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// mustMount mounts an empty file system in memory until the test ends.
func mustMount(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}

// mustSayAsUdev sends what udev does when it has looked at a block device, without what follows its mark: other listeners leave it alone.
func mustSayAsUdev(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, []byte("libudev\x00ACTION=add\x00SUBSYSTEM=block\x00"), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 2}); err != nil {
		t.Fatal(err)
	}
}
