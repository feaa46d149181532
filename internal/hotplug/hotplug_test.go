package hotplug_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"disksync/cache"
	"disksync/internal/durable"
	"disksync/internal/hotplug"
	"disksync/internal/testkit"
	"disksync/internal/testkit/fakeudisks"
)

// machine is one whose kernel has these lists, and whose UDisks2 is a fake, or none.
type machine struct {
	*testing.T
	dir     string // of proc, sys and the state
	address string
	udisks  *fakeudisks.Fake
	w       *hotplug.Watcher
	grace   time.Duration
	told    chan struct{}
}

func newMachine(t *testing.T, withUDisks bool) *machine {
	t.Helper()
	m := &machine{T: t, dir: t.TempDir(), address: "unix:path=/nowhere", told: make(chan struct{}, 1000)}
	m.write("proc/self/mountinfo", "")
	for _, d := range []string{"sys/class/block", "sys/dev/block", "state"} {
		if err := os.MkdirAll(filepath.Join(m.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if withUDisks {
		bus := testkit.StartBus(t, testkit.SessionBus)
		m.address = bus.Address
		m.udisks = fakeudisks.Start(t, bus.Address)
	}
	t.Cleanup(func() { m.stop() })
	return m
}

func (m *machine) write(name, text string) {
	m.Helper()
	file := filepath.Join(m.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		m.Fatal(err)
	}
}

func (m *machine) start() {
	m.Helper()
	fsys, err := durable.Dir(filepath.Join(m.dir, "state"))
	if err != nil {
		m.Fatal(err)
	}
	m.w = hotplug.New(hotplug.Options{
		Finder: cache.Finder{Proc: filepath.Join(m.dir, "proc"), Sys: filepath.Join(m.dir, "sys"), Run: filepath.Join(m.dir, "run")},
		Getenv: func(name string) string { return map[string]string{"DBUS_SYSTEM_BUS_ADDRESS": m.address}[name] },
		FS:     fsys, Grace: m.grace,
	})
	m.w.Watch(func() { m.told <- struct{}{} })
}

func (m *machine) stop() {
	if m.w != nil {
		m.w.Close()
		m.w = nil
	}
}

func all(cache.Kind) bool { return true }

// until waits until the media are these.
func (m *machine) until(want ...cache.Medium) {
	m.Helper()
	late := time.After(testkit.Patience)
	for {
		got, notes, err := m.w.Media()
		if err == nil && cmp.Equal(want, got) || len(want)+len(got) == 0 {
			return
		}
		select {
		case <-m.told:
		case <-late:
			m.Fatalf("%q, %v %s", notes, err, cmp.Diff(want, got))
		}
	}
}

// called waits until UDisks2 was asked for this, and nothing else.
func (m *machine) called(want ...string) {
	m.Helper()
	testkit.Until(m, fmt.Sprintf("calls %q", want), func() bool { return slices.Equal(m.udisks.Calls(), want) })
}

func (m *machine) state() string {
	b, err := os.ReadFile(filepath.Join(m.dir, "state/mounted.json"))
	if err != nil {
		return ""
	}
	return string(b)
}

var (
	stick = fakeudisks.Medium{Name: "sdb1", Drive: "Stick", FS: "vfat", Label: "GOLDEN", UUID: "12AB-34CD", Size: 4096, Dir: "/media/root/GOLDEN"}
	disc  = fakeudisks.Medium{Name: "sr0", Drive: "DVD", Disc: true, FS: "udf", Size: 2048, Dir: "/media/root/DISC"}
	inner = fakeudisks.Medium{Name: "sda1", Drive: "SSD", Inner: true, FS: "ext4", Size: 9, Dir: "/", Mounted: true}

	theStick = cache.Medium{Kind: cache.USB, Device: "/dev/sdb1", ID: ":4096:12AB-34CD", Drive: "sdb1", Label: "GOLDEN", FS: "vfat", Size: 4096}
	theDisc  = cache.Medium{Kind: cache.DVD, Device: "/dev/sr0", ID: ":2048:", Drive: "sr0", FS: "udf", Size: 2048, ReadOnly: true}
)

func in(m cache.Medium, dir string, readOnly bool) cache.Medium {
	m.Dir, m.ReadOnly = dir, readOnly
	return m
}

const mountStick = "mount sdb1 ro,nosuid,nodev,noexec"

// TestMountsWhatIsUsed: a medium is mounted while somebody uses its kind, and by nobody else's mount is anything changed.
func TestMountsWhatIsUsed(t *testing.T) {
	m := newMachine(t, true)
	m.udisks.Add(inner)
	m.udisks.Add(stick)
	m.start()
	if got, _, _ := m.w.Media(); len(got) != 0 {
		t.Errorf("before anybody asks: %+v", got)
	}
	var discs atomic.Bool
	done := m.w.Use(t.Context(), func(k cache.Kind) bool { return k == cache.USB || discs.Load() })
	m.until(in(theStick, stick.Dir, true)) // Use has waited for it
	if !strings.Contains(m.state(), "/dev/sdb1") {
		t.Errorf("the record has %q", m.state())
	}
	m.udisks.Add(disc)
	second := m.w.Use(t.Context(), func(k cache.Kind) bool { return k == cache.USB })
	m.called(mountStick)
	discs.Store(true) // a setting was switched on
	m.w.Recheck()
	m.until(in(theStick, stick.Dir, true), in(theDisc, disc.Dir, true))
	discs.Store(false)
	m.w.Recheck()
	m.called(mountStick, "mount sr0 ro,nosuid,nodev,noexec", "unmount sr0")
	m.until(in(theStick, stick.Dir, true), theDisc)
	done()
	m.w.Recheck()
	m.until(in(theStick, stick.Dir, true), theDisc) // the second still uses it
	second()
	second()
	m.called(mountStick, "mount sr0 ro,nosuid,nodev,noexec", "unmount sr0", "unmount sdb1")
	m.until()
	testkit.Until(t, "the record is empty", func() bool { return m.state() == "" })
	// What others mount is read and left alone.
	m.udisks.Mount("sdb1")
	done = m.w.Use(t.Context(), all)
	m.until(in(theStick, stick.Dir, false), in(theDisc, disc.Dir, true))
	done()
	m.stop()
	if got := m.udisks.Calls(); slices.Contains(got[4:], "unmount sdb1") {
		t.Errorf("somebody else's mount was undone: %q", got)
	}
}

// TestComesAndGoes: media that are put in while others are read join, those that are pulled out leave, and another one in the same place is
// another one.
func TestComesAndGoes(t *testing.T) {
	m := newMachine(t, true)
	m.start()
	defer m.w.Use(t.Context(), all)()
	m.until()
	m.udisks.Add(stick)
	m.until(in(theStick, stick.Dir, true))
	m.udisks.Remove("sdb1")
	m.until()
	testkit.Until(t, "the record is empty", func() bool { return m.state() == "" })
	m.write("sys/class/block/sdb1/diskseq", "8\n")
	m.udisks.Add(stick)
	again := in(theStick, stick.Dir, true)
	again.ID = "8:4096:12AB-34CD"
	m.until(again)
	m.udisks.Unmount("sdb1") // by hand: it is left alone until it is put in again
	m.until()
	m.w.Recheck()
	m.called(mountStick, mountStick)
	m.udisks.Remove("sdb1")
	m.write("sys/class/block/sdb1/diskseq", "9\n")
	m.udisks.Add(stick)
	again.ID = "9:4096:12AB-34CD"
	m.until(again)
	m.udisks.Stop() // then the kernel's lists are gone by
	m.until()
}

// TestKernelForgetsFirst: a medium that was pulled out is not taken for another one that was put in while UDisks2 has yet to tell.
func TestKernelForgetsFirst(t *testing.T) {
	m := newMachine(t, true)
	m.write("sys/class/block/sdb1/diskseq", "8\n")
	m.udisks.Add(stick)
	m.start()
	defer m.w.Use(t.Context(), all)()
	here := in(theStick, stick.Dir, true)
	here.ID = "8:4096:12AB-34CD"
	m.until(here)
	if err := os.RemoveAll(filepath.Join(m.dir, "sys/class/block/sdb1")); err != nil {
		t.Fatal(err)
	}
	m.w.Recheck()
	m.until()
}

// TestLeftToOthers: what was just put in is left to others for a while, who may want to mount it for their user.
func TestLeftToOthers(t *testing.T) {
	m := newMachine(t, true)
	m.grace = time.Hour
	m.udisks.Add(disc)
	m.start()
	defer m.w.Use(t.Context(), all)()
	m.until(in(theDisc, disc.Dir, true)) // it was in from the beginning
	m.udisks.Add(stick)
	testkit.Until(t, "others are waited for", func() bool {
		ctx, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer stop()
		m.w.Use(ctx, all)()
		return ctx.Err() != nil
	})
	m.until(in(theDisc, disc.Dir, true))
	m.udisks.Mount("sdb1")
	m.until(in(theStick, stick.Dir, false), in(theDisc, disc.Dir, true))
	m.stop()
	m.called("mount sr0 ro,nosuid,nodev,noexec", "unmount sr0")

	m = newMachine(t, true)
	m.grace = 50 * time.Millisecond
	m.start()
	defer m.w.Use(t.Context(), all)()
	m.udisks.Add(stick)
	m.until(in(theStick, stick.Dir, true))
}

// TestUsedAgain: after it was used, a medium is there for the next who wants it at once; what others unmount is left alone.
func TestUsedAgain(t *testing.T) {
	m := newMachine(t, true)
	m.grace = time.Hour
	m.udisks.Add(stick)
	other := disc
	other.Mounted = true
	m.udisks.Add(other)
	m.start()
	for n := range 3 {
		done := m.w.Use(t.Context(), all)
		m.until(in(theStick, stick.Dir, true), in(theDisc, disc.Dir, true))
		done()
		m.called(slices.Repeat([]string{mountStick, "unmount sdb1"}, n+1)...)
	}
	m.udisks.Unmount("sr0")
	m.until()
	defer m.w.Use(t.Context(), all)()
	m.until(in(theStick, stick.Dir, true))
	m.stop()
	if got := m.udisks.Calls(); len(got) != 8 {
		t.Errorf("calls %q", got)
	}
}

// TestLateNews: what this program has unmounted is not taken for mounted by others, however late UDisks2 tells of it.
func TestLateNews(t *testing.T) {
	m := newMachine(t, true)
	m.udisks.Add(stick)
	m.start()
	done := m.w.Use(t.Context(), all)
	m.until(in(theStick, stick.Dir, true))
	m.udisks.Hush(true)
	done()
	m.called(mountStick, "unmount sdb1")
	m.w.Recheck() // UDisks2 still says that it is mounted
	m.until()
	defer m.w.Use(t.Context(), all)()
	m.called(mountStick, "unmount sdb1", mountStick)
	m.udisks.Hush(false)
	m.udisks.Tell("sdb1")
	m.until(in(theStick, stick.Dir, true))
	m.stop()
}

// TestRefused: what cannot be mounted is handed on as a device, with the reason in words.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ refuse, say, want string }{
		{"NotAuthorized", "Not authorized", "UDisks2 does not let this service mount media"},
		{"Failed", "Filesystem type vfat not configured in kernel.", "the kernel cannot read its file system"},
		{"Failed", "odd", "odd"},
	} {
		m := newMachine(t, true)
		bad := stick
		bad.Refuse, bad.Say = c.refuse, c.say
		m.udisks.Add(bad)
		m.start()
		done := m.w.Use(t.Context(), all)
		m.until(theStick)
		if _, notes, _ := m.w.Media(); len(notes) != 1 || !strings.HasPrefix(notes[0], "/dev/sdb1 is not mounted: "+c.want) {
			t.Errorf("%q", notes)
		}
		m.w.Recheck()
		done()
		m.stop()
		if got := m.udisks.Calls(); !slices.Equal(got, []string{mountStick}) || m.state() != "" {
			t.Errorf("%q; record %q", got, m.state())
		}
	}
	m := newMachine(t, true)
	raced := stick
	raced.Refuse = "AlreadyMounted"
	ignored, raw := disc, stick
	ignored.Ignore, raw.Raw, raw.Name = true, true, "sdc"
	for _, f := range []fakeudisks.Medium{raced, ignored, raw} {
		m.udisks.Add(f)
	}
	m.start()
	defer m.w.Use(t.Context(), all)()
	m.until() // somebody else is mounting it
	m.udisks.Mount("sdb1")
	m.until(in(theStick, stick.Dir, false))
}

// TestAfterACrash: what an earlier run had mounted is unmounted, and what somebody else did is not, also where the earlier run ended between
// its note and the mount.
func TestAfterACrash(t *testing.T) {
	ours := `[{"id":":4096:12AB-34CD","device":"/dev/sdb1","dir":"/media/root/GOLDEN"}]`
	intent := strings.Replace(ours, `,"dir":"/media/root/GOLDEN"`, "", 1)
	const mount = "36 35 8:17 / /media/root/GOLDEN %s shared:1 - vfat /dev/sdb1 ro\n"
	for _, c := range []struct {
		name, record, mounts string
		mounted, unmounts    bool
	}{
		{"mounted", ours, "", true, true},
		{"not mounted any more", ours, "", false, false},
		{"in another place", strings.Replace(ours, "GOLDEN", "OTHER", 1), "", true, false},
		{"another medium", strings.Replace(ours, "4096", "4097", 1), "", true, false},
		{"asked for and done", intent, fmt.Sprintf(mount, "ro,nosuid,nodev,noexec,relatime"), true, true},
		{"asked for, and done by somebody else", intent, fmt.Sprintf(mount, "rw,nosuid,nodev,relatime"), true, false},
		{"asked for and not done", intent, "", false, false},
		{"damaged", "{", "", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, true)
			m.write("proc/self/mountinfo", c.mounts)
			m.write("state/mounted.json", c.record)
			s := stick
			s.Mounted = c.mounted
			m.udisks.Add(s)
			m.start() // nobody uses it
			if c.record != "{" {
				testkit.Until(t, "the record is empty", func() bool { return m.state() == "" })
			}
			m.stop()
			if got := m.udisks.Calls(); slices.Equal(got, []string{"unmount sdb1"}) != c.unmounts || !c.unmounts && len(got) > 0 {
				t.Errorf("calls %q", got)
			}
		})
	}
	t.Run("not mounted any more, and wanted", func(t *testing.T) {
		m := newMachine(t, true)
		m.write("state/mounted.json", ours)
		m.udisks.Add(stick)
		m.start()
		defer m.w.Use(t.Context(), all)()
		m.until(in(theStick, stick.Dir, true))
	})
	t.Run("a crash of this one", func(t *testing.T) {
		m := newMachine(t, true)
		m.udisks.Add(stick)
		m.start()
		m.w.Use(t.Context(), all)
		left := m.state()
		m.stop()
		m.write("state/mounted.json", left)
		m.udisks.Mount("sdb1")
		m.start()
		m.called(mountStick, "unmount sdb1", "unmount sdb1")
	})
}

