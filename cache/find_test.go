package cache_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/cache"
)

// machine is a fake /proc and /sys.
type machine struct {
	t              *testing.T
	proc, sys, run string
	mounts         []string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, proc: filepath.Join(dir, "proc"), sys: filepath.Join(dir, "sys"), run: filepath.Join(dir, "run")}
	for _, d := range []string{"proc/self", "sys/dev/block", "sys/class/block", "run/udev/data"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *machine) finder() cache.Finder {
	m.t.Helper()
	write(m.t, m.proc, "self/mountinfo", []byte(strings.Join(m.mounts, "\n")+"\n"))
	return cache.Finder{Proc: m.proc, Sys: m.sys, Run: m.run}
}

// device adds a block device, or a partition when files has "partition", at a path below /sys/devices.
func (m *machine) device(number, path string, files map[string]string) {
	m.t.Helper()
	dir := filepath.Join(m.sys, "devices", path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		m.t.Fatal(err)
	}
	for name, text := range files {
		write(m.t, dir, name, []byte(text+"\n"))
	}
	for _, link := range []string{"dev/block/" + number, "class/block/" + filepath.Base(path)} {
		if err := os.Symlink(dir, filepath.Join(m.sys, link)); err != nil {
			m.t.Fatal(err)
		}
	}
}

// mount adds a line to mountinfo; dir and source are as the kernel writes them.
func (m *machine) mount(number, dir, fsType, source string) {
	m.mounts = append(m.mounts, "36 35 "+number+" / "+dir+" rw,noatime shared:1 - "+fsType+" "+source+" rw")
}

const pci = "pci0000:00/0000:00:14.0/"

func (m *machine) usual() {
	m.device("8:0", pci+"ata1/host0/target0:0:0/0:0:0:0/block/sda", map[string]string{"removable": "0", "device/type": "0"})
	m.device("8:1", pci+"ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1", map[string]string{"partition": "1"})
	m.device("8:16", pci+"usb1/1-1/1-1:1.0/host2/target2:0:0/2:0:0:0/block/sdb", map[string]string{"removable": "1", "device/type": "0"})
	m.device("8:17", pci+"usb1/1-1/1-1:1.0/host2/target2:0:0/2:0:0:0/block/sdb/sdb1", map[string]string{"partition": "1"})
	m.device("8:32", pci+"usb2/2-3/2-3:1.0/host3/target3:0:0/3:0:0:0/block/sdc", map[string]string{"removable": "0", "device/type": "0"})
	m.device("8:33", pci+"usb2/2-3/2-3:1.0/host3/target3:0:0/3:0:0:0/block/sdc/sdc1", map[string]string{"partition": "1"})
	m.device("11:0", pci+"ata2/host1/target1:0:0/1:0:0:0/block/sr0", map[string]string{"removable": "1", "device/type": "5"})
	m.device("11:1", pci+"usb1/1-4/1-4:1.0/host5/target5:0:0/5:0:0:0/block/sr1", map[string]string{"removable": "1", "device/type": "5"})
	m.device("179:0", pci+"mmc_host/mmc0/mmc0:0001/block/mmcblk0", map[string]string{"removable": "1"})
	m.device("179:1", pci+"mmc_host/mmc0/mmc0:0001/block/mmcblk0/mmcblk0p1", map[string]string{"partition": "1"})
	m.device("7:0", "virtual/block/loop0", map[string]string{"removable": "0"})
	m.device("259:0", pci+"nvme/nvme0/nvme0n1", map[string]string{"removable": "0"})
}

