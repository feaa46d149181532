package hotplug

import (
	"bytes"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Multicast groups: of the kernel's own events, and of what udev makes of them when it has looked at the device.
const (
	kernelGroup = 1
	udevGroup   = 2
)

// udevMark is what udev's events begin with.
var udevMark = []byte("libudev\x00")

// maxEvent bounds an event of the kernel, in bytes: an environment of 2 KiB with names around it (UEVENT_BUFFER_SIZE).
const maxEvent = 16 << 10

// kernel tells when block devices come, go or change, as the kernel's events say, and when something is mounted or unmounted.
type kernel struct {
	events int    // netlink socket; -1: there is none
	mounts int    // mountinfo; -1: there is none
	end    [2]int // a pipe; what is written to it ends the watch
	work   sync.WaitGroup
}

// watchKernel calls tell after each change until close. Of what is not to be had there is no news.
func watchKernel(proc string, tell func()) (*kernel, error) {
	k := &kernel{events: -1, mounts: -1}
	if err := unix.Pipe2(k.end[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	if fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT); err == nil {
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup | udevGroup}); err == nil {
			k.events = fd
		} else {
			unix.Close(fd)
		}
	}
	// Not an os.File: the runtime polls those itself, and who polls first takes the news.
	if fd, err := unix.Open(filepath.Join(proc, "self", "mountinfo"), unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		k.mounts = fd
	}
	k.work.Go(func() { k.run(tell) })
	return k, nil
}

func (k *kernel) run(tell func()) {
	// poll leaves descriptors that are negative alone. A change of the mounts is an error and an exceptional condition (proc(5)).
	fds := []unix.PollFd{{Fd: int32(k.end[0]), Events: unix.POLLIN}, {Fd: int32(k.events), Events: unix.POLLIN}, {Fd: int32(k.mounts), Events: unix.POLLPRI}}
	for {
		for i := range fds {
			fds[i].Revents = 0
		}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return
		}
		if fds[0].Revents != 0 {
			return
		}
		changed := fds[2].Revents&unix.POLLPRI != 0
		if fds[2].Revents&unix.POLLNVAL != 0 {
			fds[2].Fd = -1
		}
		if fds[1].Revents != 0 && k.drain() {
			changed = true
		}
		if changed {
			tell()
		}
	}
}

// drain reads the events that wait, and reports whether one is about a block device.
func (k *kernel) drain() (block bool) {
	b := make([]byte, maxEvent)
	for {
		n, from, err := unix.Recvfrom(k.events, b, 0)
		switch {
		case err == unix.ENOBUFS:
			block = true // some were lost
			continue
		case err != nil:
			return block
		}
		// Only the kernel has the number 0. Another program could send to the groups where it has the right to: then there is a look
		// too many.
		sender, ok := from.(*unix.SockaddrNetlink)
		if ok && (sender.Pid == 0 || bytes.HasPrefix(b[:n], udevMark)) && bytes.Contains(b[:n], []byte("\x00SUBSYSTEM=block\x00")) {
			block = true
		}
	}
}

func (k *kernel) close() {
	_, _ = unix.Write(k.end[1], []byte{0}) // there is room: nothing else writes
	k.work.Wait()
	for _, fd := range []int{k.end[0], k.end[1], k.events, k.mounts} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
