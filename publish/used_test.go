package publish_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"

	"disksync/diskmap"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/publish"
	"disksync/vhd"
)

const deleted = "what somebody has deleted "

// usedDisk is a disk with partitions, files, and something deleted in a file system and in a swap space.
func usedDisk(t testing.TB) []byte {
	t.Helper()
	b := testkit.Gunzip(t, "../diskmap/testdata/mbr.raw.gz")
	for _, at := range []int{2048*512 + 500_000, 4200*512 + 8192, 5000*512 + 500_000} {
		copy(b[at:], bytes.Repeat([]byte(deleted), 2000))
	}
	return b
}

// TestUsedBlocks: what is free is published as zeros, in every form that a disk comes in; all else is what it was.
func TestUsedBlocks(t *testing.T) {
	l := lab.Start(t)
	disk := usedDisk(t)
	dir := t.TempDir()
	raw := writeRaw(t, filepath.Join(dir, "disk.raw"), disk)
	newVHD(t, filepath.Join(dir, "disk.vhd"), vhd.CreateOptions{UUID: uuid(1)}, disk)
	var first publish.DiskResult
	for _, name := range []string{raw, filepath.Join(dir, "disk.vhd"), convert(t, raw, "raw", filepath.Join(dir, "q.vhd"), "vpc", "subformat=fixed,force_size=on")} {
		o := options(t, filepath.Base(name), name)
		var warned warnings
		o.Warn = warned.add
		res, err := publish.Run(t.Context(), l.Admin, o)
		if err != nil {
			t.Fatal(err)
		}
		d := res.Disks[0]
		if first.Freed == 0 {
			first = d
		}
		if d.Freed < 1<<20 || d.Freed != first.Freed || d.State != first.State || len(warned) > 0 {
			t.Errorf("%+v, want as %+v; warned of %q", d, first, warned)
		}
	}
	got := content(t, l, "disk.raw", 1, image.System)
	n := int64(0)
	for i := range disk {
		if got[i] != disk[i] {
			if n++; got[i] != 0 {
				t.Fatalf("byte %d was changed", i)
			}
		}
	}
	if n == 0 || n > first.Freed || bytes.Contains(got, []byte(deleted)) || !bytes.Contains(got, []byte("what is in a letter")) {
		t.Errorf("%d bytes became zeros", n)
	}

	o := options(t, "whole", raw)
	o.AllBlocks = true
	res, err := publish.Run(t.Context(), l.Admin, o)
	if err != nil || res.Disks[0].Freed != 0 {
		t.Fatal(res, err)
	}
	holds(t, l, "whole", 1, disk)
	// The next version is as the first but for what was deleted.
	if res := publishFile(t, l, "whole", raw); res.Unchanged || res.Disks[0].State != first.State {
		t.Errorf("%+v", res)
	}
	if res := publishFile(t, l, "whole", raw); !res.Unchanged {
		t.Errorf("%+v", res)
	}
}

// TestKeptVolumes: a volume that was not unmounted is published as it is, and a warning says why; the others are not affected.
func TestKeptVolumes(t *testing.T) {
	l := lab.Start(t)
	disk := usedDisk(t)
	disk[2048*512+1024+58] = 0 // mounted
	o := options(t, "im", writeRaw(t, filepath.Join(t.TempDir(), "disk.raw"), disk))
	var warned warnings
	o.Warn = warned.add
	res, err := publish.Run(t.Context(), l.Admin, o)
	if err != nil || !warned.mention("partition 1 (ext2) is published with its free space: it was not unmounted cleanly") || len(warned) != 1 {
		t.Errorf("%v, warned of %q", err, warned)
	}
	got := content(t, l, "im", 1, image.System)
	if first := got[2048*512:][:1<<20]; res.Disks[0].Freed == 0 || !bytes.Equal(first, disk[2048*512:][:1<<20]) || bytes.Contains(got[4200*512:], []byte(deleted)) {
		t.Errorf("%+v", res)
	}
}

// TestUsedBlocksAreNotKnown: where nobody can tell what is free, the disk is published as it is, with a warning; whoever does not want to wait
// any more publishes nothing.
func TestUsedBlocksAreNotKnown(t *testing.T) {
	l := lab.Start(t)
	disk := usedDisk(t)
	raw := writeRaw(t, filepath.Join(t.TempDir(), "disk.raw"), disk)
	o := options(t, "whole", raw)
	var warned warnings
	o.Warn = warned.add
	o.FindFree = func(context.Context, diskmap.Disk) (*diskmap.Map, error) { return nil, errors.New("its reader ended") }
	res, err := publish.Run(t.Context(), l.Admin, o)
	if err != nil || res.Disks[0].Freed != 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	if len(warned) != 1 || warned[0] != raw+": the disk is published with its free space: its reader ended" {
		t.Errorf("warned of %q", warned)
	}
	if !bytes.Equal(content(t, l, "whole", 1, image.System), disk) {
		t.Error("something else was published")
	}
	ctx, cancel := context.WithCancel(t.Context())
	o.Image = "none"
	o.FindFree = func(ctx context.Context, _ diskmap.Disk) (*diskmap.Map, error) {
		cancel()
		return nil, context.Cause(ctx)
	}
	if _, err := publish.Run(ctx, l.Admin, o); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
}
