package layer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"disksync/image"
	"disksync/internal/testkit"
	"disksync/layer"
)

// difference encodes the layer that leads from the disk a to b, with references to a.
func difference(t testing.TB, a, b []byte) (layer.Result, []byte) {
	t.Helper()
	var w bytes.Buffer
	res, err := layer.Encode(context.Background(), &w, stateOf(a), memDisk(b), layer.EncodeOptions{FromDisk: memDisk(a)})
	if err != nil {
		t.Fatal(err)
	}
	return res, w.Bytes()
}

// stateOf returns the state of a disk.
func stateOf(disk []byte) image.State {
	st := image.State{Size: int64(len(disk))}
	for b := disk; len(b) > 0; b = b[min(len(b), image.BlockSize):] {
		block := make([]byte, image.BlockSize)
		copy(block, b)
		st.Blocks = append(st.Blocks, image.SumBlock(block))
	}
	return st
}

// applied returns the disk that a layer makes of a, and fails the test when a frame is not good.
func applied(t testing.TB, a, packed []byte) []byte {
	t.Helper()
	s := open(t, packed)
	b := make([]byte, int64(image.BlockCount(s.Index.Size()))*image.BlockSize)
	copy(b, a)
	clear(b[min(len(a), int(s.Index.Size())):])
	dec := layer.NewDecoder(1)
	defer dec.Close()
	base := layer.Join(memDisk(a), int64(len(a)), memDisk(b))
	for level := range s.Index.Levels() {
		for i := range s.Index.Len() {
			f := s.Index.Frame(i)
			if f.Level != level {
				continue
			}
			frame := make([]byte, f.Length)
			if _, err := s.R.ReadAt(frame, f.Offset); err != nil {
				t.Fatal(err)
			}
			if err := dec.Block(b[f.Block*image.BlockSize:][:image.BlockSize], f, frame, base); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b[:s.Index.Size()]
}

// code gives n bytes that do not compress much, but have structure: runs of noise between words.
func code(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, n+64)
	for len(b) < n {
		if r.IntN(3) == 0 {
			b = binary.LittleEndian.AppendUint64(b, r.Uint64())
		} else {
			b = append(b, "mov add call lea cmp jne ret push"[4*r.IntN(8):][:4]...)
		}
	}
	return b[:n]
}

// TestDifferences: what an update costs for changes of all kinds, in bytes, and that it gives the disk.
func TestDifferences(t *testing.T) {
	const block = image.BlockSize
	disk := func(n int, parts ...[]byte) []byte { return append(bytes.Join(parts, nil), make([]byte, n)...)[:n] }
	a := disk(12*block, code(6*block, 1))
	edit := func(do func(b []byte)) []byte {
		b := bytes.Clone(a)
		do(b)
		return b
	}
	for _, c := range []struct {
		name string
		b    []byte
		most int
	}{
		{"one byte", edit(func(b []byte) { b[3*block+777] ^= 1 }), 400},
		{"a byte in every block", edit(func(b []byte) {
			for i := 1000; i < 6*block; i += block {
				b[i]++
			}
		}), 1500},
		{"clusters here and there", edit(func(b []byte) {
			for i := range 40 {
				copy(b[i*37*4096:], code(4096, uint64(100+i)))
			}
		}), 40 * 3000},
		{"moved by whole clusters", edit(func(b []byte) { copy(b[7*block+512*1024:], a[block:4*block]) }), 600},
		{"moved by a few bytes", edit(func(b []byte) { copy(b[7*block+77:], a[block:4*block]) }), 12000},
		{"changed a little and written elsewhere", edit(func(b []byte) {
			copy(b[7*block:], a[block:4*block])
			for i := 7 * block; i < 10*block; i += 1500 {
				b[i] ^= 0x55
			}
		}), 30000},
		{"the same new content in many places", edit(func(b []byte) {
			for i := range 10 {
				copy(b[i*block+4096*(50+i)+i:], code(100_000, 77))
			}
		}), 90_000},
		{"grown", append(bytes.Clone(a), make([]byte, 3*block+512)...), 400},
		{"grown with content", append(bytes.Clone(a), a[:block+1024]...), 1500},
		{"shrunk", a[:4*block+1536], 400},
		{"all zero", edit(func(b []byte) { clear(b) }), 800},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, packed := difference(t, a, c.b)
			if !bytes.Equal(applied(t, a, packed), c.b) {
				t.Fatal("another disk")
			}
			if res.Bytes > int64(c.most) {
				t.Errorf("the layer has %d bytes, want at most %d", res.Bytes, c.most)
			}
			if _, again := difference(t, a, c.b); !bytes.Equal(packed, again) {
				t.Error("encoding it again gives another layer")
			}
		})
	}
}

