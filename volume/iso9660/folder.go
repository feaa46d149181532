package iso9660

import (
	"bytes"
	"errors"
	"fmt"

	"disksync/volume"
)

// item is a file or folder with its name.
type item struct {
	name string
	node
}

// folder is what a folder holds, and what was wrong with it.
type folder struct {
	items []item
	err   error
}

// chunk is how much is read of a folder at once.
const chunk = 64 << 10

// folder reads a folder. The error is that of the folder.
func (v *reader) folder(b *volume.Budget, at node) (folder, error) {
	key := at.relocate
	if key == 0 && len(at.pieces) > 0 {
		key = at.pieces[0].block
	}
	if f, ok := v.folders.Get(key); ok {
		return f, f.err
	}
	l := &lister{v: v, b: b, seen: map[string]bool{}}
	f := folder{err: l.read(at)}
	f.items = l.out
	if f.err == nil {
		f.err = l.first
	}
	n := int64(64)
	for _, x := range f.items {
		n += 96 + int64(len(x.name)) + 12*int64(cap(x.pieces))
	}
	if f.err == nil || errors.Is(f.err, volume.ErrDamaged) {
		v.folders.Put(key, f, n)
	}
	return f, f.err
}

// lister reads the records of one folder.
type lister struct {
	v     *reader
	b     *volume.Budget
	out   []item
	seen  map[string]bool
	first error // the first of what was damaged

	open     bool // of a file in several pieces not all have come
	openID   []byte
	openName string
	openNode node
	pieces   int // of all files

	more      []byte // the sector of continuations that was read last
	moreBlock uint32
}

func (l *lister) damaged(err error) {
	if l.first == nil {
		l.first = err
	}
}

// read goes through the records, sector by sector: none of them crosses the end of one (6.8.1.1).
func (l *lister) read(at node) error {
	at, err := l.v.relocated(l.b, at)
	if err != nil {
		return err
	}
	x, err := l.v.extents(at)
	if err != nil {
		return err
	}
	f := volume.NewFile(l.v.d, x, at.size, at.size)
	start, _ := x.At(0)
	buf := make([]byte, min(chunk, at.size))
	bad := false // something could not be read: sectors are read one by one
	for off := int64(0); off < at.size; {
		p := buf[:min(chunk-(max(start, 0)+off)%sector, at.size-off)]
		if err := l.b.Spend(int64(len(p))); err != nil {
			return err
		}
		if bad {
			p = p[:min(sector-(max(start, 0)+off)%sector, int64(len(p)))]
		}
		if _, err := f.ReadAt(p, off); err != nil {
			if bad { // that sector is lost, and no other
				l.damaged(err)
				off += int64(len(p))
			}
			bad = true
			continue
		}
		for len(p) > 0 {
			n := min(sector-(max(start, 0)+off)%sector, int64(len(p)))
			if err := l.sector(p[:n], off == 0); err != nil {
				return err
			}
			p, off = p[n:], off+n
		}
	}
	if l.open {
		l.damaged(volume.Damaged("the end of the file %q is missing", l.openName))
	}
	return nil
}

// sector goes through the records of a sector; first is set for the first one of a folder. What is left of a block is zeros. The
// error is for a limit, or from the device.
func (l *lister) sector(p []byte, first bool) error {
	for len(p) > 0 {
		if p[0] == 0 {
			rest := len(p) % int(l.v.bs)
			if rest == 0 {
				rest = min(int(l.v.bs), len(p))
			}
			p = p[rest:]
			continue
		}
		n := int(p[0])
		if n > len(p) {
			l.damaged(volume.Damaged("a record of a folder has %d bytes where %d are left", n, len(p)))
			return nil
		}
		r, err := readRecord(p[:n])
		p = p[n:]
		if err != nil {
			l.damaged(err)
			l.open = false
			continue
		}
		own := len(r.id) == 1 && r.id[0] <= 1 // the folder itself, and its parent (6.8.2.2)
		if first && own && r.id[0] == 0 {
			if err := l.self(r); err != nil {
				return err
			}
		}
		first = false
		if own || r.flags&flagAssociated != 0 {
			continue
		}
		if err := l.record(r); err != nil {
			return err
		}
	}
	return nil
}

// record takes in one record.
func (l *lister) record(r record) error {
	n, err := l.v.nodeOf(r)
	if err != nil {
		l.damaged(err)
		return nil
	}
	if l.open && !bytes.Equal(l.openID, r.id) {
		l.damaged(volume.Damaged("the end of the file %q is missing", l.openName))
		l.open = false
	}
	if l.open {
		if l.pieces++; l.pieces > volume.MaxEntries {
			return fmt.Errorf("%w: a folder with files in too many pieces", volume.ErrLimit)
		}
		l.openNode.join(n)
		if r.flags&flagMore == 0 {
			l.open = false
			return l.add(l.openName, l.openNode)
		}
		return nil
	}
	name, ok := l.v.plainName(r.id)
	if l.v.names == rockRidge {
		a, err := l.attributes(r.use, l.v.skip)
		if errors.Is(err, volume.ErrLimit) {
			return err
		}
		if err != nil {
			l.damaged(err)
			return nil
		}
		if a.moved || a.other {
			return nil
		}
		name, ok = a.nameOr(name), true
		if a.child != 0 {
			n = node{dir: true, relocate: a.child}
		}
		if a.packed && !n.dir {
			n.size = int64(a.unpacked)
			n.refused = volume.Unsupported("a file that is packed (zisofs)")
		}
	}
	if !ok {
		l.damaged(volume.Damaged("a name of %d bytes", len(r.id)))
		return nil
	}
	if r.flags&flagMore != 0 && !n.dir {
		l.open, l.openID, l.openName, l.openNode = true, bytes.Clone(r.id), name, n
		return nil
	}
	return l.add(name, n)
}

func (l *lister) add(name string, n node) error {
	switch {
	case !volume.ValidName(name):
		return nil
	case l.seen[name]:
		l.damaged(volume.Damaged("the name %q is there twice", name))
		return nil
	case len(l.out) == volume.MaxEntries:
		return fmt.Errorf("%w: a folder with more than %d names", volume.ErrLimit, volume.MaxEntries)
	}
	l.seen[name] = true
	l.out = append(l.out, item{name, n})
	return nil
}
