package fat_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"disksync/volume"
	"disksync/volume/fat"
	"disksync/volume/volumetest"
)

var le = binary.LittleEndian

// made returns a volume made by mkfs.fat with args, with files in its root folder.
func made(t testing.TB, size int64, args string, files map[string]string) string {
	t.Helper()
	img, src := volumetest.Image(t, size), t.TempDir()
	volumetest.Run(t, "mkfs.fat", append(strings.Fields(args), img)...)
	for name, content := range files {
		if err := os.WriteFile(src+"/"+name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, img, src)
	return img
}

// entry returns where the entry of a short name is, given with its spaces.
func entry(t testing.TB, b []byte, short string) int {
	t.Helper()
	at := bytes.Index(b, []byte(short))
	if at < 0 || at%32 != 0 {
		t.Fatalf("%q is at %d", short, at)
	}
	return at
}

// openBytes opens a volume in memory.
func openBytes(t testing.TB, b []byte) volume.Volume {
	t.Helper()
	v, err := fat.Open(volume.NewDevice(bytes.NewReader(b), int64(len(b))))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// content reads all of a file.
func content(v volume.Tree, name string) (string, error) {
	f, err := v.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, f.Size())
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return string(b), nil
}

func names(t testing.TB, v volume.Tree) []string {
	t.Helper()
	entries, err := v.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name)
	}
	slices.Sort(out)
	return out
}

// TestChains: a file has exactly the clusters that its size needs, or it is refused.
func TestChains(t *testing.T) {
	t.Parallel()
	const size = 5 * 512
	text := strings.Repeat("0123456789abcdef", size/16)
	good := volumetest.Read(t, made(t, 34_000<<10, "-F 32 -s 1", map[string]string{"FILE": text, "OTHER": "x"}))
	boot, err := fat.ParseBoot(good[:512])
	if err != nil {
		t.Fatal(err)
	}
	at := entry(t, good, "FILE       ")
	first := int(le.Uint16(good[at+26:]))
	link := func(b []byte, c int) []byte { return b[int(boot.FATAt)+4*c:] }
	for _, c := range []struct {
		name string
		edit func(b []byte)
		ok   bool
	}{
		{"as it was", func([]byte) {}, true},
		{"reserved bits", func(b []byte) { link(b, first)[3] |= 0xa0 }, true},
		{"other end", func(b []byte) { le.PutUint32(link(b, first+4), 0x0ffffff8) }, true},
		{"too short", func(b []byte) { le.PutUint32(link(b, first+3), 0x0fffffff) }, false},
		{"too long", func(b []byte) { le.PutUint32(link(b, first+4), uint32(first+20)) }, false},
		{"circle", func(b []byte) { le.PutUint32(link(b, first+2), uint32(first)) }, false},
		{"free", func(b []byte) { le.PutUint32(link(b, first+2), 0) }, false},
		{"bad cluster", func(b []byte) { le.PutUint32(link(b, first+2), 0x0ffffff7) }, false},
		{"outside", func(b []byte) { le.PutUint32(link(b, first+2), 0x0ffffff0) }, false},
		{"no cluster", func(b []byte) { clear(b[at+20 : at+22]); clear(b[at+26 : at+28]) }, false},
		{"size too large", func(b []byte) { le.PutUint32(b[at+28:], size+1) }, false},
		{"size too small", func(b []byte) { le.PutUint32(b[at+28:], 4*512) }, false},
	} {
		b := bytes.Clone(good)
		c.edit(b)
		v := openBytes(t, b)
		if got, err := content(v, "FILE"); c.ok && (err != nil || got != text) || !c.ok && !errors.Is(err, volume.ErrDamaged) {
			t.Errorf("%s: %d bytes, %v", c.name, len(got), err)
		}
		if got, err := content(v, "OTHER"); got != "x" {
			t.Errorf("%s: another file: %v", c.name, err)
		}
	}
}

