package vhdfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"disksync/image"
)

// ErrInUse is returned for a file that somebody else has locked. Nothing was changed.
var ErrInUse = errors.New("the file is in use by another process")

// Lock locks a file until it is closed: for writing, for which it has to be open, against everybody else, otherwise against those that
// write. Only those that call Lock take notice. Where the file system has no locks it does nothing.
func Lock(f *os.File, writing bool) error {
	how := unix.LOCK_SH
	if writing {
		how = unix.LOCK_EX
	}
	err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("%s: %w", f.Name(), ErrInUse)
	case errors.Is(err, unix.ENOLCK), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		return nil
	}
	return err
}

// OpenWritable opens a file that is there for writing, and locks it against everybody else; see [Lock].
func OpenWritable(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := Lock(f, true); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Lock locks all files of the chain for reading; see [Lock].
func (c *Chain) Lock() error {
	for _, f := range c.files {
		if err := Lock(f, false); err != nil {
			return err
		}
	}
	return nil
}

// BootID returns the id of the system's start, for [vhd.WithLog].
func BootID() (image.UUID, error) {
	f, err := os.Open("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return image.UUID{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return image.UUID{}, err
	}
	return image.ParseUUID(strings.TrimSpace(string(b)))
}
