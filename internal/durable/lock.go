package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrLocked is returned by Lock when another process has the folder.
var ErrLocked = errors.New("in use by another process")

// Lock makes this process the only one that uses the folder dir, until it ends or calls unlock. A process that dies leaves no
// lock behind. When another process has it, the error wraps ErrLocked and names its pid.
func Lock(dir string) (unlock func() error, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		var pid [16]byte
		n, _ := f.ReadAt(pid[:], 0)
		return nil, fmt.Errorf("%s is %w, pid %s", dir, ErrLocked, strings.TrimSpace(string(pid[:n])))
	}
	// The pid is for the message above only, so a failure to write it does not matter.
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return func() error {
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN) // closing is not enough: a process that was just started has the file, too, for a moment
		return f.Close()
	}, nil
}

func (f *osFile) Lock(writing bool) error {
	how := unix.LOCK_SH
	if writing {
		how = unix.LOCK_EX
	}
	err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	switch {
	case err == nil:
		f.locked = true
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("%s is %w", f.Name(), ErrLocked)
	case errors.Is(err, unix.ENOLCK), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		return nil
	}
	return err
}
