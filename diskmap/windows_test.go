package diskmap_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"disksync/diskmap"
	"disksync/volume/volumetest"
)

// put makes a file of n bytes with a text over and over.
func put(t testing.TB, name, text string, n int) {
	t.Helper()
	if err := os.WriteFile(name, bytes.Repeat([]byte(text), n/len(text)+1)[:n], 0o644); err != nil {
		t.Fatal(err)
	}
}

const paged = "paged out: a password, perhaps. "

// inUse fills a file system as years of use do: the files, those that go in between, and what Windows leaves in the root folder.
func inUse(t testing.TB, dir string, files tree) {
	t.Helper()
	files.write(t, dir)
	for name := range files {
		if strings.Contains(name, "gone") {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(t, filepath.Join(dir, "pagefile.sys"), paged, 3_000_000)
	put(t, filepath.Join(dir, "Swapfile.sys"), paged, 1_000_000)
	put(t, filepath.Join(dir, "hiberfil.sys"), "wake"+strings.Repeat("\x00", 28), 2_000_000)
	put(t, filepath.Join(dir, "dir1", "pagefile.sys"), "another of that name, not in the root. ", 500_000)
}

// TestNTFS: what becomes zeros is exactly what ntfsclone leaves out, and the content of the page file and its like.
func TestNTFS(t *testing.T) {
	for i, args := range []string{"", "-c 512", "-c 2048 -z 0", "-c 65536", "-s 4096 -c 4096"} {
		t.Run("mkntfs"+strings.ReplaceAll(args, " ", ""), func(t *testing.T) {
			img := filled(t, 80)
			volumetest.Run(t, "mkntfs", append(strings.Fields("-q -F -Q -p 0 -H 0 -S 0 "+args), img)...)
			check := func(t *testing.T, files tree) {
				trimmed, m := trim(t, img)
				v := one(t, m)
				if v.Kind != diskmap.NTFS || v.Kept != "" {
					t.Fatalf("%+v", v)
				}
				clone := filepath.Join(t.TempDir(), "clone.raw")
				volumetest.Run(t, "ntfsclone", "-f", "-q", "-O", clone, img)
				sys := differs(t, clone, trimmed)
				if files == nil && sys != 0 || files != nil && sys != 3_000_000+1_000_000+2_000_000/8 {
					t.Errorf("%d bytes are other than those of ntfsclone", sys)
				}
				if out := volumetest.Run(t, "ntfsfix", "-n", trimmed); !strings.Contains(out, "processed successfully") {
					t.Errorf("ntfsfix: %s", out)
				}
				if bytes.Contains(bytesOf(t, trimmed), []byte(paged)) {
					t.Error("what was paged out is still there")
				}
				if files == nil {
					return
				}
				volumetest.Mounted(t, func(dir string) {
					files.same(t, dir)
				}, "ntfs-3g", "-o", "ro", trimmed)
			}
			check(t, nil)
			var want tree
			volumetest.Mounted(t, func(dir string) {
				inUse(t, dir, plant(uint64(i), 400, 300_000))
				// Every second of many little files is deleted, so that what comes next, and the list of files, is in many pieces.
				many := 1500
				if strings.Contains(args, "65536") {
					many = 300
				}
				for n := range many {
					put(t, filepath.Join(dir, fmt.Sprintf("dir1/little%d", n)), "little", 7000)
				}
				for n := 0; n < many; n += 2 {
					if err := os.Remove(filepath.Join(dir, fmt.Sprintf("dir1/little%d", n))); err != nil {
						t.Fatal(err)
					}
				}
				put(t, filepath.Join(dir, "pieces"), "in many pieces", 5_000_000)
				want = readTree(t, dir)
				for _, name := range []string{"pagefile.sys", "Swapfile.sys", "hiberfil.sys"} {
					want[name] = make([]byte, len(want[name]))
				}
			}, "ntfs-3g", img)
			check(t, want)
		})
	}
}

// TestNTFSPieces: the list of files is in so many pieces that it takes several records to say where they are.
func TestNTFSPieces(t *testing.T) {
	img := filled(t, 20)
	volumetest.Run(t, "mkntfs", "-q", "-F", "-Q", "-c", "512", "-p", "0", "-H", "0", "-S", "0", img)
	volumetest.Mounted(t, func(dir string) {
		files := 0
		for ; ; files++ { // until it is full
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", files)), make([]byte, 1024), 0o600); err != nil {
				break
			}
		}
		for i := 0; i < files; i += 2 {
			if err := os.Truncate(filepath.Join(dir, fmt.Sprint("f", i)), 0); err != nil {
				t.Fatal(err)
			}
		}
		// Each new file takes one of the places that are free now.
		for i := 0; ; i++ {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("g", i)), nil, 0o600); err != nil {
				break
			}
		}
		for i := 0; i < files; i += 4 {
			if err := os.Remove(filepath.Join(dir, fmt.Sprint("f", i+1))); err != nil {
				t.Fatal(err)
			}
		}
	}, "ntfs-3g", img)
	if out := volumetest.Run(t, "ntfsinfo", "-f", "-v", "-i", "0", img); !strings.Contains(out, "attribute $ATTRIBUTE_LIST") {
		t.Fatal("the list of files is in too few pieces for this test")
	}
	trimmed, m := trim(t, img)
	if v := one(t, m); v.Kept != "" || v.Free == 0 {
		t.Fatalf("%+v", v)
	}
	clone := filepath.Join(t.TempDir(), "clone.raw")
	volumetest.Run(t, "ntfsclone", "-f", "-q", "-O", clone, img)
	if n := differs(t, clone, trimmed); n != 0 {
		t.Errorf("%d bytes are other than those of ntfsclone", n)
	}
}

