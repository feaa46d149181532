package iso9660_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"disksync/internal/testkit"
	"disksync/volume"
	"disksync/volume/iso9660"
	"disksync/volume/volumetest"
)

func inMemory(b []byte) *volume.Device { return volume.NewDevice(bytes.NewReader(b), int64(len(b))) }

// few is a source of little size.
func few(t testing.TB, content string) string {
	t.Helper()
	dir := t.TempDir()
	for name, size := range map[string]int{"alpha.bin": 4096, "beta.bin": 3000, "empty.bin": 0, "dir/medium.bin": 5000, "dir/sub/large.bin": 90_000} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, bytes.Repeat([]byte(content), size)[:size], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// small makes an image of few files with the options of genisoimage.
func small(t testing.TB, content string, options ...string) []byte {
	t.Helper()
	img := filepath.Join(t.TempDir(), "disc.iso")
	volumetest.Run(t, "genisoimage", append(options, "-quiet", "-input-charset", "utf-8", "-o", img, few(t, content))...)
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// recordOf finds the record of a plain name.
func recordOf(t testing.TB, img []byte, id string) []byte {
	t.Helper()
	k := bytes.Index(img, append([]byte{byte(len(id))}, id...))
	if k < 0 {
		t.Fatalf("no record of %s", id)
	}
	at := k - 32
	return img[at : at+int(img[at])]
}

func put32(p []byte, n uint32) {
	binary.LittleEndian.PutUint32(p, n)
	binary.BigEndian.PutUint32(p[4:], n)
}

func names(t *testing.T, v volume.Tree, dir string) (string, error) {
	t.Helper()
	list, err := v.ReadDir(dir)
	var out []string
	for _, e := range list {
		s := e.Name
		if e.Dir {
			s += "/"
		} else {
			s = fmt.Sprint(s, " ", e.Size)
		}
		out = append(out, s)
	}
	return strings.Join(out, ", "), err
}

// TestPlain: without other names those of ISO 9660 are given, without version; what a record says against itself is told.
func TestPlain(t *testing.T) {
	t.Parallel()
	img := small(t, "content ")
	const all = "ALPHA.BIN 4096, BETA.BIN 3000, DIR/, EMPTY.BIN 0"
	for name, c := range map[string]struct {
		change func(b, alpha []byte)
		list   string
		listed error
		opened error
	}{
		"as it is":            {func(_, _ []byte) {}, all, nil, nil},
		"place contradicted":  {func(_, r []byte) { r[9] ^= 1 }, "BETA.BIN 3000, DIR/, EMPTY.BIN 0", volume.ErrDamaged, volume.ErrDamaged},
		"size contradicted":   {func(_, r []byte) { r[10] ^= 1 }, "BETA.BIN 3000, DIR/, EMPTY.BIN 0", volume.ErrDamaged, volume.ErrDamaged},
		"interleaved":         {func(_, r []byte) { r[26], r[27] = 1, 1 }, all, nil, volume.ErrUnsupported},
		"on another disc":     {func(_, r []byte) { r[28], r[31] = 2, 2 }, all, nil, volume.ErrUnsupported},
		"associated":          {func(_, r []byte) { r[25] = 4 }, "BETA.BIN 3000, DIR/, EMPTY.BIN 0", nil, fs.ErrNotExist},
		"hidden":              {func(_, r []byte) { r[25] = 1 }, all, nil, nil},
		"beyond the disc":     {func(_, r []byte) { put32(r[2:], 1<<30) }, all, nil, nil},
		"attributes first":    {func(_, r []byte) { put32(r[2:], binary.LittleEndian.Uint32(r[2:])-1); r[1] = 1 }, all, nil, nil},
		"pieces without end":  {func(_, r []byte) { r[25] = 0x80 }, "BETA.BIN 3000, DIR/, EMPTY.BIN 0", volume.ErrDamaged, volume.ErrDamaged},
		"name with a slash":   {func(_, r []byte) { r[34] = '/' }, "BETA.BIN 3000, DIR/, EMPTY.BIN 0", nil, fs.ErrNotExist},
		"record without name": {func(_, r []byte) { r[32] = 0 }, "BETA.BIN 3000, DIR/, EMPTY.BIN 0", volume.ErrDamaged, volume.ErrDamaged},
	} {
		b := bytes.Clone(img)
		r := recordOf(t, b, "ALPHA.BIN;1")
		c.change(b, r)
		v, err := iso9660.Open(inMemory(b))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := names(t, v, "."); got != c.list || !errors.Is(err, c.listed) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
		f, err := v.Open("ALPHA.BIN")
		if !errors.Is(err, c.opened) {
			t.Errorf("%s: open: %v", name, err)
		}
		if err != nil {
			continue
		}
		got := make([]byte, 4096)
		_, err = f.ReadAt(got, 0)
		switch {
		case name == "beyond the disc":
			if !errors.Is(err, volume.ErrDamaged) {
				t.Errorf("%s: read: %v", name, err)
			}
		case !bytes.Equal(got, bytes.Repeat([]byte("content "), 512)):
			t.Errorf("%s: other content, %v", name, err)
		}
	}
}

// TestPieces: a file in several pieces is one file, also over 4 GiB, and when its pieces do not touch.
func TestPieces(t *testing.T) {
	t.Parallel()
	img := small(t, "content ")
	alpha, beta := recordOf(t, img, "ALPHA.BIN;1"), recordOf(t, img, "BETA.BIN;1")
	gap := len(alpha) - len(beta)
	// The name of beta gets the length of that of alpha: its record moves by that, and what comes behind it as well.
	at := bytes.Index(img, beta)
	end := at + 1024
	copy(img[at+len(alpha):end], bytes.Clone(img[at+len(beta):end-gap]))
	second := img[at : at+len(alpha)]
	copy(second[32:], alpha[32:])
	second[0] = alpha[0]
	alpha[25] = 0x80
	const big, tail = 0xfffff800, 300_000_000
	start := int64(len(img)+2047) / 2048
	put32(alpha[2:], uint32(start))
	put32(alpha[10:], big)
	put32(second[2:], uint32(start+big/2048+7))
	put32(second[10:], tail)
	f, err := os.Create(filepath.Join(t.TempDir(), "disc.iso"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mark := []byte("here is a mark")
	ends := []int64{start * 2048, start*2048 + big - 14, start*2048 + big + 7*2048, start*2048 + big + 7*2048 + tail - 14}
	for _, at := range ends {
		if _, err := f.WriteAt(mark, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteAt(img, 0); err != nil {
		t.Fatal(err)
	}
	v := open(t, f.Name())
	if got, err := names(t, v, "."); got != fmt.Sprintf("ALPHA.BIN %d, DIR/, EMPTY.BIN 0", int64(big+tail)) || err != nil {
		t.Fatalf("%s, %v", got, err)
	}
	file, err := v.Open("ALPHA.BIN")
	if err != nil {
		t.Fatal(err)
	}
	for i, off := range []int64{0, big - 14, big, big + tail - 14} {
		got := make([]byte, 14)
		if _, err := file.ReadAt(got, off); err != nil || !bytes.Equal(got, mark) || file.Place(off) != ends[i] {
			t.Errorf("at %d: %q, %v, place %d", off, got, err, file.Place(off))
		}
	}
	put32(alpha[10:], big-1)
	v, err = iso9660.Open(inMemory(img))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Open("ALPHA.BIN"); !errors.Is(err, volume.ErrDamaged) {
		t.Errorf("a piece that does not fill its blocks: %v", err)
	}
}

// TestHuge: what xorriso makes of a file of more than 4 GiB. It takes its time for one, so that is for DISKSYNC_SOAK=1.
func TestHuge(t *testing.T) {
	t.Parallel()
	if os.Getenv("DISKSYNC_SOAK") == "" {
		t.Skip("only with DISKSYNC_SOAK=1")
	}
	src := t.TempDir()
	f, err := os.Create(filepath.Join(src, "huge.vhd"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{0, 1 << 32, 1<<32 + 12_345} {
		if _, err := f.WriteAt([]byte("mark"), at); err != nil {
			t.Fatal(err)
		}
	}
	img := filepath.Join(t.TempDir(), "disc.iso")
	volumetest.Run(t, "xorriso", "-as", "mkisofs", "-quiet", "-iso-level", "3", "-R", "-J", "-o", img, src)
	volumetest.Compare(t, open(t, img), src)
}

// TestOther: what is no ISO 9660 is not taken for it.
func TestOther(t *testing.T) {
	t.Parallel()
	img := small(t, "content ")
	for name, b := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 1<<20), "short": img[:33000], "later": img[2048:]} {
		if _, err := iso9660.Open(inMemory(b)); !errors.Is(err, volume.ErrOther) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := iso9660.Open(inMemory(img[:40<<10])); err == nil {
		t.Error("a disc that is cut off before its root folder is opened")
	}
}

// TestBestNames: Rock Ridge comes before Joliet, that before plain names; where the better one is damaged, the next one is read.
func TestBestNames(t *testing.T) {
	t.Parallel()
	src := few(t, "content ")
	img := small(t, "content ", "-R", "-J")
	v, err := iso9660.Open(inMemory(img))
	if err != nil {
		t.Fatal(err)
	}
	volumetest.Compare(t, v, src)
	without := bytes.ReplaceAll(img, []byte("RRIP_1991A"), []byte("XXXX_XXXXX"))
	without = bytes.ReplaceAll(without, []byte("SP\x07\x01\xbe\xef"), []byte("XX\x07\x01\xbe\xef"))
	if v, err = iso9660.Open(inMemory(without)); err != nil {
		t.Fatal(err)
	}
	volumetest.Compare(t, v, src) // Joliet
	plain := bytes.ReplaceAll(without, []byte("%/E"), []byte("%/X"))
	if v, err = iso9660.Open(inMemory(plain)); err != nil {
		t.Fatal(err)
	}
	if got, err := names(t, v, "."); got != "ALPHA.BIN 4096, BETA.BIN 3000, DIR/, EMPTY.BIN 0" || err != nil {
		t.Errorf("plain: %s, %v", got, err)
	}
	root := int64(binary.LittleEndian.Uint32(img[16*2048+158:])) * 2048
	gone := bytes.Clone(img)
	clear(gone[16*2048+156:][:34])
	if _, err = iso9660.Open(inMemory(gone)); err == nil {
		t.Error("opened without a root folder")
	}
	gone = bytes.Clone(img)
	gone[root+9] ^= 1
	if v, err = iso9660.Open(inMemory(gone)); err != nil {
		t.Fatal(err)
	}
	volumetest.Compare(t, v, src)
}

// TestPacked: files that are stored packed are told, not given as they lie there.
func TestPacked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src, packed := few(t, "content "), filepath.Join(dir, "packed")
	volumetest.Run(t, "mkzftree", src, packed)
	img := filepath.Join(dir, "disc.iso")
	volumetest.Run(t, "genisoimage", "-quiet", "-R", "-z", "-o", img, packed)
	v := open(t, img)
	if got, err := names(t, v, "dir/sub"); got != "large.bin 90000" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := v.Open("dir/sub/large.bin"); !errors.Is(err, volume.ErrUnsupported) {
		t.Error(err)
	}
}

// scratched is a device on which some bytes cannot be read.
type scratched struct {
	*bytes.Reader
	from, to int64
}

var errScratch = errors.New("scratch")

func (s scratched) ReadAt(p []byte, off int64) (int, error) {
	if off < s.to && off+int64(len(p)) > s.from {
		return 0, errScratch
	}
	return s.Reader.ReadAt(p, off)
}

// TestScratch: a sector that cannot be read costs the names that lie in it, and its error is the device's.
func TestScratch(t *testing.T) {
	t.Parallel()
	src, img := t.TempDir(), filepath.Join(t.TempDir(), "disc.iso")
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprintf("file%03d", i)), []byte("content"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	volumetest.Run(t, "genisoimage", "-quiet", "-o", img, src)
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	at := int64(bytes.Index(b, []byte("FILE150")))
	v, err := iso9660.Open(volume.NewDevice(scratched{bytes.NewReader(b), at, at + 1}, int64(len(b))))
	if err != nil {
		t.Fatal(err)
	}
	list, err := v.ReadDir(".")
	if !errors.Is(err, errScratch) || len(list) >= 300 || len(list) < 300-50 {
		t.Errorf("%d names, %v", len(list), err)
	}
}

// TestMutate: damage anywhere is an error or other content, never a panic, a hang, or much memory.
func TestMutate(t *testing.T) {
	t.Parallel()
	for _, img := range seeds(t) {
		volumetest.Mutate(t, img, 0, 700, iso9660.Open)
	}
}

// seeds are small images of all kinds, with zeros in the files, so that damage hits what is around them.
func seeds(t testing.TB) [][]byte {
	t.Helper()
	deep := filepath.Join(t.TempDir(), "deep.iso")
	src := few(t, "\x00")
	long := filepath.Join(src, strings.Repeat("long name ", 20), "1", "2", "3", "4", "5", "6", "7", "8", "9")
	if err := os.MkdirAll(long, 0o755); err != nil {
		t.Fatal(err)
	}
	volumetest.Run(t, "genisoimage", "-quiet", "-R", "-o", deep, src)
	b, err := os.ReadFile(deep)
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{small(t, "\x00"), small(t, "\x00", "-J"), b}
}

func FuzzOpen(f *testing.F) {
	for _, img := range seeds(f) {
		f.Add(img)
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = volumetest.Exhaust(inMemory(b), iso9660.Open)
	})
}

// BenchmarkSequential reads a file of 256 MiB in calls of 1 MiB, from memory.
func BenchmarkSequential(b *testing.B) {
	const size = 256 << 20
	src := b.TempDir()
	if err := os.WriteFile(filepath.Join(src, "file"), bytes.Repeat([]byte("0123456789abcdef"), size/16), 0o644); err != nil {
		b.Fatal(err)
	}
	img, err := exec.Command(testkit.Tool(b, "genisoimage"), "-quiet", "-R", src).Output()
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	b.SetBytes(size)
	for b.Loop() {
		v, err := iso9660.Open(inMemory(img))
		if err != nil {
			b.Fatal(err)
		}
		f, err := v.Open("file")
		if err != nil {
			b.Fatal(err)
		}
		for off := int64(0); off < f.Size(); off += int64(len(buf)) {
			if _, err := f.ReadAt(buf, off); err != nil && err != io.EOF {
				b.Fatal(err)
			}
		}
	}
}
