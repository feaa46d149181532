package endpoint_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"disksync/cache"
	"disksync/config"
	"disksync/deploy"
	"disksync/diskmap"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/internal/testkit/slowdisk"
	"disksync/layer"
	"disksync/publish"
	"disksync/vhd"
	"disksync/volume/volumetest"
)

// shipped is the program that reads devices, image files and disks.
var shipped = testkit.NewShipped("cmd/disksyncmgr", "internal/mediachild/testchild")

func TestMain(m *testing.M) {
	code := m.Run()
	shipped.Remove()
	os.Exit(code)
}

// images are the ways to put a folder on a medium.
var images = []struct {
	name string
	make func(t *testing.T, dir, file string)
}{
	{"udf", func(t *testing.T, dir, file string) {
		volumetest.Run(t, "genisoimage", "-quiet", "-udf", "-R", "-J", "-V", "GOLDEN", "-o", file, dir)
	}},
	{"iso9660", func(t *testing.T, dir, file string) {
		volumetest.Run(t, "genisoimage", "-quiet", "-R", "-V", "GOLDEN", "-o", file, dir)
	}},
	{"ext4", func(t *testing.T, dir, file string) {
		volumetest.Run(t, "mke2fs", "-q", "-t", "ext4", "-d", dir, file, "32M")
	}},
	{"fat", func(t *testing.T, dir, file string) {
		volumetest.Run(t, "mkfs.fat", "-C", file, "32768")
		names, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		volumetest.Run(t, "mcopy", append([]string{"-s", "-i", file}, append(names, "::")...)...)
	}},
	{"ntfs", func(t *testing.T, dir, file string) {
		mkntfs := []string{"mkntfs", "-q", "-F", "-Q", "-p", "0", "-H", "0", "-S", "0"}
		copyIn(t, dir, file, mkntfs, "ntfs-3g", file)
	}},
	{"exfat", func(t *testing.T, dir, file string) {
		copyIn(t, dir, file, []string{"mkfs.exfat"}, "mount.exfat-fuse", "LOOP")
	}},
	{"partition", func(t *testing.T, dir, file string) {
		volumetest.Run(t, "mke2fs", "-q", "-t", "ext4", "-d", dir, "-E", "offset=1048576", file, "32M")
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		table := [66]byte{4: 0x83, 8: 0, 9: 8, 13: 0, 14: 1, 64: 0x55, 65: 0xaa} // 32 MiB at 1 MiB
		if _, err := f.WriteAt(table[:], 446); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(33 << 20); err != nil {
			t.Fatal(err)
		}
	}},
}

// copyIn makes a file system in an image file, mounts it and copies a folder to it. LOOP stands for a block device of the file.
func copyIn(t *testing.T, dir, file string, mkfs []string, mount ...string) {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 32<<20); err != nil {
		t.Fatal(err)
	}
	volumetest.Run(t, mkfs[0], append(mkfs[1:], file)...)
	if i := slices.Index(mount, "LOOP"); i >= 0 {
		mount[i] = volumetest.Loop(t, file)
	}
	volumetest.Mounted(t, func(to string) {
		if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
	}, mount...)
}

// from returns what a receipt has of a medium and of the Synchronizer.
func from(rc *endpoint.Receipt) (medium, net deploy.SourceReport) {
	for _, s := range rc.Sources {
		switch s.Kind {
		case deploy.USB, deploy.DVD:
			medium = s
		case deploy.Network:
			net = s
		}
	}
	return medium, net
}