// TestNTFSMapInPieces: the map of clusters is itself in two places.
func TestNTFSMapInPieces(t *testing.T) {
	img := filled(t, 16)
	volumetest.Run(t, "mkntfs", "-q", "-F", "-Q", "-c", "512", "-p", "0", "-H", "0", "-S", "0", img)
	b := bytesOf(t, img)
	le := binary.LittleEndian
	r := b[int(le.Uint64(b[48:]))*512+6*1024:]
	at := bytes.Index(r, []byte{0x80, 0, 0, 0})
	runs := r[at+int(le.Uint16(r[at+32:])):]
	if runs[0] != 0x21 || runs[1] != 8 {
		t.Fatalf("runs % x", runs[:8])
	}
	first := int(le.Uint16(runs[2:]))
	bit := func(n int) *byte { return &b[first*512+n/8] }
	there := 0
	for n := first + 8; n < first+30_000 && there == 0; n++ { // the second half goes where four clusters are free
		if n%4 == 0 && *bit(n)>>(n%8)&15 == 0 {
			there = n
		}
	}
	if there == 0 {
		t.Fatal("nothing is free")
	}
	*bit(there) |= 15 << (there % 8)
	for n := first + 4; n < first+8; n++ {
		*bit(n) &^= 1 << (n % 8)
	}
	copy(b[there*512:][:2048], b[(first+4)*512:])
	end := at + int(le.Uint32(r[at+4:]))
	if le.Uint32(r[end:]) != 0xffffffff {
		t.Fatal("the map is not the last attribute")
	}
	copy(r[end+8:], r[end:][:8]) // the attribute becomes longer
	clear(r[end:][:8])
	le.PutUint32(r[at+4:], uint32(end-at+8))
	le.PutUint32(r[24:], le.Uint32(r[24:])+8)
	copy(runs, []byte{0x21, 4, runs[2], runs[3], 0x21, 4, 0, 0, 0})
	le.PutUint16(runs[6:], uint16(there-first))
	copy(b[(first+4)*512:][:2048], bytes.Repeat([]byte{0}, 2048)) // who reads on here finds all of it free
	if err := os.WriteFile(img, b, 0o600); err != nil {
		t.Fatal(err)
	}
	trimmed, m := trim(t, img)
	if v := one(t, m); v.Kept != "" {
		t.Fatalf("%+v", v)
	}
	clone := filepath.Join(t.TempDir(), "clone.raw")
	volumetest.Run(t, "ntfsclone", "-f", "-q", "-O", clone, img)
	if n := differs(t, clone, trimmed); n != 0 {
		t.Errorf("%d bytes are other than those of ntfsclone", n)
	}
}

