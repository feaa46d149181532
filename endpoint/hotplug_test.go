package endpoint_test

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"disksync/config"
	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/hotplug"
	"disksync/internal/netchaos"
	"disksync/internal/testkit"
	"disksync/internal/testkit/fakeudisks"
	"disksync/internal/testkit/lab"
)

// plugged makes the world have a UDisks2, through which media come and go.
func (w *world) plugged() *fakeudisks.Fake {
	w.Helper()
	bus := testkit.StartBus(w.T, testkit.SessionBus)
	f := fakeudisks.Start(w.T, bus.Address)
	w.hotplug = func(fsys durable.FS) endpoint.Hotplug {
		return hotplug.New(hotplug.Options{
			Finder: w.finder, FS: fsys,
			Getenv: func(name string) string { return map[string]string{"DBUS_SYSTEM_BUS_ADDRESS": bus.Address}[name] },
		})
	}
	w.restart()
	return f
}

func stickIn(dir string) fakeudisks.Medium {
	return fakeudisks.Medium{Name: "sdb1", Drive: "Stick", FS: "vfat", Label: "GOLDEN", UUID: "12AB-34CD", Size: 1 << 30, Dir: dir}
}

// by returns what the sources of a kind did.
func by(rc *endpoint.Receipt, kind string) (sum deploy.SourceReport) {
	for _, s := range rc.Sources {
		if s.Kind == kind {
			sum.Blocks += s.Blocks
			sum.Bytes += s.Bytes
			sum.Bad += s.Bad
			sum.Name, sum.GivenUp = s.Name, s.GivenUp
		}
	}
	return sum
}

func says(lines []string, words ...string) bool {
	return slices.ContainsFunc(lines, func(l string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(l, w) })
	})
}

// cutInHalf leaves the first half of the layer file in a folder.
func cutInHalf(t *testing.T, dir string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.dsl"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	st, err := os.Stat(names[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(names[0], st.Size()/2); err != nil {
		t.Fatal(err)
	}
}