// TestImageFiles: image files of all kinds give everything, through the child; and whatever bit of one is another, the disk that is
// installed is the one that was published.
func TestImageFiles(t *testing.T) {
	t.Parallel()
	want := disk(seeds(7)...)
	w := ready(t, want)
	w.set(config.ForceLocalChecksum, false)
	stick := w.lab.Stick(t, "win7", 1)
	healed := 0
	for _, c := range images {
		t.Run(c.name, func(t *testing.T) {
			w := w.in(t)
			file := filepath.Join(t.TempDir(), "image")
			c.make(t, stick, file)
			r := endpoint.Request{Kind: endpoint.Download, Image: "win7", Media: []string{file}}
			deployed := func(what string) (medium, net deploy.SourceReport) {
				rc := w.run(r)
				w.holds("win7", want)
				if err := w.e.Remove("win7"); err != nil {
					t.Fatal(err)
				}
				medium, net = from(rc)
				if medium.Blocks+net.Blocks != 7 {
					t.Errorf("%s: sources %+v", what, rc.Sources)
				}
				return medium, net
			}
			if medium, net := deployed("as it is"); medium.Blocks != 7 || net.Blocks != 0 || medium.Name != file {
				t.Errorf("%+v %+v", medium, net)
			}
			good, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			rnd := rand.New(rand.NewPCG(1, 2))
			for i := range 6 {
				bad := bytes.Clone(good)
				at := usedByte(bad, rnd)
				bad[at] ^= 1 << rnd.IntN(8)
				w.write(file, bad)
				if _, net := deployed(fmt.Sprintf("flip %d at %d", i, at)); net.Blocks > 0 {
					healed++
				}
			}
		})
	}
	if healed == 0 {
		t.Error("no flip did anything")
	}
}