// TestLinkedPageFile: a page file that goes by another name as well, is compressed, or is a folder, is nothing special.
func TestLinkedPageFile(t *testing.T) {
	img := filled(t, 16)
	volumetest.Run(t, "mkntfs", "-q", "-F", "-Q", "-c", "4096", "-p", "0", "-H", "0", "-S", "0", img)
	volumetest.Mounted(t, func(dir string) {
		put(t, filepath.Join(dir, "precious"), paged, 100_000)
		if err := os.Link(filepath.Join(dir, "precious"), filepath.Join(dir, "pagefile.sys")); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, "swapfile.sys"), 0o700); err != nil {
			t.Fatal(err)
		}
	}, "ntfs-3g", img)
	trimmed, m := trim(t, img)
	if v := one(t, m); v.Kept != "" {
		t.Fatalf("%+v", v)
	}
	volumetest.Mounted(t, func(dir string) {
		if b := bytesOf(t, filepath.Join(dir, "precious")); bytes.Count(b, []byte(paged)) != 100_000/len(paged) {
			t.Error("the file has lost its content")
		}
	}, "ntfs-3g", "-o", "ro", trimmed)
}

// differs returns in how many bytes two files differ.
func differs(t testing.TB, a, b string) int {
	t.Helper()
	one, other := bytesOf(t, a), bytesOf(t, b)
	if len(one) > len(other) {
		t.Fatalf("%s has %d bytes, %s %d", a, len(one), b, len(other))
	}
	return int(changed(one, other[:len(one)]))
}

// TestNTFSKept: whatever says that something is still to be done, or makes no sense, keeps the volume whole.
func TestNTFSKept(t *testing.T) {
	img := filled(t, 16)
	volumetest.Run(t, "mkntfs", "-q", "-F", "-Q", "-c", "4096", "-p", "0", "-H", "0", "-S", "0", img)
	volumetest.Run(t, "ntfscp", img, sysFile(t, "wake"), "hiberfil.sys")
	good := bytesOf(t, img)
	le := binary.LittleEndian
	mft := int64(le.Uint64(good[48:])) * 4096
	record := func(b []byte, n int64) []byte { return b[mft+1024*n:][:1024] }
	find := func(b []byte, what string) int { return bytes.Index(b, []byte(what)) }
	tests := []struct {
		name, why string
		edit      func(b []byte)
	}{
		{"as it is", "", func([]byte) {}},
		{"dirty", "not clean", func(b []byte) {
			r := record(b, 3)
			at := find(r, "\x70\x00\x00\x00")
			r[at+int(le.Uint16(r[at+20:]))+10] |= 1
			copy(b[int64(le.Uint64(b[56:]))*4096+3*1024:], r)
		}},
		{"boot sector", "no sense", func(b []byte) { b[13] = 3 }},
		{"larger", "larger than", func(b []byte) { le.PutUint64(b[40:], 1<<40) }},
		{"record", "damaged", func(b []byte) { copy(record(b, 20), "BAAD") }},
		{"half written", "completely", func(b []byte) { record(b, 5)[511] ^= 1 }},
		{"mirror", "differ", func(b []byte) { b[int64(le.Uint64(b[56:]))*4096+200] ^= 1 }},
		{"log", "log makes no sense", func(b []byte) { copy(b[logAt(t, good):], "what") }},
		{"open log", "carried out", func(b []byte) { openLog(b[logAt(t, good):], 0, 1, 1) }},
		{"closed log", "", func(b []byte) { openLog(b[logAt(t, good):], 2, 1, 1) }},
		{"fast start", "carried out", func(b []byte) { openLog(b[logAt(t, good):], 2, 2, 0) }},
		{"file in free space", "marked free", func(b []byte) {
			at := bitmapAt(t, record(b, 6))
			clear(b[at*4096:][:4096])
		}},
		{"shadow copies", "shadow copies", func(b []byte) { shadow(b, 2) }},
		{"old shadow copies", "", func(b []byte) { shadow(b, 1) }},
		{"lost shadow copies", "shadow copies makes no sense", func(b []byte) { copy(b[0x1e00:], shadowMark); b[0x1e00+48+2] = 0xc0 }},
		{"sleeping", "sleeps in hiberfil.sys", func(b []byte) { copy(b[find(b, "wake"):], "hibr") }},
		{"unknown sleep", "sleeps in hiberfil.sys", func(b []byte) { copy(b[find(b, "wake"):], "RSTR") }},
		{"encrypted", "BitLocker", func(b []byte) { copy(b[3:], "-FVE-FS-") }},
		{"two marks", "marks of", func(b []byte) { le.PutUint16(b[1080:], 0xef53) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := bytes.Clone(good)
			test.edit(b)
			checkKept(t, b, test.why)
		})
	}
}

