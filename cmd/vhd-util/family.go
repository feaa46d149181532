package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"

	"disksync/image"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// family knows which disks in the folders of a chain have which parent.
type family struct {
	paths []string // of the chain, leaf first
	read  bool
	kin   []kinsman
}

// kinsman is a differencing disk in one of the folders.
type kinsman struct {
	id, parent image.UUID
	paths      []string // where it says its parent is; all that tells one raw parent from another
}

// children returns the uuids of all differencing disks there whose parent is the given one.
func (f *family) children(parent *vhd.Image) ([]image.UUID, error) {
	if !f.read {
		if err := f.search(); err != nil {
			return nil, err
		}
		f.read = true
	}
	var out []image.UUID
	base := filepath.Base(f.paths[len(f.paths)-1]) // only the last of a chain can be raw
	for _, k := range f.kin {
		named := func(p string) bool { return path.Base(p) == base }
		if k.parent == parent.UUID() && (!k.parent.IsZero() || slices.ContainsFunc(k.paths, named)) {
			out = append(out, k.id)
		}
	}
	return out, nil
}

// search looks at every file in the folders. One that may be a child and cannot be read could be anybody's.
func (f *family) search() error {
	seen := map[string]bool{}
	for _, p := range f.paths {
		dir := filepath.Dir(canonical(p))
		if seen[dir] {
			continue
		}
		seen[dir] = true
		st, err := os.Stat(p)
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := f.look(filepath.Join(dir, e.Name()), st.Mode().IsRegular()); err != nil {
				return err
			}
		}
	}
	return nil
}

// look reads one file; files is whether the chain is in files, not on block devices.
func (f *family) look(name string, files bool) error {
	st, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // a link to nothing, or removed meanwhile
	case err != nil:
		return err
	case st.Mode().IsRegular() != files || !files && st.Mode()&os.ModeCharDevice != 0, st.IsDir():
		return nil
	}
	m, err := vhdfile.OpenFile(name, vhd.Salvage())
	switch {
	case errors.Is(err, vhd.NotVHD):
		return nil
	case err != nil:
		return f.lookCloser(name, err)
	}
	defer m.Close()
	if m.Type() == vhd.Differencing {
		f.kin = append(f.kin, kinsman{m.UUID(), m.ParentUUID(), m.ParentPaths()})
	}
	return nil
}

// lookCloser reads of a damaged disk what it says of its parent.
func (f *family) lookCloser(name string, why error) error {
	s, err := vhdfile.Inspect(name)
	if err != nil {
		return errors.Join(why, err)
	}
	if s.FooterSum.Good() && (s.Footer.Type == vhd.Fixed || s.Footer.Type == vhd.Dynamic) {
		return nil
	}
	if !s.HeaderSum.Good() || s.HeaderCookie == "" {
		return refuse(syscall.EBUSY, why, fmt.Sprintf("%s is damaged and does not tell whose child it is", name), unchanged,
			"move it elsewhere, or give --no-sibling-check if it is not a child of this chain")
	}
	k := kinsman{s.Footer.UUID, s.Header.ParentUUID, nil}
	for _, l := range s.Locators {
		k.paths = append(k.paths, l.Text)
	}
	f.kin = append(f.kin, k)
	return nil
}
