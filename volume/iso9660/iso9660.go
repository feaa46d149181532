// Package iso9660 reads volumes as ISO 9660 describes them, with the names of Rock Ridge or Joliet where a disc has them.
//
// The format is that of ECMA-119 (cited as "9.1"), the System Use Sharing Protocol 1.12 ("SUSP 5.1"), the Rock Ridge Interchange
// Protocol 1.12 ("RRIP 4.1") and the Joliet Specification. A number is there twice as a rule, in both orders of bytes; where these
// disagree the record is refused.
//
// A disc may have several trees of folders that lead to the same files. The one with the best names is read: Rock Ridge, else
// Joliet, else the plain names, of which the version ";1" is left out.
package iso9660

import (
	"cmp"
	"fmt"
	"io/fs"

	"disksync/volume"
)

// reader is a volume.
type reader struct {
	d       *volume.Device
	bs      int64 // bytes of a logical block
	set     uint16
	root    node
	names   naming
	checked bool // whether there is Rock Ridge
	skip    int  // bytes before the system use fields of a record (SUSP 5.3)
	info    volume.Info
	folders volume.Recent[uint32, folder]
}

// naming is which names of a record count.
type naming int

const (
	plain naming = iota
	joliet
	rockRidge
)

// node is a file or folder.
type node struct {
	dir      bool
	size     int64
	pieces   []piece
	refused  error  // why it cannot be read, though it is listed
	relocate uint32 // block of the folder, where another place than the record says (RRIP 4.1.5.1)
}

// piece is an extent of blocks. Attributes of the file may come first (9.5).
type piece struct {
	block uint32
	skip  uint32 // blocks of attributes
	bytes uint32
}

// Open opens the volume on a device. The error is volume.ErrOther where there is no volume descriptor.
func Open(d *volume.Device) (volume.Volume, error) {
	b := volume.NewBudget()
	primary, other, err := readDescriptors(d, b)
	if err != nil {
		return nil, err
	}
	v, err := newReader(d, primary)
	if err != nil {
		return nil, err
	}
	v.info = volume.Info{Type: "iso9660", Label: label(primary, other), ID: volumeID(primary), BlockSize: int(v.bs)}
	_, errPlain := v.folder(b, v.root)
	if v.names == rockRidge && errPlain == nil {
		return v, nil
	}
	if other != nil {
		j, err := newReader(d, other)
		if err == nil {
			j.names, j.info = joliet, v.info
			if _, err = j.folder(b, j.root); err == nil {
				return j, nil
			}
		}
		errPlain = cmp.Or(errPlain, err)
	}
	// Of a damaged root folder what can be read is given, and listing it tells the rest.
	if f, _ := v.folder(b, v.root); errPlain != nil && len(f.items) == 0 {
		return nil, fmt.Errorf("the root folder: %w", errPlain)
	}
	return v, nil
}

func (v *reader) Info() volume.Info { return v.info }

// walk returns the file or folder of a name.
func (v *reader) walk(b *volume.Budget, op, name string) (node, error) {
	return volume.Walk(op, name, v.root, func(at node, element string) (node, error) {
		if !at.dir {
			return at, fs.ErrNotExist
		}
		f, err := v.folder(b, at)
		for _, x := range f.items {
			if x.name == element {
				return x.node, nil
			}
		}
		return at, cmp.Or(err, fs.ErrNotExist)
	})
}

func (v *reader) ReadDir(dir string) ([]volume.Entry, error) {
	b := volume.NewBudget()
	at, err := v.walk(b, "list", dir)
	if err != nil {
		return nil, err
	}
	if !at.dir {
		return nil, volume.NotExist("list", dir)
	}
	f, err := v.folder(b, at)
	if err != nil {
		err = fmt.Errorf("folder %s: %w", dir, err)
	}
	out := make([]volume.Entry, len(f.items))
	for i, x := range f.items {
		out[i] = volume.Entry{Name: x.name, Dir: x.dir}
		if !x.dir {
			out[i].Size = x.size
		}
	}
	return out, err
}

func (v *reader) Open(name string) (volume.File, error) {
	b := volume.NewBudget()
	n, err := v.walk(b, "open", name)
	if err != nil {
		return nil, err
	}
	if n.dir {
		return nil, volume.NotExist("open", name)
	}
	x, err := v.extents(n)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return volume.NewFile(v.d, x, n.size, n.size), nil
}

// extents returns where the bytes of a file are. All of its pieces but the last fill their blocks.
func (v *reader) extents(n node) (*volume.Extents, error) {
	if n.refused != nil {
		return nil, n.refused
	}
	x := &volume.Extents{}
	for i, p := range n.pieces {
		if i < len(n.pieces)-1 && int64(p.bytes)%v.bs != 0 {
			return nil, volume.Damaged("a piece of %d bytes in the middle of a file, where blocks have %d", p.bytes, v.bs)
		}
		if err := x.Append((int64(p.block)+int64(p.skip))*v.bs, int64(p.bytes)); err != nil {
			return nil, err
		}
	}
	return x, nil
}
