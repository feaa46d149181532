package layer_test

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"disksync/image"
	"disksync/layer"
)

// chained returns a layer of several levels, the disk that it starts from and the one it leads to.
func chained(t *testing.T) (s layer.Source, a, b []byte) {
	t.Helper()
	a = code(6*image.BlockSize, 1)
	b = bytes.Clone(a)
	for i := range 6 {
		// Each block has something of the one before, and something of its own for the next.
		copy(b[i*image.BlockSize+1000:], code(150_000, uint64(100+i)))
		copy(b[i*image.BlockSize+200_000:], code(150_000, uint64(101+i)))
	}
	_, packed := difference(t, a, b)
	s = open(t, packed)
	if s.Index.Levels() < 3 {
		t.Fatalf("%d levels; the test shows nothing", s.Index.Levels())
	}
	return s, a, b
}

// full returns the layer that has the whole of a disk.
func full(t *testing.T, disk []byte) layer.Source {
	t.Helper()
	_, packed := encode(t, image.State{}, memDisk(disk))
	return open(t, packed)
}

// TestLevels: frames that refer to one another's blocks give the disk when it is read at random, and are found good; what is new in
// several blocks is packed once.
func TestLevels(t *testing.T) {
	s, a, b := chained(t)
	if got := readDisk(t, full(t, a), s); !bytes.Equal(got, b) {
		t.Error("another disk")
	}
	var verified atomic.Int32
	err := layer.Verify(t.Context(), s.R, s.Index, memDisk(a), new(memScratch), func(_ layer.Frame, err error) error {
		verified.Add(1)
		return err
	})
	if err != nil || int(verified.Load()) != s.Index.Len() {
		t.Errorf("%d frames of %d are good, %v", verified.Load(), s.Index.Len(), err)
	}
	alone := int64(0)
	for i := range 6 {
		next := bytes.Clone(a)
		copy(next[i*image.BlockSize:][:image.BlockSize], b[i*image.BlockSize:])
		res, _ := difference(t, a, next)
		alone += res.Bytes
	}
	if got := s.Index.FileSize(); got > alone*7/10 {
		t.Errorf("the layer has %d bytes, %d when each block is packed alone", got, alone)
	}
}

// TestReferencesOfLevels: a frame names the blocks of both disks that it needs, and those of the To disk are on lower levels.
func TestReferencesOfLevels(t *testing.T) {
	s, _, _ := chained(t)
	to := 0
	for i := range s.Index.Len() {
		f := s.Index.Frame(i)
		packed := make([]byte, f.Length)
		if _, err := s.R.ReadAt(packed, f.Offset); err != nil {
			t.Fatal(err)
		}
		for _, ref := range layer.References(f, packed) {
			if !ref.To {
				continue
			}
			to++
			if g, ok := s.Index.Find(ref.Block); !ok || g.Level >= f.Level {
				t.Errorf("block %d on level %d refers to block %d on level %d", f.Block, f.Level, ref.Block, g.Level)
			}
		}
	}
	if to < 3 {
		t.Errorf("%d references to the To disk", to)
	}
}

// TestForgedLevels: an index whose levels are not those of its frames is refused, or costs the blocks concerned. Frames that refer to
// one another in a circle end with an error.
func TestForgedLevels(t *testing.T) {
	s, a, _ := chained(t)
	const entries, entrySize, levelAt = 112, 56, 5
	forge := func(level func(f layer.Frame) int) (*layer.Index, error) {
		b := bytes.Clone(s.Index.Bytes())
		for i := range s.Index.Len() {
			b[entries+i*entrySize+levelAt] = byte(level(s.Index.Frame(i)))
		}
		return reseal(b)
	}
	if _, err := forge(func(layer.Frame) int { return layer.MaxLevel + 1 }); !errors.Is(err, layer.ErrFormat) {
		t.Errorf("a level beyond the highest: %v", err)
	}
	for name, level := range map[string]func(layer.Frame) int{
		"all on one level": func(layer.Frame) int { return 1 },
		"all on level 0":   func(layer.Frame) int { return 0 },
		"upside down":      func(f layer.Frame) int { return s.Index.Levels() - f.Level },
	} {
		x, err := forge(level)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var bad atomic.Int32
		err = layer.Verify(t.Context(), s.R, x, memDisk(a), new(memScratch), func(_ layer.Frame, err error) error {
			if errors.Is(err, layer.ErrCorrupt) || errors.Is(err, layer.ErrFrom) {
				bad.Add(1)
				return nil
			}
			return err
		})
		if err != nil || bad.Load() == 0 {
			t.Errorf("%s: %d frames are bad, %v", name, bad.Load(), err)
		}
		r, err := layer.NewReader([]layer.Source{full(t, a), {Index: x, R: s.R}}, new(memScratch))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := r.ReadAt(make([]byte, r.Size()), 0); err == nil {
			t.Errorf("%s: the disk can be read", name)
		}
		r.Close()
	}
}

// TestLevelsOfWorkers: the layer is the same however many workers make it.
func TestLevelsOfWorkers(t *testing.T) {
	_, a, b := chained(t)
	var first []byte
	for _, workers := range []int{1, 2, 7} {
		var w bytes.Buffer
		if _, err := layer.Encode(context.Background(), &w, stateOf(a), memDisk(b), layer.EncodeOptions{FromDisk: memDisk(a), Workers: workers}); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = w.Bytes()
		}
		if !bytes.Equal(first, w.Bytes()) {
			t.Errorf("%d workers make another layer", workers)
		}
	}
}
