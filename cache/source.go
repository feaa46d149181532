package cache

import (
	"errors"
	"io"
	"slices"

	"disksync/image"
	"disksync/layer"
	"disksync/vhd"
)

// ErrGone says that the medium was pulled out. What was read before stays good.
var ErrGone = errors.New("the medium is gone")

// Wanted says what a transfer could use from a medium.
type Wanted struct {
	// Blocks has the digests of the blocks to get.
	Blocks map[image.Digest]bool
	// Layers are those that hold the blocks, for recognising parts of them. Their frames may refer to the disk they start from.
	Layers []*layer.Index
	// Disks are the states on the way, for recognising VHD files.
	Disks []Disk
}

// Disk is a state and the uuids of VHD files that hold it.
type Disk struct {
	State image.State
	UUIDs []image.UUID
}

// Source reads wanted blocks from a medium. It is safe for concurrent use; readers of one drive take turns.
type Source struct {
	medium Medium
	places map[image.Digest]place
	turn   *Turn // one reader at a time: the head of a drive is in one place
	finder Finder
	least  int64 // bytes of a read, where so many are wanted
}

// place says where a block is: in a layer file or a part of one, or in a disk made up of VHD files.
type place struct {
	at     int64 // on the medium, about; -1: not known
	rank   int64 // of the file
	r      io.ReaderAt
	offset int64
	end    int64 // of what r has; zeros follow
	frame  layer.Frame
	plain  *plainDisk // nil: the frame is from a layer
}

// Source returns the medium's claims to wanted blocks. The Inventory must stay open as long as it is used.
func (inv *Inventory) Source(w Wanted) *Source {
	s := &Source{medium: inv.Medium, places: map[image.Digest]place{}, turn: inv.turn, finder: inv.finder, least: leastRead}
	if s.turn == nil {
		s.turn = new(Turn)
	}
	defer inv.taken()()
	for _, x := range w.Layers {
		if f := inv.layers[x.ID()]; f != nil {
			s.addLayer(f, x, w)
		} else {
			inv.addPart(s, x, w)
		}
		inv.addPieces(s, x, w)
	}
	// Layers of other images or versions may share blocks with the one that is wanted.
	for _, id := range inv.Layers() {
		if !slices.ContainsFunc(w.Layers, func(x *layer.Index) bool { return x.ID() == id }) {
			if x, ok := inv.index(id); ok {
				if f := inv.layers[id]; f != nil {
					s.addLayer(f, x, w)
				}
				inv.addPieces(s, x, w)
			}
		}
	}
	for _, d := range w.Disks {
		for _, id := range d.UUIDs {
			inv.addDisk(s, d.State, id, w)
		}
	}
	return s
}

// addLayer claims the frames of x that f is long enough to hold.
func (s *Source) addLayer(f *file, x *layer.Index, w Wanted) {
	s.addFrames(x, w, 0, x.Len(), func(_ int, fr layer.Frame) (place, bool) {
		return place{at: f.Place(fr.Offset), rank: f.rank, r: f.File, offset: fr.Offset, end: f.size, frame: fr}, fr.Offset+int64(fr.Length) <= f.size
	})
}

// addFrames claims those of n frames of x, from number first on, that are wanted and all there. Those that refer to x's From or To are of
// use where that is there: with a layer between the same disks.
func (s *Source) addFrames(x *layer.Index, w Wanted, first, n int, at frameAt) {
	from := slices.ContainsFunc(w.Layers, func(l *layer.Index) bool { return l.From() == x.From() })
	to := slices.ContainsFunc(w.Layers, func(l *layer.Index) bool { return l.From() == x.From() && l.To() == x.To() })
	for i := first; i < first+n; i++ {
		fr := x.Frame(i)
		if fr.Codec == layer.Zero || !fr.Alone() && !from || fr.Level > 0 && !to || !w.Blocks[fr.Digest] {
			continue
		}
		// Of two frames of a block that which refers to fewer others can be unpacked earlier.
		if had, there := s.places[fr.Digest]; !there || fr.Level < had.frame.Level {
			if p, whole := at(i, fr); whole {
				s.places[fr.Digest] = p
			}
		}
	}
}

