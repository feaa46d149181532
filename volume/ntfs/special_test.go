package ntfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"disksync/volume"
	"disksync/volume/ntfs"
	"disksync/volume/ntfs/format"
	"disksync/volume/volumetest"
)

// reparse makes a reparse point of a file or folder on a mounted volume.
func reparse(t testing.TB, name string, tag uint32, data []byte) {
	t.Helper()
	b := binary.LittleEndian.AppendUint32(nil, tag)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	if err := unix.Setxattr(name, "system.ntfs_reparse_data", append(b, data...), 0); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// junction is the data of a junction to C:\x ([MS-FSCC] 2.1.2.5).
func junction() []byte {
	target := format16(`\??\C:\x`)
	b := make([]byte, 8)
	binary.LittleEndian.PutUint16(b[2:], uint16(len(target)))
	binary.LittleEndian.PutUint16(b[4:], uint16(len(target)+2))
	return append(append(b, target...), 0, 0, 0, 0)
}

func format16(s string) (b []byte) {
	for _, c := range s {
		b = binary.LittleEndian.AppendUint16(b, uint16(c))
	}
	return b
}

// names returns what a folder lists.
func names(t testing.TB, v volume.Volume, dir string) (out []string) {
	t.Helper()
	entries, err := v.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name)
	}
	slices.Sort(out)
	return out
}

