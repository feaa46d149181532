package diskmap_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"disksync/diskmap"
	"disksync/volume/volumetest"
)

// TestExFATEmpty: a new file system has nothing but its own clusters.
func TestExFATEmpty(t *testing.T) {
	for _, args := range []string{"", "-c 512", "-c 4096", "-c 1M", "-b 8M"} {
		img := filled(t, 64)
		volumetest.Run(t, "mkfs.exfat", append(strings.Fields(args), img)...)
		trimmed, m := trim(t, img)
		v := one(t, m)
		if v.Kind != diskmap.ExFAT || v.Kept != "" || v.Free < 30<<20 {
			t.Errorf("%s: %+v", args, v)
		}
		if out := volumetest.Run(t, "fsck.exfat", "-n", trimmed); !strings.Contains(out, "clean") {
			t.Errorf("%s: %s", args, out)
		}
		if n := bytes.Count(bytesOf(t, trimmed)[:v.Size-1<<20], []byte(garbage)); n > 0 {
			t.Errorf("%s: %d of what was deleted is still there", args, n)
		}
	}
}

// TestExFAT: files are as they were, and what was deleted is gone.
func TestExFAT(t *testing.T) {
	for i, args := range []string{"-c 4096", "-c 32768"} {
		t.Run("mkfs"+args, func(t *testing.T) {
			img := filled(t, 64)
			volumetest.Run(t, "mkfs.exfat", append(strings.Fields(args), img)...)
			var want tree
			used := int64(0)
			volumetest.Mounted(t, func(dir string) {
				inUse(t, dir, plant(uint64(i), 300, 300_000))
				for n := range 200 { // so that what comes next is in pieces
					put(t, filepath.Join(dir, fmt.Sprintf("dir1/little%d", n)), "little", 7000)
				}
				for n := 0; n < 200; n += 2 {
					if err := os.Remove(filepath.Join(dir, fmt.Sprintf("dir1/little%d", n))); err != nil {
						t.Fatal(err)
					}
				}
				put(t, filepath.Join(dir, "pieces"), "in many pieces", 5_000_000)
				want = readTree(t, dir)
				for _, name := range []string{"pagefile.sys", "Swapfile.sys", "hiberfil.sys"} {
					want[name] = make([]byte, len(want[name]))
				}
				cluster := number(strings.Fields(args)[1])
				for name, b := range want {
					if !strings.HasSuffix(name, "file.sys") && name != "hiberfil.sys" || strings.Contains(name, "/") {
						used += (int64(len(b)) + cluster - 1) / cluster * cluster
					}
				}
			}, "mount.exfat-fuse", volumetest.Loop(t, img))
			trimmed, m := trim(t, img)
			v := one(t, m)
			if v.Kept != "" {
				t.Fatalf("%+v", v)
			}
			// Folders, the map and the table of letters are used besides.
			if over := v.Size - used - v.Free; over < 0 || over > 6<<20 {
				t.Errorf("%d bytes are free, with %d in files", v.Free, used)
			}
			if out := volumetest.Run(t, "fsck.exfat", "-n", trimmed); !strings.Contains(out, "clean") {
				t.Error(out)
			}
			if bytes.Contains(bytesOf(t, trimmed), []byte(paged)) {
				t.Error("what was paged out is still there")
			}
			volumetest.Mounted(t, func(dir string) { want.same(t, dir) }, "mount.exfat-fuse", "-o", "ro", volumetest.Loop(t, trimmed))
		})
	}
}

