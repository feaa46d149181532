package durable_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"disksync/internal/durable"
	"disksync/internal/faultfs"

	"golang.org/x/sys/unix"
)

// both runs a test on the real file system and on the one in memory, which must behave alike.
func both(t *testing.T, test func(t *testing.T, fsys durable.FS)) {
	t.Run("real", func(t *testing.T) {
		fsys, err := durable.Dir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		test(t, fsys)
	})
	t.Run("memory", func(t *testing.T) { test(t, faultfs.New()) })
}

func read(t *testing.T, fsys durable.FS, name string) string {
	t.Helper()
	b, err := durable.ReadFile(fsys, name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFS(t *testing.T) {
	both(t, func(t *testing.T, fsys durable.FS) {
		if err := durable.MakeDir(fsys, "d", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := durable.MakeDir(fsys, "d", 0o700); err != nil {
			t.Errorf("folder that is there: %v", err)
		}
		for _, content := range []string{"one", "a longer second", "3"} {
			if err := durable.WriteFile(fsys, "d/f", []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := read(t, fsys, "d/f"); got != content {
				t.Errorf("read %q, want %q", got, content)
			}
		}
		if _, err := durable.ReadFile(fsys, "d/none", 1); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("missing file: %v", err)
		}
		if _, err := durable.ReadFile(fsys, "d/f", 0); err == nil {
			t.Error("a file over the limit was read")
		}
		f, err := fsys.Create("d/x"+durable.TempSuffix, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("tail"), 10000); err != nil {
			t.Fatal(err)
		}
		if size, err := f.Size(); err != nil || size != 10004 {
			t.Errorf("size %d, %v", size, err)
		}
		hole := make([]byte, 10)
		if _, err := f.ReadAt(hole, 5000); err != nil || !bytes.Equal(hole, make([]byte, 10)) {
			t.Errorf("hole reads %q, %v", hole, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if err := durable.RemoveTemps(fsys, "d"); err != nil {
			t.Error(err)
		}
		entries, err := fsys.ReadDir("d")
		if err != nil || len(entries) != 1 || entries[0].Name() != "f" {
			t.Errorf("entries %v, %v", entries, err)
		}
		if err := durable.Remove(fsys, "d/f"); err != nil {
			t.Error(err)
		}
		if err := durable.Remove(fsys, "d/f"); err != nil {
			t.Errorf("remove again: %v", err)
		}
	})
}

func TestDirStaysInside(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	inside := filepath.Join(dir, "inside")
	for _, d := range []string{outside, inside} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(inside, "link")); err != nil {
		t.Fatal(err)
	}
	fsys, err := durable.Dir(inside)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link/f", "../outside/f"} {
		if err := durable.WriteFile(fsys, name, nil, 0o600); err == nil {
			t.Errorf("wrote %s", name)
		}
	}
}

// TestWriteFileAtomic fails and cuts the power at every step: the name has the old content or the new one, never anything
// else, and what returned no error is there.
func TestWriteFileAtomic(t *testing.T) {
	const before, after = "the old content", "the new content, which is longer"
	start := func() *faultfs.FS {
		fsys := faultfs.New()
		if err := durable.WriteFile(fsys, "f", []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		return fsys
	}
	count := start()
	count.Arm(0, faultfs.None)
	if err := durable.WriteFile(count, "f", []byte(after), 0o600); err != nil {
		t.Fatal(err)
	}
	if count.Steps() < 5 {
		t.Fatalf("%d steps", count.Steps())
	}
	if bad := count.UnsafeRenames(); len(bad) > 0 {
		t.Errorf("renamed before synced: %v", bad)
	}
	for step := 1; step <= count.Steps(); step++ {
		for _, fault := range []faultfs.Fault{faultfs.FailBefore, faultfs.FailAfter, faultfs.NoSpace, faultfs.PowerLoss} {
			for seed := range uint64(6) {
				fsys := start()
				fsys.Arm(step, fault)
				err := durable.WriteFile(fsys, "f", []byte(after), 0o600)
				if !fsys.Fired() {
					t.Fatalf("step %d was not reached", step)
				}
				keep := []float64{0, 0.5, 1}[seed%3]
				again := fsys.Restart(keep, rand.New(rand.NewPCG(seed, uint64(step))))
				got := read(t, again, "f")
				if got != before && got != after {
					t.Errorf("step %d, fault %d: the name has %q", step, fault, got)
				}
				if err == nil && got != after {
					t.Errorf("step %d, fault %d: success was reported and lost", step, fault)
				}
			}
		}
	}
}

// another returns one more descriptor of a file that this process has open.
func another(t *testing.T, name string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		if to, err := os.Readlink(fd); err != nil || to != name {
			continue
		}
		n, err := strconv.Atoi(filepath.Base(fd))
		if err != nil {
			t.Fatal(err)
		}
		if n, err = unix.Dup(n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	t.Fatalf("%s is not open", name)
	return -1
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	unlock, err := durable.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := durable.Lock(dir); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("second lock: %v", err)
	}
	defer unix.Close(another(t, filepath.Join(dir, "lock"))) // as a process has that is just being started
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	unlock, err = durable.Lock(dir)
	if err != nil {
		t.Fatalf("lock after unlock: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}
