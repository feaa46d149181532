package diskmap_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"disksync/diskmap"
	"disksync/volume/volumetest"
)

// extKinds are file systems as mke2fs makes them, with the features that change where things are.
var extKinds = []struct {
	name string
	kind diskmap.Kind
	mib  int
	args string
}{
	{"ext2", diskmap.Ext2, 40, "-t ext2"},
	{"ext2-1k", diskmap.Ext2, 40, "-t ext2 -b 1024"},
	{"ext2-old", diskmap.Ext2, 40, "-t ext2 -r 0 -b 1024"},
	{"ext2-plain", diskmap.Ext2, 40, "-t ext2 -O none -b 2048 -I 128"},
	{"ext3", diskmap.Ext3, 40, "-t ext3 -J size=16"},
	{"ext3-1k", diskmap.Ext3, 40, "-t ext3 -b 1024 -J size=8"},
	{"ext4", diskmap.Ext4, 32, "-t ext4"},
	{"ext4-1k", diskmap.Ext4, 40, "-t ext4 -b 1024"},
	{"ext4-2k", diskmap.Ext4, 40, "-t ext4 -b 2048 -I 512"},
	{"ext4-few", diskmap.Ext4, 40, "-t ext4 -b 1024 -g 256 -O ^resize_inode"},
	{"no-journal", diskmap.Ext4, 40, "-t ext4 -O ^has_journal"},
	{"no-flex", diskmap.Ext4, 32, "-t ext4 -b 1024 -O ^flex_bg"},
	{"no-64bit", diskmap.Ext4, 40, "-t ext4 -O ^64bit"},
	{"no-extents", diskmap.Ext4, 40, "-t ext4 -O ^extents,^64bit"},
	{"uninit", diskmap.Ext4, 32, "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg"},
	{"uninit-32", diskmap.Ext4, 32, "-t ext4 -b 1024 -O ^metadata_csum,^64bit,uninit_bg"},
	{"no-sums", diskmap.Ext4, 32, "-t ext4 -O ^metadata_csum"},
	{"sums-32", diskmap.Ext4, 32, "-t ext4 -b 1024 -O ^64bit,metadata_csum"},
	{"meta-bg", diskmap.Ext4, 64, "-t ext4 -b 1024 -O meta_bg,^resize_inode"},
	{"meta-bg-many", diskmap.Ext4, 32, "-t ext4 -b 1024 -g 512 -O meta_bg,^resize_inode,^flex_bg"},
	{"meta-bg-plain", diskmap.Ext2, 64, "-t ext2 -b 1024 -O meta_bg,^resize_inode"},
	{"sparse2", diskmap.Ext4, 32, "-t ext4 -b 1024 -O sparse_super2,^resize_inode"},
	{"no-sparse", diskmap.Ext4, 32, "-t ext4 -b 1024 -O ^sparse_super,^resize_inode"},
	{"bigalloc", diskmap.Ext4, 48, "-t ext4 -O bigalloc -C 65536"},
	{"bigalloc-1k", diskmap.Ext4, 48, "-t ext4 -b 1024 -O bigalloc -C 16384"},
	{"bigalloc-uninit", diskmap.Ext4, 48, "-t ext4 -b 1024 -C 8192 -O bigalloc,^metadata_csum,uninit_bg"},
	{"seed", diskmap.Ext4, 40, "-t ext4 -O metadata_csum_seed"},
	{"inline", diskmap.Ext4, 40, "-t ext4 -O inline_data,quota,project,ea_inode,large_dir,casefold,encrypt,verity"},
	{"fast-commit", diskmap.Ext4, 32, "-t ext4 -O fast_commit,orphan_file"},
	{"stride", diskmap.Ext4, 48, "-t ext4 -b 1024 -E stride=16,stripe_width=64,resize=1G"},
	{"packed", diskmap.Ext4, 48, "-t ext4 -b 1024 -E packed_meta_blocks=1"},
	{"flex-2", diskmap.Ext4, 48, "-t ext4 -b 1024 -G 2"},
}

