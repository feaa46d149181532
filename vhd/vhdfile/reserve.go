package vhdfile

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Reserve makes the file system set room aside for a file from its start to length, without changing its length or content, so that
// writing there cannot meet a full disk. It returns false where the file system cannot.
func Reserve(f interface{ Fd() uintptr }, length int64) (bool, error) {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, length)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, length)
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENODEV):
		return false, nil
	}
	return false, fmt.Errorf("reserve %d bytes: %w", length, err)
}
