package volume

import (
	"errors"
	"fmt"
	"io/fs"
)

// Item is an entry of a folder, with what its reader needs to get at it.
type Item[N any] struct {
	Entry
	Node N
}

// Folders lists folders and finds what is in them, as a [Tree] does it. It remembers those that it read last, up to a quarter of
// [MaxCache]. It is for one goroutine at a time.
type Folders[N any] struct {
	root  N
	read  func(dir N, add func(Item[N]) error) error
	id    func(N) int64
	known map[int64]*listing[N]
	bytes int // of known
}

type listing[N any] struct {
	items  []Item[N]
	byName map[string]int
	bytes  int
	err    error
}

const (
	foldersBytes = MaxCache / 4
	itemBytes    = 200 // about what an item takes besides its name
)

// NewFolders returns the folders below root. The function read lists one: it hands what it finds to add, and ends when that
// fails. Names that are not [ValidName] are left out by add. The function id tells one folder from another.
func NewFolders[N any](root N, read func(dir N, add func(Item[N]) error) error, id func(N) int64) *Folders[N] {
	return &Folders[N]{root: root, read: read, id: id, known: map[int64]*listing[N]{}}
}

// step is a place on a path.
type step[N any] struct {
	Item[N]
	above *step[N]
}

// ReadDir is that of a [Tree].
func (f *Folders[N]) ReadDir(dir string) ([]Entry, error) {
	at, err := f.walk("readdir", dir)
	if err == nil && !at.Dir {
		err = NotExist("readdir", dir)
	}
	if err != nil {
		return nil, err
	}
	l := f.list(at.Node)
	out := make([]Entry, len(l.items))
	for i, it := range l.items {
		out[i] = it.Entry
	}
	if l.err != nil {
		return out, &fs.PathError{Op: "readdir", Path: dir, Err: l.err}
	}
	return out, nil
}

// File returns a regular file, for Open of a [Tree].
func (f *Folders[N]) File(name string) (Item[N], error) {
	at, err := f.walk("open", name)
	if err == nil && at.Dir {
		err = &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("%w: a folder", fs.ErrInvalid)}
	}
	return at.Item, err
}

func (f *Folders[N]) walk(op, name string) (*step[N], error) {
	root := &step[N]{Item: Item[N]{Entry{Name: ".", Dir: true}, f.root}}
	return Walk(op, name, root, f.lookup)
}

func (f *Folders[N]) lookup(dir *step[N], element string) (*step[N], error) {
	if !dir.Dir {
		return nil, fs.ErrNotExist
	}
	l := f.list(dir.Node)
	i, ok := l.byName[element]
	if !ok {
		if l.err != nil {
			return nil, l.err // it may be what could not be read
		}
		return nil, fs.ErrNotExist
	}
	found := &step[N]{l.items[i], dir}
	for above := dir; found.Dir && above != nil; above = above.above {
		if f.id(above.Node) == f.id(found.Node) {
			return nil, Damaged("a folder is in itself")
		}
	}
	return found, nil
}

// list returns what is in a folder.
func (f *Folders[N]) list(dir N) *listing[N] {
	id := f.id(dir)
	if l := f.known[id]; l != nil {
		return l
	}
	l := &listing[N]{byName: map[string]int{}}
	var twice error
	err := f.read(dir, func(it Item[N]) error {
		if !ValidName(it.Name) {
			return nil
		}
		if _, ok := l.byName[it.Name]; ok {
			twice = Damaged("a folder has the name %q twice", it.Name)
			return nil
		}
		if len(l.items) == MaxEntries {
			return fmt.Errorf("%w: a folder with more than %d entries", ErrLimit, MaxEntries)
		}
		l.byName[it.Name] = len(l.items)
		l.items = append(l.items, it)
		l.bytes += len(it.Name) + itemBytes
		return nil
	})
	if l.err = err; err == nil {
		l.err = twice
	}
	f.remember(id, l)
	return l
}

// remember keeps a listing, unless it is worth another try.
func (f *Folders[N]) remember(id int64, l *listing[N]) {
	again := l.err != nil && !errors.Is(l.err, ErrDamaged) && !errors.Is(l.err, ErrLimit) && !errors.Is(l.err, ErrUnsupported)
	if again || l.bytes > foldersBytes {
		return
	}
	if f.bytes+l.bytes+itemBytes > foldersBytes {
		clear(f.known)
		f.bytes = 0
	}
	f.known[id] = l
	f.bytes += l.bytes + itemBytes
}
