package fusefile

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"

	"disksync/disk/nbd"
	"disksync/internal/testkit"
)

// kernel is what Serve asks of it.
type kernel struct {
	gone    chan struct{}
	answers []error // of unmount, in turn
}

func (k *kernel) Wait() { <-k.gone }

func (k *kernel) unmount() error {
	err := k.answers[0]
	if k.answers = k.answers[1:]; err == nil {
		close(k.gone)
	}
	return err
}

// TestUnmount: what is in use is waited for, and said once; any other error is not taken for that.
func TestUnmount(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers []error
		there   bool
		want    error
		busy    int
	}{
		{"at once", []error{nil}, true, nil, 0},
		{"somebody only looked at it", []error{syscall.EBUSY, nil}, true, nil, 0},
		{"in use for a while", []error{syscall.EBUSY, syscall.EBUSY, syscall.EBUSY, nil}, true, nil, 1},
		{"not permitted", []error{syscall.EPERM}, true, syscall.EPERM, 0},
		{"not permitted when it was no longer in use", []error{syscall.EBUSY, syscall.EBUSY, syscall.EPERM}, true, syscall.EPERM, 1},
		{"unmounted by somebody else, and files are open", []error{syscall.EINVAL, syscall.EINVAL, nil}, false, nil, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &kernel{gone: make(chan struct{}), answers: c.answers}
				m := &Mounted{server: k, gate: &gate{}, unmount: k.unmount, there: func() (bool, error) { return c.there, nil }}
				d := gated{reader{twos{}}, m.gate}
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				busy := 0
				if err := m.Serve(ctx, func() { busy++ }); !errors.Is(err, c.want) || busy != c.busy || len(k.answers) > 0 {
					t.Errorf("%v, in use %d times, not asked %d times", err, busy, len(k.answers))
				}
				// The devices are used until Serve returns, though programs go on with the files.
				n, err := d.ReadAt(make([]byte, 8), 0)
				if c.want != nil && (n != 0 || err == nil) {
					t.Errorf("%d bytes were read behind the end, %v", n, err)
				}
				if c.want != nil {
					close(k.gone)
				}
			})
		})
	}
}

// twos is a disk.
type twos struct{}

func (twos) Size() int64 { return 4096 }

func (twos) ReadAt(p []byte, _ int64) (int, error) {
	for i := range p {
		p[i] = 2
	}
	return len(p), nil
}

// TestGate: nothing is used behind a shut gate.
func TestGate(t *testing.T) {
	g := &gate{}
	d := gated{reader{twos{}}, g}
	use := map[string]func() error{
		"read":  func() error { _, err := d.ReadAt(make([]byte, 1), 0); return err },
		"flush": d.Flush,
		"map": func() (failed error) {
			for _, err := range d.Extents(0, 10) {
				failed = err
			}
			return failed
		},
	}
	for name, do := range use {
		if err := do(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	g.close()
	use["write"] = func() error { _, err := d.WriteAt([]byte{1}, 0); return err }
	use["zero"] = func() error { return d.Zero(0, 1) }
	for name, do := range use {
		if err := do(); !errors.Is(err, errEnded) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHelpers: what the programs say is told, and only what says so is in use.
func TestHelpers(t *testing.T) {
	dir := t.TempDir()
	program := func(name, text string) string {
		full := filepath.Join(dir, name)
		if err := os.WriteFile(full, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		return full
	}
	none := filepath.Join(dir, "none")
	good := program("good", `[ "$*" = "-u folder" ]`)
	busy := program("busy", `echo "fusermount3: failed to unmount /x: Device or resource busy" >&2; exit 1`)
	bad := program("bad", `echo "fusermount3: failed to unmount /x: Operation not permitted" >&2; exit 1`)
	for _, c := range []struct {
		name     string
		programs []string
		want     error
	}{
		{"none", []string{none}, syscall.EPERM},
		{"the second", []string{none, good}, nil},
		{"in use", []string{busy, good}, syscall.EBUSY},
		{"not permitted", []string{bad}, syscall.EPERM},
	} {
		if err := unmountByHelper(syscall.EPERM, c.programs, "-u", "folder"); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestLeft: what a killed process left mounted is unmounted first, whatever the folder is called; what others mounted is left.
func TestLeft(t *testing.T) {
	testkit.FUSE(t)
	testkit.Root(t, "it mounts without a server")
	t.Parallel()
	dir := t.TempDir()
	real := filepath.Join(dir, "real")
	for _, name := range []string{"plain", "a b", "tab\tand\nline", `back\040slash`} {
		if err := os.MkdirAll(filepath.Join(real, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"way": "real", "itself": "real/plain", "both": "way/a b"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		at, as, kind string
		cleaned      bool
	}{
		{"real/plain", "real/plain", fsName, true},
		{"real/plain", "way/plain", fsName, true},
		{"real/plain", "itself", fsName, true},
		{"real/a b", "both", fsName, true},
		{"real/tab\tand\nline", "way/tab\tand\nline", fsName, true},
		{`real/back\040slash`, `way/back\040slash`, fsName, true},
		{"real/plain", "way/plain", "other", false},
	} {
		full := filepath.Join(dir, c.at)
		dead(t, full, c.kind)
		m, err := Mount(filepath.Join(dir, c.as), map[string]nbd.Device{"disk.raw": reader{twos{}}}, Options{})
		if !c.cleaned {
			if !errors.Is(err, syscall.ENOTCONN) {
				t.Errorf("%q as %q: %v", c.at, c.as, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q as %q: %v", c.at, c.as, err)
			continue
		}
		b, err := os.ReadFile(filepath.Join(full, "disk.raw"))
		if err != nil || len(b) != 4096 || b[0] != 2 {
			t.Errorf("%q as %q reads %d bytes, %v", c.at, c.as, len(b), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.Serve(ctx, func() {}); err != nil {
			t.Errorf("%q as %q: %v", c.at, c.as, err)
		}
	}
}

// dead mounts a file system without a server on dir, as a killed process leaves it.
func dead(t *testing.T, dir, kind string) {
	t.Helper()
	fd, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = syscall.Mount(kind, dir, "fuse."+kind, 0, "fd="+strconv.Itoa(fd)+",rootmode=40000,user_id=0,group_id=0")
	if err := errors.Join(err, syscall.Close(fd)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	if _, err := os.ReadDir(dir); !errors.Is(err, syscall.ENOTCONN) {
		t.Fatalf("%s is not as a killed process leaves it: %v", dir, err)
	}
}
