package udisks_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"disksync/internal/testkit"
	"disksync/internal/testkit/fakeudisks"
	"disksync/internal/udisks"
)

// watch starts a Client on a bus, and returns what tells of changes.
func watch(t *testing.T, address string) (*udisks.Client, <-chan struct{}) {
	t.Helper()
	told := make(chan struct{}, 1000)
	ctx, stop := context.WithCancel(t.Context())
	c, wait := udisks.Watch(ctx, func(name string) string {
		if name == "DBUS_SYSTEM_BUS_ADDRESS" {
			return address
		}
		return ""
	}, slog.New(slog.DiscardHandler), func() { told <- struct{}{} })
	t.Cleanup(func() {
		stop()
		wait()
	})
	return c, told
}

// until waits until the volumes are as they should be. Each look but the first is after something was told.
func until(t *testing.T, c *udisks.Client, told <-chan struct{}, what string, ok func([]udisks.Volume, bool) bool) {
	t.Helper()
	late := time.After(testkit.Patience)
	for {
		v, there := c.Volumes()
		if ok(v, there) {
			return
		}
		select {
		case <-told:
		case <-late:
			t.Fatalf("did not happen: %s; %+v, %v", what, v, there)
		}
	}
}

func named(device string) func([]udisks.Volume, bool) bool {
	return func(vs []udisks.Volume, _ bool) bool {
		return slices.ContainsFunc(vs, func(v udisks.Volume) bool { return v.Device == device })
	}
}

func not(f func([]udisks.Volume, bool) bool) func([]udisks.Volume, bool) bool {
	return func(vs []udisks.Volume, there bool) bool { return !f(vs, there) }
}

var (
	stick = fakeudisks.Medium{Name: "sdb1", Drive: "Stick_1", FS: "vfat", Label: "GOLDEN", UUID: "12AB-34CD", Size: 4096, Dir: "/media/root/GOLDEN"}
	disc  = fakeudisks.Medium{Name: "sr0", Drive: "DVD_1", Disc: true, FS: "udf", Label: "DISC", Size: 2048, Dir: "/media/root/DISC"}
	inner = fakeudisks.Medium{Name: "sda1", Drive: "SSD_1", Inner: true, FS: "ext4", Size: 1 << 30, Dir: "/", Mounted: true}
)

// TestVolumes: what is in and what comes and goes is known with its drive, mounts and labels; UDisks2 may come and go too.
func TestVolumes(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SessionBus)
	f := fakeudisks.Start(t, bus.Address)
	f.Add(inner)
	f.Add(stick)
	c, told := watch(t, bus.Address)
	got, ok := c.Volumes()
	want := []udisks.Volume{
		{Path: "/org/freedesktop/UDisks2/block_devices/sda1", Device: "/dev/sda1", Disk: "/dev/sda1", Drive: "/org/freedesktop/UDisks2/drives/SSD_1",
			FS: "ext4", Size: 1 << 30, System: true, HasFS: true, Mounts: []string{"/"}},
		{Path: "/org/freedesktop/UDisks2/block_devices/sdb1", Device: "/dev/sdb1", Disk: "/dev/sdb1", Drive: "/org/freedesktop/UDisks2/drives/Stick_1",
			FS: "vfat", Label: "GOLDEN", UUID: "12AB-34CD", Size: 4096, HasFS: true, USB: true, Removable: true},
	}
	if diff := cmp.Diff(want, got); diff != "" || !ok {
		t.Errorf("%v %s", ok, diff)
	}
	f.Add(disc)
	until(t, c, told, "the disc is there", func(vs []udisks.Volume, _ bool) bool {
		return slices.ContainsFunc(vs, func(v udisks.Volume) bool {
			return v.Device == "/dev/sr0" && v.Optical && v.Removable && !v.USB && v.ReadOnly
		})
	})
	f.Mount("sdb1")
	until(t, c, told, "the stick is mounted", func(vs []udisks.Volume, _ bool) bool {
		return slices.ContainsFunc(vs, func(v udisks.Volume) bool { return cmp.Equal(v.Mounts, []string{"/media/root/GOLDEN"}) })
	})
	f.Remove("sdb1")
	until(t, c, told, "the stick is gone", not(named("/dev/sdb1")))
	f.Stop()
	until(t, c, told, "UDisks2 is gone", func(_ []udisks.Volume, there bool) bool { return !there })
	f = fakeudisks.Start(t, bus.Address)
	f.Add(stick)
	until(t, c, told, "it is back, with the stick", named("/dev/sdb1"))
	if err := bus.Stop(); err != nil {
		t.Fatal(err)
	}
	until(t, c, told, "the bus is gone", func(_ []udisks.Volume, there bool) bool { return !there })
	if _, err := c.Mount(t.Context(), want[1].Path); !errors.Is(err, udisks.ErrGone) {
		t.Error(err)
	}
}

