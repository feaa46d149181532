package lzma_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"disksync/internal/lzma"
	"disksync/internal/testkit"
)

// pack packs content against dict and makes sure that it unpacks.
func pack(t interface{ Fatalf(string, ...any) }, dict, content []byte, skip int) []byte {
	var e lzma.Encoder
	buf := append(bytes.Clone(dict), content...)
	packed := e.Encode([]byte("before"), buf, len(dict), skip)
	if !bytes.HasPrefix(packed, []byte("before")) {
		t.Fatalf("what was there before is gone")
	}
	packed = packed[len("before"):]
	got := append(bytes.Clone(dict), make([]byte, len(content))...)
	var d lzma.Decoder
	if err := d.Decode(got, len(dict), packed); err != nil || !bytes.Equal(got, buf) {
		t.Fatalf("%d bytes with a dictionary of %d do not come back: %v", len(content), len(dict), err)
	}
	return packed
}

// text gives n bytes that look like something that was written: words that repeat, numbers, some noise.
func text(r *rand.Rand, n int) []byte {
	words := make([][]byte, 300)
	for i := range words {
		words[i] = make([]byte, 1+r.IntN(12))
		for k := range words[i] {
			words[i][k] = byte('a' + r.IntN(26))
		}
	}
	var b []byte
	for len(b) < n {
		switch r.IntN(20) {
		case 0:
			b = strconv.AppendUint(b, r.Uint64(), 10)
		case 1:
			b = append(b, make([]byte, r.IntN(400))...)
		case 2:
			b = append(b, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()))
		default:
			b = append(append(b, words[min(r.IntN(300), r.IntN(300))]...), ' ')
		}
	}
	return b[:n]
}

// edited gives content of which some was changed, moved and put in.
func edited(r *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	for range 20 {
		i, j := r.IntN(len(b)), r.IntN(len(b))
		switch r.IntN(3) {
		case 0:
			b[i] ^= byte(1 + r.IntN(255))
		case 1:
			copy(b[i:], b[j:min(len(b), j+1000)])
		default:
			b = append(b[:i:i], append(text(r, 50), b[i:]...)...)
		}
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 100000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	old := text(r, 300000)
	for _, c := range []struct {
		name          string
		dict, content []byte
		skip, most    int // the most that it may take
	}{
		{"one byte", nil, []byte{7}, 0, 8},
		{"zeros", nil, make([]byte, 1<<20), 0, 400},
		{"noise", nil, noise, 0, len(noise) + len(noise)/40},
		{"text", nil, old, 0, len(old) / 2},
		{"the dictionary itself", noise, noise, 0, 200},
		{"a dictionary that is not looked at", noise, noise, len(noise), len(noise) + len(noise)/40},
		{"an edited dictionary", old, edited(r, old), 0, 6000},
	} {
		t.Run(c.name, func(t *testing.T) {
			if n := len(pack(t, c.dict, c.content, c.skip)); n > c.most {
				t.Errorf("%d bytes take %d, want at most %d", len(c.content), n, c.most)
			}
		})
	}
}

func TestRoundTripProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.Custom(func(t *rapid.T) []byte {
			p := rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "part")
			return bytes.Repeat(p, rapid.IntRange(1, 60).Draw(t, "times"))
		})
		join := func(name string, least int) []byte {
			return bytes.Join(rapid.SliceOfN(part, least, 8).Draw(t, name), nil)
		}
		dict, content := join("dict", 0), join("content", 1)
		pack(t, dict, content, rapid.IntRange(0, len(dict)).Draw(t, "skip"))
	})
}

// steps draws content that makes the parse take every kind of step: matches at each of the last distances and after an odd byte, of
// the lengths around every limit, at both edges of the dictionary, runs, and ends of the window.
func steps(t *rapid.T, dict []byte) []byte {
	limits := []int{15, 16, 17, 18, 39, 40, 41, 272, 273, 274, 546, 547, 2047, 2048, 2049, 4200}
	lens := rapid.OneOf(rapid.IntRange(1, 12), rapid.SampledFrom(limits))
	buf := bytes.Clone(dict)
	dists := []int{1, 2, 3, 4}
	for range rapid.IntRange(1, 30).Draw(t, "steps") {
		n := lens.Draw(t, "length")
		kind := rapid.IntRange(0, 4).Draw(t, "kind")
		dist := dists[rapid.IntRange(0, 3).Draw(t, "last")]
		switch {
		case kind == 0 || len(buf) == 0:
			seed := rapid.Uint64().Draw(t, "noise")
			r := rand.New(rand.NewPCG(seed, 0))
			for range min(n, 300) {
				buf = append(buf, byte(r.Uint32()))
			}
			continue
		case kind == 1:
			dist = rapid.OneOf(rapid.IntRange(1, len(buf)), rapid.SampledFrom([]int{1, len(buf), max(1, len(buf)-1)})).Draw(t, "distance")
			dists = append([]int{dist}, dists[:3]...)
		case kind == 2:
			buf = append(buf, byte(n))
		}
		dist = min(dist, len(buf))
		for range n {
			buf = append(buf, buf[len(buf)-dist])
		}
	}
	return buf[len(dict):]
}

// TestSteps: whatever the steps, and whatever was packed before by the same encoder, the bytes come back and packing them again
// gives the same.
func TestSteps(t *testing.T) {
	var used lzma.Encoder
	rapid.Check(t, func(t *rapid.T) {
		dict := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "dict")
		dict = bytes.Repeat(dict, rapid.IntRange(0, 20).Draw(t, "times"))
		content := steps(t, dict)
		if len(content) == 0 {
			return
		}
		skip := rapid.SampledFrom([]int{0, len(dict) / 2, len(dict)}).Draw(t, "skip")
		packed := pack(t, dict, content, skip)
		if again := used.Encode(nil, append(bytes.Clone(dict), content...), len(dict), skip); !bytes.Equal(packed, again) {
			t.Fatalf("the same bytes are packed to %d and then to %d others", len(packed), len(again))
		}
	})
}

