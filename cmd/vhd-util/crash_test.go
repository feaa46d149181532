package main

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"disksync/vhd/vhdfile"
)

// crashSize is the size of the disks here, in MiB.
const crashSize = 24

func util(t *testing.T, args ...string) string {
	t.Helper()
	var out, bad bytes.Buffer
	cmd := exec.Command("vhd-util", args...)
	cmd.Stdout, cmd.Stderr = &out, &bad
	if err := cmd.Run(); err != nil {
		t.Fatalf("vhd-util %s: %v\n%s%s", strings.Join(args, " "), err, &out, &bad)
	}
	return out.String()
}

// write fills a disk with sectors that tell who wrote them, and where.
func write(t *testing.T, name string, seed byte, everyBlocks int64) {
	t.Helper()
	d, err := vhdfile.OpenDisk(name, vhdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<20)
	for off := int64(0); off < d.Size(); off += everyBlocks << 20 {
		for i := 0; i < len(b); i += 512 {
			copy(b[i:], bytes.Repeat([]byte{seed + byte(i/512) + byte(off>>20)}, 512))
		}
		if _, err := d.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, name string) []byte {
	t.Helper()
	b, err := read1(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func copyOf(t *testing.T, name, dir string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, filepath.Base(name))
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return to
}

// killed tells whether the process was ended by SIGKILL.
func killed(err error) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return false
	}
	ws, ok := exit.Sys().(syscall.WaitStatus)
	return ok && ws.Signal() == syscall.SIGKILL
}

// TestKilledCoalesce kills the merge where it is part of the way: the disk reads as before, and the same command finishes it.
func TestKilledCoalesce(t *testing.T) {
	t.Parallel()
	made := t.TempDir()
	base, leaf := filepath.Join(made, "base.vhd"), filepath.Join(made, "leaf.vhd")
	util(t, "create", "-n", base, "-s", strconv.Itoa(crashSize))
	write(t, base, 1, 1)
	util(t, "snapshot", "-n", leaf, "-p", base)
	write(t, leaf, 100, 1)
	want := content(t, leaf)
	crashes := 0
	for _, percent := range []float64{1, 30, 60} {
		dir := t.TempDir()
		base, leaf := copyOf(t, base, dir), copyOf(t, leaf, dir)
		before := content(t, base)
		cmd := exec.Command("vhd-util", "coalesce", "-p", "-n", leaf)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for r := bufio.NewReader(out); ; {
			word, err := r.ReadString('%')
			if p, _ := strconv.ParseFloat(strings.TrimSpace(strings.Trim(word, "\r\n%")), 64); err != nil || p >= percent {
				break
			}
		}
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		waitErr := cmd.Wait()
		if after := content(t, base); killed(waitErr) && !bytes.Equal(after, before) && !bytes.Equal(after, want) {
			crashes++
		}
		if !bytes.Equal(content(t, leaf), want) {
			t.Fatalf("killed at %g%%: the disk does not read as before", percent)
		}
		util(t, "check", "-p", "-b", "-n", leaf)
		util(t, "coalesce", "-n", leaf)
		if !bytes.Equal(content(t, base), want) {
			t.Fatalf("killed at %g%% and run again: the parent is not the disk", percent)
		}
	}
	if crashes == 0 {
		t.Error("no merge was killed half way; this test tests nothing")
	}
}

// TestKilledResize kills a resize as soon as the file changes: the disk has the old or the new size, and all of its content.
func TestKilledResize(t *testing.T) {
	t.Parallel()
	const newSize = 1 << 20 // MiB: the block table has to move
	made := filepath.Join(t.TempDir(), "disk.vhd")
	util(t, "create", "-n", made, "-s", strconv.Itoa(crashSize))
	write(t, made, 7, 4)
	want := content(t, made)
	crashes := 0
	for range 5 {
		disk := copyOf(t, made, t.TempDir())
		st, err := os.Stat(disk)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("vhd-util", "resize", "-n", disk, "-s", strconv.Itoa(newSize))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for {
			now, err := os.Stat(disk)
			if err != nil || now.Size() != st.Size() || len(ended) > 0 {
				break
			}
			runtime.Gosched()
		}
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		if killed(<-ended) {
			crashes++
		}
		checkResized(t, disk, want, newSize)
	}
	if crashes == 0 {
		t.Error("no resize was killed; this test tests nothing")
	}
}

func checkResized(t *testing.T, disk string, want []byte, newSize int64) {
	t.Helper()
	c, err := vhdfile.OpenChain(disk, vhdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Size() != crashSize<<20 && c.Size() != newSize<<20 {
		t.Errorf("the disk has %d bytes", c.Size())
	}
	got := make([]byte, len(want))
	if n, err := c.ReadAt(got, 0); n < len(got) {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the disk does not read as before")
	}
	util(t, "repair", "-n", disk) // the two footers may differ
	util(t, "check", "-b", "-n", disk)
}

// TestFullDisk: on a full disk a command fails with 28, what was there is whole, and nothing unfinished stays.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=3m"); err != nil {
		t.Skipf("no small disk can be had here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	big, base, leaf := filepath.Join(t.TempDir(), "big.vhd"), filepath.Join(small, "base.vhd"), filepath.Join(small, "leaf.vhd")
	util(t, "create", "-n", big, "-s", "8")
	write(t, big, 1, 1)
	util(t, "create", "-n", base, "-s", "8")
	util(t, "snapshot", "-n", leaf, "-p", base)
	for _, args := range [][]string{
		{"convert", big, filepath.Join(small, "x.vhd")}, {"convert", big, filepath.Join(small, "x.raw")},
		{"create", "-r", "-n", filepath.Join(small, "x.vhd"), "-s", "8"}, {"fill", "-n", leaf},
	} {
		err := exec.Command("vhd-util", args...).Run()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != int(syscall.ENOSPC) {
			t.Errorf("%s: %v, want exit status 28", args[0], err)
		}
	}
	util(t, "check", "-p", "-b", "-n", leaf)
	if entries, err := os.ReadDir(small); err != nil || len(entries) != 2 {
		t.Errorf("files %v, %v", entries, err)
	}
}