// TestStickJoins: a stick that is plugged in while a slow download runs gives what it has and is still wanted; nothing comes twice. It is
// mounted for that, and unmounted afterwards.
func TestStickJoins(t *testing.T) {
	t.Parallel()
	const n = 10
	for _, half := range []bool{false, true} {
		w := newWorld(t)
		want := lab.Disk(1, 2, 3, 4, 5, 6, 7, 8, 9, n)
		w.publish("win7", want)
		f := w.plugged()
		line := netchaos.Start(t, w.front.Listener.Addr().String())
		if _, err := w.e.Register(t.Context(), "https://"+line.Addr(), w.lab.Fingerprint, false); err != nil {
			t.Fatal(err)
		}
		if err := w.e.Login(t.Context(), "alice", lab.Password); err != nil {
			t.Fatal(err)
		}
		w.patient()
		stick := w.lab.Stick(t, "win7", 1)
		if half {
			cutInHalf(t, stick)
		}
		line.Set(netchaos.Toxics{Down: netchaos.Toxic{Rate: 2 << 20}})
		o := w.start(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
		w.until(o, "a block has come", func(s endpoint.Status) bool { return s.Progress.Bytes[deploy.Network] > 0 })
		f.Add(stickIn(stick))
		s := w.wait(o)
		if err := s.Outcome(); err != nil {
			t.Fatal(err)
		}
		rc := s.Receipt
		usb, net := by(rc, deploy.USB), by(rc, deploy.Network)
		least, most := 5, n-1
		if half {
			least, most = 1, n/2
		}
		if usb.Blocks < least || usb.Blocks > most || usb.Blocks+net.Blocks != n || usb.Bad+net.Bad > 0 || rc.Healed > 0 || usb.Name != stick {
			t.Errorf("cut in half: %v; sources %+v", half, rc.Sources)
		}
		if !says(rc.Notes, stick, "was put in: 1 ") {
			t.Errorf("notes %q", rc.Notes)
		}
		w.holds("win7", want)
		testkit.Until(t, "it is unmounted", func() bool {
			return slices.Equal(f.Calls(), []string{"mount sdb1 ro,nosuid,nodev,noexec", "unmount sdb1"})
		})
		if left := w.files(".", "mounted.json"); len(left) != 0 {
			t.Errorf("left: %q", left)
		}
		w.close()
	}
}

// ntfs is a stick with NTFS: a file system in user space, whose end is to its readers as if it was pulled out.
type ntfs struct {
	dir  string
	pull func()
}

// newNTFS makes a stick with the files of a folder.
func newNTFS(t *testing.T, from string) *ntfs {
	t.Helper()
	testkit.Root(t, "it mounts")
	tool, mk := testkit.Tool(t, "ntfs-3g"), testkit.Tool(t, "mkntfs")
	work := t.TempDir()
	disk, dir := filepath.Join(work, "disk.img"), filepath.Join(work, "stick")
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 300<<20), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) {
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	run(mk, "-F", "-Q", "-q", disk)
	run(tool, disk, dir)
	copied := os.CopyFS(filepath.Join(dir, "golden"), os.DirFS(from))
	if err := errors.Join(copied, unix.Unmount(dir, 0)); err != nil {
		t.Fatal(err)
	}
	// Without a fork, so that its number is known.
	cmd := exec.Command(tool, "-o", "ro,no_detach", disk, dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n := &ntfs{dir: dir}
	t.Cleanup(func() {
		_ = unix.Unmount(dir, unix.MNT_DETACH) // it ends with its mount
		_ = cmd.Wait()
	})
	testkit.Until(t, "it is mounted", func() bool {
		_, err := os.Stat(filepath.Join(dir, "golden"))
		return !errors.Is(err, fs.ErrNotExist)
	})
	n.pull = func() {
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	return n
}

// TestStickLeaves: a stick that is pulled out in the middle of a download, or whose kind is turned off, gives nothing any more at once; what
// it did not give, and nothing else, comes from the Synchronizer, and the receipt says why. No setting changes by itself.
func TestStickLeaves(t *testing.T) {
	const n = 32
	want := make([]byte, n*block)
	rand.NewChaCha8([32]byte{9}).Read(want)
	w := ready(t, want)
	f := w.plugged()
	w.patient()
	stick := w.lab.Stick(t, "win7", 1)
	for _, c := range []struct {
		name  string
		leave func(w *world, stick *ntfs)
		why   string
		note  []string
		off   bool
	}{
		{"turned off", func(w *world, _ *ntfs) { w.set(config.EnableUSBCache, false) },
			"the administrator has turned enable-usb-cache off", []string{"is not used any more", "enable-usb-cache"}, true},
		{"pulled out", func(_ *world, s *ntfs) {
			s.pull()
			f.Remove("sdb1")
		}, "", []string{"is gone"}, false},
		{"fails, and nobody tells", func(_ *world, s *ntfs) { s.pull() }, "transport endpoint is not connected", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := w.in(t)
			s := newNTFS(t, stick)
			f.Add(stickIn(s.dir))
			o := w.start(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
			w.until(o, "blocks come from the stick", func(s endpoint.Status) bool { return s.Progress.Bytes[deploy.USB] > 0 })
			c.leave(w, s)
			st := w.wait(o)
			if err := st.Outcome(); err != nil {
				t.Fatal(err)
			}
			rc := st.Receipt
			usb, net := by(rc, deploy.USB), by(rc, deploy.Network)
			if usb.Blocks == 0 || net.Blocks == 0 || usb.Blocks+net.Blocks != n || usb.Bad > 0 || usb.GivenUp == "" || !strings.Contains(usb.GivenUp, c.why) {
				t.Errorf("sources %+v", rc.Sources)
			}
			if len(c.note) > 0 && !says(rc.Notes, c.note...) {
				t.Errorf("notes %q", rc.Notes)
			}
			if net.Bytes > int64(net.Blocks)*(block+100) {
				t.Errorf("%d bytes for %d blocks came over the network", net.Bytes, net.Blocks)
			}
			w.holds("win7", want)
			if on := w.e.Settings().Bool(config.EnableUSBCache); on == c.off {
				t.Errorf("the setting is %v", on)
			}
			w.set(config.EnableUSBCache, true)
			if err := w.e.Remove("win7"); err != nil {
				t.Fatal(err)
			}
			if c.name != "pulled out" {
				f.Remove("sdb1")
			}
		})
	}
}

// TestMediaReport: what is in is described with what is on it, what it would save, and what went wrong with it.
func TestMediaReport(t *testing.T) {
	t.Parallel()
	first, second := disk(seeds(7)...), disk(append(seeds(7), 30, 31)...)
	w := ready(t, first, second)
	f := w.plugged()
	stick := w.lab.Stick(t, "win7", 1)
	bad := stickIn(t.TempDir())
	bad.Name, bad.Drive, bad.UUID, bad.Refuse, bad.Say = "sdc1", "Other", "ffff", "NotAuthorized", "Not authorized"
	f.Add(stickIn(stick))
	f.Add(bad)
	rep, err := w.e.Media(t.Context(), nil, "win7")
	if err != nil || len(rep.Media) != 2 {
		t.Fatalf("%+v, %v", rep, err)
	}
	m, other := rep.Media[0], rep.Media[1]
	if m.Dir != stick || m.Label != "GOLDEN" || m.FS != "vfat" || m.Size != 1<<30 || m.Read != endpoint.ReadMounted || !m.Used || m.Health != (endpoint.Health{}) {
		t.Errorf("%+v", m)
	}
	if want := []endpoint.MediumImage{{Image: "win7", Version: 1, Role: image.System}}; !slices.Equal(m.Images, want) || len(m.Layers) > 0 {
		t.Errorf("images %+v, layers %v", m.Images, m.Layers)
	}
	p, err := w.e.Plan(t.Context(), endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Saves) != 1 || m.Saves[0].Image != "win7" || m.Saves[0].Version != 2 || m.Saves[0].Bytes != p.Bytes[deploy.USB] || m.Saves[0].Bytes == 0 {
		t.Errorf("saves %+v, the plan %v", m.Saves, p.Bytes)
	}
	if other.Read != endpoint.ReadDevice || other.Device != "/dev/sdc1" || !says(rep.Notes, "/dev/sdc1", "does not let this service mount") {
		t.Errorf("%+v, notes %q", other, rep.Notes)
	}
	// One that is turned off is listed, and not mounted.
	w.set(config.EnableUSBCache, false)
	if rep, err = w.e.Media(t.Context(), nil, "win7"); err != nil || len(rep.Media) != 2 || rep.Media[0].Used || rep.Media[0].Found != "" || len(rep.Media[0].Saves) > 0 {
		t.Errorf("%+v, %v", rep, err)
	}
	w.set(config.EnableUSBCache, true)
	// A transfer finds a bad block.
	names, err := filepath.Glob(filepath.Join(stick, "*.dsl"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	w.write(names[0], b)
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.front.answer(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) { rw.WriteHeader(http.StatusBadGateway) })
	if rep, err = w.e.Media(t.Context(), nil, ""); err != nil || len(rep.Media) != 2 {
		t.Fatalf("%+v, %v", rep, err)
	}
	if h := rep.Media[0].Health; h.BadBlocks != 1 || h.ReadErrors != 0 || h.Last == "" {
		t.Errorf("health %+v", h)
	}
	if len(rep.Media[0].Images) != 1 || len(rep.Media[0].Saves) != 0 || !says(rep.Notes, "not known") {
		t.Errorf("without the Synchronizer: %+v, notes %q", rep.Media[0], rep.Notes)
	}
	if _, err := w.e.Media(t.Context(), nil, "win7"); err == nil {
		t.Error("what would be saved of an image is known without the Synchronizer")
	}
	if !w.e.Settings().Bool(config.EnableUSBCache) {
		t.Error("a setting changed by itself")
	}
}
