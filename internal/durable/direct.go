package durable

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// directUnit is what the place and the length of a direct transfer are multiples of, in bytes: the largest sector that disks
	// have, and the smallest page.
	directUnit = 4096
	// leastDirect is the shortest transfer that is worth waiting for the device, in bytes. What is shorter goes over the system's
	// memory.
	leastDirect = 32 << 10
)

// Direct implements File. The file is opened once more, since an open file is direct as a whole or not at all; by its descriptor
// and not by its name, which may be another file's by now.
func (f *osFile) Direct() {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if f.direct != nil || err != nil {
		return
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flags&unix.O_ACCMODE|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err == nil {
		f.direct = os.NewFile(uintptr(fd), f.Name()) // what fails has the file's own name
	}
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	return f.transfer(p, off, (*os.File).ReadAt)
}

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	return f.transfer(p, off, (*os.File).WriteAt)
}

// transfer does the part of a transfer directly that is long enough and lies on the borders of units, and the rest as usual. What
// the system then refuses, because the buffer does not lie as it should in memory, or because the file ends in between, is done
// as usual too.
func (f *osFile) transfer(p []byte, off int64, do func(*os.File, []byte, int64) (int, error)) (int, error) {
	head := int(-off & (directUnit - 1))
	if f.direct == nil || len(p)-head < leastDirect {
		return do(f.File, p, off)
	}
	middle := (len(p) - head) / directUnit * directUnit
	n := 0
	for _, part := range [...]struct {
		file   *os.File
		length int
	}{{f.File, head}, {f.direct, middle}, {f.File, len(p) - head - middle}} {
		if part.length == 0 {
			continue
		}
		b, at := p[n:n+part.length], off+int64(n)
		m, err := do(part.file, b, at)
		if errors.Is(err, unix.EINVAL) {
			m, err = do(f.File, b, at)
		}
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Close closes the file.
func (f *osFile) Close() error {
	if f.direct != nil {
		f.direct.Close()
	}
	if f.locked {
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN) // also where a process that was just started has the file, too, for a moment
	}
	return f.File.Close()
}
