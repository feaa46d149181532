package cache

import (
	"errors"
	"slices"

	"disksync/image"
	"disksync/layer"
)

// maxSealedIndexes bounds how many bytes of sealed indexes are opened on one medium, to find out which layers they are of.
const maxSealedIndexes = 512 << 20

// piece is a file with the index of a layer and some of its frames.
type piece struct {
	*file
	id  image.LayerID
	key image.KeyID // of a sealed one
}

// addPiece keeps a piece. Which layer a sealed one is of shows when it is unlocked.
func (inv *Inventory) addPiece(f *file, head []byte) (bool, error) {
	h, err := layer.ParsePiece(head, f.size)
	if err != nil {
		return false, err
	}
	p := &piece{file: f, id: h.Layer, key: h.Key}
	if h.Sealed() {
		inv.sealed = append(inv.sealed, p)
	} else {
		inv.pieces = append(inv.pieces, p)
	}
	return true, nil
}

// Unlock makes encrypted files count that one of the keys opens. Files that stay closed stay on the list of [Inventory.Sealed].
func (inv *Inventory) Unlock(keys []image.MediaKey) {
	if len(inv.sealed) == 0 {
		return
	}
	defer inv.taken()()
	var closed []*piece
	for _, p := range inv.sealed {
		i := slices.IndexFunc(keys, func(k image.MediaKey) bool { return k.ID() == p.key })
		if i < 0 || inv.opened > maxSealedIndexes {
			closed = append(closed, p)
			continue
		}
		if !slices.Contains(inv.keys, keys[i]) {
			inv.keys = append(inv.keys, keys[i])
		}
		h, err := layer.ReadHolding(p.file, p.size, keys[i])
		if err != nil {
			inv.note("%s: %v", p.name, err)
			continue
		}
		p.id = h.Index().ID()
		inv.opened += int64(len(h.Index().Bytes()))
		inv.pieces = append(inv.pieces, p)
	}
	inv.sealed = closed
}

// Sealed returns the names of the keys of encrypted files that are not unlocked.
func (inv *Inventory) Sealed() []image.KeyID {
	var out []image.KeyID
	for _, p := range inv.sealed {
		if !slices.Contains(out, p.key) {
			out = append(out, p.key)
		}
	}
	return out
}

// hasPiece reports whether there is a piece of a layer.
func (inv *Inventory) hasPiece(id image.LayerID) bool {
	return slices.ContainsFunc(inv.pieces, func(p *piece) bool { return p.id == id })
}

// pieceIndex returns the index of a layer from a piece.
func (inv *Inventory) pieceIndex(id image.LayerID) (*layer.Index, bool) {
	for i := 0; i < len(inv.pieces); i++ {
		p := inv.pieces[i]
		if p.id != id {
			continue
		}
		h, err := layer.ReadHolding(p.file, p.size, inv.keys...)
		if err == nil && h.Index().ID() != id {
			err = errors.New("its index is that of another layer")
		}
		if err == nil {
			return h.Index(), true
		}
		inv.note("%s: %v", p.name, err)
		inv.pieces = slices.Delete(inv.pieces, i, i+1)
		i--
	}
	return nil, false
}

// addPieces claims the frames of the layer x that pieces hold.
func (inv *Inventory) addPieces(s *Source, x *layer.Index, w Wanted) {
	for _, p := range inv.pieces {
		if p.id != x.ID() {
			continue
		}
		h, err := layer.ReadHolding(p.file, p.size, inv.keys...)
		if err == nil {
			h, err = h.Of(x) // so that all pieces share one index
		}
		if err != nil {
			inv.note("%s: %v", p.name, err)
			continue
		}
		first, n := h.Range()
		s.addFrames(x, w, first, n, func(i int, fr layer.Frame) (place, bool) {
			off, length := h.Place(i)
			return place{at: p.Place(off), rank: p.rank, r: h.Reader(p.file), offset: fr.Offset, end: fr.Offset + int64(fr.Length), frame: fr}, off+length <= p.size
		})
	}
}

// frameAt says where a frame of a file is, and whether it is all there.
type frameAt func(i int, fr layer.Frame) (place, bool)
