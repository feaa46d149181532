package recompress_test

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"disksync/internal/recompress"
	"disksync/internal/testkit"
)

// text gives n bytes that look like something that was written: words that repeat, near and far, and some noise.
func text(r *rand.Rand, n int) []byte {
	words := make([]string, 400)
	for i := range words {
		words[i] = strconv.FormatUint(r.Uint64N(1<<(8+i%40)), 36)
	}
	var b []byte
	for len(b) < n {
		switch r.IntN(30) {
		case 0:
			b = binary.LittleEndian.AppendUint64(b, r.Uint64())
		case 1:
			b = append(b, make([]byte, r.IntN(600))...)
		case 2:
			if len(b) > 5000 {
				at := r.IntN(len(b) - 5000)
				b = append(b, b[at:at+r.IntN(5000)]...)
			}
		default:
			b = append(append(b, words[min(r.IntN(400), r.IntN(400))]...), ' ')
		}
	}
	return b[:n]
}

// kit takes apart and puts together, and makes sure that nothing is lost.
type kit struct {
	scanner  recompress.Scanner
	splitter recompress.Splitter
	joiner   recompress.Joiner
}

// split takes b apart. It returns the bytes of which b was made again, nil when it stays as it is, and how many bytes the runs that were
// found unpack to.
func (k *kit) split(t interface{ Fatalf(string, ...any) }, b []byte, follows bool) (split []byte, plain int) {
	runs := k.scanner.Scan(b, follows)
	for _, r := range runs {
		plain += len(r.Plain())
	}
	split, ok := k.splitter.Split([]byte("before"), b, runs)
	if !bytes.HasPrefix(split, []byte("before")) {
		t.Fatalf("what was there before is gone")
	}
	if !ok {
		if len(split) != len("before") {
			t.Fatalf("nothing was taken apart, and something appended")
		}
		return nil, plain
	}
	split = split[len("before"):]
	got := make([]byte, len(b))
	if err := k.joiner.Join(got, split); err != nil || !bytes.Equal(got, b) {
		t.Fatalf("%d bytes do not come back: %v", len(b), err)
	}
	return split, plain
}