// TestPlainDisksAreReadByAChild: what is free on a plain VHD on a stick, which was published as zeros, is found out by the child. Where that
// fails nothing is taken as free, the log says why, and what does not fit comes from the Synchronizer.
func TestPlainDisksAreReadByAChild(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	noise := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{7}).Read(noise)
	w.write(raw, noise)
	volumetest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard,lazy_itable_init=0", raw)
	content, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	stick := filepath.Join(dir, "copied", "disk.vhd")
	w.write(stick, nil)
	f, err := os.OpenFile(stick, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := vhd.Create(f, vhd.CreateOptions{Size: int64(len(content)), UUID: image.UUID{5}}); err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	d, err := vhd.OpenDisk(f, st.Size(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	o := publish.Options{Image: "win7", Spool: dir, Level: 1, Disks: []publish.Disk{{Role: image.System, Path: stick}}}
	res, err := publish.Run(t.Context(), w.lab.Admin, o)
	if err != nil || res.Disks[0].Freed < 8<<20 {
		t.Fatalf("%+v, %v", res, err)
	}
	w.lab.Assign(w, "win7", "alice", 0)
	w.logIn()
	free, err := diskmap.Scan(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	used := bytes.Clone(content)
	free.Clear(used, 0)
	honest := w.reader
	for _, c := range []struct {
		how string
		log string // empty: nothing
	}{
		{"", ""}, {"panic", "the disk is too odd"}, {"nonsense", "wrong answer"}, {"error", "odd odd"}, {"kill", "signal: killed"}, {"lie", ""},
	} {
		log := &testkit.Buffer{}
		w.log = slog.New(slog.NewTextHandler(log, nil))
		if w.withChild(honest...); c.how != "" {
			w.withChild(w.failing(c.how)...)
		}
		rc := w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7", Media: []string{filepath.Dir(stick)}})
		medium, net := from(rc)
		if fits := c.how == ""; fits != (medium.Blocks > 0) || fits != (net.Blocks == 0) {
			t.Errorf("%q: %+v %+v", c.how, medium, net)
		}
		if got := log.String(); strings.Contains(got, "is not known") != (c.log != "") || !strings.Contains(got, c.log) ||
			c.log != "" && !strings.Contains(got, "file=disk.vhd") {
			t.Errorf("%q: the log says %s", c.how, got)
		}
		w.holds("win7", used)
		if err := w.e.Remove("win7"); err != nil {
			t.Fatal(err)
		}
	}
}

// usedByte picks a byte of a sector that is not the same byte all over.
func usedByte(b []byte, rnd *rand.Rand) int {
	for {
		at := rnd.IntN(len(b))
		if sector := b[at&^511:][:512]; bytes.Count(sector, sector[:1]) < len(sector) {
			return at
		}
	}
}

// TestDevicesAndSettings: a device is what the system says it is, an image file what is said of it; and what the administrator has turned
// off stays off.
func TestDevicesAndSettings(t *testing.T) {
	t.Parallel()
	want := disk(seeds(3)...)
	w := ready(t, want)
	file := filepath.Join(t.TempDir(), "image.iso")
	images[0].make(t, w.lab.Stick(t, "win7", 1), file)
	for _, c := range []struct {
		name     string
		usb, dvd bool
		media    string
		want     string
	}{
		{"a file counts as a stick", true, false, file, deploy.USB},
		{"or as a disc", false, true, "dvd:" + file, deploy.DVD},
		{"sticks are off", false, true, file, deploy.Network},
		{"discs are off", true, false, "dvd:" + file, deploy.Network},
	} {
		w.set(config.EnableUSBCache, c.usb)
		w.set(config.EnableDVDCache, c.dvd)
		rc := w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7", Media: []string{c.media}})
		if got := spent(rc); len(got) != 1 || !got[c.want] {
			t.Errorf("%s: %v, notes %q", c.name, got, rc.Notes)
		}
		if err := w.e.Remove("win7"); err != nil {
			t.Fatal(err)
		}
	}
	rep, err := w.e.Media(t.Context(), []string{file, os.DevNull, t.TempDir() + "/nothing"}, "")
	if err != nil || len(rep.Media) != 3 {
		t.Fatalf("%+v, %v", rep, err)
	}
	infos := rep.Media
	if m := infos[0]; m.Device != file || m.Dir != "" || !strings.HasPrefix(m.Found, "1 layer") || len(m.Notes) != 0 {
		t.Errorf("%+v", m)
	}
	for _, m := range infos[1:] {
		if m.Found != "" || len(m.Notes) != 1 {
			t.Errorf("%+v", m)
		}
	}
	if dev := volumetest.Loop(t, file); w.finder.Named(dev, cache.USB).Device != dev {
		t.Errorf("%s is %+v", dev, w.finder.Named(dev, cache.USB))
	}
}

// heavy is the content of a disk whose blocks cannot be packed.
func heavy(n int) []byte {
	d := make([]byte, n*block)
	rand.NewChaCha8([32]byte{byte(n)}).Read(d)
	return d
}

// burnt is an image file of a version, and where in it the layer begins.
func (w *world) burnt(name string, v image.Version) (b []byte, at int64, x *layer.Index) {
	w.Helper()
	stick := w.lab.Stick(w, name, v)
	file := filepath.Join(w.TempDir(), "image.iso")
	images[0].make(w.T, stick, file)
	b, err := os.ReadFile(file)
	if err != nil {
		w.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(stick, "*.dsl"))
	if err != nil || len(names) != 1 {
		w.Fatalf("layers %q, %v", names, err)
	}
	l, err := os.ReadFile(names[0])
	if err != nil {
		w.Fatal(err)
	}
	if x, err = layer.ReadIndex(bytes.NewReader(l), int64(len(l))); err != nil {
		w.Fatal(err)
	}
	f := x.Frame(0)
	at = int64(bytes.Index(b, l[f.Offset:][:4096])) - f.Offset
	return b, at, x
}

// slow makes the bytes a medium of a simulated drive.
func (w *world) slow(m slowdisk.Model, b []byte) *slowdisk.Disk {
	w.Helper()
	return slowdisk.New(w, m, bytes.NewReader(b), int64(len(b)))
}

// TestSpeedOfMedia: a deployment from a disc or a stick takes hardly longer than reading the medium from its start to its end; what is read
// before and around it takes no more than a twentieth of that for a medium that is full.
func TestSpeedOfMedia(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		model slowdisk.Model
		full  int64 // bytes that such media have
	}{{"disc", slowdisk.DVD(), 4_700_000_000}, {"stick", slowdisk.Stick(), 16_000_000_000}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.logIn()
			w.set(config.ForceLocalChecksum, false)
			var took [2]slowdisk.Counted
			for i, blocks := range []int{6, 18} {
				name := fmt.Sprintf("win%d", i)
				want := heavy(blocks)
				w.publish(name, want)
				b, _, _ := w.burnt(name, 1)
				d := w.slow(c.model, b)
				rc := w.run(endpoint.Request{Kind: endpoint.Download, Image: name, Media: []string{d.Path}})
				if medium, net := from(rc); medium.Blocks != blocks || net.Blocks != 0 {
					t.Fatalf("sources %+v, notes %q", rc.Sources, rc.Notes)
				}
				w.holds(name, want)
				took[i] = d.Counted()
			}
			more := int64(12 * block)
			rate := float64(c.model.Sequential(more)) / float64(took[1].Time-took[0].Time)
			fixed := took[0].Time - c.model.Sequential(6*block)
			share := float64(fixed) / float64(c.model.Sequential(c.full))
			t.Logf("%+v, %+v: %.1f %% of the rate of the medium; %v around it", took[0], took[1], 100*rate, fixed)
			if rate < 0.95 || share > 0.05 {
				t.Errorf("%.1f %% of the rate of the medium, and %.1f %% of the time of a full one besides", 100*rate, 100*share)
			}
		})
	}
}

