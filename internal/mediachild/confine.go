package mediachild

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// memoryGoal is where the collector begins to work hard, memoryLimit where the kernel refuses more; in bytes. What readers of file
	// systems may remember and take for one call is 80 MiB, the lists of an answer take a few MiB more.
	memoryGoal  = 128 << 20
	memoryLimit = 384<<20 + detectorMemory
	nobody      = 65534
)

// confine takes from the process what it does not need. It returns what could not be taken, for people: whatever the system lacks, the
// rest holds.
func confine() (missing []string) {
	// From here on the thread stays: where rights belong to threads and only one can be changed, it is the one that goes on.
	runtime.LockOSThread()
	settle()
	debug.SetMemoryLimit(memoryGoal)
	try := func(what string, err error) {
		if err != nil {
			missing = append(missing, fmt.Sprintf("%s: %v", what, err))
		}
	}
	try("the user nobody", becomeNobody())
	try("capabilities", dropCapabilities())
	try("no dumps", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
	try("no new rights", onAllThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0))
	try("landlock", landlock())
	try("limits", limitResources())
	try("seccomp", filterCalls())
	return missing
}

// onAllThreads makes a system call on each thread, as rights and sandboxes are a thread's. Programs that have C in them cannot; there it is made
// on this one, and seccomp takes what it carries over to the others.
func onAllThreads(trap, a, b, c uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall(trap, a, b, c)
	if errno == syscall.ENOTSUP {
		_, _, errno = unix.RawSyscall(trap, a, b, c)
	}
	if errno != 0 {
		return errno
	}
	return nil
}

func limitResources() error {
	for _, l := range []struct {
		what  int
		limit uint64
	}{
		{unix.RLIMIT_CORE, 0},
		{unix.RLIMIT_FSIZE, 0},
		{unix.RLIMIT_NOFILE, 0}, // those that are open stay
		{unix.RLIMIT_MEMLOCK, 0},
		{unix.RLIMIT_MSGQUEUE, 0},
		// Of address space the runtime reserves much more than it uses; this counts what can be written to.
		{unix.RLIMIT_DATA, memoryLimit},
		// RLIMIT_NPROC would count everybody's threads, and those of the runtime; seccomp allows threads only.
	} {
		if err := unix.Setrlimit(l.what, &unix.Rlimit{Cur: l.limit, Max: l.limit}); err != nil {
			return err
		}
	}
	return nil
}

func becomeNobody() error {
	if os.Geteuid() != 0 {
		return nil // it is somebody else already
	}
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setresgid(nobody, nobody, nobody); err != nil {
		return err
	}
	return syscall.Setresuid(nobody, nobody, nobody)
}

func dropCapabilities() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return onAllThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&none[0])), 0)
}

// landlock takes away all files that are not open, and the network, as far as this kernel knows of such things (landlock(7)).
func landlock() error {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return errno
	}
	var all unix.LandlockRulesetAttr
	all.Handled_access_fs = 1<<13 - 1
	for _, v := range []struct {
		since uintptr
		right uint64
	}{{2, unix.LANDLOCK_ACCESS_FS_REFER}, {3, unix.LANDLOCK_ACCESS_FS_TRUNCATE}, {5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV}} {
		if version >= v.since {
			all.Handled_access_fs |= v.right
		}
	}
	if version >= 4 {
		all.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if version >= 6 {
		all.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&all)), unsafe.Sizeof(all), 0)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(fd))
	_, _, errno = syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0)
	if errno != 0 {
		return errno // which it is where the program has C in it
	}
	return nil
}
