package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"disksync/image"
	"disksync/layer"
	"disksync/vhd"
	"disksync/volume"
)

// Limits of a scan, against media made to waste time and memory.
const (
	maxLevels     = 2        // folders below the root
	maxEntries    = 10000    // names looked at
	maxCandidates = 512      // files that are kept open
	maxNotes      = 50       // lines for people
	maxTables     = 64 << 20 // bytes of the block tables of all VHD files; that of a disk of 2 TiB has 4 MiB
)

// Inventory is what a medium has that could be of use. It is not safe for concurrent use; its Sources are.
type Inventory struct {
	Medium Medium
	// Notes are what was passed over and why, for people. Of very many there are the first.
	Notes  []string
	layers map[image.LayerID]*file
	parts  []*file  // begin as a layer does, but have no trailer
	pieces []*piece // with their own index
	sealed []*piece // those that nobody has unlocked
	keys   []image.MediaKey
	opened int64 // bytes of the indexes of sealed files
	vhds   map[image.UUID]*vhdFile
	files  []*file
	looked int
	tables int64 // bytes of the block tables of vhds
	closer io.Closer
	turn   *Turn // of the drive; nil: nobody else reads from it
	free   FindFree
	finder Finder
}

// file is an open file of the medium.
type file struct {
	volume.File
	name string
	size int64
	rank int64 // its place among the files, for reading in order where nothing better is known
}

type vhdFile struct {
	*file
	*vhd.Image
}

// Scan looks through a mounted medium, or any folder. A medium without anything of use gives an empty Inventory; an error means that its
// root cannot be read. The caller closes the Inventory.
func Scan(ctx context.Context, m Medium) (*Inventory, error) {
	root, err := openFolder(m.Dir)
	if err != nil {
		return nil, fmt.Errorf("read medium: %w", err)
	}
	return ScanTrees(ctx, m, []Tree{{Tree: root}}, root)
}

// Tree is one of the file systems of a medium. Its name, as "partition 1", stands before those of its files where people are told of
// them; it may be empty.
type Tree struct {
	Name string
	volume.Tree
}

// ScanTrees is Scan for the file systems of a medium that somebody has opened, such as those of a device. closer is closed with the
// Inventory, and when there is none.
func ScanTrees(ctx context.Context, m Medium, trees []Tree, closer io.Closer) (*Inventory, error) {
	inv := &Inventory{Medium: m, layers: map[image.LayerID]*file{}, vhds: map[image.UUID]*vhdFile{}, closer: closer}
	var failed error
	read := 0
	for _, t := range trees {
		err := inv.walk(ctx, t)
		if ctx.Err() != nil {
			inv.Close()
			return nil, context.Cause(ctx)
		}
		if err != nil {
			failed = errors.Join(failed, err)
			inv.note("%s: %v", path.Join(t.Name, "."), err)
			continue
		}
		read++
	}
	if read == 0 {
		inv.Close()
		return nil, fmt.Errorf("read medium: %w", cmp.Or(failed, errNoTree))
	}
	return inv, nil
}

var errNoTree = errors.New("it has no file system")

// TakeTurns makes the Sources that follow share the drive with others who read from it.
func (inv *Inventory) TakeTurns(t *Turn) { inv.turn = t }

// taken takes the turn of the drive and returns what passes it on. It comes soon: others give it up when somebody waits.
func (inv *Inventory) taken() (pass func()) {
	if inv.turn == nil {
		return func() {}
	}
	if err := inv.turn.Take(context.Background()); err != nil {
		return func() {}
	}
	return inv.turn.Pass
}

// Close closes the files. It is safe to call while a Source reads, which then ends with ErrGone.
func (inv *Inventory) Close() {
	inv.closer.Close() // first, so that nobody waits for what reads still
	for _, f := range inv.files {
		f.Close()
	}
}

func (inv *Inventory) note(format string, args ...any) {
	switch {
	case len(inv.Notes) < maxNotes:
		inv.Notes = append(inv.Notes, fmt.Sprintf(format, args...))
	case len(inv.Notes) == maxNotes:
		inv.Notes = append(inv.Notes, "… and more")
	}
}

// walk looks at the files of the root, then at those of the folders in it, and so on: what lies at the top is found however full
// the folders are.
func (inv *Inventory) walk(ctx context.Context, t Tree) error {
	level := []string{"."}
	for depth := 0; depth <= maxLevels && len(level) > 0; depth++ {
		var below []string
		for _, dir := range level {
			dirs, more, err := inv.folder(ctx, t, dir)
			switch {
			case err != nil && (depth == 0 || ctx.Err() != nil):
				return err
			case err != nil:
				inv.note("%s: %v", path.Join(t.Name, dir), err)
			case !more:
				return nil
			}
			below = append(below, dirs...)
		}
		level = below
	}
	return nil
}