// makeExt makes a file system on garbage, with files, some of which are then deleted.
func makeExt(t testing.TB, mib int, args string, files tree) string {
	t.Helper()
	img := filled(t, mib)
	src := files.write(t, t.TempDir())
	mk := append([]string{"-q", "-F", "-E", "nodiscard,lazy_itable_init=0", "-d", src}, strings.Fields(args)...)
	volumetest.Run(t, "mke2fs", append(mk, img)...)
	var script bytes.Buffer
	for name := range files {
		if _, stays := files.remain()[name]; !stays {
			fmt.Fprintf(&script, "rm %s\n", name)
		}
	}
	cmds := filepath.Join(t.TempDir(), "commands")
	if err := os.WriteFile(cmds, script.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	volumetest.Run(t, "debugfs", "-w", "-f", cmds, img)
	if strings.Contains(args, "quota") {
		_, _ = volumetest.Try(t, "e2fsck", "-fy", img) // debugfs does not count
	}
	fsck(t, img)
	return img
}

func fsck(t testing.TB, img string) {
	t.Helper()
	if out, err := volumetest.Try(t, "e2fsck", "-fn", img); err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
}

var blockRange = regexp.MustCompile(`(\d+)(?:-(\d+))?`)

// extFree asks dumpe2fs which blocks are free, and debugfs which belong to the journal.
func extFree(t testing.TB, img string) (block int64, free, journal map[int64]bool) {
	t.Helper()
	out := volumetest.Run(t, "dumpe2fs", img)
	free, journal = map[int64]bool{}, map[int64]bool{}
	cluster := int64(0)
	for line := range strings.SplitSeq(out, "\n") {
		if v, ok := strings.CutPrefix(line, "Block size:"); ok {
			block = number(v)
		}
		if v, ok := strings.CutPrefix(line, "Cluster size:"); ok {
			cluster = number(v)
		}
		if v, ok := strings.CutPrefix(line, "  Free blocks: "); ok {
			add(free, v, max(cluster/block, 1)) // the first blocks of clusters
		}
	}
	if strings.Contains(out, "has_journal") {
		out = volumetest.Run(t, "debugfs", "-R", "blocks <8>", img)
		_, list, _ := strings.Cut(out, "\n") // the first line is the program's name
		for i, m := range blockRange.FindAllString(list, -1) {
			if i > 0 { // the superblock of the journal stays
				add(journal, m, 1)
			}
		}
	}
	return block, free, journal
}

func number(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func add(to map[int64]bool, list string, ratio int64) {
	for _, m := range blockRange.FindAllStringSubmatch(list, -1) {
		from, last := number(m[1]), number(m[1])
		if m[2] != "" {
			last = number(m[2])
		}
		for last += ratio - 1; from <= last; from++ {
			to[from] = true
		}
	}
}

// TestExt: exactly what dumpe2fs calls free becomes zeros, and the journal behind its superblock; e2fsck finds nothing, and every
// file is as it was.
func TestExt(t *testing.T) {
	for i, k := range extKinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			files := plant(uint64(i), 150, 400_000)
			img := makeExt(t, k.mib, k.args, files)
			block, free, journal := extFree(t, img)
			if len(free) == 0 {
				t.Fatal("dumpe2fs does not say what is free")
			}
			trimmed, m := trim(t, img)
			if v := one(t, m); v.Kind != k.kind || v.Kept != "" || v.Size != int64(k.mib)<<20 {
				t.Fatalf("%+v", v)
			}
			was, is := bytesOf(t, img), bytesOf(t, trimmed)
			zero := make([]byte, block)
			freed := int64(0)
			for n := range int64(len(was)) / block {
				b := is[n*block:][:block]
				switch same := bytes.Equal(b, was[n*block:][:block]); {
				case free[n]:
					if freed += block; !bytes.Equal(b, zero) {
						t.Errorf("block %d is free and not zeros", n)
					}
				case journal[n]:
					if bytes.Equal(b, zero) {
						freed += block
					} else if !same {
						t.Errorf("block %d of the journal is neither zeros nor what it was", n)
					}
				case !same:
					t.Fatalf("block %d is used, and it was changed", n)
				}
			}
			if freed < m.Free() || freed > m.Free()+int64(len(journal))*block {
				t.Errorf("%d bytes are free, want %d", m.Free(), freed)
			}
			fsck(t, trimmed)
			before, after := t.TempDir(), t.TempDir()
			volumetest.Run(t, "debugfs", "-R", "rdump / "+before, img)
			volumetest.Run(t, "debugfs", "-R", "rdump / "+after, trimmed)
			want := readTree(t, before)
			if len(want) != len(files.remain()) {
				t.Errorf("%d files are there, want %d", len(want), len(files.remain()))
			}
			want.same(t, after)
		})
	}
}
