package ntfs

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"disksync/volume"
	"disksync/volume/ntfs/format"
)

// entry is a name in a folder.
type entry struct {
	name string
	ref  format.Ref
}

// listing is the names of a folder.
type listing struct {
	number  int64
	entries []entry // as the index has them
	sorted  []int32 // their places, by name
	err     error   // of what could not be read
	weight  int     // bytes of memory, about
}

// lookup finds a name.
func (l *listing) lookup(name string) (format.Ref, error) {
	i, ok := slices.BinarySearchFunc(l.sorted, name, func(at int32, name string) int { return cmp.Compare(l.entries[at].name, name) })
	if ok {
		return l.entries[l.sorted[i]].ref, nil
	}
	return 0, cmp.Or(l.err, fs.ErrNotExist)
}

// folders remembers the listings that were used last, up to maxListings bytes of them.
type folders []*listing

const maxListings = 4 << 20

func (c *folders) put(l *listing) {
	*c = slices.Insert(*c, 0, l)
	total := 0
	for i, l := range *c {
		if total += l.weight; total > maxListings {
			clear((*c)[i:])
			*c = (*c)[:i]
			return
		}
	}
}

func (c *folders) get(number int64) *listing {
	i := slices.IndexFunc(*c, func(l *listing) bool { return l.number == number })
	if i < 0 {
		return nil
	}
	l := (*c)[i]
	copy((*c)[1:i+1], (*c)[:i])
	(*c)[0] = l
	return l
}

// list returns the names in a folder.
func (v *vol) list(b *volume.Budget, f *inode) *listing {
	number := f.rec.Number
	if l := v.cache.get(number); l != nil {
		return l
	}
	l := &listing{number: number}
	l.entries, l.err = v.readIndex(b, f)
	l.sorted = make([]int32, len(l.entries))
	for i, e := range l.entries {
		l.sorted[i] = int32(i)
		l.weight += 24 + 4 + len(e.name) // a string with its length, a reference, a place
	}
	slices.SortStableFunc(l.sorted, func(i, j int32) int { return cmp.Compare(l.entries[i].name, l.entries[j].name) })
	if l.err == nil || errors.Is(l.err, volume.ErrDamaged) || len(l.entries) == volume.MaxEntries {
		v.cache.put(l) // what a call's budget did not allow for, or the device could not read, may be there another time
	}
	return l
}

// walk finds a file or a folder.
func (v *vol) walk(b *volume.Budget, op, name string) (*inode, error) {
	return volume.Walk(op, name, v.root, func(dir *inode, element string) (*inode, error) {
		if dir.kind != folder {
			return nil, fs.ErrNotExist
		}
		if err := dir.refuse(); err != nil {
			return nil, err
		}
		ref, err := v.list(b, dir).lookup(element)
		if err != nil {
			return nil, err
		}
		f, err := v.inode(b, ref)
		if err == nil && f.kind == other {
			err = fs.ErrNotExist
		}
		if err == nil {
			err = f.in(dir.rec.Number)
		}
		return f, err
	})
}

// in checks that a folder is where it says that it is, so that none contains one that it is in. Other files may have many names.
func (f *inode) in(parent int64) error {
	if f.kind != folder {
		return nil
	}
	named, there := false, false
	err := f.rec.Each(func(a format.Attribute) error {
		if a.Kind == format.AttrFileName && len(a.Value) >= nameBytes {
			named = true
			there = there || refAt(a.Value).Number() == parent
		}
		return nil
	})
	if err == nil && named && !there {
		err = volume.Damaged("folder %d is listed in %d, where it is not", f.rec.Number, parent)
	}
	return damaged(err)
}

// ReadDir lists a folder.
func (v *vol) ReadDir(dir string) ([]volume.Entry, error) {
	b := volume.NewBudget()
	f, err := v.walk(b, "readdir", dir)
	if err == nil {
		err = f.refuse()
		if err == nil && f.kind != folder {
			err = fs.ErrInvalid
		}
		if err != nil {
			err = &fs.PathError{Op: "readdir", Path: dir, Err: err}
		}
	}
	if err != nil {
		return nil, err
	}
	l := v.list(b, f)
	out, err := v.stat(b, f, l.entries)
	if err = cmp.Or(l.err, err); err != nil {
		err = fmt.Errorf("folder %s: %w", dir, err)
	}
	return out, err
}

// stat makes the entries of names: what they are and how long is in their own records, which are read in the order of their places.
func (v *vol) stat(b *volume.Budget, dir *inode, names []entry) ([]volume.Entry, error) {
	order := make([]int, len(names))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return cmp.Compare(names[i].ref.Number(), names[j].ref.Number()) })
	numbers := make([]int64, len(names))
	for i, at := range order {
		numbers[i] = names[at].ref.Number()
	}
	all := make([]volume.Entry, len(names))
	var first error // of the files that are damaged; the others are listed
	err := v.records(b, numbers, func(i int, rec *format.Record, err error) error {
		e := names[order[i]]
		var f *inode
		if err == nil {
			f, err = v.newInode(b, e.ref, rec)
		}
		if err == nil {
			err = f.in(dir.rec.Number)
		}
		size := int64(0)
		if err == nil && f.kind == file {
			size, err = v.size(b, f)
		}
		switch {
		case errors.Is(err, volume.ErrLimit):
			return err
		case err != nil:
			first = cmp.Or(first, fmt.Errorf("%s: %w", e.name, err))
		case f.kind != other:
			all[order[i]] = volume.Entry{Name: e.name, Dir: f.kind == folder, Size: size}
		}
		return nil
	})
	return slices.DeleteFunc(all, func(e volume.Entry) bool { return e.Name == "" }), cmp.Or(err, first)
}