// zlib has zlib pack content as it stands behind a header of zlib.
func zlib(t *testing.T, content []byte, level, memory int, strategy string) []byte {
	t.Helper()
	cmd := exec.Command(testkit.Tool(t, "python3"), "-c", `import sys, zlib
c = zlib.compressobj(int(sys.argv[1]), zlib.DEFLATED, 15, int(sys.argv[2]), getattr(zlib, sys.argv[3]))
sys.stdout.buffer.write(c.compress(sys.stdin.buffer.read()) + c.flush())`, strconv.Itoa(level), strconv.Itoa(memory), strategy)
	cmd.Stdin = bytes.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// program is a part of this test's machine code.
func program(t testing.TB, n int) []byte {
	t.Helper()
	name, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b[len(b)/4:][:n]
}

// TestEncoders: what gzip and zlib make at every level is foreseen, but for a token here and there, and takes next to nothing besides what it
// unpacks to.
func TestEncoders(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	contents := map[string][]byte{
		"text": text(r, 200_000), "a program": program(t, 300_000), "zeros": make([]byte, 300_000), "a few bytes": text(r, 900),
	}
	for name, content := range contents {
		for level := 1; level <= 9; level++ {
			t.Run(fmt.Sprintf("%s %d", name, level), func(t *testing.T) {
				var k kit
				for maker, packed := range map[string][]byte{
					"gzip": testkit.Gzip(t, content, level),
					"zlib": zlib(t, content, level, 8, "Z_DEFAULT_STRATEGY"),
				} {
					split, plain := k.split(t, packed, false)
					if plain != len(content) {
						t.Errorf("%s: %d bytes unpack to %d of %d", maker, len(packed), plain, len(content))
					}
					// The rest are headers, and a few bytes for each block.
					if most := len(content) + 100 + len(packed)/400; split == nil || len(split) > most {
						t.Errorf("%s: %d bytes are taken apart into %d, want at most %d", maker, len(packed), len(split), most)
					}
				}
			})
		}
	}
}

// TestOtherEncoders: what others make, or zlib by other rules, is made again exactly or stays as it is.
func TestOtherEncoders(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	content := append(text(r, 300_000), program(t, 300_000)...)
	noise := make([]byte, 200_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	var k kit
	for _, c := range []struct {
		name    string
		packed  []byte
		foresee bool // it pays to take it apart
	}{
		{"tables of another size", zlib(t, content, 9, 9, "Z_DEFAULT_STRATEGY"), true},
		{"small tables", zlib(t, content, 6, 4, "Z_DEFAULT_STRATEGY"), false},
		{"codes of RFC 1951", zlib(t, content, 6, 8, "Z_FIXED"), true},
		{"no matches", zlib(t, content, 6, 8, "Z_HUFFMAN_ONLY"), false},
		{"runs only", zlib(t, content, 6, 8, "Z_RLE"), false},
		{"stored", zlib(t, content, 0, 8, "Z_DEFAULT_STRATEGY"), true},
		{"noise", zlib(t, noise, 6, 8, "Z_DEFAULT_STRATEGY"), true},
		{"noise within", testkit.Gzip(t, bytes.Join([][]byte{content, noise, content}, nil), 6), true},
		{"Go", goZip(t, content), false},
		{"7-Zip", sevenZip(t, content), false},
		{"several", bytes.Join([][]byte{goZip(t, content), testkit.Gzip(t, content, 6), sevenZip(t, content)}, nil), true},
	} {
		split, plain := k.split(t, c.packed, false)
		if plain == 0 {
			t.Errorf("%s: no stream was found", c.name)
		}
		if c.foresee && split == nil {
			t.Errorf("%s: it stays as it is", c.name)
		}
	}
}

func goZip(t *testing.T, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sevenZip(t *testing.T, content []byte) []byte {
	t.Helper()
	in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out.zip")
	if err := os.WriteFile(in, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if msg, err := exec.Command(testkit.Tool(t, "7z"), "a", "-tzip", "-mx=9", out, in).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestHeaders: streams are found behind each kind of header, one behind the other, among other bytes.
func TestHeaders(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	content := text(r, 40_000)
	plain := testkit.Gzip(t, content, 6)
	named := append([]byte{0x1f, 0x8b, 8, 4 | 8 | 16 | 2, 1, 2, 3, 4, 0, 3, 3, 0, 'x', 'y', 'z'}, "a name\x00a comment\x00\x11\x22"...)
	named = append(named, plain[10:]...)
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	stream := plain[10 : len(plain)-8]
	for i := range 3 {
		h := &zip.FileHeader{Name: "a/file" + strconv.Itoa(i), Method: zip.Deflate, CompressedSize64: uint64(len(stream)), UncompressedSize64: uint64(len(content))}
		f, err := w.CreateRaw(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(stream); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		b     []byte
		times int
	}{
		{"gzip", plain, 1},
		{"gzip with all fields", named, 1},
		{"zlib", zlib(t, content, 6, 8, "Z_DEFAULT_STRATEGY"), 1},
		{"zip", archive.Bytes(), 3},
		{"several", bytes.Join([][]byte{text(r, 5000), plain, plain, text(r, 3), archive.Bytes(), named, text(r, 5000)}, nil), 6},
		{"a damaged end", append(bytes.Clone(plain[:len(plain)/2]), bytes.Repeat([]byte{0xff}, 3000)...), 0},
		{"headers of nothing", bytes.Repeat([]byte("\x1f\x8b\x08\x00PK\x03\x04x\x9c"), 5000), 0},
		{"a header at the end", []byte("something before it\x1f\x8b\x08"), 0},
		{"nothing", nil, 0},
	} {
		var k kit
		if _, got := k.split(t, c.b, false); got != c.times*len(content) {
			t.Errorf("%s: what was found unpacks to %d bytes, want %d", c.name, got, c.times*len(content))
		}
	}
}

// TestParts: a stream that goes on from one part to the next is followed, wherever it is cut.
func TestParts(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	content := append(text(r, 60_000), program(t, 150_000)...)
	b := bytes.Join([][]byte{text(r, 7000), testkit.Gzip(t, content, 4), testkit.Gzip(t, content, 6), text(r, 9000)}, nil)
	rapid.Check(t, func(t *rapid.T) {
		var k kit
		covered, parts := 0, 0
		for at := 0; at < len(b); parts++ {
			part := b[at:min(len(b), at+rapid.IntRange(20_000, 80_000).Draw(t, "bytes"))]
			for _, r := range k.scanner.Scan(part, at > 0) {
				covered += (r.End - r.Start) / 8
				split, ok := k.splitter.Split(nil, part, []recompress.Run{r})
				got := make([]byte, len(part))
				if err := k.joiner.Join(got, split); !ok || err != nil || !bytes.Equal(got, part) {
					t.Fatalf("the part at %d does not come back: %v, %v", at, ok, err)
				}
			}
			at += len(part)
		}
		// The block of a stream that is cut stays as it is.
		if most := 16_500 + parts*60_000; len(b)-covered > most {
			t.Fatalf("of %d bytes in %d parts %d were not taken apart, want at most %d", len(b), parts, len(b)-covered, most)
		}
	})
}

// TestPartsThatDoNotFollow: what another part ended in says nothing about a part that is not behind it.
func TestPartsThatDoNotFollow(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	content := text(r, 2_000_000)
	b := testkit.Gzip(t, content, 6)
	var k kit
	if _, plain := k.split(t, b[:len(b)/2], false); plain == 0 {
		t.Fatal("nothing was found in the first part")
	}
	if _, plain := k.split(t, b[len(b)/2:], false); plain != 0 {
		t.Errorf("%d bytes were unpacked without what was before them", plain)
	}
}

// TestDamage: what was damaged gives an error or other bytes, never more or less of them.
func TestDamage(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	b := append(testkit.Gzip(t, text(r, 30_000), 9), zlib(t, text(r, 20_000), 9, 9, "Z_DEFAULT_STRATEGY")...)
	var k kit
	split, _ := k.split(t, b, false)
	if split == nil {
		t.Fatal("it stays as it is")
	}
	dst := make([]byte, len(b))
	for range 800 {
		damaged := bytes.Clone(split)
		damaged[min(r.IntN(len(split)), r.IntN(len(split)), r.IntN(len(split)))] ^= byte(1 + r.IntN(255))
		if err := k.joiner.Join(dst, damaged[:len(damaged)-r.IntN(2)]); err != nil && !errors.Is(err, recompress.ErrCorrupt) {
			t.Fatal(err)
		}
	}
	for _, n := range []int{len(b) - 1, len(b) + 1, 0} {
		if err := k.joiner.Join(make([]byte, n), split); !errors.Is(err, recompress.ErrCorrupt) {
			t.Errorf("%d bytes instead of %d: %v", n, len(b), err)
		}
	}
	for n := range 200 {
		if err := k.joiner.Join(dst, split[:n]); !errors.Is(err, recompress.ErrCorrupt) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
}

func FuzzJoin(f *testing.F) {
	r := rand.New(rand.NewPCG(13, 14))
	content := text(r, 2000)
	var w bytes.Buffer
	z, err := flate.NewWriter(&w, flate.HuffmanOnly)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := z.Write(content); err != nil {
		f.Fatal(err)
	}
	if err := z.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{1, 0, 0, 0, 0, 6, 0, 3, 1, 1, 3, 0, 'a', 'b', 'c'}, uint16(8))
	f.Add([]byte{1, 0, 0, 0, 0, 9, 0, 5, 1, 5, 2, 1, 2, 0, 'c', 'a', 'b', 'c', 'a', 'b'}, uint16(30))
	f.Add(w.Bytes(), uint16(100))
	var j recompress.Joiner
	f.Fuzz(func(t *testing.T, split []byte, n uint16) {
		buf := make([]byte, int(n)+8)
		err := j.Join(buf[:n:n], split)
		if err != nil && !errors.Is(err, recompress.ErrCorrupt) {
			t.Fatal(err)
		}
		if !bytes.Equal(buf[n:], make([]byte, 8)) {
			t.Fatal("it wrote where it must not")
		}
	})
}

func FuzzScan(f *testing.F) {
	r := rand.New(rand.NewPCG(15, 16))
	f.Add(append([]byte("x\x9c"), text(r, 100)...), uint16(50))
	f.Add([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b\x4c\x4a\x4e\x49\x4d\x4b\x4c\x4a\x4e\x49\x4d\x03\x00"), uint16(20))
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		var k kit
		n := min(int(cut), len(b))
		k.split(t, b[:n], false)
		k.split(t, b[n:], true)
	})
}

// BenchmarkSplit takes a gzip file of text apart, in bytes of what it unpacks to.
func BenchmarkSplit(b *testing.B) { bench(b, false) }

// BenchmarkJoin puts it together again.
func BenchmarkJoin(b *testing.B) { bench(b, true) }

func bench(b *testing.B, join bool) {
	r := rand.New(rand.NewPCG(17, 18))
	content := text(r, 4<<20)
	packed := testkit.Gzip(b, content, 9)
	var k kit
	split, _ := k.split(b, packed, false)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if !join {
			k.split(b, packed, false)
		} else if err := k.joiner.Join(packed, split); err != nil {
			b.Fatal(err)
		}
	}
}
