package vhdfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"disksync/image"
	"disksync/vhd"
)

// searchParent looks for the parent of the child whose file is at.
func (c *Chain) searchParent(child *vhd.Image, at string, o Options) (*vhd.Image, string, error) {
	p, where, err := c.findParent(child, append([]string{filepath.Dir(at)}, o.Dirs...))
	if err == nil || !o.FollowPaths || !errors.Is(err, vhd.NoParent) {
		return p, where, err
	}
	for _, name := range outside(child, at) {
		if p := c.follow(child, name); p != nil {
			c.Paths = append(c.Paths, name)
			return p, name, nil
		}
	}
	return nil, "", err
}

const (
	devices = "/dev/"
	// mapper is where volumes have the names that tapdisk's tools write down, whatever name they were opened by.
	mapper = "/dev/mapper"
)

// outside returns where the child's own paths lead.
func outside(child *vhd.Image, at string) []string {
	abs, err := filepath.Abs(at)
	if err != nil || child.ParentUUID().IsZero() && !strings.HasPrefix(abs, devices) {
		return nil
	}
	var out []string
	for _, p := range child.ParentPaths() {
		p = filepath.FromSlash(p)
		if filepath.IsAbs(p) {
			out = append(out, filepath.Clean(p))
		}
		out = append(out, filepath.Join(filepath.Dir(abs), p))
		if strings.HasPrefix(abs, devices) {
			out = append(out, filepath.Join(mapper, p))
		}
	}
	return out
}

// follow opens the file when it is the child's parent.
func (c *Chain) follow(child *vhd.Image, name string) *vhd.Image {
	raw := child.ParentUUID().IsZero()
	if raw && !strings.HasPrefix(name, devices) {
		return nil
	}
	f, size, err := regular(func() (*os.File, error) { return os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) })
	if err != nil {
		return nil
	}
	var m *vhd.Image
	if raw && size%image.SectorSize == 0 {
		m = vhd.Raw(f, size)
	} else if !raw {
		if m, err = vhd.Open(f, size); err != nil || m.UUID() != child.ParentUUID() {
			m = nil
		}
	}
	if m == nil {
		f.Close()
		return nil
	}
	c.files = append(c.files, f)
	return m
}
