// Package fusefile shows devices as files, by FUSE: raw disks for programs that take files and no block devices.
package fusefile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"disksync/disk/nbd"
)

const (
	fsName = "disksync" // the type of the file system is "fuse.disksync"
	// maxTransfer is the largest read or write that the kernel asks for at once, in bytes.
	maxTransfer = 1 << 20
	// busyPause is how often it is tried to unmount what is in use.
	busyPause = 200 * time.Millisecond
	// busyTries is how often it is tried before somebody is told: a program that looks at every new folder is not worth that.
	busyTries = 2
)

// ErrNoFUSE is returned where the system has no FUSE.
var ErrNoFUSE = errors.New("this system has no /dev/fuse")

// Options changes how [Mount] works. The zero value is good.
type Options struct {
	// Writable lets the files be written; their length stays. fsync is the device's Flush.
	Writable bool
	// AllowOther lets other users in, as far as the files' mode does: root, as a rule.
	AllowOther bool
	// Once says that files are read once, as a rule: the system's memory keeps nothing of them.
	Once bool
	// Report is told of errors of a device. It may be called concurrently. nil: nobody is told.
	Report func(name, op string, err error)
}

// Mounted is a folder whose files are devices.
type Mounted struct {
	server  interface{ Wait() }
	gate    *gate
	unmount func() error
	there   func() (bool, error) // whether it is mounted still
}

// Mount puts a file for each device, by its name, into dir, a folder that is there and empty, and returns when they can be read. The
// devices are used until Serve returns. What a killed process left mounted there is unmounted first. Errors wrap ErrNoFUSE, ErrNotEmpty, or
// what the system says of the folder.
func Mount(dir string, devices map[string]nbd.Device, o Options) (*Mounted, error) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoFUSE, err)
	}
	name, err := prepare(dir)
	if err != nil {
		return nil, err
	}
	if o.Report == nil {
		o.Report = func(string, string, error) {}
	}
	g := &gate{}
	root := &folder{devices: map[string]nbd.Device{}, o: o}
	for name, d := range devices {
		root.devices[name] = gated{d, g}
	}
	always := time.Hour // nothing changes but by the kernel itself
	m := fuse.MountOptions{
		FsName: fsName, Name: fsName, DirectMount: true, AllowOther: o.AllowOther, DisableXAttrs: true, MaxWrite: maxTransfer,
		Options: []string{"default_permissions"}, Logger: log.New(io.Discard, "", 0),
	}
	if !o.Writable {
		m.Options = append(m.Options, "ro")
	}
	server, err := fs.Mount(name, root, &fs.Options{MountOptions: m, EntryTimeout: &always, AttrTimeout: &always, Logger: m.Logger})
	if err != nil {
		return nil, fmt.Errorf("mount on %s: %w", dir, err)
	}
	return &Mounted{
		server: server, gate: g, unmount: func() error { return unmount(name) }, there: func() (bool, error) { return mounted(name) },
	}, nil
}

// Serve returns when the folder was unmounted, by somebody else or because ctx has ended. busy is called once when it is in use then; it is
// unmounted as soon as it no longer is. When it cannot be unmounted for another reason Serve returns that: what is left of it until the
// process ends has files that cannot be read or written.
func (m *Mounted) Serve(ctx context.Context, busy func()) error {
	gone := make(chan struct{})
	go func() {
		m.server.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	tick := time.NewTicker(busyPause)
	defer tick.Stop()
	for try := 1; ; try++ {
		err := m.unmount()
		if err == nil {
			<-gone
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			// Somebody else may have unmounted it meanwhile; then it goes on for those who have files open.
			there, thereErr := m.there()
			if there || thereErr != nil {
				m.gate.close()
				return errors.Join(fmt.Errorf("unmount: %w", err), thereErr)
			}
		}
		if try == busyTries {
			busy()
		}
		select {
		case <-gone:
			return nil
		case <-tick.C:
		}
	}
}

// folder is the root.
type folder struct {
	fs.Inode
	devices map[string]nbd.Device
	o       Options
}

var _ fs.NodeOnAdder = (*folder)(nil)

// OnAdd implements fs.NodeOnAdder.
func (d *folder) OnAdd(ctx context.Context) {
	for _, name := range slices.Sorted(maps.Keys(d.devices)) {
		f := &file{Device: d.devices[name], name: name, o: d.o, since: time.Now()}
		d.AddChild(name, d.NewPersistentInode(ctx, f, fs.StableAttr{Mode: syscall.S_IFREG}), false)
	}
}

// file is one device.
type file struct {
	fs.Inode
	nbd.Device
	name  string
	o     Options
	since time.Time
}

var (
	_ fs.NodeGetattrer = (*file)(nil)
	_ fs.NodeSetattrer = (*file)(nil)
	_ fs.NodeOpener    = (*file)(nil)
	_ fs.NodeReader    = (*file)(nil)
	_ fs.NodeWriter    = (*file)(nil)
	_ fs.NodeFsyncer   = (*file)(nil)
	_ fs.NodeAllocater = (*file)(nil)
	_ fs.NodeLseeker   = (*file)(nil)
)

// Getattr implements fs.NodeGetattrer. Only whoever mounted it may open the file, and root.
func (f *file) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Nlink = 0o400, 1
	if f.o.Writable {
		out.Mode = 0o600
	}
	out.Uid, out.Gid = uint32(os.Geteuid()), uint32(os.Getegid())
	out.Size, out.Blocks, out.Blksize = uint64(f.Size()), uint64(f.Size()+511)/512, 4096
	out.SetTimes(&f.since, &f.since, &f.since)
	return 0
}