// TestDifferenceProperty: whatever was changed, copied and moved, the layer gives the disk, on any path: one after the other, and read
// at random through all of them.
func TestDifferenceProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now := drawDisk(rt, "first")
		_, full := encode(t, image.State{}, memDisk(now))
		path := []layer.Source{open(t, full)}
		for range rapid.IntRange(1, 2).Draw(rt, "versions") {
			next := drawEdited(rt, now)
			if bytes.Equal(next, now) {
				continue
			}
			_, packed := difference(t, now, next)
			if !bytes.Equal(applied(t, now, packed), next) {
				rt.Fatal("another disk")
			}
			path, now = append(path, open(t, packed)), next
		}
		if !bytes.Equal(readDisk(t, path...), now) {
			rt.Fatal("read through the path it is another disk")
		}
	})
}

// drawEdited returns another disk with much of what a has, in other places too.
func drawEdited(t *rapid.T, a []byte) []byte {
	sectors := rapid.IntRange(1, 3*image.BlockSize/512).Draw(t, "sectors")
	if rapid.Bool().Draw(t, "same size") {
		sectors = len(a) / 512
	}
	b := make([]byte, sectors*512)
	copy(b, a)
	for range rapid.IntRange(0, 6).Draw(t, "edits") {
		n := rapid.IntRange(1, min(len(a), len(b))).Draw(t, "n")
		to := rapid.IntRange(0, len(b)-n).Draw(t, "to")
		switch rapid.IntRange(0, 4).Draw(t, "what") {
		case 0:
			from := rapid.IntRange(0, len(a)-n).Draw(t, "from")
			copy(b[to:to+n], a[from:])
		case 1:
			from := rapid.IntRange(0, (len(a)-n)/4096).Draw(t, "cluster") * 4096
			copy(b[to&^4095:], a[from:from+n])
		case 2:
			clear(b[to : to+n])
		case 3:
			fresh := code(min(n, 30_000), uint64(n%3)) // some of it in several places
			copy(b[to:to+n], fresh)
			copy(b[to/2:], fresh)
			copy(b[to/3&^4095:], fresh)
		default:
			copy(b[to:to+min(n, 100)], code(100, uint64(n)))
		}
	}
	return b
}

// TestDifferenceNeedsItsDisk: a frame with references does not give a wrong block with another disk than it was made for, and tells
// that from damage of its own.
func TestDifferenceNeedsItsDisk(t *testing.T) {
	a := code(3*image.BlockSize, 1)
	b := append(bytes.Clone(a[100:]), make([]byte, 100)...)
	_, packed := difference(t, a, b)
	s := open(t, packed)
	dec := layer.NewDecoder(1)
	defer dec.Close()
	f := s.Index.Frame(1)
	frame := make([]byte, f.Length)
	if _, err := s.R.ReadAt(frame, f.Offset); err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, image.BlockSize)
	if f.Codec != layer.Difference || f.Alone() || !s.Index.Refers() {
		t.Fatalf("codec %d; the test shows nothing", f.Codec)
	}
	if len(layer.References(f, frame)) == 0 {
		t.Error("it refers to nothing")
	}
	other := bytes.Clone(a)
	other[image.BlockSize+5000] ^= 1
	for _, c := range []struct {
		name string
		from io.ReaderAt
		want error
	}{
		{"the right disk", memDisk(a), nil},
		{"one bit is wrong", memDisk(other), layer.ErrCorrupt},
		{"no disk", nil, layer.ErrFrom},
		{"a disk that is too short", memDisk(a[:512]), layer.ErrFrom},
	} {
		if err := dec.Block(dst, f, frame, c.from); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := dec.Check(dst, f, frame); err != nil {
		t.Errorf("checked alone: %v", err)
	}
	for i := range frame {
		frame[i] ^= 0x10
		if err := dec.Check(dst, f, frame); !errors.Is(err, layer.ErrCorrupt) {
			t.Fatalf("byte %d changed, checked alone: %v", i, err)
		}
		if layer.References(f, frame) != nil {
			t.Fatalf("byte %d changed: the damaged frame puts the blame on the disk", i)
		}
		frame[i] ^= 0x10
	}
}