// memory is a disk in memory.
type memory struct{ *bytes.Reader }

func inMemory(b []byte) memory { return memory{bytes.NewReader(b)} }

// checkKept fails the test unless a disk is kept whole for a reason, or has something free when there is none.
func checkKept(t testing.TB, b []byte, why string) {
	t.Helper()
	m := scan(t, inMemory(b))
	v := one(t, m)
	if why == "" && (v.Kept != "" || m.Free() == 0) || why != "" && (!strings.Contains(v.Kept, why) || m.Free() != 0) {
		t.Errorf("%+v, want it kept because of %q", v, why)
	}
	if why == "" {
		return
	}
	got := make([]byte, len(b))
	if _, err := m.Disk(inMemory(b)).ReadAt(got, 0); err != nil || !bytes.Equal(got, b) {
		t.Errorf("it was changed all the same (%v)", err)
	}
}

// sysFile makes a file that begins with a word.
func sysFile(t testing.TB, word string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "hiberfil.sys")
	put(t, name, word+strings.Repeat("\x00", 4092), 1<<20)
	return name
}

const shadowMark = "\x6b\x87\x08\x38\x76\xc1\x48\x4e\xb7\xae\x04\x04\x6e\x6c\xc7\x52"

// shadow writes a catalog of shadow copies with an entry of a type.
func shadow(b []byte, kind byte) {
	const catalog = 12 << 20
	copy(b[0x1e00:], shadowMark)
	binary.LittleEndian.PutUint64(b[0x1e00+48:], catalog)
	clear(b[catalog:][:16<<10])
	copy(b[catalog:], shadowMark)
	b[catalog+20] = 2
	b[catalog+256] = kind
}

// logAt finds the log by its first restart page, which mkntfs leaves empty: it is the largest run of 0xff.
func logAt(t testing.TB, b []byte) int {
	t.Helper()
	at := bytes.Index(b, bytes.Repeat([]byte{0xff}, 64<<10))
	if at < 0 {
		t.Fatal("there is no log")
	}
	return (at + 4095) &^ 4095
}