// TestNames: short names without long ones, and long ones that do not belong to the short one behind them.
func TestNames(t *testing.T) {
	t.Parallel()
	good := volumetest.Read(t, made(t, 720<<10, "-F 12", map[string]string{
		"AAAAAAAA.TXT": "short", "bbbbbbbbb": "long", "ccccccccc and planes XY name": "planes",
	}))
	for _, c := range []struct {
		name string
		edit func(b []byte)
		want []string
	}{
		{"as it was", func([]byte) {}, []string{"AAAAAAAA.TXT", "bbbbbbbbb", "ccccccccc and planes XY name"}},
		{"small letters", func(b []byte) { b[entry(t, b, "AAAAAAAATXT")+12] = 0x18 }, []string{"aaaaaaaa.txt", "bbbbbbbbb", "ccccccccc and planes XY name"}},
		{"code page", func(b []byte) { copy(b[entry(t, b, "AAAAAAAATXT"):], "\x05\x8e\x99\x9a\xe1   \xff X") }, []string{"bbbbbbbbb", "ccccccccc and planes XY name", "σÄÖÜß.\u00a0 X"}},
		{"another short name", func(b []byte) { b[entry(t, b, "BBBBBB~1   ")] = 'X' }, []string{"AAAAAAAA.TXT", "XBBBBB~1", "ccccccccc and planes XY name"}},
		{"order", func(b []byte) { b[entry(t, b, "CCCCCC~1   ")-32] = 2 }, []string{"AAAAAAAA.TXT", "CCCCCC~1", "bbbbbbbbb"}},
		{"half a pair", func(b []byte) { copy(b[bytes.Index(b, []byte("X\x00Y\x00")):], "\x3e\xd8") }, []string{"AAAAAAAA.TXT", "CCCCCC~1", "bbbbbbbbb"}},
		{"beyond the first plane", func(b []byte) { copy(b[bytes.Index(b, []byte("X\x00Y\x00")):], "\x3e\xd8\x80\xdd") },
			[]string{"AAAAAAAA.TXT", "bbbbbbbbb", "ccccccccc and planes 🦀 name"}},
		{"deleted", func(b []byte) { b[entry(t, b, "AAAAAAAATXT")] = 0xe5 }, []string{"bbbbbbbbb", "ccccccccc and planes XY name"}},
		{"control letter", func(b []byte) { b[entry(t, b, "AAAAAAAATXT")+1] = '\n' }, []string{"bbbbbbbbb", "ccccccccc and planes XY name"}},
	} {
		b := bytes.Clone(good)
		c.edit(b)
		if got := names(t, openBytes(t, b)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// failing is a disk that cannot be read in places.
type failing struct {
	b        []byte
	from, to int64
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off < f.to && off+int64(len(p)) > f.from {
		return 0, syscall.EIO
	}
	return bytes.NewReader(f.b).ReadAt(p, off)
}

// TestUnreadable: a FAT that cannot be read is no loss while there is another, and an error of the device without.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		ok   bool
	}{{"-F 16", true}, {"-F 16 -f 1", false}} {
		b := volumetest.Read(t, made(t, 10<<20, c.args, map[string]string{"FILE": "text"}))
		boot, err := fat.ParseBoot(b[:512])
		if err != nil {
			t.Fatal(err)
		}
		v, err := fat.Open(volume.NewDevice(failing{b, boot.FATAt, boot.FATAt + boot.FATBytes}, int64(len(b))))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := content(v, "FILE"); c.ok && got != "text" || !c.ok && !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %q, %v", c.args, got, err)
		}
		v, err = fat.Open(volume.NewDevice(failing{b, boot.DataAt, boot.Size}, int64(len(b))))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := content(v, "FILE"); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: what is in a file cannot be read: %v", c.args, err)
		}
	}
}