// addPart looks for parts of the layer x: those whose first frame is the layer's first. One may be longer than another.
func (inv *Inventory) addPart(s *Source, x *layer.Index, w Wanted) {
	for _, f := range inv.parts {
		if beginsWith(f, x) {
			s.addLayer(f, x, w)
		}
	}
}

// beginsWith checks the first frame that has bytes.
func beginsWith(f *file, x *layer.Index) bool {
	for i := range x.Len() {
		fr := x.Frame(i)
		if fr.Codec == layer.Zero {
			continue
		}
		if fr.Offset+int64(fr.Length) > f.size {
			return false
		}
		packed := make([]byte, fr.Length)
		if _, err := f.ReadAt(packed, fr.Offset); err != nil {
			return false
		}
		dec := layer.NewDecoder(1)
		defer dec.Close()
		return dec.Check(make([]byte, image.BlockSize), fr, packed) == nil
	}
	return false
}

// addDisk claims the blocks of a VHD with that uuid, when it is there with all its parents. Parents are found by uuid among
// the files of the medium; the paths in the files are not looked at.
func (inv *Inventory) addDisk(s *Source, st image.State, id image.UUID, w Wanted) {
	leaf := inv.vhds[id]
	if leaf == nil {
		return
	}
	files := []*vhdFile{leaf}
	c, err := vhd.Resolve(leaf.Image, func(child *vhd.Image) (*vhd.Image, error) {
		if p := inv.vhds[child.ParentUUID()]; p != nil {
			files = append(files, p)
			return p.Image, nil
		}
		return nil, vhd.NoParent
	})
	if err != nil {
		inv.note("%s: %v", leaf.name, err)
		return
	}
	plain := &plainDisk{Chain: c, name: leaf.name, find: inv.free}
	for block, d := range st.Blocks {
		start := int64(block) * image.BlockSize
		if d.IsZero() || !w.Blocks[d] || start >= c.Size() {
			continue
		}
		if _, there := s.places[d]; there {
			continue
		}
		at, ok := findBlock(files, start)
		if !ok {
			continue // it was cut off or left out: the wanted one is not zero
		}
		s.places[d] = place{
			at: at, rank: leaf.rank, r: c, offset: start, end: c.Size(), plain: plain,
			frame: layer.Frame{Block: block, Codec: layer.Stored, Length: image.BlockSize, Digest: d},
		}
	}
}

// findBlock returns where on the medium the files of a chain, the leaf first, have the block that begins at off; -1 when that is not
// known. ok is false when none has any of it. Only the tables of the files are asked, which are in memory: a look at what a block
// holds costs a disc drive as long as reading it.
func findBlock(files []*vhdFile, off int64) (at int64, ok bool) {
	for _, f := range files {
		h, table := f.Header()
		if !table {
			return f.File.Place(off), off < f.Image.Size()
		}
		for p := off; p < min(off+image.BlockSize, f.Image.Size()); p += h.BlockSize {
			if at, ok := f.Image.Place(int(p / h.BlockSize)); ok {
				return f.File.Place(at), true
			}
		}
	}
	return -1, false
}

// Kind returns the kind of the medium.
func (s *Source) Kind() string { return string(s.medium.Kind) }

// Name returns where the medium is.
func (s *Source) Name() string { return s.medium.Place() }

// Len returns the number of wanted blocks that the medium claims to have.
func (s *Source) Len() int { return len(s.places) }

// Holds reports whether the medium claims to have a block, and how many bytes it takes to read it.
func (s *Source) Holds(d image.Digest) (bytes int64, ok bool) {
	p, ok := s.places[d]
	return int64(p.frame.Length), ok
}