// failing is scratch room that is used up.
type failing struct{ memScratch }

var errFull = errors.New("no room")

func (f *failing) WriteAt([]byte, int64) (int, error) { return 0, errFull }

// TestReader: many readers at once unpack each block twice at most; a path that does not fit is refused, and a full scratch file is told.
func TestReader(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // how many blocks are kept in memory goes by it
	const block = image.BlockSize
	var path []layer.Source
	now := code(4*block, 1)
	_, full := encode(t, image.State{}, memDisk(now))
	path = append(path, open(t, full))
	for i := range 6 {
		next := append(bytes.Clone(now[1000:]), code(1000, uint64(50+i))...)
		_, packed := difference(t, now, next)
		path, now = append(path, open(t, packed)), next
	}
	reads := &counted{R: path[0].R}
	path[0].R = reads
	r, err := layer.NewReader(path, new(memScratch))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 2))
			p := make([]byte, 10000)
			for range 50 {
				off := rnd.IntN(len(now) - len(p))
				if _, err := r.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, now[off:off+len(p)]) {
					t.Errorf("at %d: %v", off, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if reads.n < 4 || reads.n > 2*4 {
		t.Errorf("the 4 frames of the first layer were read %d times", reads.n)
	}
	if _, err := layer.NewReader([]layer.Source{path[0], path[2]}, new(memScratch)); !errors.Is(err, layer.ErrMismatch) {
		t.Errorf("a path with a gap: %v", err)
	}
	short, err := layer.NewReader(path, new(failing))
	if err != nil {
		t.Fatal(err)
	}
	defer short.Close()
	for range 2 {
		_, err = short.ReadAt(make([]byte, len(now)), 0)
	}
	if !errors.Is(err, errFull) {
		t.Errorf("a full scratch file: %v", err)
	}
}

type counted struct {
	R  io.ReaderAt
	mu sync.Mutex
	n  int
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.R.ReadAt(p, off)
}

// withFrame returns the frame that an index describes, but for its codec, and for its length and check sum, which are those of other
// bytes; ok is false when no frame can be so long.
func withFrame(x *layer.Index, codec layer.Codec, frame []byte) (f layer.Frame, ok bool) {
	b := bytes.Clone(x.Bytes())
	e := b[112:]
	e[4] = byte(codec)
	binary.BigEndian.PutUint32(e[8:], crc32.Checksum(frame, crc32.MakeTable(crc32.Castagnoli)))
	binary.BigEndian.PutUint32(e[12:], uint32(len(frame)))
	y, err := layer.ParseIndex(b, image.LayerID(sha256.Sum256(b)))
	if err != nil {
		return layer.Frame{}, false
	}
	return y.Frame(0), true
}

// FuzzDifference: a frame of whatever bytes, with a right check sum, gives an error, never a wrong block or a crash.
func FuzzDifference(f *testing.F) {
	a := code(image.BlockSize, 1)
	for _, edit := range []int{1, 5000, 700000} {
		b := bytes.Clone(a)
		copy(b[4096:], code(edit, 9))
		_, packed := difference(f, a, b)
		fr := open(f, packed).Index.Frame(0)
		f.Add(packed[fr.Offset:][:fr.Length])
	}
	f.Add([]byte(strings.Repeat("\xff", 30)))
	log := append(a[:1<<20:1<<20], testkit.Gzip(f, a[:500_000], 6)...)
	_, streams := difference(f, a, append(log, make([]byte, image.BlockSize)...)[:image.BlockSize])
	s := open(f, streams).Index.Frame(0)
	f.Add(streams[s.Offset:][:s.Length])
	dec := layer.NewDecoder(1)
	dst := make([]byte, image.BlockSize)
	_, packed := difference(f, a, code(image.BlockSize, 2))
	x := open(f, packed).Index
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, codec := range []layer.Codec{layer.Difference, layer.Recompressed} {
			fr, ok := withFrame(x, codec, frame)
			if !ok {
				return
			}
			if err := dec.Block(dst, fr, frame, memDisk(a)); err == nil && image.SumBlock(dst) != fr.Digest {
				t.Fatal("a wrong block was taken for the right one")
			}
		}
	})
}