func TestFind(t *testing.T) {
	for _, c := range []struct {
		name  string
		mount func(m *machine)
		want  []cache.Medium
	}{
		{"nothing is mounted", func(*machine) {}, nil},
		{"inner disks", func(m *machine) {
			m.mount("8:1", "/", "ext4", "/dev/sda1")
			m.mount("259:0", "/data", "xfs", "/dev/nvme0n1")
		}, nil},
		{"a stick", func(m *machine) { m.mount("8:17", "/media/stick", "vfat", "/dev/sdb1") }, []cache.Medium{{Kind: cache.USB, Dir: "/media/stick", Device: "/dev/sdb1"}}},
		{"a stick without partitions", func(m *machine) { m.mount("8:16", "/media/stick", "vfat", "/dev/sdb") },
			[]cache.Medium{{Kind: cache.USB, Dir: "/media/stick", Device: "/dev/sdb"}}},
		{"a USB disk that does not call itself removable", func(m *machine) { m.mount("8:33", "/media/disk", "ntfs3", "/dev/sdc1") },
			[]cache.Medium{{Kind: cache.USB, Dir: "/media/disk", Device: "/dev/sdc1"}}},
		{"a card", func(m *machine) { m.mount("179:1", "/media/card", "exfat", "/dev/mmcblk0p1") },
			[]cache.Medium{{Kind: cache.USB, Dir: "/media/card", Device: "/dev/mmcblk0p1"}}},
		{"a disc", func(m *machine) { m.mount("11:0", "/media/disc", "udf", "/dev/sr0") }, []cache.Medium{{Kind: cache.DVD, Dir: "/media/disc", Device: "/dev/sr0"}}},
		{"a disc in a USB drive", func(m *machine) { m.mount("11:1", "/media/disc", "iso9660", "/dev/sr1") },
			[]cache.Medium{{Kind: cache.DVD, Dir: "/media/disc", Device: "/dev/sr1"}}},
		{"a file system in user space", func(m *machine) { m.mount("0:55", "/media/ntfs", "fuse.ntfs", "/dev/sdb1") },
			[]cache.Medium{{Kind: cache.USB, Dir: "/media/ntfs", Device: "/dev/sdb1"}}},
		{"what is no disk", func(m *machine) {
			m.mount("0:20", "/proc", "proc", "proc")
			m.mount("0:50", "/mnt/nfs", "nfs4", "server:/export")
			m.mount("0:51", "/mnt/share", "cifs", "//server/sdb1")
			m.mount("7:0", "/snap/x", "squashfs", "/dev/loop0")
			m.mount("0:52", "/mnt/trick", "fuse.x", "/dev/../sdb1")
			m.mount("0:53", "/mnt/trick2", "fuse.x", "sdb1")
		}, nil},
		{"a stick in two places", func(m *machine) {
			m.mount("8:17", "/media/stick", "vfat", "/dev/sdb1")
			m.mount("8:17", "/srv/bound", "vfat", "/dev/sdb1")
		}, []cache.Medium{{Kind: cache.USB, Dir: "/media/stick", Device: "/dev/sdb1"}}},
		{"a stick mounted over a disc", func(m *machine) {
			m.mount("11:0", "/mnt", "udf", "/dev/sr0")
			m.mount("8:17", "/mnt", "vfat", "/dev/sdb1")
		}, []cache.Medium{{Kind: cache.USB, Dir: "/mnt", Device: "/dev/sdb1"}}},
		{"a stick that the system runs from", func(m *machine) { m.mount("8:17", "/", "ext4", "/dev/sdb1") }, nil},
		{"odd names", func(m *machine) { m.mount("8:17", `/media/my\040stick\011\134\012\043x\303\251`, "vfat", "/dev/sdb1") },
			[]cache.Medium{{Kind: cache.USB, Dir: "/media/my stick\t\\\n#xé", Device: "/dev/sdb1"}}},
		{"something like an escape", func(m *machine) { m.mount("8:17", `/media/a\9b\777\4`, "vfat", "/dev/sdb1") },
			[]cache.Medium{{Kind: cache.USB, Dir: `/media/a\9b\777\4`, Device: "/dev/sdb1"}}},
		{"a device that went away", func(m *machine) { m.mount("8:99", "/media/gone", "vfat", "/dev/sdz1") }, nil},
		{"lines that make no sense", func(m *machine) {
			m.mounts = append(m.mounts, "", "-", " - ", "36 35 8:17 / /x rw", "36 35 8:17 / - vfat /dev/sdb1 rw", "36 35 8:17 / /x rw - vfat")
			m.mount("11:0", "/media/disc", "udf", "/dev/sr0")
		}, []cache.Medium{{Kind: cache.DVD, Dir: "/media/disc", Device: "/dev/sr0"}}},
		{"without optional fields, and with many", func(m *machine) {
			m.mounts = append(m.mounts, "36 35 8:17 / /media/a rw - vfat /dev/sdb1 rw", "36 35 11:0 / /media/b ro shared:1 master:2 propagate_from:3 unbindable - udf /dev/sr0 ro")
		}, []cache.Medium{{Kind: cache.USB, Dir: "/media/a", Device: "/dev/sdb1"}, {Kind: cache.DVD, Dir: "/media/b", Device: "/dev/sr0"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			m.usual()
			c.mount(m)
			got, err := m.finder().Find()
			for i := range got { // TestDescribe looks at the rest
				got[i] = cache.Medium{Kind: got[i].Kind, Dir: got[i].Dir, Device: got[i].Device}
			}
			if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
				t.Errorf("%v %s", err, diff)
			}
		})
	}
}

