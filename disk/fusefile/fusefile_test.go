package fusefile_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"disksync/disk/fusefile"
	"disksync/disk/nbd"
	"disksync/internal/testkit"
)

// broken is a disk of 64 KiB in memory. From 16 KiB on reads fail, from 32 KiB on there is no room for writes.
type broken struct {
	mu      sync.Mutex
	b       [64 << 10]byte
	flushes int
}

func (d *broken) Size() int64 { return int64(len(d.b)) }

func (d *broken) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off+int64(len(p)) > 16<<10 {
		return 0, errors.New("bad sector")
	}
	return copy(p, d.b[off:]), nil
}

func (d *broken) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off+int64(len(p)) > 32<<10 {
		return 0, fmt.Errorf("the leaf: %w", nbd.ErrNoSpace)
	}
	return copy(d.b[off:], p), nil
}

func (d *broken) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.flushes++; d.flushes > 1 {
		return errors.New("not durable")
	}
	return nil
}

func (d *broken) Zero(off, length int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.b[off:][:length])
	return nil
}

func (d *broken) Extents(off, length int64) iter.Seq2[nbd.Extent, error] {
	return func(yield func(nbd.Extent, error) bool) {
		yield(nbd.Extent{}, errors.New("no map"))
	}
}

// TestErrors: what fails on the disk fails for whoever uses the file, with the errors that programs know, and is reported; the rest works.
func TestErrors(t *testing.T) {
	testkit.FUSE(t)
	t.Parallel()
	dir := t.TempDir()
	var mu sync.Mutex
	var said []string
	d := &broken{}
	m, err := fusefile.Mount(dir, map[string]nbd.Device{"disk.raw": d}, fusefile.Options{Writable: true, Report: func(name, op string, err error) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, fmt.Sprint(name, " ", op, ": ", err))
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- m.Serve(ctx, func() { t.Error("it is in use") }) }()
	f, err := os.OpenFile(filepath.Join(dir, "disk.raw"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := bytes.Repeat([]byte("abcd"), 1024)
	if _, err := f.WriteAt(p, 4096); err != nil {
		t.Error(err)
	}
	// The pages that fail are not read before, nor ahead.
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		t.Error(err)
	}
	got := make([]byte, len(p))
	if _, err := f.ReadAt(got, 4096); err != nil || !bytes.Equal(got, p) {
		t.Errorf("it reads %.8q, %v", got, err)
	}
	if _, err := f.ReadAt(got, 20<<10); !errors.Is(err, syscall.EIO) {
		t.Errorf("a bad sector: %v", err)
	}
	if _, err := f.WriteAt(p, 40<<10); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("no room: %v", err)
	}
	if _, err := f.Seek(0, unix.SEEK_HOLE); !errors.Is(err, syscall.EIO) {
		t.Errorf("no map: %v", err)
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("not durable: %v", err)
	}
	if err := f.Chmod(0o666); !errors.Is(err, syscall.EPERM) {
		t.Errorf("its mode was changed: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Create(filepath.Join(dir, "other")); err == nil {
		t.Error("a file was made")
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	for _, want := range []string{"disk.raw read: bad sector", "disk.raw write: the leaf: ", "disk.raw map: no map", "disk.raw flush: not durable"} {
		if !strings.Contains(strings.Join(said, "\n"), want) {
			t.Errorf("nobody was told of %q: %q", want, said)
		}
	}
}

// counting is a disk of zeros that counts how often it is read.
type counting struct{ reads atomic.Int32 }

func (d *counting) Size() int64 { return 4096 }

func (d *counting) ReadAt(p []byte, _ int64) (int, error) {
	d.reads.Add(1)
	clear(p)
	return len(p), nil
}

// TestOnce: the system remembers what was read, unless it is to be read once.
func TestOnce(t *testing.T) {
	testkit.FUSE(t)
	t.Parallel()
	for once, want := range map[bool]int32{false: 1, true: 2} {
		dir, d := t.TempDir(), &counting{}
		m, err := fusefile.Mount(dir, fusefile.Readers(map[string]fusefile.Reader{"disk.raw": d}), fusefile.Options{Once: once})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if b, err := os.ReadFile(filepath.Join(dir, "disk.raw")); len(b) != 4096 || err != nil {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.Serve(ctx, func() { t.Error("it is in use") }); err != nil {
			t.Error(err)
		}
		if got := d.reads.Load(); got != want {
			t.Errorf("once %v: read %d times, want %d", once, got, want)
		}
	}
}