// TestWithoutUDisks: without UDisks2 the kernel's lists are gone by: what is mounted, and devices that nobody has mounted.
func TestWithoutUDisks(t *testing.T) {
	m := newMachine(t, false)
	for _, dir := range []string{"usb1/block/sdb", "usb1/block/sdb/sdb1"} {
		m.write("sys/devices/"+dir+"/size", "8\n")
		if err := os.Symlink(filepath.Join(m.dir, "sys/devices", dir), filepath.Join(m.dir, "sys/class/block", filepath.Base(dir))); err != nil {
			t.Fatal(err)
		}
	}
	m.write("sys/devices/usb1/block/sdb/sdb1/partition", "1\n")
	m.write("sys/devices/usb1/block/sdb/diskseq", "3\n")
	m.start()
	defer m.w.Use(t.Context(), all)()
	raw := cache.Medium{Kind: cache.USB, Device: "/dev/sdb1", ID: "3:4096:", Drive: "sdb", Size: 4096}
	m.until(raw)
	m.write("proc/self/mountinfo", "36 35 8:17 / /mnt rw,nosuid shared:1 - vfat /dev/sdb1 rw\n")
	m.w.Recheck()
	raw.FS = "vfat"
	m.until(in(raw, "/mnt", false))
	m.write("proc/self/mountinfo", "")
	if err := os.Remove(filepath.Join(m.dir, "sys/class/block/sdb1")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(m.dir, "sys/class/block/sdb")); err != nil {
		t.Fatal(err)
	}
	m.w.Recheck()
	m.until()
}

