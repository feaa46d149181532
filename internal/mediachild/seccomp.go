package mediachild

import (
	"errors"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (linux/seccomp.h); of an argument, which has 8 bytes, the lower half comes first.
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16
)

// calls are the system calls that a child may make: those of reading and answering, and those of Go's runtime for memory, threads,
// signals and clocks.
var calls = []uint32{
	unix.SYS_PREAD64, unix.SYS_READ, unix.SYS_WRITE, unix.SYS_CLOSE,
	unix.SYS_FUTEX, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MREMAP, unix.SYS_BRK, unix.SYS_MINCORE,
	unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETTID, unix.SYS_GETPID, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY, unix.SYS_GETRANDOM,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
	unix.SYS_EPOLL_PWAIT, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ,
}

// rule is a system call that is allowed with some arguments only.
type rule struct {
	call     uint32
	argument uint32
	mask     uint32 // of the lower half of the argument
	want     uint32 // what it has to be then
}

func rules() []rule {
	return []rule{
		{unix.SYS_CLONE, 0, unix.CLONE_THREAD, unix.CLONE_THREAD}, // no processes
		{unix.SYS_MMAP, 2, unix.PROT_EXEC, 0},                     // no new code
		{unix.SYS_MPROTECT, 2, unix.PROT_EXEC, 0},
		{unix.SYS_TGKILL, 0, ^uint32(0), uint32(os.Getpid())}, // the runtime interrupts its own threads
	}
}

// filter is the program that the kernel runs before each system call.
func filter(arch uint32) []unix.SockFilter {
	load := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
	}
	// A comparison goes on by yes or no instructions.
	equal := func(k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: yes, Jf: no, K: k}
	}
	end := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	allow, deny := end(unix.SECCOMP_RET_ALLOW), end(unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM))
	p := []unix.SockFilter{
		load(dataArch), equal(arch, 1, 0), end(unix.SECCOMP_RET_KILL_PROCESS), // numbers mean other calls there
		load(dataNumber),
	}
	for _, c := range calls {
		p = append(p, equal(c, 0, 1), allow)
	}
	for _, r := range rules() {
		p = append(p,
			equal(r.call, 0, 5), load(dataArgs+8*r.argument),
			unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: r.mask}, equal(r.want, 0, 1), allow, deny)
	}
	// A C library takes the older call when this one is not there, and its arguments can be looked at.
	return append(p, equal(unix.SYS_CLONE3, 0, 1), end(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)), deny)
}

// filterCalls has the kernel refuse all other system calls, for all threads.
func filterCalls() error {
	if auditArch == 0 {
		return errors.New("is not there for " + runtime.GOARCH)
	}
	p := filter(auditArch)
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	switch {
	case errno != 0:
		return errno
	case thread != 0:
		return errors.New("a thread has a filter of its own")
	}
	return nil
}
