package mediachild_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"disksync/internal/mediachild"
	"disksync/internal/testkit"
	"disksync/volume"
)

// TestLentDisk: a disk that this process can read is read through a child as a device is, and what its reads fail with is not lost.
func TestLentDisk(t *testing.T) {
	t.Parallel()
	want := content(5<<20 + 77)
	d, err := mediachild.OpenDisk(t.Context(), "the disk", disk{Reader: bytes.NewReader(want)}, options(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	v := d.Volumes()[0]
	if v.Partition() != 1 || v.Name() != "partition 1" {
		t.Errorf("partition %d, %s", v.Partition(), v.Name())
	}
	for range 2 {
		if b, err := readAll(v, "all"); err != nil || !bytes.Equal(b, want) {
			t.Error(err)
		}
		// The next child gets the disk as well.
		if _, err := readAll(v, "panic"); !errors.Is(err, volume.ErrDamaged) || !strings.Contains(err.Error(), "too odd") && !strings.Contains(err.Error(), "ended") {
			t.Error(err)
		}
	}
	bad, err := mediachild.OpenDisk(t.Context(), "the disk", disk{Reader: bytes.NewReader(want), bad: 3 << 20}, options(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	v = bad.Volumes()[0]
	b, err := readAll(v, "all")
	if !errors.Is(err, errBad) || len(b) < 2<<20 || !bytes.Equal(b, want[:len(b)]) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := v.Open("nowhere"); errors.Is(err, errBad) || err == nil {
		t.Errorf("an error of before: %v", err)
	}
}

// TestLentDiskIsCancelled: who does not want to wait any more does not, also while the child begins.
func TestLentDiskIsCancelled(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"sleep", "loop"} {
		ctx, cancel := context.WithCancel(t.Context())
		a := asked{disk{Reader: bytes.NewReader(content(100))}, make(chan struct{}, 1)}
		go func() {
			if how == "loop" {
				<-a.first
			}
			cancel()
		}()
		o := options(t, how)
		o.Timeout = 10 * testkit.Patience
		if _, err := mediachild.OpenDisk(ctx, "the disk", a, o); err == nil {
			t.Errorf("%s: there is an answer", how)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	d, err := mediachild.OpenDisk(ctx, "the disk", disk{Reader: bytes.NewReader(content(100))}, options(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	f, err := d.Volumes()[0].Open("hang")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// deadline is the last one that was set.
type deadline struct{ at time.Time }

func (d *deadline) SetReadDeadline(t time.Time) error {
	d.at = t
	return nil
}

// TestPatience: a child has its time for an answer without that for which it waits for a disk.
func TestPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &deadline{}
		begin, hold := mediachild.Patience(d)
		wants := func(what string, want time.Time) {
			t.Helper()
			if !d.at.Equal(want) {
				t.Errorf("%s: up to %v, want %v", what, d.at, want)
			}
		}
		const most = time.Minute
		start := time.Now()
		if err := begin(most); err != nil {
			t.Fatal(err)
		}
		wants("asked", start.Add(most))
		hold(true)
		wants("the disk is read", time.Time{})
		<-time.After(time.Hour)
		if err := begin(most); err != nil {
			t.Fatal(err)
		}
		wants("asked for more meanwhile", time.Time{})
		hold(false)
		wants("the disk was read", start.Add(time.Hour+most))
	})
}
