// Command testchild is a child that reads media as the tests want it: with a file system that fails in every way. Its argument says how it
// begins.
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"disksync/diskmap"
	"disksync/internal/mediachild"
	"disksync/volume"
	"disksync/volume/detect"
)

func main() {
	how := os.Args[len(os.Args)-1]
	switch how {
	case "end":
		os.Exit(3)
	case "sleep":
		<-time.After(time.Hour)
	case "nonsense":
		os.NewFile(4, "socket").Write([]byte("\x00\x00\x00\x08dsmc\xffabc"))
		<-time.After(time.Hour)
	case "endless":
		for {
			if _, err := os.NewFile(4, "socket").Write([]byte("\xff\xff\xff\xff")); err != nil {
				return
			}
		}
	}
	volumes := func(d *volume.Device) ([]detect.Found, []string, error) {
		switch how {
		case "panic":
			panic("the file system is too odd")
		case "bomb":
			bomb()
		case "loop":
			// Reads once, and then makes nothing of it.
			_, err := d.ReadAt(make([]byte, 1), 0)
			for n := 0; err == nil; n++ {
				runtime.KeepAlive(n)
			}
		case "other":
			return nil, nil, fmt.Errorf("%w that can be read: it is odd", volume.ErrOther)
		case "many":
			return make2000(d)
		}
		return []detect.Found{{Partition: 1, Volume: &odd{d}}}, []string{"partition 2: odd"}, nil
	}
	err := mediachild.Serve(mediachild.Readers{Volumes: volumes, Map: func(d diskmap.Disk) (*diskmap.Map, error) { return mapOf(how, d) }})
	fmt.Fprintln(os.Stderr, err)
	os.Exit(2)
}

// mapOf finds out what of a disk is free, or fails.
func mapOf(how string, d diskmap.Disk) (*diskmap.Map, error) {
	switch how {
	case "panic":
		panic("the disk is too odd")
	case "hang":
		select {}
	case "bomb":
		bomb()
	case "exit":
		os.Exit(0)
	case "kill":
		// As the kernel does where memory is short.
		return nil, unix.Tgkill(os.Getpid(), os.Getpid(), unix.SIGKILL)
	case "read":
		// For ever, as one that was taken over may.
		for b := make([]byte, 1<<20); ; {
			if _, err := d.ReadAt(b, 0); err != nil {
				return nil, err
			}
		}
	case "stall":
		// Asks for what it never takes.
		request := append(make([]byte, 8), 0, 0x10, 0, 0)
		for {
			if _, err := unix.Write(3, request); err != nil {
				return nil, err
			}
		}
	case "forbidden":
		return nil, errors.New(forbidden())
	case "error":
		return nil, errors.New(strings.Repeat("odd ", 1000))
	case "false":
		// What is answered is a map of a disk, but not of this one.
		return diskmap.Scan(twice{d})
	case "lie":
		return allFree(d.Size())
	}
	return diskmap.Scan(d)
}

// allFree is a map by which nothing of a disk is used.
func allFree(size int64) (*diskmap.Map, error) {
	b := []byte{0, 0, 0, 1}
	for _, s := range []string{"the disk", string(diskmap.Ext4), ""} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
	}
	const unit = 4096
	for _, n := range []int64{0, size, 0, unit, size / unit} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return diskmap.Parse(append(b, bytes.Repeat([]byte{0xff}, int((size/unit+63)/64*8))...), size)
}

// twice is a disk that is said to be larger than it is.
type twice struct{ diskmap.Disk }

func (t twice) Size() int64 { return 2 * t.Disk.Size() }

func (t twice) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if half := t.Disk.Size(); off < half {
		return t.Disk.ReadAt(p[:min(int64(len(p)), half-off)], off)
	}
	return len(p), nil
}

func make2000(d *volume.Device) (found []detect.Found, notes []string, err error) {
	for i := range 2000 {
		found = append(found, detect.Found{Partition: i + 1, Volume: &odd{d}})
		notes = append(notes, strings.Repeat("x", 5000))
	}
	return found, notes, nil
}

// odd is a file system whose files are called after what they do.
type odd struct{ d *volume.Device }

func (o *odd) Info() volume.Info {
	return volume.Info{Type: "odd", Label: "L", ID: "1-2", BlockSize: 512}
}

func (o *odd) ReadDir(dir string) ([]volume.Entry, error) {
	entries := []volume.Entry{{Name: "all", Size: o.d.Size()}, {Name: "folder", Dir: true}}
	switch dir {
	case ".":
		return entries, nil
	case "damaged":
		return entries, volume.Damaged("half of it")
	case "bad-name":
		return []volume.Entry{{Name: "../../etc/passwd"}}, nil
	case "bad-size":
		return []volume.Entry{{Name: "x", Size: -1}}, nil
	case "full":
		for i := range 3 * volume.MaxEntries {
			entries = append(entries, volume.Entry{Name: fmt.Sprintf("%d-%s", i, strings.Repeat("n", 1000))})
		}
		return entries, nil
	case "panic":
		panic("the folder is too odd")
	}
	return nil, volume.NotExist("open", dir)
}

