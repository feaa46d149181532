package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Punch makes a range of the file read as zeros and gives back the room that it has in whole blocks of the file system. The file's length
// stays. It is as durable as WriteAt of zeros. An error that wraps errors.ErrUnsupported says that the file system cannot, and nothing was
// changed.
func (f *osFile) Punch(off, length int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return errors.ErrUnsupported
		default:
			return os.NewSyscallError("fallocate", err)
		}
	}
}
