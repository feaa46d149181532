package hotplug_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"disksync/cache"
	"disksync/internal/durable"
	"disksync/internal/hotplug"
	"disksync/internal/testkit"
	"disksync/internal/udisks"
)

// daemons are the machine's real udevd and UDisks2, the latter on a bus of its own.
type daemons struct {
	*testing.T
	address string
}

const (
	udevd    = "/lib/systemd/systemd-udevd"
	udisksd  = "/usr/libexec/udisks2/udisksd"
	rulesDir = "/run/udev/rules.d"
)

// program is a program of the system that is not in the path.
func program(t *testing.T, name string) string {
	t.Helper()
	t.Setenv("PATH", os.Getenv("PATH")+":"+filepath.Dir(name)+":/usr/sbin:/sbin")
	return testkit.Tool(t, filepath.Base(name))
}

func (d *daemons) run(name string, args ...string) string {
	d.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		d.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// start runs a program until the test ends.
func (d *daemons) start(name string, args ...string) {
	d.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+d.address)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it is ended by the signal
		if d.Failed() {
			d.Logf("%s said: %s", filepath.Base(name), said.String())
		}
	})
}

// startDaemons starts UDisks2, and udevd where none runs: there is one for the whole machine.
func startDaemons(t *testing.T) *daemons {
	t.Helper()
	testkit.Root(t, "UDisks2 runs as root")
	d := &daemons{T: t}
	udisksTool, udevTool := program(t, udisksd), program(t, udevd)
	for _, tool := range []string{"udevadm", "losetup", "mkfs.ext4", "mkfs.exfat", "mount"} {
		testkit.Tool(t, tool)
	}
	d.address = testkit.StartBus(t, testkit.SystemBus, "/usr/share/dbus-1/system.d/org.freedesktop.UDisks2.conf").Address
	ping := func() bool { return exec.Command("udevadm", "control", "--ping", "--timeout=1").Run() == nil }
	if !ping() {
		if err := os.MkdirAll("/run/udev", 0o755); err != nil { //nolint:gosec // as udevd makes it
			t.Fatal(err)
		}
		d.start(udevTool)
		testkit.Until(t, "udevd answers", ping)
	}
	d.start(udisksTool, "--no-sigint")
	return d
}

// loop makes a loop device that shows an image; words make it a drive for udev.
func (d *daemons) loop(image string, words ...string) (device string) {
	d.Helper()
	device = d.run("losetup", "-f", "--show", "-r", image)
	name := filepath.Base(device)
	rule := filepath.Join(rulesDir, fmt.Sprintf("99-disksync-test-%d-%s.rules", os.Getpid(), name))
	text := fmt.Sprintf("KERNEL==%q", name)
	for _, w := range append(words, "ID_SERIAL=test-"+name, "ID_VENDOR=Test", "ID_MODEL=Test", "UDISKS_SYSTEM=0") {
		key, value, _ := strings.Cut(w, "=")
		text += fmt.Sprintf(", ENV{%s}=%q", key, value)
	}
	if err := errors.Join(os.MkdirAll(rulesDir, 0o755), os.WriteFile(rule, []byte(text+"\n"), 0o644)); err != nil { //nolint:gosec // udevd reads it
		d.Fatal(err)
	}
	d.Cleanup(func() {
		if err := os.Remove(rule); err != nil {
			d.Error(err)
		}
		if _, _, mounted := (cache.Finder{}).Mounted(device); mounted {
			_ = exec.Command("umount", device).Run()
		}
		_ = exec.Command("losetup", "-d", device).Run() // it may be gone
		// What udev has noted of the device would be believed of the next one with that name.
		_ = exec.Command("udevadm", "control", "--reload").Run()
		_ = exec.Command("udevadm", "trigger", "--settle", "--action=add", "/sys/block/"+name).Run()
	})
	d.run("udevadm", "control", "--reload")
	d.run("udevadm", "trigger", "--action=add", "/sys/block/"+name)
	return device
}

// image makes a file system in a file.
func (d *daemons) image(mkfs, label string, args ...string) string {
	d.Helper()
	file := filepath.Join(d.TempDir(), "disk.img")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 16<<20)); err != nil {
		d.Fatal(err)
	}
	d.run(mkfs, append(append([]string{"-L", label}, args...), file)...)
	return file
}

// watch starts a Watcher.
func (d *daemons) watch(state string) *hotplug.Watcher {
	d.Helper()
	fsys, err := durable.Dir(state)
	if err != nil {
		d.Fatal(err)
	}
	return hotplug.New(hotplug.Options{
		FS: fsys, Getenv: func(name string) string { return map[string]string{"DBUS_SYSTEM_BUS_ADDRESS": d.address}[name] },
	})
}

// medium waits for a device to be among the media as it should be.
func (d *daemons) medium(w *hotplug.Watcher, device, what string, ok func(m cache.Medium, there bool) bool) (found cache.Medium) {
	d.Helper()
	testkit.Until(d, what, func() bool {
		media, _, _ := w.Media()
		i := slices.IndexFunc(media, func(m cache.Medium) bool { return m.Device == device })
		if i < 0 {
			return ok(cache.Medium{}, false)
		}
		found = media[i]
		return ok(found, true)
	})
	return found
}

