package diskmap_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"disksync/volume/volumetest"
)

// TestExtKept: whatever says that something is still to be done, or makes no sense, keeps the file system whole.
func TestExtKept(t *testing.T) {
	files := plant(1, 40, 100_000)
	plain := bytesOf(t, makeExt(t, 20, "-t ext4 -b 1024 -O ^metadata_csum,^64bit,^uninit_bg -J size=4", files))
	sums := bytesOf(t, makeExt(t, 20, "-t ext4 -b 1024 -O metadata_csum -J size=4", files))
	le, be := binary.LittleEndian, binary.BigEndian
	super := func(b []byte, at int, v uint32) { le.PutUint32(b[1024+at:], v) }
	group := func(b []byte, at int) int { return int(le.Uint32(b[2048+at:])) * 1024 }
	journal := bytes.Index(plain, []byte{0xc0, 0x3b, 0x39, 0x98})
	sumJournal := bytes.Index(sums, []byte{0xc0, 0x3b, 0x39, 0x98})
	inode := func(b []byte) []byte { return b[group(b, 8)+7*int(le.Uint16(b[1024+88:])):] }
	tests := []struct {
		name, why string
		from      []byte
		edit      func(b []byte)
	}{
		{"as it is", "", plain, func([]byte) {}},
		{"with checksums", "", sums, func([]byte) {}},
		{"mounted", "not unmounted", plain, func(b []byte) { b[1024+58] = 0 }},
		{"to be recovered", "not unmounted", plain, func(b []byte) { b[1024+96] |= 4 }},
		{"errors", "errors were found", plain, func(b []byte) { b[1024+58] = 3 }},
		{"errors counted", "errors were found", plain, func(b []byte) { super(b, 404, 1) }},
		{"orphans", "cleaned up", plain, func(b []byte) { super(b, 232, 12) }},
		{"orphan file", "cleaned up", plain, func(b []byte) { b[1024+102] |= 1 }},
		{"unknown feature", "not known", plain, func(b []byte) { b[1024+95] |= 0x80 }},
		{"incompatible feature", "not known", plain, func(b []byte) { b[1024+99] |= 0x80 }},
		{"snapshots", "not known", plain, func(b []byte) { b[1024+100] |= 0x80 }},
		{"journal device", "not known", plain, func(b []byte) { b[1024+96] |= 8 }},
		{"larger", "larger than", plain, func(b []byte) { super(b, 4, 20481) }},
		{"huge", "larger than", plain, func(b []byte) { super(b, 4, 1<<31) }},
		{"block size", "no sense", plain, func(b []byte) { super(b, 24, 7) }},
		{"groups of nothing", "no sense", plain, func(b []byte) { super(b, 32, 0) }},
		{"tiny groups", "no sense", plain, func(b []byte) { super(b, 32, 8) }},
		{"inodes", "no sense", plain, func(b []byte) { super(b, 40, 16) }},
		{"no blocks", "no sense", plain, func(b []byte) { super(b, 4, 1) }},
		{"count", "of its blocks are free", plain, func(b []byte) { b[1024+12] ^= 1 }},
		{"group's count", "of group 0 are free", plain, func(b []byte) { b[2048+12] ^= 1 }},
		{"map elsewhere", "impossible", plain, func(b []byte) { b[2048+3] = 0x7f }},
		{"table elsewhere", "impossible", plain, func(b []byte) { b[2048+11] = 0x7f }},
		{"table in free space", "marked free", plain, func(b []byte) { le.PutUint32(b[2048+8:], 8192-300) }},
		{"map bit", "are free", plain, func(b []byte) { b[group(b, 0)+1000] ^= 0x10 }},
		{"map moved", "are free", plain, func(b []byte) { b[group(b, 0)+1000] ^= 0x10; b[2048+12]++ }},
		{"own blocks free", "marked free", plain, func(b []byte) { b[group(b, 0)+2] = 0; le.PutUint16(b[2048+12:], le.Uint16(b[2048+12:])+8) }},
		{"superblock", "checksum of its superblock", sums, func(b []byte) { b[1024+120] ^= 1 }},
		{"group", "checksum of group", sums, func(b []byte) { b[2048+14] ^= 1 }},
		{"map", "checksum of the map", sums, func(b []byte) { b[group(b, 0)+1000] ^= 1 }},
		{"journal inode", "inode of its journal", sums, func(b []byte) { inode(b)[41] ^= 1 }},
		{"journal's checksum", "checksum of its journal", sums, func(b []byte) { b[sumJournal+43] |= 0x10 }}, // there is none
		{"journal to be carried out", "still has to be", plain, func(b []byte) { be.PutUint32(b[journal+28:], 1) }},
		{"journal error", "met an error", plain, func(b []byte) { be.PutUint32(b[journal+32:], 5) }},
		{"no journal", "journal makes no sense", plain, func(b []byte) { b[journal] = 0 }},
		{"journal feature", "journal makes no sense", plain, func(b []byte) { b[journal+40] = 1 }},
		{"journal elsewhere", "impossible", plain, func(b []byte) { super(b, 224, 11) }},
		{"journal on a file", "used twice", plain, func(b []byte) { // an extent that goes on over what is behind it
			i := inode(b)
			n := int(le.Uint16(i[40+12+4:])) + 100
			le.PutUint16(i[42:], 1)
			le.PutUint16(i[40+12+4:], uint16(n))
			le.PutUint32(i[4:], uint32(n*1024))
		}},
		{"journal of nothing", "inode of its journal", plain, func(b []byte) { inode(b)[42] = 0 }},
		{"deep journal", "inode of its journal", plain, func(b []byte) { inode(b)[46] = 200 }},
		{"software raid", "software RAID", plain, func(b []byte) { copy(b[len(b)-8192:], "\xfc\x4e\x2b\xa9") }},
	}
	if journal < 0 || sumJournal < 0 {
		t.Fatal("there is no journal")
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := bytes.Clone(test.from)
			test.edit(b)
			checkKept(t, b, test.why)
		})
	}
}