// openLog writes the restart pages of a log in use.
func openLog(b []byte, flags, major, minor uint16) {
	le := binary.LittleEndian
	for i := range 2 {
		p := b[4096*i:][:4096]
		clear(p)
		copy(p, "RSTR")
		le.PutUint16(p[4:], 30)
		le.PutUint16(p[6:], 9)
		le.PutUint32(p[16:], 4096)
		le.PutUint32(p[20:], 4096)
		le.PutUint16(p[24:], 48)
		le.PutUint16(p[26:], minor)
		le.PutUint16(p[28:], major)
		le.PutUint64(p[48:], uint64(1000+i)) // the second is newer
		le.PutUint16(p[48+14:], flags)
		if i == 0 {
			le.PutUint16(p[48+14:], 2) // it says that all is well
		}
		for s := 512; s <= 4096; s += 512 {
			copy(p[30+2*(s/512):], p[s-2:s])
			le.PutUint16(p[s-2:], 7)
		}
		le.PutUint16(p[30:], 7)
	}
}

// bitmapAt finds the first cluster of the map in its record.
func bitmapAt(t testing.TB, r []byte) int {
	t.Helper()
	at := bytes.Index(r, []byte{0x80, 0, 0, 0})
	runs := r[at+int(binary.LittleEndian.Uint16(r[at+32:])):]
	switch runs[0] {
	case 0x11:
		return int(runs[2])
	case 0x21:
		return int(binary.LittleEndian.Uint16(runs[2:]))
	}
	t.Fatalf("runs % x", runs[:8])
	return 0
}

var usedClusters = regexp.MustCompile(`(\d+)/(\d+) clusters`)

// TestFAT: fsck.fat counts as much free, and finds nothing; files are as they were.
func TestFAT(t *testing.T) {
	tests := []struct {
		kind diskmap.Kind
		mib  int
		args string
	}{
		{diskmap.FAT12, 16, "-F 12 -s 16"},
		{diskmap.FAT12, 2, "-F 12 -f 1"},
		{diskmap.FAT16, 40, "-F 16"},
		{diskmap.FAT16, 100, "-F 16 -s 4 -r 64"},
		{diskmap.FAT32, 60, "-F 32 -s 1"},
		{diskmap.FAT32, 100, "-F 32 -s 2 -f 1"},
		{diskmap.FAT32, 160, "-F 32 -s 4 -h 2048"},
	}
	for i, test := range tests {
		t.Run(fmt.Sprint(test.kind, "-", i), func(t *testing.T) {
			img := filled(t, test.mib)
			volumetest.Run(t, "mkfs.fat", append(strings.Fields(test.args), img)...)
			files := plant(uint64(i), 60, test.mib<<20/200)
			src := files.write(t, t.TempDir())
			put(t, filepath.Join(src, "pagefile.sys"), paged, test.mib<<20/20)
			put(t, filepath.Join(src, "hiberfil.sys"), "\x00\x00\x00\x00"+paged, 5000)
			put(t, filepath.Join(src, "dir0", "swapfile.sys"), "another of that name, not in the root", 5000)
			roots, err := filepath.Glob(src + "/*")
			if err != nil {
				t.Fatal(err)
			}
			volumetest.Run(t, "mcopy", append(append([]string{"-s", "-i", img}, roots...), "::")...)
			for name := range files {
				if strings.Contains(name, "gone") {
					volumetest.Run(t, "mdel", "-i", img, "::"+name)
				}
			}
			trimmed, m := trim(t, img)
			v := one(t, m)
			if v.Kind != test.kind || v.Kept != "" {
				t.Fatalf("%+v", v)
			}
			out := volumetest.Run(t, "fsck.fat", "-nv", trimmed)
			n := usedClusters.FindStringSubmatch(out)
			if n == nil {
				t.Fatal(out)
			}
			cluster := number(regexp.MustCompile(`(\d+) bytes per cluster`).FindStringSubmatch(out)[1])
			sys := (int64(test.mib<<20/20)+cluster-1)/cluster*cluster + (5000+cluster-1)/cluster*cluster
			if want := (number(n[2])-number(n[1]))*cluster + sys; v.Free != want {
				t.Errorf("%d bytes are free, want %d", v.Free, want)
			}
			// What was deleted may be left behind the ends of files, in their last clusters.
			b := bytesOf(t, trimmed)
			if left := bytes.Count(b, []byte(garbage)) * len(garbage); left > len(files)*int(cluster) || bytes.Contains(b, []byte(paged)) {
				t.Errorf("%d bytes of what was deleted are still there", left)
			}
			before, after := t.TempDir(), t.TempDir()
			volumetest.Run(t, "mcopy", "-s", "-n", "-i", img, "::*", before)
			volumetest.Run(t, "mcopy", "-s", "-n", "-i", trimmed, "::*", after)
			want := readTree(t, before)
			if len(want) != len(files.remain())+3 {
				t.Errorf("%d files are there", len(want))
			}
			for _, name := range []string{"pagefile.sys", "hiberfil.sys"} {
				want[name] = make([]byte, len(want[name]))
			}
			want.same(t, after)
		})
	}
}

