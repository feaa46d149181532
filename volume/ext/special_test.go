package ext_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"disksync/volume"
	"disksync/volume/ext"
	"disksync/volume/volumetest"
)

var le = binary.LittleEndian

// fragment leaves a folder with a file that is all over the volume.
func fragment(t testing.TB, dir string, n int64) {
	t.Helper()
	for i := range 300 {
		volumetest.Put(t, dir, fmt.Sprintf("little/%d", i), 5000)
	}
	volumetest.Run(t, "sync", "-f", dir)
	for i := 0; i < 300; i += 2 {
		if err := os.Remove(filepath.Join(dir, fmt.Sprintf("little/%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(dir, "pieces"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range n { // every other block, from the end to the start
		if _, err := f.WriteAt(fmt.Appendf(nil, "block %d", i), (n-1-i)*8192); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestKernel: what the kernel wrote is read as the kernel reads it: folders with an index, extents in trees, places that are kept but
// were not written, holes, a file without a block, content in inodes.
func TestKernel(t *testing.T) {
	for _, args := range []string{
		"-t ext4", "-t ext4 -b 1024 -O inline_data,bigalloc -C 16384", "-t ext3 -b 1024",
	} {
		t.Run(args, func(t *testing.T) {
			img, back := volumetest.Image(t, 120<<20), t.TempDir()
			volumetest.Run(t, "mke2fs", append(append([]string{"-q", "-F", "-E", "lazy_itable_init=0", "-N", "8000"}, strings.Fields(args)...), img)...)
			dev := volumetest.Loop(t, img)
			volumetest.Mounted(t, func(dir string) {
				volumetest.Files(t, dir, 1000)
				volumetest.Put(t, dir, volumetest.Planes, 777)
				for i := range 200 {
					volumetest.Put(t, dir, fmt.Sprintf("inline/%d", i), int64(i))
				}
				fragment(t, dir, 400)
				kept, err := os.Create(filepath.Join(dir, "kept"))
				if err != nil {
					t.Fatal(err)
				}
				defer kept.Close()
				if err := syscall.Fallocate(int(kept.Fd()), 0, 0, 3<<20); err != nil && !errors.Is(err, syscall.EOPNOTSUPP) {
					t.Fatal(err)
				}
				if _, err := kept.WriteAt([]byte("in the middle"), 1<<20); err != nil {
					t.Fatal(err)
				}
				_ = syscall.Fallocate(int(kept.Fd()), 1, 3<<20, 1<<20) // behind the end; not every kind can
				for name, n := range map[string]int64{"hole": 300<<20 + 77, "small hole": 5} {
					volumetest.Put(t, dir, name, 0)
					if err := os.Truncate(filepath.Join(dir, name), n); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.Symlink("kept", filepath.Join(dir, "link")); err != nil {
					t.Fatal(err)
				}
				volumetest.Run(t, "cp", "-a", "--sparse=always", dir+"/.", back)
			}, "mount", dev)
			volumetest.Compare(t, volumetest.Open(t, img, ext.Open), back)
		})
	}
}

// TestMounted: of a file system that is in use what was synced is read, and its journal is told of.
func TestMounted(t *testing.T) {
	img := volumetest.Image(t, 20<<20)
	volumetest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", img)
	volumetest.Mounted(t, func(dir string) {
		volumetest.Put(t, dir, "file", 100_000)
		volumetest.Run(t, "sync", "-f", dir)
		volumetest.Put(t, dir, "later", 100_000)
		copied := filepath.Join(t.TempDir(), "copy")
		volumetest.Run(t, "cp", "--sparse=always", img, copied)
		v := volumetest.Open(t, copied, ext.Open)
		if note := v.Info().Note; !strings.Contains(note, "journal") {
			t.Errorf("note %q", note)
		}
		f, err := v.Open("file")
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 100_000)
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, volumetest.Read(t, filepath.Join(dir, "file"))) {
			t.Errorf("what was synced: %v", err)
		}
	}, "mount", "-o", "loop", img)
}

// TestLarge: a file of more than 4 GiB, most of it a hole: what is in it is where it should be.
func TestLarge(t *testing.T) {
	const size = 9<<30 + 4321
	src := t.TempDir()
	f, err := os.Create(filepath.Join(src, "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off := int64(0); off < size; off += 100_000_007 {
		if _, err := f.WriteAt(fmt.Appendf(nil, "%016x", off), off); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteAt([]byte("end"), size-3); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"-t ext4", "-t ext2 -b 4096", "-t ext3 -b 1024"} {
		img := volumetest.Image(t, 100<<20)
		volumetest.Run(t, "mke2fs", append(append([]string{"-q", "-F", "-d", src}, strings.Fields(args)...), img)...)
		start := time.Now()
		got, err := volumetest.Open(t, img, ext.Open).Open("large")
		if err != nil {
			t.Fatal(err)
		}
		if t.Logf("%s: %v to open", args, time.Since(start)); got.Size() != size {
			t.Errorf("%s: %d bytes", args, got.Size())
		}
		b, want := make([]byte, 40_000), make([]byte, 40_000)
		for off := int64(0); off < size; off += 100_000_007 {
			n, err := got.ReadAt(b, max(0, off-20_000))
			m, _ := f.ReadAt(want, max(0, off-20_000))
			if n != m || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(b[:n], want[:n]) {
				t.Fatalf("%s: at %d: %d bytes, %v", args, off, n, err)
			}
		}
		if n, err := got.ReadAt(b, size-5); n != 5 || !errors.Is(err, io.EOF) || string(b[:5]) != "\x00\x00end" {
			t.Errorf("%s: the end: %q, %v", args, b[:n], err)
		}
	}
}

// TestRefused: features and files that cannot be read are refused, damage is found, and what is doubtful is said.
func TestRefused(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	volumetest.Put(t, src, "file", 20_000)
	volumetest.Put(t, src, "folder/other", 10)
	image := func(args string) []byte {
		img := volumetest.Image(t, 10<<20)
		volumetest.Run(t, "mke2fs", append(append([]string{"-q", "-F", "-b", "1024", "-d", src}, strings.Fields(args)...), img)...)
		return volumetest.Read(t, img)
	}
	plain, sums := image("-t ext4 -O ^metadata_csum"), image("-t ext4")
	const super = ext.SuperAt
	inode := func(b []byte, name string) []byte { // by its size
		s := ext.NewSuper(b[super : super+ext.SuperLen])
		if err := s.Geometry(); err != nil {
			t.Fatal(err)
		}
		table := b[s.ParseGroup(b[s.DescBlock(0)*s.Block:]).InodeTable*s.Block:]
		for i := range s.Inodes {
			n := table[i*s.InodeSize:][:s.InodeSize]
			if size := le.Uint32(n[4:]); size == map[string]uint32{"file": 20_000, "other": 10}[name] {
				return n
			}
		}
		t.Fatal("no inode")
		return nil
	}
	for _, c := range []struct {
		name       string
		base       []byte
		open, read error // of the volume, of the file
		note       string
		edit       func(b []byte)
	}{
		{"good", sums, nil, nil, "", func([]byte) {}},
		{"no mark", sums, volume.ErrOther, nil, "", func(b []byte) { b[super+56] = 0 }},
		{"a journal elsewhere", plain, volume.ErrUnsupported, nil, "", func(b []byte) { b[super+96] |= 8 }},
		{"unknown feature", plain, volume.ErrUnsupported, nil, "", func(b []byte) { b[super+99] |= 1 }},
		{"unknown feature for writing", plain, nil, nil, "", func(b []byte) { b[super+103] |= 1 }},
		{"checksum", sums, volume.ErrDamaged, nil, "", func(b []byte) { b[super+4] ^= 1 }},
		{"block size", plain, volume.ErrDamaged, nil, "", func(b []byte) { b[super+24] = 9 }},
		{"to be recovered", plain, nil, nil, "journal", func(b []byte) { b[super+96] |= 4 }},
		{"mounted", plain, nil, nil, "unmounted", func(b []byte) { b[super+58] = 0 }},
		{"errors", plain, nil, nil, "errors", func(b []byte) { b[super+58] |= 2 }},
		{"smaller device", plain, nil, nil, "smaller", func(b []byte) { le.PutUint32(b[super+4:], 12<<10); le.PutUint32(b[super:], le.Uint32(b[super:])) }},
		{"encrypted", plain, nil, volume.ErrUnsupported, "", func(b []byte) { inode(b, "file")[33] |= 8 }},
		{"compressed", plain, nil, volume.ErrUnsupported, "", func(b []byte) { inode(b, "file")[32] |= 4 }},
		{"inode", sums, nil, volume.ErrDamaged, "", func(b []byte) { inode(b, "file")[8] ^= 1 }},
		{"map", plain, nil, volume.ErrDamaged, "", func(b []byte) { inode(b, "file")[40] = 0 }},
		{"block outside", plain, nil, volume.ErrDamaged, "", func(b []byte) { inode(b, "file")[60+3] = 0x80; inode(b, "file")[60] = 0xff }},
		{"device instead", plain, nil, volume.ErrDamaged, "", func(b []byte) { inode(b, "file")[1] = 0x60 }},
	} {
		b := bytes.Clone(c.base)
		c.edit(b)
		v, err := ext.Open(volume.NewDevice(bytes.NewReader(b), int64(len(b))))
		if !errors.Is(err, c.open) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil {
			continue
		}
		if note := v.Info().Note; !strings.Contains(note, c.note) || (note == "") != (c.note == "") {
			t.Errorf("%s: note %q", c.name, note)
		}
		f, err := v.Open("file")
		if err == nil {
			p := make([]byte, 20_000)
			_, err = f.ReadAt(p, 0)
			if want := volumetest.Read(t, filepath.Join(src, "file")); c.read == nil && !bytes.Equal(p, want) {
				t.Errorf("%s: wrong bytes", c.name)
			}
		}
		if !errors.Is(err, c.read) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func BenchmarkSequential(b *testing.B) {
	for _, args := range []string{"-t ext4", "-t ext2 -b 1024"} {
		b.Run(strings.ReplaceAll(args, " ", ""), func(b *testing.B) {
			src, img := b.TempDir(), volumetest.Image(b, 400<<20)
			volumetest.Put(b, src, "big", 256<<20)
			volumetest.Run(b, "mke2fs", append(append([]string{"-q", "-F", "-d", src}, strings.Fields(args)...), img)...)
			volumetest.ReadSequentially(b, volumetest.Open(b, img, ext.Open), "big", 256<<20)
		})
	}
}