// exFile adds a file with a cluster of its own to the root folder, and marks the cluster used.
func exFile(b []byte, name string, cluster uint32, content string) {
	le := binary.LittleEndian
	root, heap := exPlaces(b)
	at := root
	for b[at] != 0 {
		at += 32
	}
	set := b[at : at+96]
	clear(b[at : at+128])
	set[0], set[1], set[4] = 0x85, 2, 0x20
	set[32], set[33], set[35] = 0xc0, 3, byte(len(name))
	le.PutUint64(set[40:], 4096)
	le.PutUint32(set[52:], cluster)
	le.PutUint64(set[56:], 4096)
	set[64] = 0xc1
	var hash, sum uint16
	for i, c := range name {
		le.PutUint16(set[66+2*i:], uint16(c))
		hash = hash<<15 | hash>>1 + uint16(strings.ToUpper(name)[i])
		hash = hash<<15 | hash>>1 // the upper half of the letter
	}
	le.PutUint16(set[36:], hash)
	for i, c := range set {
		if i != 2 && i != 3 {
			sum = sum<<15 | sum>>1 + uint16(c)
		}
	}
	le.PutUint16(set[2:], sum)
	b[exBitmap(b)+int(cluster-2)/8] |= 1 << ((cluster - 2) % 8)
	copy(b[heap+int(cluster-2)*4096:][:4096], strings.Repeat(content, 4096))
}

// exPlaces returns where the root folder and the first cluster are.
func exPlaces(b []byte) (root, heap int) {
	le := binary.LittleEndian
	heap = int(le.Uint32(b[88:])) * 512
	return heap + int(le.Uint32(b[96:])-2)*4096, heap
}

// exBitmap returns where the map is.
func exBitmap(b []byte) int {
	root, heap := exPlaces(b)
	for b[root] != 0x81 {
		root += 32
	}
	return heap + int(binary.LittleEndian.Uint32(b[root+20:])-2)*4096
}

// TestExFATKept: whatever says that something is still to be done, or makes no sense, keeps the volume whole.
func TestExFATKept(t *testing.T) {
	img := filled(t, 16)
	volumetest.Run(t, "mkfs.exfat", "-c", "4096", img)
	good := bytesOf(t, img)
	exFile(good, "pagefile.sys", 100, paged)
	exFile(good, "letter", 200, "dear all, ")
	exFile(good, "hiberfil.sys", 300, "wake")
	fine := filepath.Join(t.TempDir(), "fine.raw")
	if err := os.WriteFile(fine, good, 0o600); err != nil {
		t.Fatal(err)
	}
	volumetest.Run(t, "fsck.exfat", "-n", fine)
	trimmed, m := trim(t, fine)
	if b := bytesOf(t, trimmed); !bytes.Contains(b, []byte("dear all, ")) || bytes.Contains(b, []byte(paged)) || m.Free() == 0 {
		t.Errorf("%+v", m.Volumes())
	}
	tests := []struct {
		name, why string
		edit      func(b []byte)
	}{
		{"mounted", "not unmounted", func(b []byte) { b[106] |= 2 }},
		{"errors", "errors were found", func(b []byte) { b[106] |= 4 }},
		{"checksum", "checksum", func(b []byte) { b[1000] ^= 1 }},
		{"larger", "larger than", func(b []byte) { b[78] = 1 }},
		{"free file", "marked free", func(b []byte) { b[exBitmap(b)+198/8] = 0 }},
		{"file twice", "same clusters", func(b []byte) { exFile(b, "copy", 200, "dear all, ") }},
		{"damaged entry", "damaged", func(b []byte) { root, _ := exPlaces(b); b[bytes.Index(b[root:], []byte("l\x00e\x00t\x00"))+root] = 'L' }},
		{"unknown entry", "not known", func(b []byte) {
			root, _ := exPlaces(b)
			for b[root] != 0 {
				root += 32
			}
			b[root] = 0x9a
		}},
		{"no map", "map of its clusters", func(b []byte) {
			root, _ := exPlaces(b)
			for b[root] != 0x81 {
				root += 32
			}
			b[root] = 1
		}},
		{"sleeping", "sleeps in", func(b []byte) { exFile(b, "HiberFil.SYS", 400, "HIBR") }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := bytes.Clone(good)
			test.edit(b)
			checkKept(t, b, test.why)
		})
	}
}
