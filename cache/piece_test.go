package cache_test

import (
	"slices"
	"testing"

	"disksync/cache"
	"disksync/image"
	"disksync/layer"
)

// pieceOf returns the file of a piece of the layer p.
func pieceOf(p packed, h *layer.Holding) []byte {
	out := slices.Clone(h.Head())
	first, n := h.Range()
	for i := first; i < first+n; i++ {
		f := h.Index().Frame(i)
		out = append(out, h.Pack(i, p.file[f.Offset:][:f.Length])...)
	}
	return append(out, h.Tail()...)
}

var mediaKey = image.MediaKey{7}

// TestPieces: pieces count for the frames that they have, whatever they are called, whole or cut, plain or encrypted with a key that is
// here.
func TestPieces(t *testing.T) {
	g := get(t)
	x := g.full.Index
	all := len(blocks(g.full.state))
	n := x.Len()
	plain := func(first, k int) []byte { return pieceOf(g.full, layer.Piece(x, first, k)) }
	sealed := func(first, k int) []byte {
		return pieceOf(g.full, layer.Seal(x, first, k, mediaKey, [32]byte{byte(first)}))
	}
	lastFrame := x.Frame(n - 1).Length
	for _, c := range []struct {
		name      string
		files     [][]byte
		keys      []image.MediaKey
		good, bad int
		summary   string
	}{
		{"all in one", [][]byte{plain(0, n)}, nil, all, 0, "1 part of a layer"},
		{"two", [][]byte{plain(0, 1), plain(1, n-1)}, nil, all, 0, "2 parts of layers"},
		{"the first is missing", [][]byte{plain(1, n-1)}, nil, all - 1, 0, "1 part of a layer"},
		{"twice", [][]byte{plain(0, n), plain(0, n)}, nil, all, 0, "2 parts of layers"},
		{"beside the layer", [][]byte{plain(1, n-1), g.full.file}, nil, all, 0, "1 layer, 1 part of a layer"},
		{"cut in the last frame", [][]byte{plain(0, n)[:len(plain(0, n))-1]}, nil, all - 1, 0, "1 part of a layer"},
		{"cut in the index", [][]byte{plain(0, n)[:100]}, nil, 0, 0, "nothing of use"},
		{"a bad frame", [][]byte{changed(plain(0, n), -lastFrame/2)}, nil, all - 1, 1, "1 part of a layer"},
		{"a bad index", [][]byte{changed(plain(0, n), 120), plain(0, 1)}, nil, 1, 0, "2 parts of layers"},
		{"a bad header", [][]byte{changed(plain(0, n), 45)}, nil, 0, 0, "nothing of use"},
		{"encrypted", [][]byte{sealed(0, n)}, []image.MediaKey{{1}, mediaKey}, all, 0, "1 part of a layer"},
		{"encrypted, in two", [][]byte{sealed(0, 1), sealed(1, n-1)}, []image.MediaKey{mediaKey}, all, 0, "2 parts of layers"},
		{"encrypted, without the key", [][]byte{sealed(0, n)}, []image.MediaKey{{1}}, 0, 0, "1 encrypted file, no key here"},
		{"encrypted, without any key", [][]byte{sealed(0, n), plain(0, 1)}, nil, 1, 0, "1 part of a layer, 1 encrypted file, no key here"},
		{"encrypted, a bad frame", [][]byte{changed(sealed(0, n), -5)}, []image.MediaKey{mediaKey}, all - 1, 1, "1 part of a layer"},
		{"encrypted, a bad index", [][]byte{changed(sealed(0, n), 120)}, []image.MediaKey{mediaKey}, 0, 0, "nothing of use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for i, b := range c.files {
				write(t, dir, string(rune('a'+i)), b)
			}
			inv := scan(t, dir)
			inv.Unlock(c.keys)
			if inv.Summary() != c.summary {
				t.Errorf("found %s, want %s; %v", inv.Summary(), c.summary, inv.Notes)
			}
			for _, w := range []cache.Wanted{g.wanted(), {Blocks: blocks(g.full.state)}} { // with the index, and from the file's own
				h := fetch(t, inv.Source(w), w)
				if len(h.good) != c.good || len(h.bad) != c.bad || h.err != nil {
					t.Errorf("%d good and %d bad blocks, want %d and %d: %v; %v", len(h.good), len(h.bad), c.good, c.bad, h.err, inv.Notes)
				}
			}
		})
	}
}