func isMounted(m cache.Medium, there bool) bool { return there && m.Dir != "" }
func isGone(_ cache.Medium, there bool) bool    { return !there }

// TestRealUDisks: with the real UDisks2 a stick and a disc are told apart, mounted without rights, read, unmounted, and missed when they
// are pulled out; what the kernel cannot read is handed on; and what a crash left mounted is unmounted.
func TestRealUDisks(t *testing.T) {
	d := startDaemons(t)
	state := t.TempDir()
	label := fmt.Sprintf("DS%d", os.Getpid())
	files := t.TempDir()
	if err := os.WriteFile(filepath.Join(files, "hello"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	thumb := []string{"ID_BUS=usb", "ID_DRIVE_THUMB=1"}
	stick := d.loop(d.image("mkfs.ext4", label+"S", "-q", "-O", "^has_journal", "-d", files), thumb...)
	disc := d.loop(d.image("mkfs.ext4", label+"D", "-q", "-O", "^has_journal", "-d", files),
		"ID_CDROM=1", "ID_CDROM_DVD=1", "ID_CDROM_MEDIA=1", "ID_CDROM_MEDIA_DVD=1", "ID_CDROM_MEDIA_STATE=complete",
		"ID_CDROM_MEDIA_TRACK_COUNT=1", "ID_CDROM_MEDIA_TRACK_COUNT_DATA=1")
	odd := d.loop(d.image("mkfs.exfat", label+"X"), "ID_DRIVE_FLASH_SD=1")

	w := d.watch(state)
	done := w.Use(t.Context(), func(cache.Kind) bool { return true })
	for device, kind := range map[string]cache.Kind{stick: cache.USB, disc: cache.DVD} {
		// Until udev has read the rules of this test, it may be something else.
		m := d.medium(w, device, "it is mounted, and "+string(kind), func(m cache.Medium, there bool) bool { return isMounted(m, there) && m.Kind == kind })
		if m.FS != "ext4" || !strings.HasPrefix(m.Label, label) || m.Size != 16<<20 || strings.HasPrefix(m.ID, ":") || strings.HasSuffix(m.ID, ":") ||
			"/dev/"+m.Drive != device {
			t.Errorf("%+v", m)
		}
		if b, err := os.ReadFile(filepath.Join(m.Dir, "hello")); err != nil || string(b) != "hello" {
			t.Errorf("%q, %v", b, err)
		}
		if dir, options, ok := (cache.Finder{}).Mounted(device); !ok || dir != m.Dir || !udisks.MountedSo(options) {
			t.Errorf("mounted on %s with %q", dir, options)
		}
	}
	m := d.medium(w, odd, "it is there", func(_ cache.Medium, there bool) bool { return there })
	if _, notes, _ := w.Media(); m.Dir == "" && !slices.ContainsFunc(notes, func(n string) bool {
		return strings.HasPrefix(n, odd+" is not mounted: the kernel cannot read its file system")
	}) {
		t.Errorf("%+v, notes %q", m, notes)
	}
	left, err := os.ReadFile(filepath.Join(state, "mounted.json"))
	if err != nil {
		t.Fatal(err)
	}
	done()
	for _, device := range []string{stick, disc} {
		testkit.Until(t, "it is unmounted", func() bool {
			_, _, mounted := (cache.Finder{}).Mounted(device)
			return !mounted
		})
	}
	w.Close()
	// As after a crash: both are mounted, and one of them by somebody else.
	for _, device := range []string{stick, disc} {
		options := []string{"DBUS_SYSTEM_BUS_ADDRESS=" + d.address, "udisksctl", "mount", "--no-user-interaction", "-b", device}
		if device == stick {
			options = append(options, "-o", "ro,nosuid,nodev,noexec")
		}
		d.run("env", options...)
	}
	ours := bytes.ReplaceAll(left, []byte(disc), []byte("/dev/nothing"))
	if err := os.WriteFile(filepath.Join(state, "mounted.json"), ours, 0o600); err != nil {
		t.Fatal(err)
	}
	w = d.watch(state)
	defer w.Close()
	testkit.Until(t, "what was left is unmounted", func() bool {
		_, _, mounted := (cache.Finder{}).Mounted(stick)
		return !mounted
	})
	if _, _, mounted := (cache.Finder{}).Mounted(disc); !mounted {
		t.Error("somebody else's mount was undone")
	}
	// Pulled out.
	defer w.Use(t.Context(), func(cache.Kind) bool { return true })()
	d.medium(w, disc, "the disc of somebody else is used", isMounted)
	d.run("umount", disc)
	d.medium(w, odd, "the third is there", func(_ cache.Medium, there bool) bool { return there })
	began := time.Now()
	d.run("losetup", "-d", odd)
	d.medium(w, odd, "it is gone", isGone)
	t.Logf("missed after %v", time.Since(began))
}
