// Package slowdisk simulates a disc drive or a stick for tests: a file, of a file system in user space, that counts what reading it would
// have taken, has bad places, and can be pulled out. Nothing waits: time is counted, not spent.
package slowdisk

import (
	"context"
	"io"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Model says how fast a drive is.
type Model struct {
	Rate float64       // bytes a second
	Seek time.Duration // for each read that does not begin where the one before ended
}

// DVD is a disc at 8 times the single speed, Stick a stick on USB 3.
func DVD() Model { return Model{11e6, 120 * time.Millisecond} }

// Stick is a fast stick.
func Stick() Model { return Model{100e6, 500 * time.Microsecond} }

// Disk is a simulated medium. It is safe for concurrent use.
type Disk struct {
	fs.Inode
	// Path is the file.
	Path string
	Model
	r    io.ReaderAt
	size int64

	mu    sync.Mutex
	next  int64 // where the last read ended
	bytes int64
	seeks int
	bad   [][2]int64 // from, to
	left  int64      // bytes until it is pulled out; negative: it stays
}

// New makes the first size bytes of r a medium, until the test ends. Where there is no FUSE the test is skipped.
func New(t testing.TB, m Model, r io.ReaderAt, size int64) *Disk {
	t.Helper()
	d := &Disk{Model: m, r: r, size: size, left: -1}
	dir := t.TempDir()
	// Whoever reads it, under any user, and one request at a time, as a drive has it.
	o := &fs.Options{MountOptions: fuse.MountOptions{DirectMount: true, AllowOther: syscall.Geteuid() == 0, MaxReadAhead: 1 << 20, MaxWrite: 1 << 20}}
	o.OnAdd = func(ctx context.Context) {
		d.AddChild("disk", d.NewPersistentInode(ctx, &file{d: d}, fs.StableAttr{Mode: fuse.S_IFREG}), false)
	}
	server, err := fs.Mount(dir, d, o)
	if err != nil {
		t.Skip("there is no FUSE here: ", err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
	})
	d.Path = filepath.Join(dir, "disk")
	return d
}

// Bad makes the bytes from one place up to another unreadable.
func (d *Disk) Bad(from, to int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bad = append(d.bad, [2]int64{from, to})
}

// PullOut makes the medium go when so many more bytes were read.
func (d *Disk) PullOut(after int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = after
}

// Reset forgets what was counted.
func (d *Disk) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bytes, d.seeks = 0, 0
}

// Counted is what was read of a medium.
type Counted struct {
	Bytes int64
	Seeks int
	Time  time.Duration // that it would have taken
}

// Counted returns what was read since the last Reset.
func (d *Disk) Counted() Counted {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Counted{d.bytes, d.seeks, d.Sequential(d.bytes) + time.Duration(d.seeks)*d.Seek}
}

// Sequential returns how long it takes to read so many bytes in a row.
func (m Model) Sequential(n int64) time.Duration {
	return time.Duration(float64(n) / m.Rate * float64(time.Second))
}

// take counts a read and says how it ends: how many bytes come, and the error that comes when there are none.
func (d *Disk) take(off, n int64) (int64, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n = min(n, max(d.size-off, 0))
	if d.left == 0 {
		return 0, syscall.ENODEV
	}
	for _, b := range d.bad {
		if off < b[1] && b[0] < off+n {
			n = max(b[0]-off, 0)
			if n == 0 {
				return 0, syscall.EIO
			}
		}
	}
	if d.left > 0 {
		n = min(n, d.left)
		d.left -= n
	}
	if off != d.next {
		d.seeks++
	}
	d.next = off + n
	d.bytes += n
	return n, 0
}

// file is the medium as the kernel sees it.
type file struct {
	fs.Inode
	d *Disk
}

var (
	_ fs.NodeOpener    = (*file)(nil)
	_ fs.NodeReader    = (*file)(nil)
	_ fs.NodeGetattrer = (*file)(nil)
)

func (f *file) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0 // the kernel neither keeps bytes nor reads ahead
}

func (f *file) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Size, out.Mode = uint64(f.d.size), 0o444
	return 0
}

func (f *file) Read(_ context.Context, _ fs.FileHandle, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n, errno := f.d.take(off, int64(len(p)))
	if errno != 0 {
		return nil, errno
	}
	if _, err := f.d.r.ReadAt(p[:n], off); err != nil && err != io.EOF {
		return nil, syscall.EIO
	}
	return fuse.ReadResultData(p[:n]), 0
}
