package layer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync/atomic"
	"testing"

	"disksync/image"
	"disksync/layer"
)

var pieceKey = image.MediaKey{1, 2, 3}

// write returns the bytes of a file of the form h with frames of the layer file b.
func writeHolding(h *layer.Holding, b []byte) []byte {
	out := slices.Clone(h.Head())
	first, n := h.Range()
	for i := first; i < first+n; i++ {
		f := h.Index().Frame(i)
		out = append(out, h.Pack(i, b[f.Offset:][:f.Length])...)
	}
	return append(out, h.Tail()...)
}

// sample returns a layer file with frames of all lengths, zero ones too.
func sample(t testing.TB) ([]byte, *layer.Index) {
	t.Helper()
	before := make([]byte, 6*image.BlockSize)
	for i := range 6 {
		fill(before, i*image.BlockSize, 40<<10, uint64(i+1))
	}
	_, full := encode(t, image.State{}, memDisk(before))
	after := slices.Clone(before)
	fill(after, 0, 10<<10, 70)
	clear(after[2*image.BlockSize : 3*image.BlockSize])
	fill(after, 5*image.BlockSize, image.BlockSize, 71)
	st, err := open(t, full).Index.Apply(image.State{})
	if err != nil {
		t.Fatal(err)
	}
	_, b := encode(t, st, memDisk(after))
	return b, open(t, b).Index
}

// TestPieces cuts layers into pieces of all sizes, plain and sealed: together they give every frame, and each says what it holds.
func TestPieces(t *testing.T) {
	t.Parallel()
	b, x := sample(t)
	for _, sealed := range []bool{false, true} {
		for _, size := range []int64{600, 30 << 10, 100 << 10, 4 << 20} {
			t.Run(fmt.Sprintf("sealed %v, %d bytes", sealed, size), func(t *testing.T) {
				seen := 0
				for first := 0; first < x.Len(); {
					n := max(layer.Fit(x, first, size, sealed), 1)
					h := layer.Piece(x, first, n)
					if sealed {
						h = layer.Seal(x, first, n, pieceKey, [32]byte{byte(first)})
					}
					p := writeHolding(h, b)
					if int64(len(p)) != h.FileSize() || int64(len(p)) > size && n > 1 {
						t.Errorf("%d bytes, announced %d, at most %d", len(p), h.FileSize(), size)
					}
					if first+n < x.Len() {
						off, length := x.Frame(first+n).Offset, x.Frame(first+n).Length
						if more := h.FileSize() + int64(length); more <= size && !sealed {
							t.Errorf("frame %d at %d would have had room", first+n, off)
						}
					}
					got, err := layer.ReadHolding(bytes.NewReader(p), int64(len(p)), image.MediaKey{9}, pieceKey)
					if err != nil {
						t.Fatal(err)
					}
					if f, k := got.Range(); f != first || k != n || got.Index().ID() != x.ID() || got.Sealed() != sealed || got.FileSize() != h.FileSize() || got.IsWhole() {
						t.Errorf("frames %d+%d of %s", f, k, got.Index().ID())
					}
					checkFrames(t, got, p, b, &seen)
					first += n
				}
				if seen != x.Len() {
					t.Errorf("%d frames of %d", seen, x.Len())
				}
			})
		}
	}
}

// checkFrames reads all frames of a file and counts them.
func checkFrames(t *testing.T, h *layer.Holding, file, b []byte, seen *int) {
	t.Helper()
	r := h.Reader(bytes.NewReader(file))
	first, n := h.Range()
	from, last := h.Index().Frame(first), h.Index().Frame(first+n-1)
	all := make([]byte, last.Offset+int64(last.Length)-from.Offset)
	if _, err := r.ReadAt(all, from.Offset); err != nil || !bytes.Equal(all, b[from.Offset:][:len(all)]) {
		t.Errorf("the frames read otherwise: %v", err)
	}
	if _, err := r.ReadAt(make([]byte, 1), last.Offset+int64(last.Length)); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last frame: %v", err)
	}
	if _, err := r.ReadAt(make([]byte, 1), from.Offset-1); !errors.Is(err, io.EOF) {
		t.Errorf("before the first frame: %v", err)
	}
	var k atomic.Int32
	count := func(_ layer.Frame, err error) error { k.Add(1); return err }
	if err := h.Verify(context.Background(), bytes.NewReader(file), count); err != nil || int(k.Load()) != n {
		t.Errorf("%d frames of %d are good: %v", k.Load(), n, err)
	}
	*seen += int(k.Load())
}