// folder looks at the files of a folder and returns the folders in it. more is false when a limit is reached.
func (inv *Inventory) folder(ctx context.Context, t Tree, dir string) (dirs []string, more bool, err error) {
	entries, cut := t.ReadDir(dir)
	if cut != nil && len(entries) == 0 {
		return nil, true, cut
	}
	// In the order of the names, so that every scan of a medium sees the same.
	slices.SortFunc(entries, func(a, b volume.Entry) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range entries {
		if inv.looked++; inv.looked > maxEntries || len(inv.files) >= maxCandidates {
			inv.note("more than %d names or %d files of use; the rest was not looked at", maxEntries, maxCandidates)
			return nil, false, nil
		}
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		name := path.Join(dir, e.Name)
		if e.Dir {
			dirs = append(dirs, name)
		} else if err := inv.look(t, name); err != nil {
			inv.note("%s: %v", path.Join(t.Name, name), err)
		}
	}
	if cut != nil {
		inv.note("%s: the rest of the folder was not looked at: %v", path.Join(t.Name, dir), cut)
	}
	return dirs, true, nil
}

// look opens a file and keeps it when it is a layer, a part of one, or a VHD.
func (inv *Inventory) look(t Tree, name string) error {
	opened, err := t.Open(name)
	if err != nil {
		return err
	}
	f := &file{File: opened, name: path.Join(t.Name, name), size: opened.Size()}
	kept, err := inv.recognise(f)
	if !kept {
		f.Close()
		return err
	}
	f.rank = int64(len(inv.files))
	inv.files = append(inv.files, f)
	return err
}

// footerTail is how much of the end of a file tells whether it is a VHD: a footer, which may lack a byte.
const footerTail = 512

// recognise tells what a file is from its first and last bytes.
func (inv *Inventory) recognise(f *file) (kept bool, err error) {
	var room [layer.PieceHeaderSize]byte
	head := room[:min(f.size, int64(len(room)))]
	if len(head) < layer.HeaderSize {
		return false, nil
	}
	if _, err := f.ReadAt(head, 0); err != nil {
		return false, err
	}
	switch {
	case layer.IsPiece(head):
		return inv.addPiece(f, head)
	case layer.IsHeader(head):
		return inv.addLayer(f)
	case string(head[:8]) == "conectix":
		return inv.addVHD(f)
	}
	if f.size < footerTail || f.size%512 != 0 && f.size%512 != 511 {
		return false, nil
	}
	var tail [footerTail]byte
	if _, err := f.ReadAt(tail[:], f.size-footerTail); err != nil {
		return false, err
	}
	if string(tail[:8]) == "conectix" || string(tail[1:9]) == "conectix" {
		return inv.addVHD(f) // a fixed disk has no copy of the footer at its start
	}
	return false, nil
}

func (inv *Inventory) addLayer(f *file) (bool, error) {
	id, err := layer.ReadID(f, f.size)
	switch {
	case errors.Is(err, layer.ErrFormat):
		// Cut short, or damaged at an end: its frames may be good all the same.
		inv.parts = append(inv.parts, f)
		return true, nil
	case err != nil:
		return false, err
	case inv.layers[id] != nil:
		return false, nil
	}
	inv.layers[id] = f
	return true, nil
}

func (inv *Inventory) addVHD(f *file) (bool, error) {
	// What is wrong with the table costs the blocks concerned; what is there is checked against digests anyway.
	m, err := vhd.Open(f, f.size, vhd.Salvage())
	if err != nil {
		return false, err
	}
	if m.UUID().IsZero() || inv.vhds[m.UUID()] != nil {
		return false, nil
	}
	if h, ok := m.Header(); ok {
		table := 4 * (m.Size()/h.BlockSize + 1)
		if inv.tables+table > maxTables {
			return false, errors.New("with the block tables of the other VHD files it takes too much memory")
		}
		inv.tables += table
	}
	inv.vhds[m.UUID()] = &vhdFile{f, m}
	return true, nil
}

// HasLayer reports whether the medium has a file that names itself as the layer, or a piece of it, which has its index too.
func (inv *Inventory) HasLayer(id image.LayerID) bool {
	return inv.layers[id] != nil || inv.hasPiece(id)
}

// HasVHD reports whether the medium has a VHD file with that uuid.
func (inv *Inventory) HasVHD(id image.UUID) bool { return inv.vhds[id] != nil }

// Index returns the index of a layer from the medium. ok is false when the medium has no good copy.
func (inv *Inventory) Index(id image.LayerID) (x *layer.Index, ok bool) {
	if !inv.HasLayer(id) {
		return nil, false
	}
	defer inv.taken()()
	return inv.index(id)
}

func (inv *Inventory) index(id image.LayerID) (x *layer.Index, ok bool) {
	f := inv.layers[id]
	if f == nil {
		return inv.pieceIndex(id)
	}
	x, err := layer.ReadIndex(f, f.size)
	if err == nil && x.ID() != id {
		err = fmt.Errorf("its index is that of layer %s", x.ID().Short())
	}
	if err != nil {
		inv.note("%s: %v", f.name, err)
		// The frames may be good; with the index from elsewhere it serves as a part.
		delete(inv.layers, id)
		inv.parts = append(inv.parts, f)
		return inv.pieceIndex(id)
	}
	return x, true
}

// Summary says in words what was found.
func (inv *Inventory) Summary() string {
	var parts []string
	for _, k := range []struct {
		n         int
		one, many string
	}{
		{len(inv.layers), "1 layer", "layers"}, {len(inv.parts) + len(inv.pieces), "1 part of a layer", "parts of layers"}, {len(inv.vhds), "1 VHD file", "VHD files"},
		{len(inv.sealed), "1 encrypted file, no key here", "encrypted files, no key here"},
	} {
		switch k.n {
		case 0:
		case 1:
			parts = append(parts, k.one)
		default:
			parts = append(parts, fmt.Sprintf("%d %s", k.n, k.many))
		}
	}
	if len(parts) == 0 {
		return "nothing of use"
	}
	return strings.Join(parts, ", ")
}

// Layers returns the names of the layers that the medium has a file or a piece of.
func (inv *Inventory) Layers() []image.LayerID {
	ids := make([]image.LayerID, 0, len(inv.layers))
	for id := range inv.layers {
		ids = append(ids, id)
	}
	for _, p := range inv.pieces {
		ids = append(ids, p.id)
	}
	slices.SortFunc(ids, image.LayerID.Compare)
	return slices.Compact(ids)
}
