package vhdfile_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"disksync/internal/testkit"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// newFile makes an empty file that is open until the test ends.
func newFile(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// pattern returns n bytes with data at the start, in the middle and at the end.
func pattern(n int) []byte {
	b := make([]byte, n)
	for _, off := range []int{0, n / 2, n - 700} {
		for i := range 600 {
			b[off+i] = byte(i%255 + 1)
		}
	}
	return b
}

// TestOpenDisk writes, over closing and opening again, to a chain of 30 whose names are not ASCII.
func TestOpenDisk(t *testing.T) {
	dir := t.TempDir()
	want := make([]byte, size)
	name := ""
	for i := range 30 {
		var parent *vhdfile.Chain
		below := name
		name = filepath.Join(dir, fmt.Sprintf("Ebene %d – диск 磁盘 💾.vhd", i))
		f := newFile(t, name)
		o := vhd.CreateOptions{Size: size, UUID: id(byte(i + 1))}
		var err error
		if i == 0 {
			err = vhdfile.Create(f, o)
		} else {
			if parent, err = vhdfile.OpenChain(below, vhdfile.Options{}); err != nil {
				t.Fatal(err)
			}
			err = vhd.Snapshot(f, parent.Members()[0], filepath.Base(below), o)
			parent.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		d, err := vhdfile.OpenDisk(name, vhdfile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Paths) != i+1 || d.Paths[0] != name {
			t.Errorf("paths %v", d.Paths)
		}
		p := bytes.Repeat([]byte{byte(i + 1)}, 3000)
		copy(want[i*2000:], p)
		if _, err := d.WriteAt(p, int64(i)*2000); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c, err := vhdfile.OpenChain(name, vhdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, size)
	if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("content differs: %v", err)
	}
	if _, err := vhdfile.OpenDisk(filepath.Join(dir, "no such.vhd"), vhdfile.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such file: %v", err)
	}
}

// TestConvertFiles: raw to fixed and dynamic and back, with holes, and an end that is no whole sector.
func TestConvertFiles(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	content := pattern(9<<20 + 100)
	raw := newFile(t, filepath.Join(dir, "raw"))
	if _, err := raw.WriteAt(content[:600], 0); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.WriteAt(content[len(content)/2:], int64(len(content)/2)); err != nil {
		t.Fatal(err)
	}
	want := append(content, make([]byte, 412)...)
	src, err := vhdfile.RawSource(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []vhd.Type{vhd.Dynamic, vhd.Fixed} {
		name := filepath.Join(dir, typ.String())
		f := newFile(t, name)
		if err := vhdfile.Convert(ctx, f, src, vhd.CreateOptions{Type: typ, UUID: id(1)}, vhd.CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := vhdfile.Convert(ctx, f, src, vhd.CreateOptions{}, vhd.CopyOptions{}); !errors.Is(err, vhdfile.ErrNotEmpty) {
			t.Errorf("written twice: %v", err)
		}
		c, err := vhdfile.OpenChain(name, vhdfile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		back := newFile(t, name+".raw")
		if err := vhdfile.ConvertRaw(ctx, back, c, vhd.CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name + ".raw")
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes came back, and others than were written: %v", typ, len(got), err)
		}
		for _, f := range []*os.File{f, back} {
			var st syscall.Stat_t
			if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
				t.Fatal(err)
			}
			if st.Blocks*512 > 1<<20 {
				t.Errorf("%s takes %d bytes on disk for two kilobytes of data", f.Name(), st.Blocks*512)
			}
		}
	}
	if _, err := vhdfile.RawSource(newFile(t, filepath.Join(dir, "empty"))); !errors.Is(err, vhd.BadSize) {
		t.Errorf("empty file: %v", err)
	}
}

// TestResizedReadsInQemu: disks that grew, with and without moving the table, and shrank, are what qemu-img and qemu-io read.
func TestResizedReadsInQemu(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		typ  vhd.Type
		size int64
	}{{vhd.Dynamic, 3 << 30}, {vhd.Dynamic, 8<<20 + 512}, {vhd.Dynamic, 2 << 20}, {vhd.Fixed, 12 << 20}, {vhd.Fixed, 2 << 20}} {
		name := filepath.Join(dir, fmt.Sprintf("%s-%d.vhd", c.typ, c.size))
		if err := vhdfile.Create(newFile(t, name), vhd.CreateOptions{Type: c.typ, Size: 5<<20 + 1024, UUID: id(1)}); err != nil {
			t.Fatal(err)
		}
		d, err := vhdfile.OpenDisk(name, vhdfile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.WriteAt(bytes.Repeat([]byte{0xab}, 5<<20+1024), 0); err != nil {
			t.Fatal(err)
		}
		if err := d.Resize(context.Background(), c.size, vhd.ResizeOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := d.WriteAt(bytes.Repeat([]byte{0xcd}, 4096), c.size-4096); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		kept := min(5<<20+1024, c.size-4096)
		cmds := []string{"-c", fmt.Sprintf("read -P 0xab 0 %d", kept), "-c", fmt.Sprintf("read -P 0xcd %d 4096", c.size-4096)}
		if kept < c.size-4096 {
			cmds = append(cmds, "-c", fmt.Sprintf("read -P 0 %d %d", kept, min(c.size-4096-kept, 1<<30)))
		}
		out, err := exec.Command(testkit.Tool(t, "qemu-io"), append([]string{"-r", "-f", "vpc", name}, cmds...)...).CombinedOutput()
		if err != nil || strings.Contains(string(out), "failed") {
			t.Errorf("%s of %d: %v\n%s", c.typ, c.size, err, out)
		}
	}
}

// TestWeReadWhatQemuWrote: qemu-io writes into a disk made here, which then is written here again.
func TestWeReadWhatQemuWrote(t *testing.T) {
	dir := t.TempDir()
	for _, typ := range []vhd.Type{vhd.Dynamic, vhd.Fixed} {
		name := filepath.Join(dir, typ.String())
		if err := vhdfile.Create(newFile(t, name), vhd.CreateOptions{Type: typ, Size: 9 << 20, UUID: id(1)}); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(testkit.Tool(t, "qemu-io"), "-f", "vpc", "-c", "write -P 0x11 1M 4M", name).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		d, err := vhdfile.OpenDisk(name, vhdfile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		p := bytes.Repeat([]byte{0x22}, 3<<20)
		if _, err := d.WriteAt(p, 4<<20); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		out, err = exec.Command(testkit.Tool(t, "qemu-io"), "-r", "-f", "vpc", "-c", "read -P 0x11 1M 3M", "-c", "read -P 0x22 4M 3M",
			"-c", "read -P 0 7M 2M", "-c", "read -P 0 0 1M", name).CombinedOutput()
		if err != nil || strings.Contains(string(out), "failed") {
			t.Errorf("%s: %v\n%s", typ, err, out)
		}
	}
}
