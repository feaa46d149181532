package cache

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Named returns the medium that somebody names by a path: a folder, a block device, or a regular file with the image of one. It is of the
// kind otherwise, unless the system knows what kind of medium it is, or is on.
func (f Finder) Named(path string, otherwise Kind) Medium {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return f.Folder(path, otherwise) // whose reader says why not
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		link := fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
		if dir, err := filepath.EvalSymlinks(filepath.Join(f.sys(), "dev", "block", link)); err == nil {
			if m, ok := f.describe(dir); ok {
				m.Device = path
				return m
			}
		}
		return Medium{Kind: otherwise, Device: path}
	case unix.S_IFREG:
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			real = path
		}
		on := f.Folder(filepath.Dir(real), otherwise)
		return Medium{Kind: on.Kind, Drive: on.Drive, Device: path}
	}
	return f.Folder(path, otherwise)
}

// IsPlace reports whether a path leads to something that Named takes: a folder, a block device or a regular file.
func IsPlace(st os.FileInfo) bool {
	return st.IsDir() || st.Mode().IsRegular() || st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0
}
