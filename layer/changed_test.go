package layer_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"disksync/image"
	"disksync/layer"
)

// touchy is a disk that notes which of its blocks are read.
type touchy struct {
	memDisk
	read map[int]bool
}

func (d touchy) ReadAt(p []byte, off int64) (int, error) {
	for at := off; at < off+int64(len(p)); at += image.BlockSize {
		d.read[int(at/image.BlockSize)] = true
	}
	return d.memDisk.ReadAt(p, off)
}

func only(blocks ...int) func(int) bool {
	return func(b int) bool { return slices.Contains(blocks, b) }
}

func TestEncodeChangedOnly(t *testing.T) {
	t.Parallel()
	before := make([]byte, 6*image.BlockSize)
	for i := range 5 {
		fill(before, i*image.BlockSize, image.BlockSize, uint64(i+1))
	}
	now := bytes.Clone(before)
	fill(now, image.BlockSize+4096, 9000, 77)
	clear(now[3*image.BlockSize:][:image.BlockSize])
	grown := append(bytes.Clone(now), make([]byte, image.BlockSize)...)
	fill(grown, 6*image.BlockSize+512, 512, 5)
	odd := bytes.Clone(before[:5*image.BlockSize-4096])
	cases := []struct {
		name    string
		now     []byte
		from    []byte
		changed []int
		read    []int
	}{
		{"two blocks", now, before, []int{1, 3}, []int{1, 3}},
		{"more than changed", now, before, []int{0, 1, 3, 4}, []int{0, 1, 3, 4}},
		{"the disk grows", grown, before, []int{1, 3, 6}, []int{1, 3, 5, 6}},
		{"the disk shrinks in a block", odd, before, nil, []int{4}},
		{"the disk grows in a block", before, odd, nil, []int{4}},
		{"from nothing", now, nil, []int{0, 1, 2, 4}, []int{0, 1, 2, 4}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var from image.State
			if c.from != nil {
				r, _ := encode(t, image.State{}, memDisk(c.from))
				from = r.State
			}
			for _, fromDisk := range []memDisk{nil, c.from} {
				o := layer.EncodeOptions{Workers: 2}
				if fromDisk != nil {
					o.FromDisk = fromDisk
				}
				var whole, part bytes.Buffer
				want, err := layer.Encode(t.Context(), &whole, from, memDisk(c.now), o)
				if err != nil {
					t.Fatal(err)
				}
				disk := touchy{memDisk(c.now), map[int]bool{}}
				o.Changed, o.Workers = only(c.changed...), 1
				got, err := layer.Encode(t.Context(), &part, from, disk, o)
				if err != nil {
					t.Fatal(err)
				}
				if got.State.ID() != want.State.ID() || !bytes.Equal(part.Bytes(), whole.Bytes()) {
					t.Errorf("with %v a layer of %d bytes to %s, want %d bytes to %s", c.changed, part.Len(), got.State.ID().Short(),
						whole.Len(), want.State.ID().Short())
				}
				if fromDisk != nil {
					continue // a block refers to others, which are read as well
				}
				for b := range image.BlockCount(int64(len(c.now))) {
					if disk.read[b] != slices.Contains(c.read, b) {
						t.Errorf("block %d read: %v", b, disk.read[b])
					}
				}
			}
		})
	}
}

func TestEncodeNothingChanged(t *testing.T) {
	t.Parallel()
	before := make([]byte, 3*image.BlockSize)
	fill(before, 0, len(before), 9)
	r, _ := encode(t, image.State{}, memDisk(before))
	disk := touchy{memDisk(before), map[int]bool{}}
	got, err := layer.Encode(t.Context(), &bytes.Buffer{}, r.State, disk, layer.EncodeOptions{Changed: only()})
	if !errors.Is(err, layer.ErrSame) || got.State.ID() != r.State.ID() || len(disk.read) != 0 {
		t.Errorf("%v, state %s, %d blocks read; want ErrSame, %s, 0", err, got.State.ID().Short(), len(disk.read), r.State.ID().Short())
	}
}

// TestEncodeNear: without a look at the whole disk below, only what stands in the place of a changed block is read of it.
func TestEncodeNear(t *testing.T) {
	t.Parallel()
	before := make([]byte, 8*image.BlockSize)
	for i := range 8 {
		fill(before, i*image.BlockSize, image.BlockSize, uint64(i+1))
	}
	r, full := encode(t, image.State{}, memDisk(before))
	now := bytes.Clone(before)
	fill(now, 2*image.BlockSize, image.BlockSize/2, 99)
	below := touchy{memDisk(before), map[int]bool{}}
	var b bytes.Buffer
	o := layer.EncodeOptions{FromDisk: below, Changed: only(2), Near: true, Workers: 1}
	if _, err := layer.Encode(t.Context(), &b, r.State, memDisk(now), o); err != nil {
		t.Fatal(err)
	}
	for block := range below.read {
		if block < 1 || block > 3 {
			t.Errorf("block %d of the disk below was read", block)
		}
	}
	if got := readDisk(t, open(t, full), open(t, b.Bytes())); !bytes.Equal(got, now) {
		t.Error("the layer leads elsewhere")
	}
}

// TestEncodeFast: new blocks are packed as a whole, changed ones as differences, and the layer leads to the same disk.
func TestEncodeFast(t *testing.T) {
	t.Parallel()
	before := make([]byte, 4*image.BlockSize)
	fill(before, 0, 2*image.BlockSize, 3)
	r, full := encode(t, image.State{}, memDisk(before))
	now := bytes.Clone(before)
	fill(now, image.BlockSize+5000, 9000, 4)
	rand.NewChaCha8([32]byte{5}).Read(now[2*image.BlockSize:][:image.BlockSize*15/16])
	text := bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog; "), image.BlockSize/45)
	copy(now[3*image.BlockSize:], text)
	var b bytes.Buffer
	got, err := layer.Encode(t.Context(), &b, r.State, memDisk(now), layer.EncodeOptions{FromDisk: memDisk(before), Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	want := []layer.Codec{layer.Difference, layer.Zstd, layer.Zstd}
	for i := range got.Index.Len() {
		if f := got.Index.Frame(i); i >= len(want) || f.Codec != want[i] {
			t.Errorf("frame %d has codec %v", i, f.Codec)
		}
	}
	if !bytes.Equal(readDisk(t, open(t, full), open(t, b.Bytes())), now) {
		t.Error("the layer leads elsewhere")
	}
}
