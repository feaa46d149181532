package vhd_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"disksync/internal/testkit"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// TestSevenZipReadsOurs: 7-Zip, which shares no code with anybody else and knows differencing disks down to the sector, reads
// what is written here: fixed, dynamic, and a chain of three.
func TestSevenZipReadsOurs(t *testing.T) {
	tool := testkit.Tool(t, "7z")
	reads := func(name string, want []byte) {
		t.Helper()
		cmd := exec.Command(tool, "x", "-tvhd", "-so", filepath.Base(name))
		cmd.Dir = filepath.Dir(name) // it looks for parents beside the child
		got, err := cmd.Output()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: 7-Zip reads %d bytes, and others than were written; %v", filepath.Base(name), len(got), err)
		}
	}
	dir := t.TempDir()
	want := patchy(9<<20 + 512*3)
	newDisk := func(name string, o vhd.CreateOptions) string {
		t.Helper()
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := vhdfile.Create(f, o); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write := func(name string, p []byte, off int64) {
		t.Helper()
		d, err := vhdfile.OpenDisk(name, vhdfile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.WriteAt(p, off)
		if closeErr := d.Close(); err != nil || closeErr != nil {
			t.Fatal(err, closeErr)
		}
	}
	size := int64(len(want))
	fixed := newDisk("fixed.vhd", vhd.CreateOptions{Size: size, UUID: newUUID(9), Type: vhd.Fixed})
	write(fixed, want, 0)
	reads(fixed, want)

	chain := newDisk("base.vhd", vhd.CreateOptions{Size: size, UUID: newUUID(1)})
	write(chain, want, 0)
	reads(chain, want)
	for i, name := range []string{"middle.vhd", "leaf.vhd"} {
		parent := filepath.Base(chain)
		chain = newDisk(name, vhd.CreateOptions{Size: size, UUID: newUUID(byte(i + 2)), Parent: &vhd.Parent{UUID: newUUID(byte(i + 1)), Path: parent}})
		// Runs that begin and end within a byte of a bitmap, over data and over zeros, and zeros that hide data.
		for k, off := range []int64{512 * 3, 512*21 + 7, 2<<20 - 512*5, 5 << 20, size - 512*2} {
			p := noise(int(min(size-off, int64(512*(k+1)+9*i))), uint64(10*i+k))
			if k == 1 {
				clear(p)
			}
			write(chain, p, off)
			copy(want[off:], p)
		}
		reads(chain, want)
	}
}
