package vhdfile_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// TestLogIsBroughtIn: what a process that died had acknowledged is there for whoever opens the disk next, also to read. While another
// one has the disk it is left alone, and nobody else may write.
func TestLogIsBroughtIn(t *testing.T) {
	dir, after := t.TempDir(), t.TempDir()
	base, leaf := filepath.Join(dir, "base.vhd"), filepath.Join(dir, "leaf.vhd")
	create(t, base, 1, 0, "")
	create(t, leaf, 2, 1, "base.vhd")
	newFile(t, vhdfile.LogName(leaf))
	d, err := vhdfile.OpenDisk(leaf, vhdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	p := bytes.Repeat([]byte{7}, 4096)
	if _, err := d.WriteAt(p, 8192); err != nil {
		t.Fatal(err)
	}
	if _, err := vhdfile.OpenDisk(leaf, vhdfile.Options{}); !errors.Is(err, vhdfile.ErrInUse) {
		t.Errorf("opened twice for writing: %v", err)
	}
	if _, err := vhdfile.OpenDisk(base, vhdfile.Options{}); !errors.Is(err, vhdfile.ErrInUse) {
		t.Errorf("a parent was opened for writing: %v", err)
	}
	c, err := vhdfile.OpenChain(leaf, vhdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Lock(); !errors.Is(err, vhdfile.ErrInUse) {
		t.Errorf("locked for reading while it is written: %v", err)
	}
	c.Close()

	// As they are now the files are what a death of the process would leave.
	for _, name := range []string{base, leaf, vhdfile.LogName(leaf)} {
		b, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(after, filepath.Base(name)), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c, err = vhdfile.OpenChain(filepath.Join(after, "leaf.vhd"), vhdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, len(p))
	if _, err := c.ReadAt(got, 8192); err != nil || !bytes.Equal(got, p) {
		t.Errorf("the write is not there: %v", err)
	}
	st, err := os.Stat(filepath.Join(after, "leaf.vhd.log"))
	if err != nil || st.Size() > vhd.EmptyLogSize {
		t.Errorf("the log still holds something: %v", err)
	}
}
