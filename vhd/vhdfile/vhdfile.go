// Package vhdfile opens VHD files by name and finds the parents of differencing disks, for package vhd, which itself knows
// no file system.
//
// What a file says about its parent's place comes from outside. A path from a locator is only ever looked up beneath the
// folder of the child and the folders that the caller names, elsewhere only with Options.FollowPaths, and a file that is found
// counts as the parent only when its uuid is right.
//
// It also shows the structures of a file as they are stored ([OpenFile], [Inspect]), and knows what tapdisk's tools keep beside the
// disk: markers, and the journal of a resize.
package vhdfile

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"disksync/image"
	"disksync/vhd"
)

// Chain is a vhd.Chain with the files that it reads. It is safe for concurrent use until Close.
type Chain struct {
	*vhd.Chain
	// Paths are the members' files, leaf first.
	Paths []string
	files []*os.File
}

// Close closes the files.
func (c *Chain) Close() error {
	return closeAll(c.files)
}

// Options says where else parents may be. The zero value is good.
type Options struct {
	// Dirs are folders to look through besides the child's own.
	Dirs []string
	// Otherwise is asked for a parent that no folder has; nil: nobody is. It returns an error that wraps vhd.NoParent when it has
	// none either.
	Otherwise func(child *vhd.Image) (*vhd.Image, error)
	// FollowPaths lets a child lead out of the folders, by an absolute path or one that climbs, to a VHD with the right uuid. It is
	// for programs that people run on their own files. A raw parent, which nothing can tell from any other file, is taken from
	// outside only beneath /dev, for a child that is there itself.
	FollowPaths bool
}

// OpenChain opens the VHD at name for reading, and its parents, which are looked for beside their child first. It returns an
// error that wraps vhd.NoParent, naming what was tried, when a parent is not there.
//
// What a process that died has left in the disk's log is brought to the disk first, see [OpenDisk].
func OpenChain(name string, o Options) (*Chain, error) {
	if err := settle(name, o); err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	c := &Chain{}
	if err := c.resolve(name, o); err != nil {
		c.Close()
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return c, nil
}

func (c *Chain) resolve(name string, o Options) error {
	leaf, err := c.openLeaf(name)
	if err != nil {
		return err
	}
	where := map[*vhd.Image]string{leaf: name}
	c.Chain, err = vhd.Resolve(leaf, func(child *vhd.Image) (*vhd.Image, error) {
		p, at, err := c.searchParent(child, where[child], o)
		if err == nil {
			where[p] = at
		} else if o.Otherwise != nil && errors.Is(err, vhd.NoParent) {
			if other, otherErr := o.Otherwise(child); !errors.Is(otherErr, vhd.NoParent) {
				return other, otherErr
			}
		}
		return p, err
	})
	return err
}

func (c *Chain) openLeaf(name string) (*vhd.Image, error) {
	f, size, err := regular(func() (*os.File, error) { return os.Open(name) })
	if err != nil {
		return nil, err
	}
	c.files = append(c.files, f)
	c.Paths = append(c.Paths, name)
	return vhd.Open(f, size)
}

// regular opens a regular file or a block device, and tells its size.
func regular(open func() (*os.File, error)) (*os.File, int64, error) {
	f, err := open()
	if err != nil {
		return nil, 0, err
	}
	size, err := Size(f)
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, size, nil
}

// Size returns the length in bytes of a regular file or a block device; anything else is an error.
func Size(f *os.File) (int64, error) {
	st, err := f.Stat()
	switch {
	case err != nil:
		return 0, err
	case st.Mode().IsRegular():
		return st.Size(), nil
	case st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0:
		return f.Seek(0, 2)
	}
	return 0, errors.New("not a regular file or block device")
}

// findParent looks through the folders in order.
func (c *Chain) findParent(child *vhd.Image, folders []string) (*vhd.Image, string, error) {
	var tried []string
	for _, dir := range folders {
		m, at, why := c.findIn(child, dir)
		if m != nil {
			return m, at, nil
		}
		tried = append(tried, why...)
	}
	if len(tried) == 0 {
		tried = []string{"the file does not say where it was"}
	}
	return nil, "", fmt.Errorf("%w: no file with uuid %s (%s)", vhd.NoParent, child.ParentUUID(), strings.Join(tried, "; "))
}

// findIn tries the child's paths beneath one folder, first as they are, then their last element alone. A file with another
// uuid is passed over: names are often reused, uuids are not. A nil Image comes with the reasons.
func (c *Chain) findIn(child *vhd.Image, dir string) (m *vhd.Image, at string, tried []string) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, "", []string{err.Error()}
	}
	defer root.Close()
	for _, p := range beneath(child.ParentPaths()) {
		at := filepath.Join(dir, filepath.FromSlash(p))
		m, why := c.tryParent(child, root, p)
		if m != nil {
			c.Paths = append(c.Paths, at)
			return m, at, nil
		}
		tried = append(tried, at+": "+why)
	}
	return nil, "", tried
}

// tryParent opens the file at p when it is the parent, else it tells why it is not.
func (c *Chain) tryParent(child *vhd.Image, root *os.Root, p string) (m *vhd.Image, why string) {
	// Without O_NONBLOCK a pipe of that name would stop us here.
	f, size, err := regular(func() (*os.File, error) { return root.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK, 0) })
	if err != nil {
		return nil, err.Error()
	}
	switch {
	case child.ParentUUID().IsZero() && size%image.SectorSize == 0:
		m = vhd.Raw(f, size)
	case child.ParentUUID().IsZero():
		err = errors.New("a raw parent has whole sectors")
	default:
		if m, err = vhd.Open(f, size); err == nil && m.UUID() != child.ParentUUID() {
			err = fmt.Errorf("has uuid %s", m.UUID())
		}
	}
	if err != nil {
		f.Close()
		return nil, err.Error()
	}
	c.files = append(c.files, f)
	return m, ""
}

// beneath returns the paths that can be looked up in a folder: relative ones that do not climb, and every base name.
func beneath(paths []string) []string {
	var out []string
	seen := map[string]bool{}
	add := func(p string) {
		if p = path.Clean(p); !seen[p] && filepath.IsLocal(filepath.FromSlash(p)) && p != "." {
			seen[p] = true
			out = append(out, p)
		}
	}
	for _, p := range paths {
		add(p)
	}
	for _, p := range paths {
		add(path.Base(p))
	}
	return out
}
