// Package durable is the only place of the project that gives files their names, renames them and removes them.
//
// A name is given in one order: write to a temporary name in the same folder, sync the file, rename, sync the folder. Whoever
// finds the name after a crash therefore finds all of the content. Removing is the reverse: first the name, then the
// folder is synced. After a failed sync the file is worth nothing: it is removed and written anew, never synced again.
//
// [FS] is what all of this needs of a file system. [Dir] is the real one; package faultfs has one that fails and crashes.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// TempSuffix ends the names of files that are not finished. Such a file found at start-up is garbage; see [RemoveTemps].
const TempSuffix = ".tmp"

// FS is a tree of files. Names are relative, with slashes, and cannot lead out of the tree. An error for a name that is not
// there wraps fs.ErrNotExist, and an error for a full disk wraps syscall.ENOSPC or syscall.EDQUOT. It is safe for
// concurrent use.
type FS interface {
	// Create makes an empty file, or empties the one that is there.
	Create(name string, perm fs.FileMode) (File, error)
	// Open opens a file for reading.
	Open(name string) (File, error)
	// OpenWrite opens a file that is there for reading and writing.
	OpenWrite(name string) (File, error)
	// Rename gives a file another name in the same folder, in place of what has that name.
	Rename(from, to string) error
	// Remove removes a file or an empty folder.
	Remove(name string) error
	// Mkdir makes a folder; it is no error when it is there.
	Mkdir(name string, perm fs.FileMode) error
	// ReadDir lists a folder in the order of the names.
	ReadDir(name string) ([]fs.DirEntry, error)
	// Stat describes a file or folder.
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the names in a folder durable.
	SyncDir(name string) error
	// Chmod changes the permissions of a file.
	Chmod(name string, perm fs.FileMode) error
	// Free returns how many bytes can still be written.
	Free() (int64, error)
}

// File is an open file. ReadAt and WriteAt are safe for concurrent use.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync returns when everything written is on stable storage.
	Sync() error
	// Size returns the length in bytes.
	Size() (int64, error)
	// DropCache asks that the next read comes from the storage and not from memory. It is a wish: where the system cannot, it
	// does nothing. Only what was synced is dropped.
	DropCache()
	// Direct asks that from now on large transfers go straight between the caller's buffers, which should begin at the border of
	// a page, and the storage; they are complete, though not durable, when the call returns. It is a wish, too. It must not be
	// called at the same time as anything else.
	Direct()
	// Lock locks the file until it is closed: for writing against everybody else, otherwise against those that write. Only those that
	// lock it take notice. The error wraps ErrLocked when somebody else has it. Where there are no locks it does nothing.
	Lock(writing bool) error
}

// WriteFile writes a small file so that its name always has either the content it had before or all of data.
func WriteFile(fsys FS, name string, data []byte, perm fs.FileMode) error {
	temp := name + TempSuffix
	if err := writeTemp(fsys, temp, data, perm); err != nil {
		// The error that counts is the first; what is left of the temporary file is removed at start-up.
		_ = fsys.Remove(temp)
		return fmt.Errorf("write %s: %w", name, err)
	}
	return Publish(fsys, temp, name)
}

func writeTemp(fsys FS, temp string, data []byte, perm fs.FileMode) error {
	f, err := fsys.Create(temp, perm)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// Publish renames temp, which the caller has synced and closed, to name, and makes the name durable. When it returns an
// error the name may or may not be there.
func Publish(fsys FS, temp, name string) error {
	if err := fsys.Rename(temp, name); err != nil {
		return fmt.Errorf("rename %s to %s: %w", temp, name, err)
	}
	return syncDir(fsys, path.Dir(name))
}

// Remove removes a file and makes that durable. It is no error when the file is not there.
func Remove(fsys FS, name string) error {
	err := fsys.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return syncDir(fsys, path.Dir(name))
}

// MakeDir makes a folder and its name durable.
func MakeDir(fsys FS, name string, perm fs.FileMode) error {
	if err := fsys.Mkdir(name, perm); err != nil {
		return fmt.Errorf("make folder %s: %w", name, err)
	}
	return syncDir(fsys, path.Dir(name))
}

// ReadFile returns the content of a file, which may have at most limit bytes.
func ReadFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%s has %d bytes, at most %d make sense", name, size, limit)
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b[:n], nil // whoever made it shorter meanwhile did not fill it with zeros
}

// RemoveTemps removes the unfinished files of a folder. It is for start-up, when nobody can be writing them.
func RemoveTemps(fsys FS, dir string) error {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for unfinished files: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), TempSuffix) {
			continue
		}
		if err := Remove(fsys, path.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(fsys FS, dir string) error {
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}