// TestExtMMP: a file system that another machine may have mounted is kept.
func TestExtMMP(t *testing.T) {
	// e2fsck would wait for the other machine.
	b := bytesOf(t, made(t, 20, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-E", "nodiscard", "-O", "mmp,^metadata_csum"))
	at := int(binary.LittleEndian.Uint32(b[1024+360:])) * 1024
	checkKept(t, b, "")
	binary.LittleEndian.PutUint32(b[at+4:], 77)
	checkKept(t, b, "another machine")
}

// TestExtMounted: a file system that a kernel has used. What is free then is what fstrim gives back, and the journal.
func TestExtMounted(t *testing.T) {
	for i, args := range []string{"-t ext4", "-t ext4 -b 1024 -O bigalloc -C 8192", "-t ext3", "-t ext2"} {
		t.Run("mke2fs"+strings.ReplaceAll(args, " ", ""), func(t *testing.T) {
			img := filled(t, 64)
			volumetest.Run(t, "mke2fs", append(strings.Fields("-q -F -E nodiscard,lazy_itable_init=0 "+args), img)...)
			var during []byte
			volumetest.Mounted(t, func(dir string) {
				inUse(t, dir, plant(uint64(i), 300, 200_000))
				volumetest.Run(t, "sync", "-f", dir)
				during = bytesOf(t, img)
			}, "mount", "-o", "loop", img)
			if strings.Contains(args, "ext2") {
				checkKept(t, during, "not unmounted")
			} else {
				checkKept(t, during, "not unmounted cleanly")
			}
			trimmed, m := trim(t, img)
			if v := one(t, m); v.Kept != "" {
				t.Fatalf("%+v", v)
			}
			fsck(t, trimmed)
			given := filepath.Join(t.TempDir(), "given.raw")
			if err := os.WriteFile(given, bytesOf(t, img), 0o600); err != nil {
				t.Fatal(err)
			}
			var want tree
			volumetest.Mounted(t, func(dir string) {
				volumetest.Run(t, "fstrim", dir)
				want = readTree(t, dir)
			}, "mount", "-o", "loop", given)
			was, fstrim, ours := bytesOf(t, img), bytesOf(t, given), bytesOf(t, trimmed)
			block, free, journal := extFree(t, img)
			for at := 0; at < len(was); at += 1024 {
				zero := func(b []byte) bool { return len(bytes.Trim(b[at:at+1024], "\x00")) == 0 }
				n := int64(at) / block
				switch {
				case zero(was) || zero(fstrim) == zero(ours):
				case zero(fstrim):
					t.Fatalf("fstrim gave back what is at %d", at)
				case !free[n] && !journal[n]: // fstrim leaves runs that are too short for the device
					t.Fatalf("fstrim did not give back what is at %d", at)
				}
			}
			volumetest.Mounted(t, func(dir string) {
				want.same(t, dir)
				put(t, filepath.Join(dir, "new"), "written afterwards", 1_000_000)
			}, "mount", "-o", "loop", trimmed)
			fsck(t, trimmed)
		})
	}
}