// TestStrangers: what somebody else says is not believed, and neither is what makes no sense.
func TestStrangers(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SessionBus)
	f := fakeudisks.Start(t, bus.Address)
	f.Add(stick)
	c, told := watch(t, bus.Address)
	stranger := connect(t, bus.Address)
	for _, body := range [][]any{
		{path("sdz1"), faces{"org.freedesktop.UDisks2.Block": {"Device": variant([]byte("/dev/sdz1\x00"))}}}, {}, {"x"}, {int32(1), int32(2)},
	} {
		if err := stranger.Emit("/org/freedesktop/UDisks2", "org.freedesktop.DBus.ObjectManager.InterfacesAdded", body...); err != nil {
			t.Fatal(err)
		}
	}
	f.Emit("org.freedesktop.DBus.ObjectManager.InterfacesAdded", path("sdy1"), faces{"org.freedesktop.UDisks2.Block": {"Device": variant(int32(7)), "Size": variant("big")}})
	f.Emit("org.freedesktop.DBus.ObjectManager.InterfacesAdded", "x")
	f.Emit("org.freedesktop.DBus.ObjectManager.InterfacesRemoved", path("sdb1"))
	f.Emit("org.freedesktop.DBus.Properties.PropertiesChanged", "org.freedesktop.UDisks2.Block")
	f.Add(disc)
	until(t, c, told, "the disc behind all that is there", named("/dev/sr0"))
	vs, _ := c.Volumes()
	if len(vs) != 3 || vs[1].Device != "" || vs[1].Size != 0 || vs[0].Device != "/dev/sdb1" {
		t.Errorf("%+v", vs)
	}
}

// TestMount: media are mounted read-only and without rights, and why that did not work is told in words.
func TestMount(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SessionBus)
	f := fakeudisks.Start(t, bus.Address)
	c, told := watch(t, bus.Address)
	for _, test := range []struct {
		refuse, say string
		want        error
	}{
		{"", "", nil},
		{"NotAuthorized", "Not authorized to perform operation", udisks.ErrNotAllowed},
		{"NotAuthorizedCanObtain", "x", udisks.ErrNotAllowed},
		{"AlreadyMounted", "Device /dev/sdb1 is already mounted at `/x'", udisks.ErrMounted},
		{"DeviceBusy", "x", udisks.ErrBusy},
		{"Failed", "Error mounting /dev/sdb1: Filesystem type exfat not configured in kernel.", udisks.ErrNoDriver},
		{"Failed", "mount: wrong fs type", nil},
	} {
		m := stick
		m.Refuse, m.Say = test.refuse, test.say
		f.Add(m)
		until(t, c, told, "the stick is there", named("/dev/sdb1"))
		dir, err := c.Mount(t.Context(), string(path("sdb1")))
		if test.refuse == "" {
			if err != nil || dir != stick.Dir {
				t.Errorf("%q, %v", dir, err)
			}
			if err := c.Unmount(t.Context(), string(path("sdb1"))); err != nil {
				t.Error(err)
			}
			if err := c.Unmount(t.Context(), string(path("sdb1"))); !errors.Is(err, udisks.ErrGone) {
				t.Error(err)
			}
			continue
		}
		if err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s %s: %v", test.refuse, test.say, err)
		}
	}
	if got := f.Calls()[:3]; !cmp.Equal(got, []string{"mount sdb1 ro,nosuid,nodev,noexec", "unmount sdb1", "unmount sdb1"}) {
		t.Errorf("%q", got)
	}
	if _, err := c.Mount(t.Context(), string(path("nothing"))); err == nil {
		t.Error("nothing was mounted")
	}
	if _, err := c.Mount(t.Context(), "no path"); !errors.Is(err, udisks.ErrGone) {
		t.Error(err)
	}
}
