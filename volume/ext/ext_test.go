package ext_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"disksync/volume/ext"
	"disksync/volume/volumetest"
)

// kinds are file systems as mke2fs makes them, with the features that change where things are.
var kinds = []struct {
	name, kind string
	mib        int64
	args       string
}{
	{"ext2", "ext2", 40, "-t ext2"},
	{"ext2-1k", "ext2", 40, "-t ext2 -b 1024"},
	{"ext2-old", "ext2", 40, "-t ext2 -r 0 -b 1024"},
	{"ext2-plain", "ext2", 40, "-t ext2 -O none -b 2048 -I 128"},
	{"ext3", "ext3", 40, "-t ext3 -J size=16"},
	{"ext3-1k", "ext3", 40, "-t ext3 -b 1024 -J size=8"},
	{"ext4", "ext4", 40, "-t ext4"},
	{"ext4-1k", "ext4", 40, "-t ext4 -b 1024"},
	{"ext4-2k", "ext4", 40, "-t ext4 -b 2048 -I 512"},
	{"ext4-64k", "ext4", 400, "-t ext4 -b 65536 -N 400"},
	{"ext4-inode-128", "ext4", 40, "-t ext4 -I 128"},
	{"no-journal", "ext4", 40, "-t ext4 -O ^has_journal"},
	{"no-64bit", "ext4", 40, "-t ext4 -O ^64bit"},
	{"no-extents", "ext4", 40, "-t ext4 -O ^extents,^64bit"},
	{"uninit", "ext4", 32, "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg"},
	{"uninit-32", "ext4", 32, "-t ext4 -b 1024 -O ^metadata_csum,^64bit,uninit_bg"},
	{"no-sums", "ext4", 40, "-t ext4 -O ^metadata_csum"},
	{"sums-32", "ext4", 40, "-t ext4 -b 1024 -O ^64bit,metadata_csum"},
	{"meta-bg-many", "ext4", 32, "-t ext4 -b 1024 -g 512 -O meta_bg,^resize_inode,^flex_bg"},
	{"meta-bg-plain", "ext2", 64, "-t ext2 -b 1024 -O meta_bg,^resize_inode"},
	{"sparse2", "ext4", 32, "-t ext4 -b 1024 -O sparse_super2,^resize_inode"},
	{"no-sparse", "ext4", 32, "-t ext4 -b 1024 -O ^sparse_super,^resize_inode"},
	{"bigalloc", "ext4", 48, "-t ext4 -O bigalloc -C 65536"},
	{"bigalloc-1k", "ext4", 48, "-t ext4 -b 1024 -O bigalloc -C 16384"},
	{"seed", "ext4", 40, "-t ext4 -O metadata_csum_seed"},
	{"inline", "ext4", 40, "-t ext4 -O inline_data,quota,project,ea_inode,large_dir,casefold,encrypt,verity"},
	{"fast-commit", "ext4", 40, "-t ext4 -O fast_commit,orphan_file,mmp"},
}

// source returns a folder with what is awkward, as mke2fs copies it.
func source(t testing.TB, many int) string {
	t.Helper()
	src := t.TempDir()
	volumetest.Files(t, src, many)
	volumetest.Put(t, src, volumetest.Planes, 777)
	if err := os.Link(filepath.Join(src, "size 1000003"), filepath.Join(src, "hard link")); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"size 1", strings.Repeat("long/", 30)} {
		if err := os.Symlink(to, filepath.Join(src, "link to "+to[:4])); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(src, "holes"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range int64(20) {
		if _, err := f.WriteAt([]byte("something"), i*i*100_000); err != nil {
			t.Fatal(err)
		}
	}
	// It ends with something: mke2fs forgets holes at the end when it makes inline data.
	if _, err := f.WriteAt([]byte("something"), 100<<20); err != nil {
		t.Fatal(err)
	}
	// mke2fs makes it, where it is not there.
	if err := os.Mkdir(filepath.Join(src, "lost+found"), 0o755); err != nil {
		t.Fatal(err)
	}
	return src
}

// TestExt: everything that mke2fs wrote is there, byte for byte.
func TestExt(t *testing.T) {
	t.Parallel()
	src := source(t, 150)
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			img := volumetest.Image(t, k.mib<<20)
			volumetest.Run(t, "mke2fs", append(append([]string{"-q", "-F", "-d", src, "-L", "a label"}, strings.Fields(k.args)...), img)...)
			v := volumetest.Open(t, img, ext.Open)
			volumetest.Compare(t, v, src)
			info := v.Info()
			uuid := strings.TrimSpace(volumetest.Run(t, "blkid", "-p", "-o", "value", "-s", "UUID", img))
			kind := strings.TrimSpace(volumetest.Run(t, "blkid", "-p", "-o", "value", "-s", "TYPE", img))
			if info.Type != k.kind || info.Type != kind || info.Label != "a label" || info.ID != uuid || info.Note != "" {
				t.Errorf("%+v, want %s, %s", info, kind, uuid)
			}
		})
	}
}
