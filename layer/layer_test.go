package layer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"disksync/image"
	"disksync/layer"
)

// memDisk is a disk in memory.
type memDisk []byte

func (d memDisk) Size() int64 { return int64(len(d)) }

func (d memDisk) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(d).ReadAt(p, off) }

// sparseDisk is a memDisk that knows its holes.
type sparseDisk struct{ memDisk }

func (d sparseDisk) NextData(off int64) (int64, error) {
	for i := off; i < d.Size(); i++ {
		if d.memDisk[i] != 0 {
			return i, nil
		}
	}
	return d.Size(), nil
}

// fill writes n bytes at off that depend on seed; half of them compress.
func fill(d []byte, off, n int, seed uint64) {
	p := d[off : off+n]
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	r.Read(p)
	easy := bytes.Repeat([]byte("disk"), 1024)
	for i := 4096; i < n; i += 8192 {
		copy(p[i:], easy)
	}
}

func encode(t testing.TB, from image.State, disk layer.Disk) (layer.Result, []byte) {
	t.Helper()
	var b bytes.Buffer
	res, err := layer.Encode(context.Background(), &b, from, disk, layer.EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if res.Bytes != int64(b.Len()) {
		t.Fatalf("result says %d bytes, wrote %d", res.Bytes, b.Len())
	}
	return res, b.Bytes()
}

// open reads a layer back from its bytes.
func open(t testing.TB, b []byte) layer.Source {
	t.Helper()
	r := bytes.NewReader(b)
	x, err := layer.ReadIndex(r, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return layer.Source{Index: x, R: r}
}

func readDisk(t testing.TB, path ...layer.Source) []byte {
	t.Helper()
	r, err := layer.NewReader(path, new(memScratch))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestVersions walks a disk through versions that change, zero, grow and shrink it. Every path of layers gives the disk, and
// the digests that layers promise are those of the content.
func TestVersions(t *testing.T) {
	const block = image.BlockSize
	v1 := make([]byte, 5*block+512*3)
	fill(v1, 0, block, 1)
	fill(v1, 2*block+100, block, 2)
	fill(v1, 5*block, 3*512, 3)
	v2 := bytes.Clone(v1)
	v2[2*block+777] ^= 1
	clear(v2[:block])
	v3 := append(bytes.Clone(v2), make([]byte, 3*block)...)
	fill(v3, len(v3)-700, 700, 4)
	v4 := bytes.Clone(v3[:2*block+512])
	v5 := append(bytes.Clone(v4), make([]byte, 4*block)...) // what v4 cut off must not come back

	var path []layer.Source
	state := image.State{}
	for i, v := range [][]byte{v1, v2, v3, v4, v5} {
		res, b := encode(t, state, memDisk(v))
		sparse, sb := encode(t, state, sparseDisk{v})
		if !bytes.Equal(b, sb) || sparse.State.ID() != res.State.ID() {
			t.Errorf("v%d: knowing the holes changes the layer", i+1)
		}
		s := open(t, b)
		if s.Index.ID() != res.Index.ID() || s.Index.FileSize() != int64(len(b)) {
			t.Errorf("v%d: read back as another layer", i+1)
		}
		applied, err := s.Index.Apply(state)
		if err != nil {
			t.Fatalf("v%d: %v", i+1, err)
		}
		if applied.ID() != res.State.ID() {
			t.Errorf("v%d: index and content disagree", i+1)
		}
		path = append(path, s)
		if !bytes.Equal(readDisk(t, path...), v) {
			t.Errorf("v%d: content differs", i+1)
		}
		state = res.State
	}
}

// TestApplyProperty: encoding any change against any disk and applying it gives the changed disk.
func TestApplyProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := drawDisk(rt, "a")
		b := drawDisk(rt, "b")
		keep := rapid.IntRange(0, min(len(a), len(b))).Draw(rt, "keep")
		copy(b, a[:keep])
		ra, la := encode(t, image.State{}, memDisk(a))
		if bytes.Equal(a, b) {
			return
		}
		rb, lb := encode(t, ra.State, memDisk(b))
		sa, sb := open(t, la), open(t, lb)
		if !bytes.Equal(readDisk(t, sa, sb), b) {
			rt.Fatal("content differs")
		}
		to, err := sb.Index.Apply(ra.State)
		if err != nil || to.ID() != rb.State.ID() {
			rt.Fatalf("apply: %v", err)
		}
		if _, err := sb.Index.Apply(rb.State); !errors.Is(err, layer.ErrMismatch) {
			rt.Fatalf("applied to the wrong state: %v", err)
		}
	})
}

