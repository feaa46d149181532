//go:build !race

package endpoint_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
	"disksync/publish"
)

// heap returns the bytes of live and of not yet collected objects.
func heap() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// peakOf runs do and returns how far the heap rose above what it was before.
func peakOf(do func()) uint64 {
	runtime.GC()
	before := heap()
	var peak uint64
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			peak = max(peak, heap())
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	})
	do()
	close(stop)
	watch.Wait()
	return peak - min(before, peak)
}

// TestMemory: the size of a disk shows in the memory that a download, a check and an export of it take only as a few bytes a block.
// The Synchronizer is in the same process; the bound is for both.
func TestMemory(t *testing.T) {
	const (
		size  = 384 << 20
		bound = 128 << 20
	)
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	// Two of three blocks hold something that is different everywhere and compresses well.
	b := make([]byte, block)
	blocks := 0
	for at := int64(0); at < size; at += block {
		if at/block%3 == 2 {
			continue
		}
		for i := 0; i < len(b); i += 64 {
			binary.BigEndian.PutUint64(b[i:], uint64(at)+uint64(i/4096))
		}
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
		blocks++
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	res, err := publish.Run(t.Context(), w.lab.Admin, publish.Options{
		Image: "large", Spool: t.TempDir(), Level: 1, Disks: []publish.Disk{{Role: image.System, Path: file}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.lab.Assign(t, "large", "alice", res.Version)
	w.logIn()
	var rc *endpoint.Receipt
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"download", func() { rc = w.run(endpoint.Request{Kind: endpoint.Download, Image: "large"}) }},
		{"check", func() { w.run(endpoint.Request{Kind: endpoint.Verify, VM: "large"}) }},
		{"export", func() {
			out, err := os.Create(filepath.Join(t.TempDir(), "out"))
			if err != nil {
				t.Fatal(err)
			}
			n, err := w.e.Export(t.Context(), "large", image.System, out, deploy.NewTally())
			if err := errors.Join(err, out.Close()); err != nil || n != size {
				t.Errorf("exported %d bytes: %v", n, err)
			}
		}},
	} {
		peak := peakOf(step.do)
		t.Logf("%s: %d MiB", step.what, peak>>20)
		if peak > bound {
			t.Errorf("%s took %d MiB of memory", step.what, peak>>20)
		}
		if peak == 0 {
			t.Errorf("%s took no memory: nothing was measured", step.what)
		}
	}
	if rc.Blocks != blocks || rc.Verified != blocks {
		t.Errorf("%d blocks, %d verified; want %d", rc.Blocks, rc.Verified, blocks)
	}
}
