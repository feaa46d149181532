package publish_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"disksync/image"
	"disksync/internal/testkit/lab"
	"disksync/publish"
)

// noiseDisk is a disk that cannot be packed, so that fetching it cannot be overlooked.
func noiseDisk(blocks int, seed byte) []byte {
	disk := make([]byte, blocks*image.BlockSize)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(disk) // it never fails
	return disk
}

// moved is a disk with much of another at other places, so that a difference refers to all of it.
func moved(disk []byte) []byte { return append(bytes.Clone(disk[4096:]), disk[:4096]...) }

// TestPrevious: what a file has of the version before need not come from the Synchronizer, and the layer is the same; what it has not,
// comes from there.
func TestPrevious(t *testing.T) {
	const blocks = 4
	before := noiseDisk(blocks, 1)
	after := moved(before)
	want := image.LayerID{}
	for _, c := range []struct {
		name    string
		file    func() []byte
		fetched int // blocks
		warned  string
	}{
		{"without it", nil, blocks, ""},
		{"the file itself", func() []byte { return before }, 0, ""},
		{"a block of it is another", func() []byte { b := bytes.Clone(before); b[image.BlockSize] ^= 1; return b }, 1, ""},
		{"a smaller disk", func() []byte { return before[:3*image.BlockSize] }, 1, ""},
		{"a larger disk", func() []byte { return append(bytes.Clone(before), before...) }, 0, ""},
		{"another disk", func() []byte { return noiseDisk(blocks, 2) }, blocks, "is not version 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := lab.Start(t)
			dir := t.TempDir()
			publishFile(t, l, "win7", writeRaw(t, filepath.Join(dir, "v1.raw"), before))
			o := options(t, "win7", writeRaw(t, filepath.Join(dir, "v2.raw"), after))
			o.AllBlocks = true // no file system is on these disks, which would be warned of
			if c.file != nil {
				o.Previous = map[image.Role]string{image.System: writeRaw(t, filepath.Join(dir, "previous.raw"), c.file())}
			}
			var warned warnings
			o.Warn = warned.add
			carried := l.Admin.Bytes()
			res, err := publish.Run(t.Context(), l.Admin, o)
			if err != nil {
				t.Fatal(err)
			}
			carried = l.Admin.Bytes() - carried
			if least := int64(c.fetched) * image.BlockSize; carried < least || carried > least+image.BlockSize/2 {
				t.Errorf("%d bytes came from the Synchronizer, want about %d", carried, least)
			}
			if c.warned != "" && !warned.mention(c.warned) || c.warned == "" && len(warned) > 0 {
				t.Errorf("warned of %q", warned)
			}
			if want.IsZero() {
				want = res.Disks[0].Layer
			}
			if res.Disks[0].Layer != want {
				t.Errorf("layer %s, want %s", res.Disks[0].Layer, want)
			}
			holds(t, l, "win7", 2, after)
			empty(t, o.Spool)
		})
	}
}

// TestPreviousWithFreeSpace: the file has what was deleted, and the version has not, or has it as well.
func TestPreviousWithFreeSpace(t *testing.T) {
	for _, all := range []bool{false, true} {
		l := lab.Start(t)
		dir := t.TempDir()
		disk := usedDisk(t)
		noise := noiseDisk(1, 3)
		copy(disk[100*512:], noise[:900<<10]) // before the first partition: the block with it has something deleted as well
		disk = append(disk, make([]byte, -len(disk)&(image.BlockSize-1))...)
		disk = append(disk, noise...)
		first := writeRaw(t, filepath.Join(dir, "v1.raw"), disk)
		o := options(t, "win7", first)
		o.AllBlocks = all
		if _, err := publish.Run(t.Context(), l.Admin, o); err != nil {
			t.Fatal(err)
		}
		disk = append(disk, moved(noise)...)
		o = options(t, "win7", writeRaw(t, filepath.Join(dir, "v2.raw"), disk))
		o.Previous = map[image.Role]string{image.System: first}
		var warned warnings
		o.Warn = warned.add
		carried := l.Admin.Bytes()
		if _, err := publish.Run(t.Context(), l.Admin, o); err != nil {
			t.Fatal(err)
		}
		if carried = l.Admin.Bytes() - carried; carried > 500<<10 {
			t.Errorf("all blocks %v: %d bytes came from the Synchronizer", all, carried)
		}
		if warned.mention("is not version") {
			t.Errorf("all blocks %v: warned of %q", all, warned)
		}
	}
}

// TestPreviousOfNothing: before the first version there is none, which is said.
func TestPreviousOfNothing(t *testing.T) {
	l := lab.Start(t)
	disk := noiseDisk(1, 1)
	o := options(t, "win7", writeRaw(t, filepath.Join(t.TempDir(), "v1.raw"), disk))
	o.Previous = map[image.Role]string{image.System: o.Disks[0].Path}
	var warned warnings
	o.Warn = warned.add
	if _, err := publish.Run(t.Context(), l.Admin, o); err != nil {
		t.Fatal(err)
	}
	if !warned.mention("no version before") {
		t.Errorf("warned of %q", warned)
	}
	holds(t, l, "win7", 1, disk)
}

// TestPreviousThatChanges: nothing is published when the file of the version before is written to meanwhile, nor when it is no disk.
func TestPreviousThatChanges(t *testing.T) {
	l := lab.Start(t)
	dir := t.TempDir()
	before := noiseDisk(2, 1)
	first := writeRaw(t, filepath.Join(dir, "v1.raw"), before)
	publishFile(t, l, "win7", first)
	o := options(t, "win7", writeRaw(t, filepath.Join(dir, "v2.raw"), moved(before)))
	o.Previous = map[image.Role]string{image.System: first}
	o.Progress = func(string, int64, int64) {
		if err := os.Truncate(first, image.BlockSize); err != nil {
			t.Error(err)
		}
	}
	refused(t, l, o, "DS-CONFLICT")
	o.Progress = nil
	o.Previous[image.System] = filepath.Join(dir, "nothing.raw")
	refused(t, l, o, "DS-INPUT-MISSING")
	o.Previous[image.System] = writeRaw(t, filepath.Join(dir, "damaged.vhd"), []byte("no VHD"))
	refused(t, l, o, "DS-INPUT")
}
