package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"disksync/internal/testkit"
	"disksync/internal/testkit/fakeudisks"
	"disksync/internal/testkit/lab"
)

// TestMedia: what is in is shown, with and without the service, whether or not it can be mounted; and it is mounted for no longer than
// that takes.
func TestMedia(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SessionBus) // on which a test may own UDisks2's name
	env := append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+bus.Address)
	f := fakeudisks.Start(t, bus.Address)
	l := lab.Start(t)
	l.User(t, "alice")
	l.Publish(t, "win7", lab.Disk(1, 2))
	l.Assign(t, "win7", "alice", 0)
	stick := l.Stick(t, "win7", 1)
	state := filepath.Join(t.TempDir(), "state")
	run := func(input string, args ...string) string {
		t.Helper()
		cmd := exec.Command(shipped.Path(t, "disksyncmgr"), args...)
		cmd.Env, cmd.Stdin = env, strings.NewReader(input)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		return string(out)
	}
	alone := []string{"--standalone", "--state", state}
	run("", append(alone, "register", l.URL, "--fingerprint", l.Fingerprint.String())...)
	run(lab.Password, append(alone, "login", "alice", "--password-stdin")...)
	f.Add(fakeudisks.Medium{Name: "sdb1", Drive: "Stick", FS: "vfat", Label: "GOLD\x1b[7mEN", UUID: "12AB-34CD", Size: 8 << 30, Dir: stick})
	f.Add(fakeudisks.Medium{Name: "sr0", Drive: "DVD", Disc: true, FS: "udf", Label: "OTHER", Size: 4 << 30, Refuse: "Failed", Say: "Filesystem type udf not configured in kernel."})
	calls := []string{"mount sdb1 ro,nosuid,nodev,noexec", "mount sr0 ro,nosuid,nodev,noexec", "unmount sdb1"}
	check := func(out string) {
		t.Helper()
		for _, want := range []string{
			stick + ` (usb, "GOLD\x1b[7mEN", 8.0 GiB, vfat, /dev/sdb1)` + "\n", "  found: 1 layer\n", "  of win7: version 1, system disk\n",
			" MiB of version 1 of win7\n", `/dev/sr0 (dvd, "OTHER", 4.0 GiB, udf, not mounted, read from the device)`, "note: /dev/sr0 is not mounted: the kernel cannot read its file system",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is not in %s", want, out)
			}
		}
		if got := f.Calls(); !slices.Equal(got, calls) {
			t.Errorf("UDisks2 was asked for %q, want %q", got, calls)
		}
	}
	check(run("", append(alone, "media")...))
	serve := exec.Command(shipped.Path(t, "disksyncmgr"), "serve", "--state", state)
	serve.Env = env
	testkit.StartProgram(t, serve)
	out := run("", "media", "--image", "win7")
	calls = append(calls, calls...)
	testkit.Until(t, "it is unmounted", func() bool { return len(f.Calls()) == len(calls) })
	check(out)
	if out := run("", "media", "--json"); !strings.Contains(out, `"id": ":8589934592:12AB-34CD"`) || !strings.Contains(out, `"read": "device"`) {
		t.Errorf("%s", out)
	}
}
