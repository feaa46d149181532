package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"disksync/internal/durable"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

const newFilePerm = 0o644

// fill writes the content of something new. device is the length of the block device that it goes to, 0 for a file.
type fill func(f vhd.File, device int64) error

// writeNew makes the file called name, which appears when it is complete and durable. An empty file of that name is replaced, as
// scripts reserve names so; one that holds anything stays, and that is an error. A block device is written where it is, unless it
// is one of the sources that are read.
func writeNew(name string, fill fill, sources ...string) error {
	st, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(name); err == nil {
			return exists(name, "a link to nothing")
		}
	case err != nil:
		return err
	case st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0:
		for _, source := range sources {
			if of, err := os.Stat(source); err != nil || os.SameFile(st, of) {
				return errors.Join(err, usage("%s cannot be read and written at the same time", name))
			}
		}
		return fillDevice(name, fill)
	case !st.Mode().IsRegular():
		return exists(name, "no file")
	case st.Size() > 0:
		return exists(name, "a file that is not empty")
	}
	return fillFile(canonical(name), fill, st)
}

func exists(name, what string) error {
	return refuse(syscall.EEXIST, nil, fmt.Sprintf("%s is there already, %s", name, what), unchanged, "choose another name, or remove it yourself")
}

// fillDevice wants the device for itself: the system refuses one that is mounted or in use.
func fillDevice(name string, fill fill) error {
	f, err := os.OpenFile(name, os.O_RDWR|syscall.O_EXCL, 0)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, 2)
	if err == nil {
		err = fill(f, size)
	}
	return errors.Join(err, f.Close())
}

func fillFile(name string, fill fill, before fs.FileInfo) error {
	dir, err := durable.Dir(filepath.Dir(name))
	if err != nil {
		return err
	}
	temp := tempName()
	if err := fillTemp(dir, temp, fill); err != nil {
		return errors.Join(err, durable.Remove(dir, temp))
	}
	now, err := os.Stat(name)
	if missing := errors.Is(err, fs.ErrNotExist); !missing && (err != nil || before == nil || !os.SameFile(before, now) || now.Size() > 0) {
		return errors.Join(exists(name, "made by somebody else meanwhile"), durable.Remove(dir, temp))
	}
	return durable.Publish(dir, temp, filepath.Base(name))
}

func fillTemp(dir durable.FS, temp string, fill fill) error {
	f, err := dir.Create(temp, newFilePerm)
	if err != nil {
		return err
	}
	if err := fill(f, 0); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// replace puts a new file in the place of the one called name, in one step, with its permissions.
func replace(name string, fill fill) error {
	name = canonical(name)
	st, err := os.Stat(name)
	if err != nil {
		return err
	}
	dir, err := durable.Dir(filepath.Dir(name))
	if err != nil {
		return err
	}
	old, err := vhdfile.OpenWritable(name)
	if err != nil {
		return err
	}
	defer old.Close()
	temp := tempName()
	if err = fillTemp(dir, temp, fill); err == nil {
		err = dir.Chmod(temp, st.Mode().Perm())
	}
	if err != nil {
		return errors.Join(err, durable.Remove(dir, temp))
	}
	return durable.Publish(dir, temp, filepath.Base(name))
}

// tempName is not derived from the file's, which may be as long as names can be; and another process may write the same file.
func tempName() string { return ".vhd-util-" + newUUID().String() + durable.TempSuffix }

// update opens a file that is changed in place.
func update(name string, change func(f *os.File, size int64) error) error {
	f, err := vhdfile.OpenWritable(canonical(name))
	if err != nil {
		return err
	}
	size, err := f.Seek(0, 2)
	if err == nil {
		if err = change(f, size); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}
	return errors.Join(err, f.Close())
}

// openRaw opens a raw disk for reading, and tells its size.
func openRaw(name string) (*os.File, int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	size, err := vhdfile.Size(f)
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	return f, size, nil
}
