package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dirFS is a folder of the real file system. The root keeps every name inside it, whatever links there are.
type dirFS struct{ root *os.Root }

// Dir opens the folder name as an FS. It is closed when the process ends.
func Dir(name string) (FS, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return dirFS{root}, nil
}

// MakeDirs makes the folder name, with the folders above it where they are missing, and opens it as an FS.
func MakeDirs(name string, perm fs.FileMode) (FS, error) {
	if err := os.MkdirAll(name, perm); err != nil {
		return nil, err
	}
	return Dir(name)
}

func (d dirFS) Create(name string, perm fs.FileMode) (File, error) {
	return d.open(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, perm)
}

func (d dirFS) Open(name string) (File, error) { return d.open(name, os.O_RDONLY, 0) }

func (d dirFS) OpenWrite(name string) (File, error) { return d.open(name, os.O_RDWR, 0) }

func (d dirFS) open(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := d.root.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &osFile{File: f}, nil
}

func (d dirFS) Rename(from, to string) error {
	if path.Dir(from) != path.Dir(to) {
		return fmt.Errorf("durable: internal error: rename from %s to another folder, %s", from, to)
	}
	return d.root.Rename(from, to)
}

func (d dirFS) Remove(name string) error { return d.root.Remove(name) }

func (d dirFS) Mkdir(name string, perm fs.FileMode) error {
	err := d.root.Mkdir(name, perm)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

func (d dirFS) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}

func (d dirFS) Stat(name string) (fs.FileInfo, error) { return d.root.Stat(name) }

func (d dirFS) SyncDir(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	err = f.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil // some FUSE file systems have no sync for folders
	}
	return err
}

func (d dirFS) Chmod(name string, perm fs.FileMode) error { return d.root.Chmod(name, perm) }

func (d dirFS) Free() (int64, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("free space: %w", err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

type osFile struct {
	*os.File
	direct *os.File // the same file, open for direct transfers; nil: there are none
	locked bool
}

func (f *osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (f *osFile) DropCache() {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// Unnamed makes a file in a folder that has no name, so that nothing is left of it whatever happens; empty: in the system's folder for
// temporary files.
func Unnamed(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "disksync-*"+TempSuffix)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// IsFull reports whether an error is that of a file system without room, for everybody or for this user.
func IsFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