// TestUdevLooksFirst: without UDisks2 a device is used when udev has looked at it, and waited for only as long as others are.
func TestUdevLooksFirst(t *testing.T) {
	m := newMachine(t, false)
	m.write("run/udev/control", "")
	m.start()
	defer m.w.Use(t.Context(), all)()
	for name, text := range map[string]string{"size": "8\n", "diskseq": "3\n", "dev": "8:16\n"} {
		m.write("sys/devices/usb1/block/sdb/"+name, text)
	}
	if err := os.Symlink(filepath.Join(m.dir, "sys/devices/usb1/block/sdb"), filepath.Join(m.dir, "sys/class/block/sdb")); err != nil {
		t.Fatal(err)
	}
	m.w.Recheck()
	m.w.Use(t.Context(), all)() // it has looked
	if got, _, err := m.w.Media(); len(got) > 0 || err != nil {
		t.Errorf("before udev has looked: %+v, %v", got, err)
	}
	m.write("run/udev/data/b8:16", "I:1\nE:ID_FS_TYPE=ext4\nE:ID_FS_UUID=0815\n")
	m.w.Recheck()
	m.until(cache.Medium{Kind: cache.USB, Device: "/dev/sdb", ID: "3:4096:0815", Drive: "sdb", FS: "ext4", Size: 4096})
}

// TestKernelTells: mounts and devices of the machine are noticed without being asked for.
func TestKernelTells(t *testing.T) {
	told := make(chan struct{}, 1000)
	k, err := hotplug.WatchKernel("/proc", func() { told <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	defer k()
	testkit.Root(t, "it mounts")
	for what, happen := range map[string]func(){
		"a mount": func() { mustMount(t, t.TempDir()) }, "a device": func() { mustAttach(t) }, "the word of udev": func() { mustSayAsUdev(t) },
	} {
		for len(told) > 0 {
			<-told
		}
		happen()
		select {
		case <-told:
		case <-time.After(testkit.Patience):
			t.Errorf("%s was not noticed", what)
		}
	}
}
