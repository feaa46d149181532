package faultfs

import (
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
)

const pageSize = 4096

// page is never changed once it is in a map, so that the synced and the current content can share it.
type page = [pageSize]byte

// inode is a file's content, or a folder. Pages that are not there are zeros.
type inode struct {
	dir        bool
	size       int64
	pages      map[int64]*page
	syncedSize int64
	synced     map[int64]*page
	changed    map[int64]bool // pages that differ from the synced ones
	published  string         // the name that a rename gave it; empty before
}

func (n *inode) dirty() bool { return len(n.changed) > 0 || n.size != n.syncedSize }

func (n *inode) clone() *inode {
	c := *n
	c.pages, c.synced, c.changed = maps.Clone(n.pages), maps.Clone(n.synced), maps.Clone(n.changed)
	return &c
}

func (n *inode) truncate() {
	for i := range n.pages {
		n.touch(i)
	}
	n.size, n.pages = 0, nil
}

// cut makes the file size bytes long. What was cut off reads as zeros when the file grows again.
func (n *inode) cut(size int64) {
	for i, old := range n.pages {
		switch at := i * pageSize; {
		case at >= size:
			delete(n.pages, i)
			n.touch(i)
		case at+pageSize > size:
			fresh := *old
			clear(fresh[size-at:])
			n.pages[i] = &fresh
			n.touch(i)
		}
	}
	n.size = size
}

func (n *inode) touch(i int64) {
	if n.changed == nil {
		n.changed = map[int64]bool{}
	}
	n.changed[i] = true
}

func (n *inode) write(p []byte, off int64) {
	n.size = max(n.size, off+int64(len(p)))
	if n.pages == nil {
		n.pages = map[int64]*page{}
	}
	for len(p) > 0 {
		i, in := off/pageSize, off%pageSize
		fresh := new(page)
		if old := n.pages[i]; old != nil {
			*fresh = *old
		}
		k := copy(fresh[in:], p)
		n.pages[i] = fresh
		n.touch(i)
		p, off = p[k:], off+int64(k)
	}
}

func (n *inode) read(p []byte, off int64) (int, error) {
	if off >= n.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > n.size-off
	if short {
		p = p[:n.size-off]
	}
	for done := 0; done < len(p); {
		i, in := (off+int64(done))/pageSize, (off+int64(done))%pageSize
		var k int
		if pg := n.pages[i]; pg != nil {
			k = copy(p[done:], pg[in:])
		} else {
			k = min(len(p)-done, int(pageSize-in))
			clear(p[done : done+k])
		}
		done += k
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}

func (n *inode) sync() {
	n.syncedSize, n.synced, n.changed = n.size, maps.Clone(n.pages), nil
}

// afterPowerLoss returns the inode with each unsynced page, and the unsynced length, kept or lost by chance.
func (n *inode) afterPowerLoss(keep float64, r *rand.Rand) *inode {
	out := &inode{dir: n.dir, size: n.syncedSize, pages: maps.Clone(n.synced)}
	if out.pages == nil {
		out.pages = map[int64]*page{}
	}
	if r.Float64() < keep {
		out.size = n.size
	}
	for _, i := range slices.Sorted(maps.Keys(n.changed)) {
		if r.Float64() >= keep || i*pageSize >= out.size {
			continue
		}
		if pg := n.pages[i]; pg != nil {
			out.pages[i] = pg
		} else {
			delete(out.pages, i)
		}
	}
	out.sync()
	return out
}

// file is an open file. It stays usable when its name is changed or removed, as on a real system.
type file struct {
	fs   *FS
	n    *inode
	name string // that it was opened by

	readOnly bool
}

// mayWrite returns an error for a file that was opened for reading.
func (f *file) mayWrite() error {
	if f.readOnly {
		return &fs.PathError{Op: "write", Path: f.name, Err: fs.ErrPermission}
	}
	return nil
}

func (f *file) ReadAt(p []byte, off int64) (n int, err error) {
	lookErr := f.fs.look(f.name, func() error {
		n, err = f.n.read(p, off)
		return nil
	})
	if lookErr != nil {
		return 0, lookErr
	}
	return n, err
}

// Punch makes a range zeros; of the room for them a model knows nothing.
func (f *file) Punch(off, length int64) error {
	_, err := f.WriteAt(make([]byte, length), off)
	return err
}

// Reserve takes room, of which a model knows nothing.
func (f *file) Reserve(int64, int64) bool { return !f.readOnly }

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if err := f.mayWrite(); err != nil {
		return 0, err
	}
	n := 0
	err := f.fs.doWrite(OpWrite, f.name, func(half bool) error {
		f.fs.noteWrite(f.n)
		if n = len(p); half {
			n /= 2
		}
		f.n.write(p[:n], off)
		return nil
	})
	if err != nil {
		return n, err
	}
	return len(p), nil
}

// Truncate cuts or lengthens the file, as os.File has it.
func (f *file) Truncate(size int64) error {
	if err := f.mayWrite(); err != nil {
		return err
	}
	return f.fs.do(OpWrite, f.name, func() error {
		f.fs.noteWrite(f.n)
		f.n.cut(size)
		return nil
	})
}

func (f *file) Sync() error {
	return f.fs.do(OpSync, f.name, func() error {
		f.n.sync()
		return nil
	})
}

func (f *file) Size() (size int64, err error) {
	err = f.fs.look(f.name, func() error {
		size = f.n.size
		return nil
	})
	return size, err
}

func (f *file) Close() error { return nil }

func (f *file) DropCache() {}

func (f *file) Direct() {}

func (f *file) Lock(bool) error { return nil }
