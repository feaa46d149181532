package cache

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"disksync/volume"
)

// folder is a folder of this machine as a Tree, such as the root of a mounted medium. Names in it are as the kernel has them, whatever
// their bytes. Nothing is opened but beneath it, on the same file system, and never through a link.
type folder struct {
	root *os.Root
	dir  *os.File // the root, for openat2
	dev  uint64   // of the file system; where openat2 is not there it is compared
	// beneath is whether the kernel can be told to stay beneath a folder. Linux before 5.6 cannot, and a sandbox may not let it.
	beneath bool
}

var _ volume.Tree = (*folder)(nil)

// openFolder opens the folder at a path; what links lead to it is followed.
func openFolder(path string) (*folder, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	t := &folder{root: root}
	if t.dir, err = root.Open("."); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(t.dir.Fd()), &st); err != nil {
		return nil, errors.Join(&os.PathError{Op: "stat", Path: path, Err: err}, t.Close())
	}
	t.dev = st.Dev
	fd, err := openBeneath(t.dir, ".", unix.O_DIRECTORY)
	if t.beneath = err == nil; t.beneath {
		unix.Close(fd)
	}
	return t, nil
}

func (t *folder) Close() error { return errors.Join(t.dir.Close(), t.root.Close()) }

// openBeneath opens a name as openat2(2) has it: whatever happens to its folders meanwhile, the kernel does not leave dir.
func openBeneath(dir *os.File, name string, flags uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(int(dir.Fd()), name, &how)
		if err == nil || err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// open opens a name and makes sure that it is what it was listed as: a pipe or a link in its place must not be opened or followed.
func (t *folder) open(name string, flags uint64, kind uint32) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	var f *os.File
	if t.beneath {
		fd, err := openBeneath(t.dir, name, flags)
		if err != nil {
			return nil, st, &os.PathError{Op: "open", Path: name, Err: err}
		}
		f = os.NewFile(uintptr(fd), name)
	} else {
		// A root follows links that stay within it, except in the last place; folders are listed without links.
		before, err := t.root.Lstat(name)
		if err != nil {
			return nil, st, err
		}
		if f, err = t.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|int(flags), 0); err != nil {
			return nil, st, err
		}
		if after, err := f.Stat(); err != nil || !os.SameFile(before, after) {
			f.Close()
			return nil, st, fmt.Errorf("open %s: is not the file that it was", name)
		}
	}
	err := unix.Fstat(int(f.Fd()), &st)
	switch {
	case err != nil:
	case st.Dev != t.dev:
		err = unix.EXDEV
	case st.Mode&unix.S_IFMT != kind:
		err = errors.New("is not the regular file or folder that it was")
	}
	if err != nil {
		f.Close()
		return nil, st, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return f, st, nil
}

// ReadDir implements volume.Tree.
func (t *folder) ReadDir(dir string) ([]volume.Entry, error) {
	d, _, err := t.open(dir, unix.O_DIRECTORY, unix.S_IFDIR)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(volume.MaxEntries + 1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if len(names) > volume.MaxEntries {
		names = names[:volume.MaxEntries]
		err = fmt.Errorf("%w: more than %d names", volume.ErrLimit, volume.MaxEntries)
	}
	entries := make([]volume.Entry, 0, len(names))
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT) != nil {
			continue // gone since it was listed
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			entries = append(entries, volume.Entry{Name: name, Dir: true})
		case unix.S_IFREG:
			entries = append(entries, volume.Entry{Name: name, Size: st.Size})
		}
	}
	return entries, err
}

// Open implements volume.Tree.
func (t *folder) Open(name string) (volume.File, error) {
	f, st, err := t.open(name, 0, unix.S_IFREG)
	if err != nil {
		return nil, err
	}
	return &folderFile{f, st.Size, int64(st.Blksize)}, nil
}

// folderFile is a regular file of a mounted file system.
type folderFile struct {
	*os.File
	size  int64
	block int64 // bytes of a block of its file system
}

func (f *folderFile) Size() int64 { return f.size }