// TestNotes: what is doubtful is said, and what is no FAT is told from what is damaged.
func TestNotes(t *testing.T) {
	t.Parallel()
	good := volumetest.Read(t, made(t, 34_000<<10, "-F 32 -s 1", map[string]string{"FILE": "text"}))
	for _, c := range []struct {
		name, note string
		edit       func(b []byte)
	}{
		{"good", "", func([]byte) {}},
		{"mounted", "unmounted", func(b []byte) { b[65] = 1 }},
		{"mounted by others", "unmounted", func(b []byte) { b[32*512+7] &^= 0x08 }},
		{"errors", "errors", func(b []byte) { b[65] = 2 }},
		{"larger", "smaller", func(b []byte) { b[34] *= 4 }},
	} {
		b := bytes.Clone(good)
		c.edit(b)
		v := openBytes(t, b)
		if note := v.Info().Note; !strings.Contains(note, c.note) || (note == "") != (c.note == "") {
			t.Errorf("%s: %q", c.name, note)
		}
		if got, err := content(v, "FILE"); got != "text" {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, c := range []struct {
		name string
		want error
		edit func(b []byte)
	}{
		{"no mark", volume.ErrOther, func(b []byte) { b[510] = 0 }},
		{"no FAT", volume.ErrDamaged, func(b []byte) { clear(b[36:40]) }},
		{"no FAT, no name", volume.ErrOther, func(b []byte) { clear(b[36:40]); clear(b[82:90]) }},
		{"empty", volume.ErrOther, func(b []byte) { clear(b) }},
	} {
		b := bytes.Clone(good)
		c.edit(b)
		if _, err := fat.Open(volume.NewDevice(bytes.NewReader(b), int64(len(b)))); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := fat.Open(volume.NewDevice(bytes.NewReader(nil), 0)); !errors.Is(err, volume.ErrOther) {
		t.Error(err)
	}
}

// largest makes a volume with the largest file that there can be, in pieces of so many clusters of 4 KiB; each two are swapped.
func largest(t testing.TB, piece int) (img string, dataAt int64) {
	t.Helper()
	const links = 1 << 20
	img = made(t, 4400<<20, "-F 32 -s 8", map[string]string{"BIG": "x"})
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 16<<20)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	boot, err := fat.ParseBoot(head[:512])
	if err != nil {
		t.Fatal(err)
	}
	at := entry(t, head, "BIG        ")
	le.PutUint32(head[at+28:], 1<<32-1)
	const from = 100
	cluster := func(i int) int {
		if i >= links/piece/2*2*piece {
			return from + i
		}
		return from + (i/piece^1)*piece + i%piece
	}
	le.PutUint16(head[at+26:], uint16(cluster(0)))
	for n := range boot.FATs {
		table := head[boot.FATAt+n*boot.FATBytes:]
		clear(table[4*3 : 4*4])
		for i := range links {
			next := uint32(0x0fffffff)
			if i+1 < links {
				next = uint32(cluster(i + 1))
			}
			le.PutUint32(table[4*cluster(i):], next)
		}
	}
	if _, err := f.WriteAt(head, 0); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < links; i += 10_007 {
		if _, err := f.WriteAt(le.AppendUint32(nil, uint32(i)), boot.DataAt+int64(cluster(i)-2)*4096); err != nil {
			t.Fatal(err)
		}
	}
	return img, boot.DataAt
}

// shown writes the clusters of the largest file as mshowfat does.
func shown(f volume.File, dataAt int64) string {
	var out []string
	first, last := int64(-1), int64(-1)
	end := func() {
		if first == last {
			out = append(out, fmt.Sprintf("<%d>", first))
		} else {
			out = append(out, fmt.Sprintf("<%d-%d>", first, last))
		}
	}
	for off := int64(0); off < f.Size(); off += 4096 {
		c := (f.Place(off)-dataAt)/4096 + 2
		if c != last+1 && off > 0 {
			end()
		}
		if c != last+1 || off == 0 {
			first = c
		}
		last = c
	}
	end()
	return strings.Join(out, " ")
}

// counter counts how often a file is read.
type counter struct {
	file  *os.File
	reads int
}

func (c *counter) ReadAt(p []byte, off int64) (int, error) {
	c.reads++
	return c.file.ReadAt(p, off)
}

// TestLargest: the largest file opens with each part of the FAT read once, in one piece or in many, and its bytes are where they should be.
func TestLargest(t *testing.T) {
	for _, piece := range []int{1 << 20, 1000, 4} {
		img, dataAt := largest(t, piece)
		file, err := os.Open(img)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		disk := &counter{file: file}
		v, err := fat.Open(volume.NewDevice(disk, 4400<<20))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		f, err := v.Open("BIG")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("pieces of %d: %v to open", piece, time.Since(start))
		if most := 4<<20/fat.TablePiece + 10; disk.reads > most {
			t.Errorf("pieces of %d: the device was read %d times to open it, want %d", piece, disk.reads, most)
		}
		if want := strings.Join(strings.Fields(volumetest.Run(t, "mshowfat", "-i", img, "::BIG")), " "); want != "::/BIG "+shown(f, dataAt) {
			t.Errorf("pieces of %d: mshowfat sees %.200s, here are %.200s", piece, want, shown(f, dataAt))
		}
		b := make([]byte, 4)
		for i := 0; i < 1<<20; i += 10_007 {
			if _, err := f.ReadAt(b, int64(i)*4096); err != nil || le.Uint32(b) != uint32(i) {
				t.Fatalf("cluster %d: %x, %v", i, b, err)
			}
		}
		if n, err := f.ReadAt(b, 1<<32-3); n != 2 || !errors.Is(err, io.EOF) {
			t.Errorf("the end: %d, %v", n, err)
		}
	}
}

// TestPieces: a file that mtools put into the holes that others left.
func TestPieces(t *testing.T) {
	t.Parallel()
	img := volumetest.Image(t, 20<<20)
	volumetest.Run(t, "mkfs.fat", "-F", "16", "-s", "1", img)
	pieces(t, img, 3_000_000)
	back := t.TempDir() + "/pieces"
	volumetest.Run(t, "mcopy", "-i", img, "::pieces", back)
	got, err := content(volumetest.Open(t, img, fat.Open), "pieces")
	if err != nil || got != string(volumetest.Read(t, back)) || len(got) != 3_000_000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func BenchmarkSequential(b *testing.B) {
	for _, c := range []struct {
		name  string
		piece int
	}{{"one piece", 1 << 20}, {"pieces of 4 MB", 1000}, {"pieces of 16 KiB", 4}} {
		b.Run(c.name, func(b *testing.B) {
			img, _ := largest(b, c.piece)
			volumetest.ReadSequentially(b, volumetest.Open(b, img, fat.Open), "BIG", 256<<20)
		})
	}
}
