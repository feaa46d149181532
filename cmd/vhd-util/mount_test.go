package main

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"disksync/internal/testkit"
)

// mounted starts the program on a disk, and returns the raw file.
func mounted(t *testing.T, disk, dir string, flags ...string) (*testkit.Program, string) {
	t.Helper()
	testkit.FUSE(t)
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }) // nothing as a rule
	p := testkit.StartProgram(t, exec.Command("vhd-util", append([]string{"mount", disk, dir}, flags...)...))
	_, file, ok := strings.Cut(p.Line, " bytes: ")
	if !ok {
		t.Fatalf("it says %q", p.Line)
	}
	return p, file
}

// ended wants the program to have ended well, and the folder to be as it was.
func ended(t *testing.T, p *testkit.Program, dir string) {
	t.Helper()
	if err := p.Stop(); err != nil {
		t.Errorf("it ends with %v: %s", err, p.Stderr())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("in the folder there is %v, %v", left, err)
	}
}

// tool runs another program, and returns what it prints.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(testkit.Tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// TestMount: a chain is one raw file for any program. It is only read unless that is asked for.
func TestMount(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"tree", "m", "fs"} {
		if err := os.Mkdir(at(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at("tree/letter.txt"), []byte("Dear Bob,"), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "mke2fs", "-q", "-t", "ext4", "-d", at("tree"), at("disk.raw"), "16M")
	util(t, "convert", at("disk.raw"), at("base.vhd"))
	util(t, "snapshot", "-n", at("work.vhd"), "-p", at("base.vhd"))
	p, file := mounted(t, at("work.vhd"), at("m"), "--writable")
	if file != at("m/work.raw") {
		t.Errorf("the file is %s", file)
	}
	tool(t, "debugfs", "-w", "-R", "write "+at("tree/letter.txt")+" copy.txt", file)
	ended(t, p, at("m"))

	p, file = mounted(t, at("work.vhd"), at("m"))
	util(t, "convert", at("work.vhd"), at("now.raw"))
	want, err := os.ReadFile(at("now.raw"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file is not the disk: %d bytes of %d, %v", len(got), len(want), err)
	}
	if was, err := os.ReadFile(at("disk.raw")); err != nil || bytes.Equal(was, want) {
		t.Errorf("nothing was written to the disk: %v", err)
	}
	tool(t, "e2fsck", "-fn", file)
	if out := tool(t, "debugfs", "-R", "cat copy.txt", file); !strings.Contains(out, "Dear Bob,") {
		t.Errorf("the copy is %q", out)
	}
	if _, err := os.OpenFile(file, os.O_RDWR, 0); !errors.Is(err, syscall.EROFS) {
		t.Errorf("opened for writing: %v", err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	hole, err := f.Seek(0, unix.SEEK_HOLE)
	if err == nil {
		_, err = f.Seek(hole, unix.SEEK_DATA)
	}
	if err != nil || hole == 0 || hole == int64(len(want)) || want[hole] != 0 {
		t.Errorf("the first hole is at %d: %v", hole, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	loopMount(t, file, at("fs"))
	ended(t, p, at("m"))

	// Somebody else unmounts it.
	p, _ = mounted(t, at("work.vhd"), at("m"))
	tool(t, "fusermount3", "-u", at("m"))
	<-p.Exited()
	ended(t, p, at("m"))
}

// loopMount has the kernel read the file system, where it lets us.
func loopMount(t *testing.T, file, dir string) {
	t.Helper()
	if os.Getuid() != 0 || exec.Command("losetup", "-f").Run() != nil {
		t.Log("no loop devices here")
		return
	}
	tool(t, "mount", "-o", "ro,loop", file, dir)
	b, err := os.ReadFile(filepath.Join(dir, "copy.txt"))
	tool(t, "umount", dir)
	if err != nil || string(b) != "Dear Bob," {
		t.Errorf("the kernel reads %q, %v", b, err)
	}
}

// TestKilledMount kills the program while its file is written. What was written is there when the folder is mounted anew, and the length of
// a disk stays.
func TestKilledMount(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk, m := filepath.Join(dir, "disk.vhd"), filepath.Join(dir, "m")
	if err := os.Mkdir(m, 0o700); err != nil {
		t.Fatal(err)
	}
	util(t, "create", "-n", disk, "-s", "8")
	want := make([]byte, 8<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 4 {
		p, file := mounted(t, disk, m, "--writable")
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("round %d: the disk is another: %d bytes, %v", round, len(got), err)
		}
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			off, b := r.IntN(len(want)-70000), bytes.Repeat([]byte(strconv.Itoa(i)+"."), 1+r.IntN(20000))
			if _, err := f.WriteAt(b, int64(off)); err != nil {
				t.Fatal(err)
			}
			copy(want[off:], b)
			if i == 20 {
				if err := f.Sync(); err != nil {
					t.Error(err)
				}
			}
		}
		off := int64(r.IntN(4<<20) &^ 4095)
		if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, 1<<20); err != nil {
			t.Error(err)
		}
		clear(want[off:][:1<<20])
		if _, err := f.WriteAt([]byte("over"), int64(len(want))); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("written behind the end: %v", err)
		}
		if err := f.Truncate(1 << 20); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("cut: %v", err)
		}
		if !p.Kill() {
			t.Fatal("it had ended before")
		}
		f.Close()
	}
	p, file := mounted(t, disk, m)
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("in the end the disk is another: %d bytes, %v", len(got), err)
	}
	ended(t, p, m)
	if out := util(t, "check", "-n", disk); !strings.Contains(out, "is valid") {
		t.Errorf("check: %s", out)
	}
}