// TestSealedHides: nothing of what is sealed is in the file, no key but the own one opens it, and the same layer in two files gives
// different bytes.
func TestSealedHides(t *testing.T) {
	t.Parallel()
	b, x := sample(t)
	one, two := layer.Seal(x, 0, x.Len(), pieceKey, [32]byte{1}), layer.Seal(x, 0, x.Len(), pieceKey, [32]byte{2})
	file, other := writeHolding(one, b), writeHolding(two, b)
	id := x.ID()
	d := x.Frame(0).Digest
	for what, secret := range map[string][]byte{"layer": id[:], "digest": d[:], "frame": b[16:64], "key": pieceKey[:], "index": x.Bytes()[:8]} {
		if bytes.Contains(file, secret) {
			t.Errorf("the %s can be read", what)
		}
	}
	same := 0
	for i := 80; i+16 <= len(file); i += 16 {
		if bytes.Contains(other, file[i:i+16]) {
			same++
		}
		if i > 1<<13 {
			break
		}
	}
	if same > 0 {
		t.Errorf("%d pieces of 16 bytes are the same in two files", same)
	}
	for _, keys := range [][]image.MediaKey{nil, {{1}}, {{2}, {3}}} {
		if _, err := layer.ReadHolding(bytes.NewReader(file), int64(len(file)), keys...); !errors.Is(err, layer.ErrNoKey) {
			t.Errorf("keys %d: %v", len(keys), err)
		}
	}
	// Frames of one file are no frames of another, nor at another place of the same.
	for name, change := range map[string]func(p []byte){
		"another file's": func(p []byte) { copy(p[len(p)-1000:], other[len(other)-1000:]) },
		"another place":  func(p []byte) { o, n := one.Place(0); q, _ := one.Place(1); copy(p[q:q+n], p[o:o+n]) },
	} {
		p := slices.Clone(file)
		change(p)
		h, err := layer.ReadHolding(bytes.NewReader(p), int64(len(p)), pieceKey)
		if err != nil {
			t.Fatal(err)
		}
		bad := 0
		if err := h.Verify(context.Background(), bytes.NewReader(p), func(_ layer.Frame, err error) error {
			if errors.Is(err, layer.ErrCorrupt) {
				bad++
			}
			return nil
		}); err != nil || bad == 0 {
			t.Errorf("%s: %d bad frames, %v", name, bad, err)
		}
	}
}

// TestPieceFlips flips bits of the head of a piece, and some all over it: nothing of it is believed then.
func TestPieceFlips(t *testing.T) {
	t.Parallel()
	b, x := sample(t)
	for _, h := range []*layer.Holding{layer.Piece(x, 1, 2), layer.Seal(x, 1, 2, pieceKey, [32]byte{7})} {
		file := writeHolding(h, b)
		for bit := 0; bit < 8*len(file); bit += 3 {
			if bit > 8*400 {
				bit += 1 << 20
			}
			if bit >= 8*len(file) || !h.Sealed() && bit >= 8*len(h.Head()) {
				break // some bits of a plain frame can be one or the other without a difference to the block
			}
			if off, n := h.Place(1); h.Sealed() && x.Frame(1).Length == 0 && int64(bit/8) >= off && int64(bit/8) < off+n {
				continue // the tag of nothing: nothing depends on it
			}
			p := slices.Clone(file)
			p[bit/8] ^= 1 << (bit % 8)
			got, err := layer.ReadHolding(bytes.NewReader(p), int64(len(p)), pieceKey)
			if err == nil {
				err = got.Verify(context.Background(), bytes.NewReader(p), func(_ layer.Frame, err error) error { return err })
			}
			if err == nil {
				t.Fatalf("sealed %v: a flip of bit %d goes unnoticed", h.Sealed(), bit)
			}
		}
		// Cut short behind the index the frames before are good.
		cut := file[:len(file)-1]
		got, err := layer.ReadHolding(bytes.NewReader(cut), int64(len(cut)), pieceKey)
		if err != nil {
			t.Fatal(err)
		}
		var good atomic.Int32
		if err := got.Verify(context.Background(), bytes.NewReader(cut), func(_ layer.Frame, err error) error {
			if err == nil {
				good.Add(1)
			}
			return nil
		}); err != nil || good.Load() != 1 {
			t.Errorf("%d good frames in a file that was cut short, %v", good.Load(), err)
		}
	}
}

func FuzzReadPiece(f *testing.F) {
	b, x := sample(f)
	for _, h := range []*layer.Holding{layer.Piece(x, 1, 1), layer.Seal(x, 1, 1, pieceKey, [32]byte{7}), layer.Whole(x)} {
		p := writeHolding(h, b)
		f.Add(p[:min(len(p), 600)])
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) >= 80 { // a wrong check sum would end everything
			binary.BigEndian.PutUint32(p[76:], crc32.Checksum(p[:76], crc32.MakeTable(crc32.Castagnoli)))
		}
		h, err := layer.ReadHolding(bytes.NewReader(p), int64(len(p)), pieceKey)
		if err != nil {
			return
		}
		first, n := h.Range()
		if first < 0 || n < 0 || first+n > h.Index().Len() || h.IsWhole() && h.FileSize() != int64(len(p)) {
			t.Fatalf("frames %d+%d of %d", first, n, h.Index().Len())
		}
		if !h.IsWhole() && !h.Sealed() && !bytes.HasPrefix(p, layer.Piece(h.Index(), first, n).Head()) {
			t.Fatal("another encoding gives the same piece")
		}
		if err := h.Verify(t.Context(), bytes.NewReader(p), func(layer.Frame, error) error { return nil }); err != nil {
			t.Fatal(err)
		}
	})
}