// TestShort has every length at which a table ends, and a dictionary of every length beside it.
func TestShort(t *testing.T) {
	all := bytes.Repeat([]byte("abcdabceabcdf"), 5)
	for dict := range 30 {
		for n := 1; n < 30; n++ {
			for _, skip := range []int{0, dict} {
				pack(t, all[:dict], all[dict:dict+n], skip)
			}
		}
	}
}

// TestCheapestWay: where the longest match is not the best choice, the better one is made.
func TestCheapestWay(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	old := make([]byte, 200000)
	for i := range old {
		old[i] = byte(r.Uint32())
	}
	// Every 20 bytes one is another: the last distance goes on behind it, for a few bits.
	now := bytes.Clone(old)
	for i := 19; i < len(now); i += 20 {
		now[i]++
	}
	if n, most := len(pack(t, old, now, 0)), len(now)/20*19/8; n > most {
		t.Errorf("%d bytes that are others take %d, want at most %d", len(now)/20, n, most)
	}
}

// TestDamage: a stream that was changed or cut gives an error or other bytes, never a crash; more behind it is an error.
func TestDamage(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	dict := text(r, 20000)
	content := edited(r, dict)
	packed := pack(t, dict, content, 0)
	var d lzma.Decoder
	buf := append(bytes.Clone(dict), make([]byte, len(content))...)
	for n := range packed {
		if err := d.Decode(buf, len(dict), packed[:n]); !errors.Is(err, lzma.ErrCorrupt) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(packed), err)
		}
	}
	if err := d.Decode(buf, len(dict), append(bytes.Clone(packed), 0)); !errors.Is(err, lzma.ErrCorrupt) {
		t.Errorf("with a byte too many: %v", err)
	}
	for i := range packed {
		bad := bytes.Clone(packed)
		bad[i] ^= 1 << r.IntN(8)
		if err := d.Decode(buf, len(dict), bad); err != nil && !errors.Is(err, lzma.ErrCorrupt) {
			t.Fatal(err)
		}
	}
}

// FuzzDecode: whatever the bytes, the decoder ends, stays inside its buffer, and does not touch the dictionary.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	dict := text(r, 500)
	var e lzma.Encoder
	for _, content := range [][]byte{dict, edited(r, dict), make([]byte, 700), {1}} {
		f.Add(e.Encode(nil, append(bytes.Clone(dict), content...), len(dict), 0), uint16(len(content)))
	}
	f.Fuzz(func(t *testing.T, packed []byte, n uint16) {
		var d lzma.Decoder
		buf := append(bytes.Clone(dict), make([]byte, int(n)+8)...)
		err := d.Decode(buf[:len(dict)+int(n):len(dict)+int(n)], len(dict), packed)
		if err != nil && !errors.Is(err, lzma.ErrCorrupt) {
			t.Fatal(err)
		}
		if !bytes.Equal(buf[:len(dict)], dict) || !bytes.Equal(buf[len(dict)+int(n):], make([]byte, 8)) {
			t.Fatal("it wrote where it must not")
		}
	})
}

// TestLiblzma: what we pack is what liblzma, the library behind xz, unpacks with a preset dictionary.
func TestLiblzma(t *testing.T) {
	dir := t.TempDir()
	prog := filepath.Join(dir, "unpack")
	build := exec.Command(testkit.Tool(t, "gcc"), "-o", prog, filepath.Join("testdata", "unpack.c"), "-llzma")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	r := rand.New(rand.NewPCG(7, 8))
	for i, n := range []int{1, 100, 70000, 400000, 3000, 2049} {
		dict := text(r, 200003*(i%3)) // of any length: it shifts the positions
		content := text(r, n)
		if len(dict) > 0 {
			content = append(edited(r, dict), content...)
		}
		if n > 2000 { // long matches, near and far, and the distances before
			content = append(content, bytes.Repeat(content[len(content)-1500:], 3)...)
			content = append(append(content, content[:273]...), make([]byte, 273*3+1)...)
		}
		packed := pack(t, dict, content, 0)
		name := func(s string, b []byte) string {
			file := filepath.Join(dir, s)
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return file
		}
		got, err := exec.Command(prog, name("dict", dict), name("packed", packed), strconv.Itoa(len(content))).Output()
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes with a dictionary of %d: liblzma gives %d other bytes, %v", len(content), len(dict), len(got), err)
		}
	}
}

// BenchmarkEncode packs a version of something against the one before, and content that is new. The ratio is that of what
// comes out to what goes in.
func BenchmarkEncode(b *testing.B) {
	r := rand.New(rand.NewPCG(11, 12))
	old := text(r, 2<<20)
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	changed := edited(r, old)
	for i := 0; i < len(changed); i += 50 + r.IntN(200) {
		changed[i] ^= byte(1 + r.IntN(255))
	}
	for _, c := range []struct {
		name          string
		dict, content []byte
	}{
		{"text", nil, old[:1<<20]},
		{"changed", old, changed},
		{"noise", old, noise},
	} {
		b.Run(c.name, func(b *testing.B) {
			buf := append(bytes.Clone(c.dict), c.content...)
			var e lzma.Encoder
			var packed []byte
			b.SetBytes(int64(len(c.content)))
			b.ReportAllocs()
			for b.Loop() {
				packed = e.Encode(packed[:0], buf, len(c.dict), 0)
			}
			b.ReportMetric(float64(len(packed))/float64(len(c.content)), "ratio")
		})
	}
}
