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
	err := f.allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return errors.ErrUnsupported
	}
	return os.NewSyscallError("fallocate", err)
}

// Reserve takes room for a range of the file, which may lie behind its end; neither length nor content change. It returns false when
// it could not, and then may have taken some.
func (f *osFile) Reserve(off, length int64) bool {
	return f.allocate(unix.FALLOC_FL_KEEP_SIZE, off, length) == nil
}

func (f *osFile) allocate(mode uint32, off, length int64) error {
	for {
		if err := unix.Fallocate(int(f.Fd()), mode, off, length); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