// TestFindHere looks at the machine that the test runs on, whatever is mounted there.
func TestFindHere(t *testing.T) {
	media, err := cache.Finder{}.Find()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range media {
		if m.Kind != cache.USB && m.Kind != cache.DVD || m.Dir == "" {
			t.Errorf("%+v", m)
		}
	}
	if k := (cache.Finder{Proc: "/nonexistent"}).KindOf(t.TempDir(), cache.USB); k != cache.USB {
		t.Errorf("without a list of mounts a folder is %s", k)
	}
	if _, err := (cache.Finder{Proc: t.TempDir()}).Find(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a list of mounts: %v", err)
	}
}

// TestKindOf: a folder is what the mount is that holds it, so that naming a folder does not get around a setting.
func TestKindOf(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"disc/deep/er", "discs", "disc/stick/x", "plain"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("disc/deep", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	m := newMachine(t)
	m.usual()
	m.mount("8:1", "/", "ext4", "/dev/sda1")
	m.mount("11:0", filepath.Join(root, "disc"), "udf", "/dev/sr0")
	m.mount("8:17", filepath.Join(root, "disc/stick"), "vfat", "/dev/sdb1")
	f := m.finder()
	for dir, want := range map[string]cache.Kind{
		"disc": cache.DVD, "disc/": cache.DVD, "disc/deep/er": cache.DVD, "link": cache.DVD, "link/er": cache.DVD, "discs": cache.USB, "plain": cache.USB,
		"disc/stick": cache.USB, "disc/stick/x": cache.USB, "nowhere": cache.USB, "plain/../disc/deep": cache.DVD,
	} {
		if got := f.KindOf(root+"/"+dir, cache.USB); got != want {
			t.Errorf("%s is %s, want %s", dir, got, want)
		}
	}
	if plain, stick := f.KindOf(root+"/plain", cache.DVD), f.KindOf(root+"/disc/stick", cache.DVD); plain != cache.DVD || stick != cache.USB {
		t.Errorf("called discs, a plain folder is %s and a stick is %s", plain, stick)
	}
	m.mount("11:0", filepath.Join(root, "disc/stick"), "udf", "/dev/sr0")
	if got := m.finder().KindOf(filepath.Join(root, "disc/stick"), cache.USB); got != cache.DVD {
		t.Errorf("of two mounts on one another the lower counts: %s", got)
	}
}

// TestDescribe: a medium is known by what the kernel and udev say of it, and has another ID each time it is put in.
func TestDescribe(t *testing.T) {
	m := newMachine(t)
	m.device("8:0", pci+"ata1/block/sda", map[string]string{"removable": "0", "size": "9", "dev": "8:0"})
	m.device("8:16", pci+"usb1/block/sdb", map[string]string{"removable": "1", "size": "2000", "ro": "0", "dev": "8:16", "diskseq": "41"})
	m.device("8:17", pci+"usb1/block/sdb/sdb1", map[string]string{"partition": "1", "size": "1024", "ro": "0", "dev": "8:17"})
	m.device("8:18", pci+"usb1/block/sdb/sdb2", map[string]string{"partition": "2", "size": "512", "ro": "1", "dev": "8:18"})
	m.device("8:32", pci+"usb2/block/sdc", map[string]string{"removable": "1", "size": "0", "dev": "8:32"}) // a reader without a card
	m.device("11:0", pci+"ata2/block/sr0", map[string]string{"size": "8000000", "ro": "1", "dev": "11:0", "diskseq": "7"})
	write(t, m.run, "udev/data/b8:17", []byte("S:disk/by-x\nE:ID_FS_TYPE=vfat\nE:ID_FS_LABEL=MY_STICK\nE:ID_FS_LABEL_ENC=MY\\x20STICK\\xzz\nE:ID_FS_UUID=12AB-34CD\nnonsense\n"))
	m.mount("8:17", "/media/stick", "vfat", "/dev/sdb1")
	stick := cache.Medium{
		Kind: cache.USB, Dir: "/media/stick", Device: "/dev/sdb1", ID: "41:524288:12AB-34CD", Drive: "sdb", Label: `MY STICK\xzz`, FS: "vfat", Size: 524288,
	}
	f := m.finder()
	got, err := f.Find()
	if diff := cmp.Diff([]cache.Medium{stick}, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	stick.Dir = ""
	got, coming, err := f.Devices()
	want := []cache.Medium{
		stick,
		{Kind: cache.USB, Device: "/dev/sdb2", ID: "41:262144:", Drive: "sdb", Size: 262144, ReadOnly: true},
		{Kind: cache.DVD, Device: "/dev/sr0", ID: "7:4096000000:", Drive: "sr0", Size: 4096000000, ReadOnly: true},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil || len(coming) > 0 {
		t.Errorf("%v %v %s", coming, err, diff)
	}
	// Another stick in its place.
	write(t, m.sys, "class/block/sdb/diskseq", []byte("42\n"))
	if again, _, err := f.Devices(); err != nil || again[0].Is(got[0]) || again[0].ID != "42:524288:12AB-34CD" {
		t.Errorf("%+v, %v", again, err)
	}
	if dir, options, ok := f.Mounted("/dev/sdb1"); !ok || dir != "/media/stick" || len(options) != 2 {
		t.Error(dir, options, ok)
	}
	if _, _, err := (cache.Finder{Sys: "/nowhere"}).Devices(); err == nil {
		t.Error("no error without sysfs")
	}
}

// TestUdevLooksFirst: where udev runs, a device is no medium before udev has looked at it, and at the disc that is in the drive now.
func TestUdevLooksFirst(t *testing.T) {
	m := newMachine(t)
	m.device("8:16", pci+"usb1/block/sdb", map[string]string{"removable": "1", "size": "2000", "dev": "8:16", "diskseq": "41"})
	m.device("8:17", pci+"usb1/block/sdb/sdb1", map[string]string{"partition": "1", "size": "1024", "dev": "8:17"})
	m.device("11:0", pci+"ata2/block/sr0", map[string]string{"size": "8000000", "dev": "11:0", "diskseq": "7"})
	f := m.finder()
	devices := func(all []cache.Medium) (names []string) {
		for _, m := range all {
			names = append(names, m.Device)
		}
		return names
	}
	look := func(when string, want, wantComing []string) {
		t.Helper()
		got, coming, err := f.Devices()
		if err != nil || !slices.Equal(devices(got), want) || !slices.Equal(devices(coming), wantComing) {
			t.Errorf("%s: %v, coming %v, %v", when, devices(got), devices(coming), err)
		}
	}
	look("without udev", []string{"/dev/sdb1", "/dev/sr0"}, nil)
	write(t, m.run, "udev/control", nil)
	look("before udev", nil, []string{"/dev/sdb1", "/dev/sr0"})
	write(t, m.run, "udev/data/b8:17", []byte("I:5\nE:ID_FS_TYPE=vfat\n"))
	look("the partition before the disk", nil, []string{"/dev/sdb1", "/dev/sr0"})
	write(t, m.run, "udev/data/b8:16", []byte("S:disk/by-diskseq/41\nS:disk/by-diskseq/41-part1\nI:4\n"))
	look("a stick", []string{"/dev/sdb1"}, []string{"/dev/sr0"})
	write(t, m.run, "udev/data/b11:0", []byte("S:cdrom\nS:disk/by-diskseq/6\nI:3\n"))
	look("the drive when it was empty", []string{"/dev/sdb1"}, []string{"/dev/sr0"})
	write(t, m.run, "udev/data/b11:0", []byte("S:disk/by-diskseq/7\nI:3\n"))
	look("the disc", []string{"/dev/sdb1", "/dev/sr0"}, nil)
	write(t, m.run, "udev/data/b11:0", []byte("I:3\n"))
	look("a udev that makes no such links", []string{"/dev/sdb1", "/dev/sr0"}, nil)
}