func (o *odd) Open(name string) (volume.File, error) {
	switch name {
	case "all":
		var x volume.Extents
		if err := x.Append(0, o.d.Size()); err != nil {
			return nil, err
		}
		return volume.NewFile(o.d, &x, o.d.Size(), o.d.Size()), nil
	case "forbidden":
		return volume.Bytes([]byte(forbidden()), 0), nil
	case "folder":
		return nil, volume.Unsupported("it is a folder")
	case "panic", "hang", "bomb", "exit", "short", "loop":
		return &oddFile{volume.Bytes(bytes.Repeat([]byte{1}, 1<<20), 0), name}, nil
	}
	return nil, volume.NotExist("open", name)
}

type oddFile struct {
	volume.File
	how string
}

func (f *oddFile) ReadAt(p []byte, off int64) (int, error) {
	switch f.how {
	case "panic":
		panic("the file is too odd")
	case "hang":
		select {}
	case "loop":
		for n := 0; ; n++ {
			runtime.KeepAlive(n)
		}
	case "bomb":
		bomb()
	case "exit":
		os.Exit(0)
	case "short":
		return len(p) / 2, nil
	}
	return f.File.ReadAt(p, off)
}

func bomb() {
	var kept [][]byte
	for len(kept) < 1<<20 {
		b := make([]byte, 16<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		kept = append(kept, b)
	}
}

// forbidden tries what a child has no need of and says, a line each, what came of it.
func forbidden() string {
	path := []byte("/etc/passwd\x00")
	at := uintptr(unsafe.Pointer(&path[0]))
	cwd := ^uintptr(99) // AT_FDCWD
	var out strings.Builder
	for _, c := range []struct {
		name    string
		trap    uintptr
		a, b, c uintptr
	}{
		{"openat", unix.SYS_OPENAT, cwd, at, 0},
		{"openat2", unix.SYS_OPENAT2, cwd, at, 0},
		{"execve", unix.SYS_EXECVE, at, 0, 0},
		{"execveat", unix.SYS_EXECVEAT, cwd, at, 0},
		{"socket", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, 0},
		{"socket unix", unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0},
		{"connect", unix.SYS_CONNECT, 4, at, 16},
		{"sendmsg", unix.SYS_SENDMSG, 4, at, 0},
		{"recvmsg", unix.SYS_RECVMSG, 4, at, 0},
		{"fork", unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0},
		{"kill", unix.SYS_KILL, uintptr(os.Getppid()), 0, 0},
		{"tgkill", unix.SYS_TGKILL, uintptr(1), uintptr(1), 0},
		{"ptrace", unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1, 0},
		{"process_vm_writev", unix.SYS_PROCESS_VM_WRITEV, uintptr(1), 0, 0},
		{"ioctl", unix.SYS_IOCTL, 3, unix.BLKGETSIZE64, at},
		{"fcntl", unix.SYS_FCNTL, 3, unix.F_SETFL, 0},
		{"dup", unix.SYS_DUP, 3, 0, 0},
		{"pwrite64", unix.SYS_PWRITE64, 3, at, 1},
		{"ftruncate", unix.SYS_FTRUNCATE, 5, 0, 0},
		{"mmap executable", unix.SYS_MMAP, 0, 4096, unix.PROT_READ | unix.PROT_EXEC},
		{"mprotect executable", unix.SYS_MPROTECT, at &^ 4095, 4096, unix.PROT_READ | unix.PROT_EXEC},
		{"memfd_create", unix.SYS_MEMFD_CREATE, at, 0, 0},
		{"setuid", unix.SYS_SETUID, 0, 0, 0},
		{"setresuid", unix.SYS_SETRESUID, 0, 0, 0},
		{"prctl", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0},
		{"prlimit64", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, 0},
		{"unshare", unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0},
		{"mount", unix.SYS_MOUNT, at, at, at},
		{"unlinkat", unix.SYS_UNLINKAT, cwd, at, 0},
		{"statx", unix.SYS_STATX, cwd, at, 0},
		{"chdir", unix.SYS_CHDIR, at, 0, 0},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, 1, at, 0},
		{"bpf", unix.SYS_BPF, 0, at, 0},
		{"seccomp", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, 0},
		{"keyctl", unix.SYS_KEYCTL, 0, 0, 0},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, at, 0, 0},
		{"userfaultfd", unix.SYS_USERFAULTFD, 0, 0, 0},
		{"pidfd_open", unix.SYS_PIDFD_OPEN, 1, 0, 0},
		{"splice", unix.SYS_SPLICE, 3, 0, 4},
		{"none", 100_000, 0, 0, 0},
	} {
		_, _, errno := unix.RawSyscall(c.trap, c.a, c.b, c.c)
		fmt.Fprintf(&out, "%s\t%s\n", c.name, unix.ErrnoName(errno))
	}
	runtime.KeepAlive(path)
	return out.String()
}
