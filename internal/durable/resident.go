package durable

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// residentStep is how much of a file is looked at at once, in bytes.
const residentStep = 1 << 30

// Resident returns how many bytes of a file the system has in memory, so that reading them tells nothing about the storage. ok is
// false where the system does not say.
func Resident(f File) (bytes int64, ok bool) {
	of, isFile := f.(*osFile)
	if !isFile {
		return 0, false
	}
	size, err := of.Size()
	if err != nil {
		return 0, false
	}
	page := int64(os.Getpagesize())
	for at := int64(0); at < size; at += residentStep {
		n := min(residentStep, size-at)
		m, err := unix.Mmap(int(of.Fd()), at, int(n), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return 0, false
		}
		pages := make([]byte, (n+page-1)/page)
		// The mapping is not read, so that nothing gets into memory by this.
		_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(n), uintptr(unsafe.Pointer(&pages[0])))
		err = unix.Munmap(m)
		if errno != 0 || err != nil {
			return 0, false
		}
		for _, p := range pages {
			if p&1 != 0 {
				bytes += page
			}
		}
	}
	return min(bytes, size), true
}
