package mediachild_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"disksync/diskmap"
	"disksync/internal/mediachild"
	"disksync/internal/testkit"
	"disksync/volume/volumetest"
)

// disk is one in memory. From bad on it cannot be read; 0: all of it can.
type disk struct {
	*bytes.Reader
	bad int64
}

var errBad = errors.New("the disk has a bad sector")

func (d disk) ReadAt(p []byte, off int64) (int, error) {
	if d.bad > 0 && off+int64(len(p)) > d.bad {
		return 0, errBad
	}
	return d.Reader.ReadAt(p, off)
}

// ext4 makes a disk with a file system on noise.
func ext4(t testing.TB) disk {
	t.Helper()
	b := content(24 << 20)
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	volumetest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard,lazy_itable_init=0", file)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return disk{Reader: bytes.NewReader(b)}
}

// TestMap: what a child says is free is what the service would have found itself.
func TestMap(t *testing.T) {
	t.Parallel()
	d := ext4(t)
	want, err := diskmap.Scan(d)
	if err != nil || want.Free() < 16<<20 {
		t.Fatalf("%d bytes are free, %v", want.Free(), err)
	}
	got, err := mediachild.Map(t.Context(), d, options(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Volumes(), want.Volumes()) {
		t.Errorf("%+v, want %+v", got.Volumes(), want.Volumes())
	}
	for off := int64(0); off < d.Size(); {
		free, end := got.Run(off)
		if wantFree, wantEnd := want.Run(off); free != wantFree || end != wantEnd {
			t.Fatalf("at %d: %v up to %d, want %v up to %d", off, free, end, wantFree, wantEnd)
		}
		off = end
	}
	// A disk of nothing, and one that has none, are no mistakes.
	for _, size := range []int{0, 511, 1 << 20} {
		if m, err := mediachild.Map(t.Context(), disk{Reader: bytes.NewReader(make([]byte, size))}, options(t, "")); err != nil || m.Free() != 0 {
			t.Errorf("%d bytes of zeros: %+v, %v", size, m, err)
		}
	}
}

// TestMapFailures: whatever happens to a child, who asked is told soon that nothing is known, and why.
func TestMapFailures(t *testing.T) {
	t.Parallel()
	d := ext4(t)
	for _, c := range []struct {
		how, says string
		slow      bool
	}{
		{"end", "exit status 3", false},
		{"nonsense", "wrong answer", false},
		{"endless", "wrong answer", false},
		{"panic", "the disk is too odd", false},
		{"bomb", "out of memory", false},
		{"exit", "exit status 0", false},
		{"kill", "signal: killed", false},
		{"false", "wrong answer", false},
		{"error", "odd odd", false},
		{"sleep", "took too long", true},
		{"hang", "took too long", true},
		{"read", "took too long", true},
		{"stall", "took too long", true},
	} {
		t.Run(c.how, func(t *testing.T) {
			t.Parallel()
			o := options(t, c.how)
			if c.slow {
				o.Timeout = time.Second
			}
			m, err := mediachild.Map(t.Context(), d, o)
			if m != nil || err == nil || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 1100 {
				t.Errorf("%+v, %v", m, err)
			}
		})
	}
	t.Run("bad sector", func(t *testing.T) {
		t.Parallel()
		bad := d
		bad.bad = 1 << 20
		if m, err := mediachild.Map(t.Context(), bad, options(t, "")); m != nil || err == nil || !strings.Contains(err.Error(), errBad.Error()) {
			t.Errorf("%+v, %v", m, err)
		}
	})
	t.Run("no program", func(t *testing.T) {
		t.Parallel()
		if m, err := mediachild.Map(t.Context(), d, mediachild.Options{Command: []string{"/nowhere", "x"}}); m != nil || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%+v, %v", m, err)
		}
	})
}

// TestMapForbidden: a child that is lent a disk cannot do anything but read it and answer either.
func TestMapForbidden(t *testing.T) {
	t.Parallel()
	_, err := mediachild.Map(t.Context(), ext4(t), options(t, "forbidden"))
	if err == nil {
		t.Fatal("no answer")
	}
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	if len(lines) < 30 {
		t.Fatalf("%d calls were tried", len(lines))
	}
	for _, l := range lines {
		if !strings.HasSuffix(l, "\tEPERM") {
			t.Errorf("a child did %s", l)
		}
	}
}

// asked tells when it is read.
type asked struct {
	disk
	first chan struct{}
}

func (a asked) ReadAt(p []byte, off int64) (int, error) {
	select {
	case a.first <- struct{}{}:
	default:
	}
	return a.disk.ReadAt(p, off)
}

// TestMapIsCancelled: who does not want to know any more does not wait, and the disk is left alone.
func TestMapIsCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	a := asked{ext4(t), make(chan struct{}, 1)}
	why := errors.New("no more")
	go func() {
		<-a.first
		cancel(why)
	}()
	o := options(t, "read")
	o.Timeout = 10 * testkit.Patience
	if m, err := mediachild.Map(ctx, a, o); m != nil || !errors.Is(err, why) {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := mediachild.Map(ctx, a, options(t, "")); !errors.Is(err, why) {
		t.Error(err)
	}
}