// drawDisk returns a disk of up to three blocks with data in a few places.
func drawDisk(rt *rapid.T, name string) []byte {
	d := make([]byte, 512*rapid.IntRange(1, 3*image.BlockSize/512).Draw(rt, name+" sectors"))
	for range rapid.IntRange(0, 3).Draw(rt, name+" runs") {
		off := rapid.IntRange(0, len(d)-1).Draw(rt, name+" off")
		n := rapid.IntRange(0, min(5000, len(d)-off)).Draw(rt, name+" n")
		fill(d, off, n, rapid.Uint64().Draw(rt, name+" seed"))
	}
	return d
}

func TestEncodeSame(t *testing.T) {
	d := make([]byte, image.BlockSize+512)
	fill(d, 0, len(d), 1)
	res, _ := encode(t, image.State{}, memDisk(d))
	if _, err := layer.Encode(context.Background(), io.Discard, res.State, memDisk(d), layer.EncodeOptions{}); !errors.Is(err, layer.ErrSame) {
		t.Errorf("got %v, want ErrSame", err)
	}
}

// TestEncodeOneByte: the layer of a small change names one block and costs little beyond it.
func TestEncodeOneByte(t *testing.T) {
	d := make([]byte, 64*image.BlockSize)
	d[9*image.BlockSize] = 1
	res, _ := encode(t, image.State{}, memDisk(d))
	d[9*image.BlockSize+5] = 1
	_, b := encode(t, res.State, memDisk(d))
	if s := open(t, b); s.Index.Len() != 1 || s.Index.Frame(0).Block != 9 {
		t.Errorf("%d frames", s.Index.Len())
	}
	if len(b) > 1024 {
		t.Errorf("%d bytes", len(b))
	}
}

// brokenDisk fails at one place.
type brokenDisk struct {
	memDisk
	at int64
}

var errBroken = errors.New("broken")

func (d brokenDisk) ReadAt(p []byte, off int64) (int, error) {
	if off <= d.at && d.at < off+int64(len(p)) {
		return 0, errBroken
	}
	return d.memDisk.ReadAt(p, off)
}

// failingWriter takes n bytes.
type failingWriter struct{ n int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.n -= len(p); w.n < 0 {
		return 0, errBroken
	}
	return len(p), nil
}

