package hugepage

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func advise(p unsafe.Pointer, n uintptr) {
	from := (uintptr(p) + size - 1) &^ (size - 1)
	to := (uintptr(p) + n) &^ (size - 1)
	if from >= to {
		return
	}
	// Without it, it is only slower.
	_ = unix.Madvise(unsafe.Slice((*byte)(unsafe.Add(p, from-uintptr(p))), to-from), unix.MADV_HUGEPAGE)
}
