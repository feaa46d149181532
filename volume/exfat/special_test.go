package exfat_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"disksync/volume"
	"disksync/volume/exfat"
	"disksync/volume/fat"
	"disksync/volume/volumetest"
)

var le = binary.LittleEndian

// TestPieces: a file that the FUSE file system put into the holes that others left, and one that it was made longer.
func TestPieces(t *testing.T) {
	img, back := volumetest.Image(t, 30<<20), t.TempDir()
	volumetest.Run(t, "mkfs.exfat", "-c", "512", img)
	dev := volumetest.Loop(t, img)
	volumetest.Mounted(t, func(dir string) {
		pieces(t, dir, 3_000_000)
		volumetest.Put(t, dir, "sectors", 512*1001)
		volumetest.Put(t, dir, "empty", 0)
		if err := os.Truncate(filepath.Join(dir, "p1"), 300_000); err != nil {
			t.Fatal(err)
		}
		volumetest.Run(t, "cp", "-r", dir+"/.", back)
	}, "mount.exfat-fuse", dev)
	v := volumetest.Open(t, img, exfat.Open)
	volumetest.Compare(t, v, back)
	f, err := v.Open("pieces")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for off := int64(512); off < f.Size(); off += 512 {
		if f.Place(off) != f.Place(off-512)+512 {
			n++
		}
	}
	if n < 10 {
		t.Errorf("the file is in %d pieces", n)
	}
}

// place returns the boot sector of an image, and where in it the root folder is.
func place(t testing.TB, b []byte) (*exfat.Boot, int) {
	t.Helper()
	boot, err := exfat.ParseBoot(b)
	if err != nil {
		t.Fatal(err)
	}
	return boot, int(boot.DataAt + (int64(boot.Root)-fat.FirstCluster)*boot.Cluster)
}

// set returns the entries of a file in the root folder, by the first letter of its name.
func set(t testing.TB, b []byte, first byte) []byte {
	t.Helper()
	_, at := place(t, b)
	for ; b[at] != exfat.TypeEnd; at += 32 {
		if b[at] == exfat.TypeFile && b[at+66] == first {
			return b[at : at+32*(int(b[at+1])+1)]
		}
	}
	t.Fatalf("no file %c", first)
	return nil
}