// TestFATKept: whatever says that something is still to be done, or makes no sense, keeps the volume whole.
func TestFATKept(t *testing.T) {
	for _, kind := range []string{"16", "32"} {
		img := filled(t, 40)
		perCluster := map[string]string{"16": "2", "32": "1"}[kind]
		volumetest.Run(t, "mkfs.fat", "-F", kind, "-s", perCluster, img)
		volumetest.Run(t, "mcopy", "-i", img, sysFile(t, "wake"), "::hiberfil.sys")
		good := bytesOf(t, img)
		le := binary.LittleEndian
		fat := int(le.Uint16(good[14:])) * 512
		length := int(le.Uint16(good[22:])) * 512
		clean, mark := []int{fat + 3}, 37
		if kind == "32" {
			length, clean, mark = int(le.Uint32(good[36:]))*512, []int{fat + 7}, 65
		}
		both := func(b []byte, at int, v byte) { b[at], b[at+length] = v, v }
		width := map[string]int{"16": 2, "32": 4}[kind]
		used := 3 // a cluster of the file
		tests := []struct {
			name, why string
			edit      func(b []byte)
		}{
			{"as it is", "", func([]byte) {}},
			{"mounted", "not unmounted", func(b []byte) { b[mark] |= 1 }},
			{"dirty", "not unmounted", func(b []byte) { both(b, clean[0], b[clean[0]]&^(0x80>>(4*(width/4)))) }},
			{"errors", "errors were found", func(b []byte) { both(b, clean[0], b[clean[0]]&^(0x40>>(4*(width/4)))) }},
			{"FATs differ", "FATs differ", func(b []byte) { b[fat+100*width] ^= 1 }},
			{"beyond the end", "FAT makes no sense", func(b []byte) { both(b, fat+(used+2)*width+1, 0xee); both(b, fat+(used+2)*width+2, 0xee) }},
			{"medium", "FAT makes no sense", func(b []byte) { both(b, fat, 0xf0) }},
			{"larger", "larger than", func(b []byte) { le.PutUint16(b[19:], 0); le.PutUint32(b[32:], 0x7fffffff) }},
			{"sleeping", "sleeps in", func(b []byte) { copy(b[bytes.Index(b, []byte("wake")):], "HIBR") }},
			{"circle", "make no sense", func(b []byte) {
				for i := range width { // back to the start of the file
					both(b, fat+(used+1)*width+i, byte(used-1)>>(8*i))
				}
				if kind == "32" {
					le.PutUint32(b[fat+(used+1)*width:], uint32(used))
					le.PutUint32(b[fat+length+(used+1)*width:], uint32(used))
				}
			}},
		}
		for _, test := range tests {
			t.Run(kind+" "+test.name, func(t *testing.T) {
				b := bytes.Clone(good)
				test.edit(b)
				checkKept(t, b, test.why)
			})
		}
	}
}
