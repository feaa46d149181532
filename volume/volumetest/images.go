package volumetest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"disksync/internal/testkit"
	"disksync/volume"
)

// Image returns the name of a file of size bytes, all of it a hole, that ends with the test.
func Image(t testing.TB, size int64) string {
	t.Helper()
	f := testkit.Scratch(t)
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// Run runs a program and returns what it printed. Where the program is not there the test is skipped.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := Try(t, name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

// Try is Run for a program that may fail.
func Try(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(testkit.Tool(t, name), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MTOOLS_SKIP_CHECK=1", "MTOOLS_NO_VFAT=0", "DEBUGFS_PAGER=cat")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Mounted runs do on a folder where a command, such as mount, has mounted a file system; the folder becomes its last argument.
// Where that cannot be done the test is skipped: a container may not let it.
func Mounted(t testing.TB, do func(dir string), mount ...string) {
	t.Helper()
	dir := t.TempDir()
	if out, err := Try(t, mount[0], append(mount[1:], dir)...); err != nil {
		t.Skipf("no file system can be mounted here: %v: %s", err, out)
	}
	defer func() {
		// What the file system still writes is written when it is gone.
		if out, err := Try(t, "umount", dir); err != nil {
			t.Fatalf("umount: %v: %s", err, out)
		}
	}()
	do(dir)
}

// Loop returns a block device of an image, for programs that want one. It ends with the test. Where there is none the test is skipped.
func Loop(t testing.TB, img string) string {
	t.Helper()
	out, err := Try(t, "losetup", "--find", "--show", img)
	if err != nil {
		t.Skipf("no device can be made here: %v: %s", err, out)
	}
	dev := strings.TrimSpace(out)
	t.Cleanup(func() {
		if out, err := Try(t, "losetup", "--detach", dev); err != nil {
			t.Errorf("losetup: %v: %s", err, out)
		}
	})
	return dev
}

// Device opens an image file.
func Device(t testing.TB, img string) *volume.Device {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	return volume.NewDevice(f, size)
}

// Open opens the volume of an image file.
func Open(t testing.TB, img string, open func(*volume.Device) (volume.Volume, error)) volume.Volume {
	t.Helper()
	v, err := open(Device(t, img))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Put makes a file of n bytes below a folder, with content that follows from its name, and what is above it.
func Put(t testing.TB, dir, name string, n int64) {
	t.Helper()
	at := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(at)
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(n)
	for _, c := range name {
		seed = seed*31 + uint64(c)
	}
	rnd := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, min(n, 1<<20)+16)
	for n > 0 {
		b = b[:0]
		for range min(n, 1<<20)/8 + 1 {
			b = fmt.Appendf(b, "%08x", uint32(rnd.Uint64()))
		}
		k := min(n, int64(len(b)))
		if _, err := f.Write(b[:k]); err != nil {
			t.Fatal(err)
		}
		n -= k
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// Planes is a name with letters beyond the first 65,536.
const Planes = "names/letters 🜲 of other planes 🚀.bin"

// Files fills a folder with what every file system can hold: no bytes and many, names of all kinds, deep folders, and one with so
// many files.
func Files(t testing.TB, dir string, many int) {
	t.Helper()
	for _, n := range []int64{0, 1, 511, 512, 513, 4095, 4096, 4097, 65536, 1_000_003} {
		Put(t, dir, fmt.Sprintf("size %d", n), n)
	}
	for _, name := range []string{
		"kurz.txt", "GROSS.TXT", "Mixed.Case", "ein langer Name, mit Kommas.vhd", "Ärger über Größe", "日本語のファイル名",
		"no.dots.at.all.vhd.gz", "a+b=[c]; d", strings.Repeat("ä", 120), "x", ".hidden", "tilde~1",
	} {
		Put(t, dir, "names/"+name, 1000)
	}
	Put(t, dir, "1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/deep", 100)
	if err := os.Mkdir(filepath.Join(dir, "empty folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range many {
		Put(t, dir, fmt.Sprintf("many/%d is its number", i), int64(i%3))
	}
}

// ReadSequentially measures how fast the first n bytes of a file are read, a MiB at once, when the system has them in memory.
func ReadSequentially(b *testing.B, v volume.Tree, name string, n int64) {
	b.Helper()
	f, err := v.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	n = min(n, f.Size()&^(1<<20-1))
	p := make([]byte, 1<<20)
	read := func() {
		for off := int64(0); off < n; off += int64(len(p)) {
			if _, err := f.ReadAt(p, off); err != nil {
				b.Fatal(err)
			}
		}
	}
	read()
	b.SetBytes(n)
	for b.Loop() {
		read()
	}
}
