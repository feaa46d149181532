// Package guest is a small real guest for tests: Debian's cloud kernel and busybox on a disk that starts with BIOS and with UEFI. Its
// system takes commands on the serial console, the guest agent of QEMU answers on its channel, and the power button shuts it down; with
// the commands no_agent and no_button they no longer do.
//
// The disk has a FAT partition with the boot loaders, the kernel and its first file system, and an ext4 partition that the guest
// mounts at /mnt. A second and a third disk, where they are there and hold ext4, are mounted at /disk/b and /disk/c.
package guest

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"disksync/internal/testkit"
)

// Ready is the line that the guest prints on its console when it takes commands.
const Ready = "disksync guest ready"

//go:embed init.sh
var initScript string

// recipe changes when images that were made before are of no use any more.
const recipe = "7"

// Layout of the disk, in bytes.
const (
	// Size is the disk's.
	Size      = 88 << 20
	espOffset = 1 << 20
	espSize   = 30 << 20
	// RootOffset and RootSize are where the guest's ext4 file system lies.
	RootOffset = espOffset + espSize
	RootSize   = Size - RootOffset
)

// modules of the kernel, in the order in which they are loaded.
var modules = []string{
	"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk", "virtio_console",
	"failover", "net_failover", "virtio_net", "evdev", "button",
}

// cache returns the folder in which the kernel's package and finished images are.
func cache(t testing.TB) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "disksync-guest")
}

// kernelPackage returns the Debian package of the kernel, which scripts/setup puts into the cache. Where it is not there the test is
// skipped, and fails where CI is set.
func kernelPackage(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(cache(t), "linux-image-*-cloud-amd64_*.deb"))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) > 0 {
		return found[len(found)-1]
	}
	testkit.Missing(t, "the kernel of a guest, which `scripts/setup test` brings")
	return ""
}

// tools are what making the image takes.
var tools = []string{
	"dpkg-deb", "busybox", "qemu-ga", "cpio", "mkfs.fat", "mcopy", "mmd", "mke2fs", "sfdisk", "syslinux", "qemu-system-x86_64", "e2fsck",
}

// Image returns a sparse raw image of the guest's disk. It is made once for all tests; nobody may write to it.
func Image(t testing.TB) string {
	t.Helper()
	for _, name := range tools {
		testkit.Tool(t, name)
	}
	pkg := kernelPackage(t)
	sum := sha256.Sum256([]byte(recipe + initScript + filepath.Base(pkg) + strings.Join(modules, " ")))
	name := filepath.Join(cache(t), "guest-"+hex.EncodeToString(sum[:6])+".img")
	if _, err := os.Stat(name); err == nil {
		return name
	}
	b := &builder{TB: t, dir: t.TempDir(), pkg: pkg}
	temp := filepath.Join(cache(t), filepath.Base(b.dir)+"-"+filepath.Base(name)+".tmp")
	b.build(temp)
	if err := os.Rename(temp, name); err != nil {
		t.Fatal(err)
	}
	return name
}

// Disk makes a raw image of size bytes that holds an ext4 file system, as a further disk of the guest.
func Disk(t testing.TB, name string, size int64) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	run(t, "", testkit.Tool(t, "mke2fs"), "-q", "-t", "ext4", "-F", name)
}

// AddFile puts a file into the guest's file system on a raw image of the disk.
func AddFile(t testing.TB, raw, name, content string) {
	t.Helper()
	from := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(from, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "", testkit.Tool(t, "debugfs"), "-w", "-R", fmt.Sprintf("write %s %s", from, name), Root(raw))
}

// Root returns the name by which the programs of e2fsprogs know the guest's file system on a raw image of the disk.
func Root(raw string) string { return fmt.Sprintf("%s?offset=%d", raw, RootOffset) }

// FileSum returns the SHA-256 of a file in an ext4 file system, as 64 hexadecimal digits; fs is the name of a raw image, or [Root] of one.
func FileSum(t testing.TB, fs, name string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "file")
	run(t, "", testkit.Tool(t, "debugfs"), "-R", fmt.Sprintf("dump %s %s", name, to), fs)
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// CheckClean has e2fsck look at an ext4 file system that was unmounted or frozen, without changing it: its journal has nothing to mend. fs
// is the name of a raw image, or [Root] of one.
func CheckClean(t testing.TB, fs string) {
	t.Helper()
	head := run(t, "", testkit.Tool(t, "dumpe2fs"), "-h", fs)
	if strings.Contains(head, "needs_recovery") || !strings.Contains(head, "Filesystem state:         clean\n") {
		t.Errorf("the file system was neither unmounted nor frozen:\n%s", head)
	}
	if out, err := exec.Command(testkit.Tool(t, "e2fsck"), "-fn", fs).CombinedOutput(); err != nil {
		t.Errorf("e2fsck -fn: %v\n%s", err, out)
	}
}

// CheckRoot has e2fsck look at the guest's file system on a raw image of the disk, without changing it; mended first by its journal
// when the guest was not shut down.
func CheckRoot(t testing.TB, raw string) {
	t.Helper()
	part := filepath.Join(t.TempDir(), "root")
	run(t, "", "dd", "if="+raw, "of="+part, "bs=1M", fmt.Sprintf("skip=%d", RootOffset>>20), fmt.Sprintf("count=%d", RootSize>>20), "conv=sparse", "status=none")
	e2fsck := testkit.Tool(t, "e2fsck")
	if out, err := exec.Command(e2fsck, "-E", "journal_only", "-y", part).CombinedOutput(); err != nil && exitCode(err) != 1 {
		t.Fatalf("replay the journal: %v: %s", err, out)
	}
	if out, err := exec.Command(e2fsck, "-fn", part).CombinedOutput(); err != nil {
		t.Errorf("e2fsck -fn: %v\n%s", err, out)
	}
}

func exitCode(err error) int {
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	return -1
}

func run(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}