// TestLarge: files of more than 4 GiB, in one piece and by the FAT, whose last part was never written.
func TestLarge(t *testing.T) {
	const size, valid, cluster, n, from = 5<<30 + 12345, 5<<30 - 1, 32768, 5<<15 + 1, 1000
	for _, inOnePiece := range []bool{true, false} {
		img := volumetest.Image(t, 8<<30)
		volumetest.Run(t, "mkfs.exfat", "-c", "32768", img)
		dev := volumetest.Loop(t, img)
		volumetest.Mounted(t, func(dir string) { volumetest.Put(t, dir, "big", 1) }, "mount.exfat-fuse", dev)
		f, err := os.OpenFile(img, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		head := make([]byte, 8<<20)
		if _, err := f.ReadAt(head, 0); err != nil {
			t.Fatal(err)
		}
		boot, _ := place(t, head)
		s := set(t, head, 'b')
		s[33] = 1
		if inOnePiece {
			s[33] |= 2
		}
		le.PutUint64(s[40:], valid)
		le.PutUint32(s[52:], from)
		le.PutUint64(s[56:], size)
		le.PutUint16(s[2:], exfat.SetSum(s))
		at := func(i int64) int64 { return boot.DataAt + (from+i-2)*cluster }
		if !inOnePiece { // every other cluster is left out after the first half
			at = func(i int64) int64 { return boot.DataAt + (from+i+max(0, i-n*9/10)-2)*cluster }
			for i := range int64(n) {
				next := uint32(0xffffffff)
				if i+1 < n {
					next = uint32((at(i+1)-boot.DataAt)/cluster + 2)
				}
				le.PutUint32(head[boot.FATAt+4*((at(i)-boot.DataAt)/cluster+2):], next)
			}
		}
		if _, err := f.WriteAt(head, 0); err != nil {
			t.Fatal(err)
		}
		for i := int64(0); i < n; i += 1009 {
			if _, err := f.WriteAt(le.AppendUint32(nil, uint32(i)), at(i)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte("left"), 8192), at(n-2)+1<<14); err != nil { // up to the end and behind
			t.Fatal(err)
		}
		v := volumetest.Open(t, img, exfat.Open)
		start := time.Now()
		got, err := v.Open("big")
		if err != nil {
			t.Fatal(err)
		}
		if t.Logf("%v to open", time.Since(start)); got.Size() != size {
			t.Errorf("%d bytes", got.Size())
		}
		b, c := make([]byte, 40000), make([]byte, 40000)
		volumetest.Mounted(t, func(dir string) {
			want, err := os.Open(filepath.Join(dir, "big"))
			if err != nil {
				t.Fatal(err)
			}
			defer want.Close()
			for i := int64(0); i < n; i += 1009 {
				_, e1 := got.ReadAt(b, i*cluster)
				_, e2 := want.ReadAt(c, i*cluster)
				if e1 != nil || e2 != nil || !bytes.Equal(b, c) || le.Uint32(b) != uint32(i) {
					t.Fatalf("cluster %d: %x, %x, %v, %v", i, b[:4], c[:4], e1, e2)
				}
			}
			if k, err := got.ReadAt(b, size-30000); k != 30000 || !errors.Is(err, io.EOF) {
				t.Errorf("the end: %d, %v", k, err)
			}
			k := valid - (size - 30000) // this program gives what lies behind valid bytes, so it cannot be asked for the rest
			if _, err := want.ReadAt(c[:k], size-30000); err != nil || !bytes.Equal(b[:k], c[:k]) || !bytes.HasSuffix(b[:k], []byte("left")[:3]) {
				t.Errorf("before the end of what is valid: %v", err)
			}
			if bytes.Count(b[k:30000], []byte{0}) != 30000-k {
				t.Error("what was never written is not zeros")
			}
		}, "mount.exfat-fuse", "-o", "ro", dev)
	}
}

// TestEntries: damaged sets, entries that are not known, and what refuses the volume.
func TestEntries(t *testing.T) {
	img := volumetest.Image(t, 4<<20)
	volumetest.Run(t, "mkfs.exfat", "-c", "4096", img)
	volumetest.Mounted(t, func(dir string) {
		for _, name := range []string{"a", "b and more, so that there are two entries", "c"} {
			volumetest.Put(t, dir, name, 20000)
		}
	}, "mount.exfat-fuse", volumetest.Loop(t, img))
	good := volumetest.Read(t, img)
	const long = "b and more, so that there are two entries"
	sum := func(s []byte) { le.PutUint16(s[2:], exfat.SetSum(s)) }
	for _, c := range []struct {
		name string
		edit func(b []byte)
		want []string
		err  error
	}{
		{"as it was", func([]byte) {}, []string{"a", long, "c"}, nil},
		{"checksum", func(b []byte) { set(t, b, 'b')[70] ^= 1 }, []string{"a", "c"}, volume.ErrDamaged},
		{"deleted", func(b []byte) {
			s := set(t, b, 'b')
			for i := 0; i < len(s); i += 32 {
				s[i] &^= 0x80
			}
		}, []string{"a", "c"}, nil},
		{"a part is missing", func(b []byte) { set(t, b, 'b')[64] = 0x41 }, []string{"a", "c"}, volume.ErrDamaged},
		{"more valid than there is", func(b []byte) { s := set(t, b, 'b'); s[45] = 1; sum(s) }, []string{"a", "c"}, volume.ErrDamaged},
		{"benign entry in a set", func(b []byte) { s := set(t, b, 'b'); s[96+32] = 0xe0; s[35] = 30; sum(s) }, []string{"a", long[:30], "c"}, nil},
		{"critical entry in a set", func(b []byte) { s := set(t, b, 'b'); s[96+32] = 0xc2; s[35] = 30; sum(s) }, []string{"a", "c"}, volume.ErrUnsupported},
		{"half a pair", func(b []byte) { s := set(t, b, 'c'); s[67] = 0xd8; sum(s) }, []string{"a", long}, nil},
		{"benign entry", func(b []byte) { s := set(t, b, 'c'); s[0], s[32], s[64] = 0xa2, 0xe0, 0xe0 }, []string{"a", long}, nil},
		{"critical entry", func(b []byte) { set(t, b, 'c')[0] = 0x86 }, []string{"a", long}, volume.ErrUnsupported},
	} {
		b := bytes.Clone(good)
		c.edit(b)
		v, err := exfat.Open(volume.NewDevice(bytes.NewReader(b), int64(len(b))))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		entries, err := v.ReadDir(".")
		var got []string
		for _, e := range entries {
			got = append(got, e.Name)
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) || !errors.Is(err, c.err) {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	for _, c := range []struct {
		name, note string
		want       error
		edit       func(b []byte)
	}{
		{"mounted", "unmounted", nil, func(b []byte) { b[106] = 2 }},
		{"failed", "errors", nil, func(b []byte) { b[106] = 4 }},
		{"damaged boot sector", "spare", nil, func(b []byte) { b[93] ^= 1 }},
		{"damaged size of a sector", "spare", nil, func(b []byte) { b[108] = 77 }},
		{"both damaged", "", volume.ErrDamaged, func(b []byte) { b[93] ^= 1; b[12*512+93] ^= 1 }},
		{"TexFAT", "", volume.ErrUnsupported, func(b []byte) { b[110] = 2; mend(b) }},
		{"no mark", "", volume.ErrOther, func(b []byte) { b[3] = 0 }},
	} {
		b := bytes.Clone(good)
		c.edit(b)
		v, err := exfat.Open(volume.NewDevice(bytes.NewReader(b), int64(len(b))))
		if !errors.Is(err, c.want) || err == nil && !strings.Contains(v.Info().Note, c.note) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func BenchmarkSequential(b *testing.B) {
	img := volumetest.Image(b, 600<<20)
	volumetest.Run(b, "mkfs.exfat", "-c", "32768", img)
	volumetest.Mounted(b, func(dir string) { volumetest.Put(b, dir, "big", 256<<20) }, "mount.exfat-fuse", volumetest.Loop(b, img))
	volumetest.ReadSequentially(b, volumetest.Open(b, img, exfat.Open), "big", 256<<20)
}