// TestSpecial: what is no file of its own is left out, what cannot be read is refused and never shown as something else.
func TestSpecial(t *testing.T) {
	t.Parallel()
	img := makeImage(t, 50, "-c 4096")
	var encrypted, packed, pipe int64
	mounted(t, img, "rw,compression,streams_interface=windows", func(dir string) {
		at := func(name string) string { return filepath.Join(dir, name) }
		for _, name := range []string{"wof", "dedup", "cloud", "encrypted", "wsl link", "wsl pipe", "in clusters"} {
			put(t, at(name), random(20_000))
		}
		put(t, at("resident"), []byte("resident"))
		put(t, at("resident:stream"), []byte("another stream"))
		put(t, at("a long name for DOS.text"), []byte("named twice"))
		put(t, at("folder/file"), []byte("x"))
		for _, e := range []error{
			os.Mkdir(at("junction"), 0o755), os.Mkdir(at("folder in a cloud"), 0o755),
			os.Symlink("resident", at("symlink")), unix.Mkfifo(at("pipe"), 0o644),
			unix.Mknod(at("device"), unix.S_IFBLK|0o644, int(unix.Mkdev(8, 1))), unix.Mknod(at("socket"), unix.S_IFSOCK|0o644, 0),
			unix.Setxattr(at("a long name for DOS.text"), "system.ntfs_dos_name", []byte("ALONGN~1.TEX"), 0),
			os.WriteFile(at("broken \xed\xa0\x80 name"), []byte("half of a pair"), 0o644),
			os.WriteFile(at("new\nline"), nil, 0o644),
		} {
			if e != nil {
				t.Fatal(e)
			}
		}
		encrypted, packed, pipe = inode(t, at("encrypted")), inode(t, at("in clusters")), inode(t, at("wsl pipe"))
		reparse(t, at("junction"), 0xa0000003, junction())
		reparse(t, at("wof"), 0x80000017, make([]byte, 16))
		reparse(t, at("dedup"), 0x80000013, make([]byte, 16))
		reparse(t, at("cloud"), 0x9000001a, make([]byte, 16))
		reparse(t, at("folder in a cloud"), 0x9000001a, make([]byte, 16))
		reparse(t, at("wsl link"), 0xa000001d, append([]byte{2, 0, 0, 0}, "resident"...))
		reparse(t, at("wsl pipe"), 0x9000001a, make([]byte, 4))
	})
	m := edit(t, img)
	m.record(encrypted, format.AttrData, func(a []byte) { binary.LittleEndian.PutUint16(a[12:], format.Encrypted) })
	m.record(pipe, format.AttrReparse, func(a []byte) { binary.LittleEndian.PutUint32(a[24:], 0x80000024) })
	m.record(packed, format.AttrData, func(a []byte) { // units of another size than there are
		binary.LittleEndian.PutUint16(a[12:], 1)
		a[34] = 9
	})
	v := open(t, img)
	want := []string{"a long name for DOS.text", "cloud", "dedup", "encrypted", "folder", "folder in a cloud", "in clusters", "resident", "wof"}
	if got := names(t, v, "."); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for name, why := range map[string]string{
		"wof": "CompactOS", "dedup": "deduplicated", "cloud": "0x9000001a", "encrypted": "EFS", "folder in a cloud/x": "0x9000001a",
		"in clusters": "2^9 clusters",
	} {
		if _, err := v.Open(name); !errors.Is(err, volume.ErrUnsupported) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := v.ReadDir("folder in a cloud"); !errors.Is(err, volume.ErrUnsupported) {
		t.Error(err)
	}
	for _, name := range []string{"symlink", "junction", "junction/x", "$MFT", "none", "RESIDENT", "ALONGN~1.TEX", "resident/x", "resident:stream"} {
		if _, err := v.Open(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := v.Open("folder"); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
	if _, err := v.ReadDir("resident"); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
	if got := content(t, v, "resident"); string(got) != "resident" {
		t.Errorf("%q", got)
	}
}

// TestValid: what was never written of a file is zeros, whatever is in its clusters.
func TestValid(t *testing.T) {
	t.Parallel()
	img := makeImage(t, 50, "-c 4096")
	var plain int64
	mounted(t, img, "rw", func(dir string) {
		put(t, filepath.Join(dir, "plain"), random(1_000_000))
		plain = inode(t, filepath.Join(dir, "plain"))
	})
	edit(t, img).record(plain, format.AttrData, func(a []byte) { binary.LittleEndian.PutUint64(a[56:], 300_001) })
	want := random(1_000_000)
	clear(want[300_001:])
	v := open(t, img)
	if !bytes.Equal(content(t, v, "plain"), want) {
		t.Error("what was never written is not zeros")
	}
	mounted(t, img, "ro", func(dir string) { volumetest.Compare(t, v, dir) })
}

// TestInfo: a volume is called what blkid calls it.
func TestInfo(t *testing.T) {
	t.Parallel()
	img := makeImage(t, 20, "-c 4096 -L Größe_日本")
	says := func(what string) string {
		return strings.TrimSpace(volumetest.Run(t, "blkid", "-p", "-s", what, "-o", "value", img))
	}
	got := open(t, img).Info()
	want := volume.Info{Type: says("TYPE"), Label: says("LABEL"), ID: says("UUID"), BlockSize: 4096}
	if got != want || got.Label != "Größe_日本" {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// failing is a device that cannot be read at some places.
type failing struct {
	io.ReaderAt
	from, to int64
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off < f.to && off+int64(len(p)) > f.from {
		n := 0
		if off < f.from {
			n, _ = f.ReaderAt.ReadAt(p[:f.from-off], off)
		}
		return n, syscall.EIO
	}
	return f.ReaderAt.ReadAt(p, off)
}

// damage is one that a volume may have.
type damage struct {
	name   string
	change func(m *image)
	note   string
	open   error // of opening the volume
	dir    error // of listing the root folder
	left   int   // names that are listed there all the same
}

// TestDamage: what has a copy is read from it; of what has none the rest is there, with an error.
func TestDamage(t *testing.T) {
	t.Parallel()
	img := makeImage(t, 20, "-c 4096 -L name")
	var a int64
	mounted(t, img, "rw", func(dir string) {
		put(t, filepath.Join(dir, "a"), random(100_000))
		put(t, filepath.Join(dir, "b"), random(200_000))
		put(t, filepath.Join(dir, "folder/c"), []byte("c"))
		put(t, filepath.Join(dir, "hiberfil.sys"), append([]byte("wake"), make([]byte, 5000)...))
		a = inode(t, filepath.Join(dir, "a"))
	})
	clobber := func(m *image, at int64) { m.change(at, 64, func(b []byte) { clear(b) }) }
	record := func(m *image, n int64) { m.change(m.mft+n*m.size+508, 4, func(b []byte) { b[2] ^= 1 }) }
	for _, d := range []damage{
		{name: "none", change: func(m *image) {}, left: 4},
		{name: "boot sector", change: func(m *image) { m.change(11, 8, func(b []byte) { clear(b) }) }, note: "boot sector", left: 4},
		{name: "first record", change: func(m *image) { record(m, 0) }, note: "master file table", left: 4},
		{name: "first record is another", change: func(m *image) { clobber(m, m.mft) }, note: "master file table", left: 4},
		{name: "first record and copy", change: func(m *image) { record(m, 0); clobber(m, m.mirror) }, open: volume.ErrDamaged},
		{name: "volume", change: func(m *image) { record(m, 3) }, left: 4},
		{name: "log", change: func(m *image) { record(m, 2) }, note: "not unmounted cleanly", left: 4},
		{name: "root", change: func(m *image) { record(m, 5) }, open: volume.ErrDamaged},
		{name: "file", change: func(m *image) { record(m, a) }, dir: volume.ErrDamaged, left: 3},
		{name: "file without clusters", change: func(m *image) {
			m.record(a, format.AttrData, func(a []byte) { a[binary.LittleEndian.Uint16(a[32:])+1]-- })
		}, left: 4},
		{name: "dirty", change: func(m *image) { m.record(3, format.AttrVolumeInfo, func(a []byte) { a[24+10] |= 1 }) },
			note: "not unmounted cleanly", left: 4},
		{name: "asleep", change: func(m *image) {
			b := make([]byte, 20<<20)
			if _, err := m.f.ReadAt(b, 0); err != nil {
				t.Fatal(err)
			}
			m.change(int64(bytes.Index(b, []byte("wake\x00"))), 4, func(b []byte) { copy(b, "hibr") })
		}, note: "sleeps", left: 4},
		{name: "no NTFS", change: func(m *image) { clobber(m, 0) }, open: volume.ErrOther},
	} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			d.test(t, img)
		})
	}
}

func (d damage) test(t *testing.T, img string) {
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	img = filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(img, b, 0o600); err != nil {
		t.Fatal(err)
	}
	d.change(edit(t, img))
	v, err := ntfs.Open(volumetest.Device(t, img))
	if !errors.Is(err, d.open) {
		t.Fatal(err)
	}
	if err != nil {
		return
	}
	info := v.Info()
	if info.Label != "name" || (info.Note == "") != (d.note == "") || !strings.Contains(info.Note, d.note) {
		t.Errorf("%+v", info)
	}
	entries, err := v.ReadDir(".")
	if len(entries) != d.left || !errors.Is(err, d.dir) {
		t.Errorf("%d names, %v", len(entries), err)
	}
	if !bytes.Equal(content(t, v, "b"), random(200_000)) || string(content(t, v, "folder/c")) != "c" {
		t.Error("a file is other than it was")
	}
	if d.name == "file without clusters" || d.dir != nil {
		if _, err := v.Open("a"); !errors.Is(err, volume.ErrDamaged) {
			t.Errorf("the damaged file: %v", err)
		}
	}
}

// TestUnreadable: what the device cannot read costs what is there, and its error is told; bytes before it are counted.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	img := makeImage(t, 20, "-c 4096")
	var a int64
	mounted(t, img, "rw,compression", func(dir string) {
		put(t, filepath.Join(dir, "a"), random(100_000))
		put(t, filepath.Join(dir, "b"), random(200_000))
		plantCompressed(t, dir, 0)
		a = inode(t, filepath.Join(dir, "a"))
	})
	m := edit(t, img)
	on := func(from, n int64) volume.Volume {
		v, err := ntfs.Open(volume.NewDevice(failing{m.f, from, from + n}, 20<<20))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	entries, err := on(m.mft+a*m.size, 512).ReadDir(".")
	if len(entries) != 2 || !errors.Is(err, syscall.EIO) {
		t.Errorf("%d names, %v", len(entries), err)
	}
	good := open(t, img)
	for name, whole := range map[string][]byte{"b": random(200_000), "compressed/text 1000000": text(1_000_000)} {
		f, err := good.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		const at = 140_000
		place := f.Place(at)
		bad, err := on(place, 512).Open(name)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, len(whole))
		n, err := bad.ReadAt(p, 0)
		if n < 131072 || n > at || !errors.Is(err, syscall.EIO) || !bytes.Equal(p[:n], whole[:n]) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		if _, err := bad.ReadAt(p[:1000], at); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", name, err)
		}
		if n, err := bad.ReadAt(p[:10], at+70_000-1); name != "b" && (n != 10 || err != nil) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
	// Cut off: what lies beyond is not short, but missing.
	f, err := good.Open("b")
	if err != nil {
		t.Fatal(err)
	}
	cut, err := ntfs.Open(volume.NewDevice(m.f, f.Place(150_000)))
	if err != nil {
		t.Fatal(err)
	}
	if f, err = cut.Open("b"); err != nil {
		t.Fatal(err)
	}
	if n, err := f.ReadAt(make([]byte, 200_000), 0); !errors.Is(err, volume.ErrDamaged) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestManyNames: of a folder with too many names so many are listed, and those can be opened.
func TestManyNames(t *testing.T) {
	t.Parallel()
	img := makeImage(t, 60, "-c 4096")
	mounted(t, img, "rw", func(dir string) {
		for i := range volume.MaxEntries + 1 {
			put(t, filepath.Join(dir, "too many", strconv.Itoa(i)), nil)
		}
	})
	v := open(t, img)
	entries, err := v.ReadDir("too many")
	if len(entries) != volume.MaxEntries || !errors.Is(err, volume.ErrLimit) {
		t.Errorf("%d names, %v", len(entries), err)
	}
	for _, e := range entries {
		if _, err := v.Open("too many/" + e.Name); err != nil {
			t.Fatal(err)
		}
	}
	// The last one is not known; that there is nothing of that name cannot be said.
	if _, err := v.Open("too many/9999"); !errors.Is(err, volume.ErrLimit) {
		t.Error(err)
	}
}
