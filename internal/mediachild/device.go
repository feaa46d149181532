package mediachild

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNoDevice says that a path leads to nothing that could be a medium.
var ErrNoDevice = errors.New("is neither a block device nor a regular file")

// openDevice opens a block device or a regular file for reading. What else a path may lead to is not opened: to open a pipe waits for
// its writer, and to open some devices does something.
func openDevice(path string) (*os.File, error) {
	fail := func(err error) error { return &fs.PathError{Op: "open", Path: path, Err: err} }
	at, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fail(err)
	}
	defer unix.Close(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return nil, fail(err)
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFBLK && kind != unix.S_IFREG {
		return nil, fail(ErrNoDevice)
	}
	// A drive without a disc is not waited for.
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", at), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fail(err)
	}
	if empty(fd) {
		unix.Close(fd)
		return nil, fail(unix.ENOMEDIUM)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// What the ioctl CDROM_DRIVE_STATUS takes and answers (linux/cdrom.h).
const (
	cdromDriveStatus = 0x5326
	currentSlot      = 1<<31 - 1
	noDisc           = 1
	trayOpen         = 2
)

// empty reports whether a device is a drive for discs without a disc. The kernel gives such a drive the size of whatever was in it last, or
// 1 GiB. Devices that are no drives do not know the question.
func empty(fd int) bool {
	status, err := unix.IoctlRetInt(fd, cdromDriveStatus)
	return err == nil && (status == noDisc || status == trayOpen)
}
