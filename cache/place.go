package cache

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The request of linux/fiemap.h for one extent.
const (
	fsIOCFiemap   = 0xc020660b // _IOWR('f', 11, struct fiemap)
	fiemapUnknown = 0x02       // the extent has no place yet
	fiemapInline  = 0x200      // the bytes are among the file system's own structures
	fibmap        = 1          // _IO(0x00, 1): wants CAP_SYS_RAWIO
)

// fiemap is struct fiemap with one struct fiemap_extent behind it.
type fiemap struct {
	start, length                  uint64
	flags, mapped, count, reserved uint32
	logical, physical, n           uint64
	_                              [2]uint64
	extentFlags                    uint32
	_                              [3]uint32
}

// Place implements volume.File. File systems that tell an extent are asked for it; of others only root is told a block.
func (f *folderFile) Place(off int64) int64 {
	if off < 0 || off >= f.size {
		return -1
	}
	m := fiemap{start: uint64(off), length: 1, count: 1}
	if f.ioctl(fsIOCFiemap, unsafe.Pointer(&m)) {
		if m.mapped == 0 || m.logical > uint64(off) || uint64(off)-m.logical >= m.n || m.extentFlags&fiemapUnknown != 0 {
			return -1
		}
		if m.extentFlags&fiemapInline != 0 {
			return int64(m.physical)
		}
		return int64(m.physical + uint64(off) - m.logical)
	}
	if f.block <= 0 || off/f.block > 1<<31-1 {
		return -1
	}
	block := int32(off / f.block)
	if !f.ioctl(fibmap, unsafe.Pointer(&block)) || block <= 0 {
		return -1
	}
	return int64(block)*f.block + off%f.block
}

// ioctl reports whether the request was answered. A medium that is pulled out closes its files under whoever asks, hence the way round
// by SyscallConn: by the time of the request, a number alone may be that of another file.
func (f *folderFile) ioctl(request uintptr, arg unsafe.Pointer) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	errno := unix.EBADF
	err = conn.Control(func(fd uintptr) { _, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg)) })
	return err == nil && errno == 0
}
