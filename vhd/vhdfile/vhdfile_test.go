package vhdfile_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"disksync/image"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

const size = 4 << 20

func id(n byte) image.UUID { return image.RandomUUID([16]byte{15: n}) }

// create makes a VHD whose sector number n holds n; parent is its locator's path, "" for a dynamic disk.
func create(t *testing.T, name string, n, parentID byte, parent string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o := vhd.CreateOptions{Size: size, UUID: id(n)}
	var below []*vhd.Image
	if parent != "" {
		o.Parent = &vhd.Parent{UUID: id(parentID), Path: parent}
		below = []*vhd.Image{vhd.Content(id(parentID), bytes.NewReader(make([]byte, size)), size)}
	}
	if err := vhd.Create(f, o); err != nil {
		t.Fatal(err)
	}
	length, err := vhdfile.Size(f)
	if err != nil {
		t.Fatal(err)
	}
	d, err := vhd.OpenDisk(f, length, below)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt(bytes.Repeat([]byte{n}, 512), int64(n)*512); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
}

// holds checks that the disk has the sectors of these members.
func holds(t *testing.T, c *vhdfile.Chain, members ...byte) {
	t.Helper()
	want := make([]byte, size)
	for _, n := range members {
		copy(want[int(n)*512:], bytes.Repeat([]byte{n}, 512))
	}
	got := make([]byte, size)
	if _, err := c.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("content is not that of members %v", members)
	}
}

// TestFindsParents: by the path of the locator, by the base name alone, in another folder, whatever the names are written in.
func TestFindsParents(t *testing.T) {
	for _, c := range []struct{ name, base, locator string }{
		{"beside", "base.vhd", "base.vhd"},
		{"below", "sub/base.vhd", "sub/base.vhd"},
		{"moved beside", "base.vhd", "somewhere/else/base.vhd"},
		{"unicode", "Grundbild Ä 漢字.vhd", "Grundbild Ä 漢字.vhd"},
		{"beyond the first plane", "🖴.vhd", "🖴.vhd"},
		{"blanks and percent", "a b%20c.vhd", "a b%20c.vhd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			create(t, filepath.Join(dir, c.base), 1, 0, "")
			create(t, filepath.Join(dir, "leaf.vhd"), 2, 1, c.locator)
			chain, err := vhdfile.OpenChain(filepath.Join(dir, "leaf.vhd"), vhdfile.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer chain.Close()
			holds(t, chain, 1, 2)
		})
	}
}

func TestSearchDirsAndFallback(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	create(t, filepath.Join(other, "base.vhd"), 1, 0, "")
	leaf := filepath.Join(dir, "leaf.vhd")
	create(t, leaf, 2, 1, "base.vhd")
	if _, err := vhdfile.OpenChain(leaf, vhdfile.Options{}); !errors.Is(err, vhd.NoParent) || !strings.Contains(err.Error(), "base.vhd") {
		t.Errorf("parent missing: %v", err)
	}
	c, err := vhdfile.OpenChain(leaf, vhdfile.Options{Dirs: []string{other}})
	if err != nil {
		t.Fatal(err)
	}
	holds(t, c, 1, 2)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	asked := 0
	c, err = vhdfile.OpenChain(leaf, vhdfile.Options{Otherwise: func(child *vhd.Image) (*vhd.Image, error) {
		asked++
		return vhd.Content(child.ParentUUID(), bytes.NewReader(make([]byte, size)), size), nil
	}})
	if err != nil || asked != 1 {
		t.Fatalf("asked %d times: %v", asked, err)
	}
	holds(t, c, 2)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestWrongUUIDIsPassedOver: a file of the right name that is another disk is not the parent, and one further on that is, counts.
func TestWrongUUIDIsPassedOver(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	create(t, filepath.Join(dir, "base.vhd"), 9, 0, "")
	create(t, filepath.Join(other, "base.vhd"), 1, 0, "")
	leaf := filepath.Join(dir, "leaf.vhd")
	create(t, leaf, 2, 1, "base.vhd")
	if _, err := vhdfile.OpenChain(leaf, vhdfile.Options{}); !errors.Is(err, vhd.NoParent) {
		t.Errorf("another disk was taken for the parent: %v", err)
	}
	c, err := vhdfile.OpenChain(leaf, vhdfile.Options{Dirs: []string{other}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	holds(t, c, 1, 2)
}

// TestStaysInside: neither a path that climbs, nor a link, nor a pipe leads out of the folders or stops the search.
func TestStaysInside(t *testing.T) {
	top := t.TempDir()
	outside := filepath.Join(top, "outside")
	create(t, filepath.Join(outside, "secret.vhd"), 1, 0, "")
	for _, c := range []struct {
		name    string
		prepare func(dir string) error
		locator string
	}{
		{"climbing path", func(string) error { return nil }, "../outside/secret.vhd"},
		{"link", func(dir string) error {
			return os.Symlink(filepath.Join(outside, "secret.vhd"), filepath.Join(dir, "secret.vhd"))
		}, "secret.vhd"},
		{"pipe", func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "secret.vhd"), 0o600) }, "secret.vhd"},
		{"folder", func(dir string) error { return os.Mkdir(filepath.Join(dir, "secret.vhd"), 0o700) }, "secret.vhd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(top, c.name)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := c.prepare(dir); err != nil {
				t.Fatal(err)
			}
			leaf := filepath.Join(dir, "leaf.vhd")
			create(t, leaf, 2, 1, c.locator)
			if _, err := vhdfile.OpenChain(leaf, vhdfile.Options{}); !errors.Is(err, vhd.NoParent) {
				t.Errorf("got %v, want no parent", err)
			}
		})
	}
}