// Setattr implements fs.NodeSetattrer. Times may be set, which are not kept; a disk's length stays.
func (f *file) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok && size != uint64(f.Size()) {
		return syscall.EPERM
	}
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		return syscall.EPERM
	}
	return f.Getattr(ctx, h, out)
}

// Open implements fs.NodeOpener.
func (f *file) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if !f.o.Writable && flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return nil, 0, syscall.EROFS
	}
	if f.o.Once {
		return nil, fuse.FOPEN_DIRECT_IO, 0
	}
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

// Read implements fs.NodeReader.
func (f *file) Read(_ context.Context, _ fs.FileHandle, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	p = p[:f.within(off, int64(len(p)))]
	if len(p) == 0 {
		return fuse.ReadResultData(nil), 0
	}
	if n, err := f.ReadAt(p, off); n < len(p) {
		return nil, f.failed("read", err)
	}
	return fuse.ReadResultData(p), 0
}

// Write implements fs.NodeWriter. Behind the end there is no room, as on a block device.
func (f *file) Write(_ context.Context, _ fs.FileHandle, p []byte, off int64) (uint32, syscall.Errno) {
	p = p[:f.within(off, int64(len(p)))]
	if len(p) == 0 {
		return 0, syscall.ENOSPC
	}
	if _, err := f.WriteAt(p, off); err != nil {
		return 0, f.failed("write", err)
	}
	return uint32(len(p)), 0
}

// Fsync implements fs.NodeFsyncer.
func (f *file) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	if !f.o.Writable {
		return 0
	}
	return f.failed("flush", f.Flush())
}

// Modes of fallocate(2).
const (
	keepSize  = 1
	punchHole = 2
	zeroRange = 0x10
)

// Allocate implements fs.NodeAllocater: ranges can be made zero.
func (f *file) Allocate(_ context.Context, _ fs.FileHandle, off, length uint64, mode uint32) syscall.Errno {
	if mode&^keepSize != punchHole && mode&^keepSize != zeroRange {
		return syscall.EOPNOTSUPP
	}
	if off > uint64(f.Size()) || length > uint64(f.Size())-off {
		return syscall.ENOSPC
	}
	return f.failed("zero", f.Zero(int64(off), int64(length)))
}

// What lseek(2) is asked for.
const (
	seekData = 3
	seekHole = 4
)

// Lseek implements fs.NodeLseeker: what reads as zeros is a hole.
func (f *file) Lseek(_ context.Context, _ fs.FileHandle, off uint64, whence uint32) (uint64, syscall.Errno) {
	if whence != seekData && whence != seekHole {
		return 0, syscall.EINVAL
	}
	size := f.Size()
	if off >= uint64(size) {
		return 0, syscall.ENXIO
	}
	for e, err := range f.Extents(int64(off), size-int64(off)) {
		if err != nil {
			return 0, f.failed("map", err)
		}
		if e.Zero == (whence == seekHole) {
			return max(uint64(e.Offset), off), 0
		}
	}
	if whence == seekHole {
		return uint64(size), 0 // there is one behind the end
	}
	return 0, syscall.ENXIO
}

// within returns how many of length bytes at off are on the device.
func (f *file) within(off, length int64) int64 { return max(0, min(length, f.Size()-off)) }

// failed reports an error of the device, and returns what the kernel is told of it; nil is none.
func (f *file) failed(op string, err error) syscall.Errno {
	if err == nil {
		return 0
	}
	f.o.Report(f.name, op, err)
	if errors.Is(err, nbd.ErrNoSpace) {
		return syscall.ENOSPC
	}
	return syscall.EIO
}