// TestBadPlaces: exactly the blocks that a disc cannot read come from the Synchronizer.
func TestBadPlaces(t *testing.T) {
	t.Parallel()
	want := disk(seeds(12)...)
	w := ready(t, want)
	w.set(config.ForceLocalChecksum, false)
	b, at, x := w.burnt("win7", 1)
	r := endpoint.Request{Kind: endpoint.Download, Image: "win7"}
	for _, lost := range [][]int{{0}, {11}, {3, 4}, {0, 5, 6, 7, 11}} {
		d := w.slow(slowdisk.DVD(), b)
		var bytesLost int64
		for _, i := range lost {
			f := x.Frame(i)
			d.Bad(at+f.Offset+int64(f.Length)/2, at+f.Offset+int64(f.Length)/2+1)
			bytesLost += int64(f.Length)
		}
		r.Media = []string{d.Path}
		rc := w.run(r)
		medium, net := from(rc)
		if medium.Blocks != 12-len(lost) || medium.Bad != len(lost) || net.Blocks != len(lost) || net.Bytes != bytesLost || rc.Healed != len(lost) {
			t.Errorf("without blocks %v: %+v, %d healed; want %d bytes", lost, rc.Sources, rc.Healed, bytesLost)
		}
		w.holds("win7", want)
		if err := w.e.Remove("win7"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPulledOut: a medium may go at any moment; what is missing comes from the Synchronizer.
func TestPulledOut(t *testing.T) {
	t.Parallel()
	want := disk(seeds(8)...)
	w := ready(t, want)
	w.set(config.ForceLocalChecksum, false)
	b, _, x := w.burnt("win7", 1)
	part := int64(x.Frame(0).Length)
	some := 0
	whole := w.slow(slowdisk.Stick(), b)
	r := endpoint.Request{Kind: endpoint.Download, Image: "win7", Media: []string{whole.Path}}
	w.run(r)
	total := whole.Counted().Bytes
	for left := int64(1); left < total; left += max(part/2, total/8) {
		if err := w.e.Remove("win7"); err != nil {
			t.Fatal(err)
		}
		d := w.slow(slowdisk.Stick(), b)
		d.PullOut(left)
		r.Media = []string{d.Path}
		rc := w.run(r)
		medium, net := from(rc)
		if medium.Blocks+net.Blocks != 8 || net.Blocks == 0 {
			t.Errorf("pulled out after %d bytes: %+v", left, rc.Sources)
		}
		if medium.Blocks > 0 {
			some++
		}
		w.holds("win7", want)
	}
	if some == 0 {
		t.Error("it never gave anything")
	}
}