// TestEncodeStops: errors at any place end the encoder, with all its goroutines.
func TestEncodeStops(t *testing.T) {
	d := make([]byte, 9*image.BlockSize)
	fill(d, 0, len(d), 1)
	for at := int64(0); at < int64(len(d)); at += 4 * image.BlockSize {
		_, err := layer.Encode(context.Background(), io.Discard, image.State{}, brokenDisk{d, at}, layer.EncodeOptions{})
		if !errors.Is(err, errBroken) {
			t.Errorf("broken at %d: %v", at, err)
		}
		_, err = layer.Encode(context.Background(), &failingWriter{int(at) / 4}, image.State{}, memDisk(d), layer.EncodeOptions{})
		if !errors.Is(err, errBroken) {
			t.Errorf("no room behind %d: %v", at/4, err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		_, err = layer.Encode(ctx, io.Discard, image.State{}, memDisk(d), layer.EncodeOptions{
			Progress: func(done int64) {
				if done > at {
					cancel()
				}
			},
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at %d: %v", at, err)
		}
	}
}

// TestVerifyFindsEveryFlip flips a bit in each frame in turn: exactly that block is reported.
func TestVerifyFindsEveryFlip(t *testing.T) {
	d := make([]byte, 6*image.BlockSize)
	fill(d, 0, len(d), 1)
	fill(d, image.BlockSize, image.BlockSize, 9)
	_, b := encode(t, image.State{}, memDisk(d))
	x := open(t, b).Index
	for i := range x.Len() {
		f := x.Frame(i)
		bad := bytes.Clone(b)
		bad[f.Offset+int64(f.Length)/2] ^= 0x10
		var mu sync.Mutex
		var got []int
		err := layer.Verify(context.Background(), bytes.NewReader(bad), x, nil, nil, func(f layer.Frame, err error) error {
			if err != nil {
				mu.Lock()
				got = append(got, f.Block)
				mu.Unlock()
				if !errors.Is(err, layer.ErrCorrupt) {
					t.Errorf("block %d: %v", f.Block, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || got[0] != f.Block {
			t.Errorf("flip in block %d: found %v", f.Block, got)
		}
	}
}

// TestPartIsUsable: a copy that was cut short still gives the frames before the cut.
func TestPartIsUsable(t *testing.T) {
	d := make([]byte, 4*image.BlockSize)
	fill(d, 0, len(d), 1)
	_, b := encode(t, image.State{}, memDisk(d))
	x := open(t, b).Index
	f := x.Frame(2)
	part := b[:f.Offset+10]
	if _, err := layer.ReadIndex(bytes.NewReader(part), int64(len(part))); !errors.Is(err, layer.ErrFormat) {
		t.Errorf("index of a part: %v", err)
	}
	var good atomic.Int32
	err := layer.Verify(context.Background(), bytes.NewReader(part), x, nil, nil, func(_ layer.Frame, err error) error {
		if err == nil {
			good.Add(1)
		}
		return nil
	})
	if err != nil || good.Load() < 2 {
		t.Errorf("%d good frames before the cut, %v", good.Load(), err)
	}
}

// reseal gives changed index bytes their own name, as somebody who forges an index would.
func reseal(b []byte) (*layer.Index, error) {
	return layer.ParseIndex(b, image.LayerID(sha256.Sum256(b)))
}

// TestIndexIsExact: every byte of an index counts. Changing one is refused, or gives an index that fits no state or says
// something else; nothing is ignored.
func TestIndexIsExact(t *testing.T) {
	d := make([]byte, 3*image.BlockSize)
	fill(d, 0, len(d), 1)
	base, _ := encode(t, image.State{}, memDisk(d))
	clear(d[:image.BlockSize])
	d[image.BlockSize*2] ^= 1
	res, _ := encode(t, base.State, memDisk(d))
	raw := res.Index.Bytes()
	accepted := 0
	for i := range raw {
		for _, flip := range []byte{1, 0x80} {
			b := bytes.Clone(raw)
			b[i] ^= flip
			x, err := reseal(b)
			if err != nil {
				if !errors.Is(err, layer.ErrFormat) {
					t.Fatalf("byte %d: %v", i, err)
				}
				continue
			}
			accepted++
			if _, err := x.Apply(base.State); !errors.Is(err, layer.ErrMismatch) {
				// Only the place and length of the last frame are not bound by the states.
				f := x.Frame(x.Len() - 1)
				if f == res.Index.Frame(x.Len()-1) {
					t.Errorf("byte %d: changed and applied all the same: %v", i, err)
				}
			}
		}
	}
	if accepted == 0 {
		t.Error("nothing was accepted, so Apply was not tested")
	}
}

// FuzzReadIndex: no file makes the parser panic or allocate beyond what the file holds, and what it accepts has one encoding.
func FuzzReadIndex(f *testing.F) {
	d := make([]byte, 2*image.BlockSize)
	d[7] = 1
	res, full := encode(f, image.State{}, memDisk(d))
	d[8] = 1
	_, diff := encode(f, res.State, memDisk(d))
	f.Add(full)
	f.Add(diff)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		x, err := layer.ReadIndex(r, int64(len(b)))
		if err == nil && (x.FileSize() != int64(len(b)) || !bytes.Equal(x.Bytes(), b[x.IndexOffset():][:len(x.Bytes())])) {
			t.Error("a second encoding was accepted")
		}
		// Past the name, so that the fuzzer reaches the tables.
		if x, err := reseal(b); err == nil {
			for i := range x.Len() {
				if g, ok := x.Find(x.Frame(i).Block); !ok || g != x.Frame(i) {
					t.Error("a frame is not found")
				}
			}
		}
	})
}

// memScratch is scratch room in memory.
type memScratch struct {
	mu sync.Mutex
	b  []byte
}

func (m *memScratch) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func (m *memScratch) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if end := int(off) + len(p); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}
