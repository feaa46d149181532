// Package faultfs is a file system in memory that fails and loses power on request, for testing what must survive both.
//
// Every operation that changes something, or syncs, is a step. A test runs its protocol once to count the steps, then once
// for each step and [Fault]: the operation fails before or after it took effect, or the power goes. After a loss of power
// [FS.Restart] gives the file system as a disk may hold it: what was synced is there; of everything else each page of data
// and each change of a name is there or not, by chance. Operations that only look are counted apart, for [FailRead].
//
// The file system also watches the order of things: [FS.UnsafeRenames] and [FS.LateWrites] name what no protocol may do.
package faultfs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"disksync/internal/durable"
)

// Fault is what happens at the chosen step.
type Fault int

// The faults.
const (
	None       Fault = iota
	FailBefore       // the operation returns an error and did nothing
	FailAfter        // the operation took effect and returns an error all the same
	Short            // a write took effect in its first half and returns an error; other operations fail as with FailBefore
	NoSpace          // a write or create returns ENOSPC, from this step on; other operations work
	PowerLoss        // the operation does nothing, and neither does any after it
	FailRead         // an operation that only looks returns EIO; these are counted by themselves
)

// String returns the name of the fault.
func (f Fault) String() string {
	return [...]string{"none", "fail before", "fail after", "short write", "no space", "power loss", "fail read"}[f]
}

// Op is a kind of operation that is a step.
type Op string

// The kinds.
const (
	OpCreate  Op = "create"
	OpWrite   Op = "write"
	OpSync    Op = "sync"
	OpRename  Op = "rename"
	OpRemove  Op = "remove"
	OpMkdir   Op = "mkdir"
	OpChmod   Op = "chmod"
	OpSyncDir Op = "sync folder"
)

// Step is an operation of the log. Name is that of the file or folder; for a rename, the new one.
type Step struct {
	Op   Op
	Name string
}

// Errors that the file system injects.
var (
	ErrInjected = errors.New("injected fault")
	ErrPowerOff = errors.New("the power is off")
)

// FS is the file system. It is safe for concurrent use.
type FS struct {
	mu    sync.Mutex
	dirs  map[string]*folder
	log   []Step
	reads int
	at    int
	fault Fault
	off   bool
	fired bool
	free  int64
	// unsafeRenames are names that were given to content that was not synced, lateWrites names of files that were written
	// after a rename had given them those.
	unsafeRenames, lateWrites []string
}

// folder has the names that a process sees, those that are durable, and the changes in between, in order.
type folder struct {
	now, synced map[string]*inode
	pending     []change
}

// change is a change of names: a rename has both, a creation only to, a removal only from.
type change struct {
	from, to string
	node     *inode
}

// New returns an empty file system.
func New() *FS {
	f := &FS{dirs: map[string]*folder{}, free: 1 << 40}
	f.dirs["."] = newFolder()
	return f
}

// SetFree sets what Free returns. It limits nothing.
func (f *FS) SetFree(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free = bytes
}

func newFolder() *folder {
	return &folder{now: map[string]*inode{}, synced: map[string]*inode{}}
}

// Arm makes the step number at, counted from now and from 1, suffer fault.
func (f *FS) Arm(at int, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log, f.reads, f.at, f.fault, f.fired = nil, 0, at, fault, false
}

// Steps returns the number of steps since Arm.
func (f *FS) Steps() int { return len(f.Log()) }

// Log returns the steps since Arm, in order.
func (f *FS) Log() []Step {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

// Reads returns the number of operations since Arm that only looked.
func (f *FS) Reads() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

// Fired reports whether the armed step was reached.
func (f *FS) Fired() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fired
}

// UnsafeRenames returns the names that were given to files with content that was not synced: each is a bug of the caller.
func (f *FS) UnsafeRenames() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.unsafeRenames)
}

// LateWrites returns the names of files that were written after a rename had given them those names. Whether that is a bug
// depends on the file: one that others may rely on is never changed again.
func (f *FS) LateWrites() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.lateWrites)
}

// do runs one step under the lock.
func (f *FS) do(kind Op, name string, op func() error) error {
	return f.doWrite(kind, name, func(half bool) error {
		if half {
			return nil
		}
		return op()
	})
}

// doWrite is do for a write, which can be told to do the first half only.
func (f *FS) doWrite(kind Op, name string, op func(half bool) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.off {
		return ErrPowerOff
	}
	f.log = append(f.log, Step{kind, path.Clean(name)})
	if f.fault == FailRead || len(f.log) != f.at && !(f.fault == NoSpace && f.fired) {
		return op(false)
	}
	if f.fault != None {
		f.fired = true
	}
	switch f.fault {
	case FailBefore:
		return ErrInjected
	case FailAfter, Short:
		if err := op(f.fault == Short); err != nil {
			return err
		}
		return ErrInjected
	case NoSpace:
		if kind == OpCreate || kind == OpWrite || kind == OpMkdir {
			return fmt.Errorf("write: %w", syscall.ENOSPC)
		}
	case PowerLoss:
		f.off = true
		return ErrPowerOff
	}
	return op(false)
}

// look runs an operation that changes nothing.
func (f *FS) look(name string, op func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.off {
		return ErrPowerOff
	}
	if f.reads++; f.fault == FailRead && f.reads == f.at {
		f.fired = true
		return &fs.PathError{Op: "read", Path: name, Err: syscall.EIO}
	}
	return op()
}

// Restart returns the file system after a loss of power and a new start: each unsynced page and name is there with
// probability keep. The old one must not be used any more.
func (f *FS) Restart(keep float64, r *rand.Rand) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off = true
	g := &FS{dirs: map[string]*folder{}, free: f.free}
	fresh := map[*inode]*inode{}
	for _, dir := range slices.Sorted(maps.Keys(f.dirs)) {
		old := f.dirs[dir]
		names := maps.Clone(old.synced)
		for _, c := range old.pending {
			if r.Float64() < keep {
				c.apply(names)
			}
		}
		d := newFolder()
		for _, name := range slices.Sorted(maps.Keys(names)) {
			n := names[name]
			if fresh[n] == nil {
				fresh[n] = n.afterPowerLoss(keep, r)
			}
			if n.published == path.Join(dir, name) {
				fresh[n].published = n.published // else the rename was lost
			}
			d.now[name], d.synced[name] = fresh[n], fresh[n]
		}
		g.dirs[dir] = d
	}
	// A folder whose name was lost is gone with all that is in it.
	for _, dir := range slices.Sorted(maps.Keys(g.dirs)) {
		if dir != "." && g.lookup(dir) == nil {
			delete(g.dirs, dir)
		}
	}
	return g
}

// Clone returns a copy of the file system as it is, with what is and what is not synced, armed with nothing. Files that are
// open stay open in the original only.
func (f *FS) Clone() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := &FS{dirs: map[string]*folder{}, free: f.free}
	copies := map[*inode]*inode{}
	clone := func(n *inode) *inode {
		if copies[n] == nil {
			copies[n] = n.clone()
		}
		return copies[n]
	}
	for dir, d := range f.dirs {
		c := newFolder()
		for name, n := range d.now {
			c.now[name] = clone(n)
		}
		for name, n := range d.synced {
			c.synced[name] = clone(n)
		}
		for _, p := range d.pending {
			p.node = clone(p.node)
			c.pending = append(c.pending, p)
		}
		g.dirs[dir] = c
	}
	return g
}

func (c change) apply(names map[string]*inode) {
	switch {
	case c.from == "":
		names[c.to] = c.node
	case c.to == "":
		delete(names, c.from)
	case names[c.from] == c.node:
		// A rename is one change: never both names, never neither.
		delete(names, c.from)
		names[c.to] = c.node
	}
}

// lookup returns the file or folder at name, nil when there is none.
func (f *FS) lookup(name string) *inode {
	name = path.Clean(name)
	if name == "." {
		return &inode{dir: true}
	}
	d := f.dirs[path.Dir(name)]
	if d == nil {
		return nil
	}
	return d.now[path.Base(name)]
}

func notExist(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

// Create implements durable.FS.
func (f *FS) Create(name string, _ fs.FileMode) (durable.File, error) {
	var n *inode
	err := f.do(OpCreate, name, func() error {
		d := f.dirs[path.Dir(path.Clean(name))]
		if d == nil {
			return notExist("create", name)
		}
		base := path.Base(name)
		if n = d.now[base]; n != nil && !n.dir {
			f.noteWrite(n)
			n.truncate()
			return nil
		}
		n = &inode{}
		d.now[base] = n
		d.pending = append(d.pending, change{to: base, node: n})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &file{fs: f, n: n, name: name}, nil
}

// noteWrite is called before the content of a file changes.
func (f *FS) noteWrite(n *inode) {
	if n.published != "" {
		f.lateWrites = append(f.lateWrites, n.published)
	}
}

// Open implements durable.FS.
func (f *FS) Open(name string) (durable.File, error) { return f.open(name, true) }

func (f *FS) open(name string, readOnly bool) (durable.File, error) {
	var n *inode
	err := f.look(name, func() error {
		if n = f.lookup(name); n == nil || n.dir {
			return notExist("open", name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &file{fs: f, n: n, name: name, readOnly: readOnly}, nil
}

// OpenWrite implements durable.FS.
func (f *FS) OpenWrite(name string) (durable.File, error) { return f.open(name, false) }

// Rename implements durable.FS.
func (f *FS) Rename(from, to string) error {
	return f.do(OpRename, to, func() error {
		if path.Dir(path.Clean(from)) != path.Dir(path.Clean(to)) {
			return fmt.Errorf("rename %s to another folder, %s", from, to)
		}
		d, n := f.dirs[path.Dir(path.Clean(from))], f.lookup(from)
		if n == nil {
			return notExist("rename", from)
		}
		if n.dirty() {
			f.unsafeRenames = append(f.unsafeRenames, to)
		}
		n.published = path.Clean(to)
		c := change{from: path.Base(from), to: path.Base(to), node: n}
		c.apply(d.now)
		d.pending = append(d.pending, c)
		return nil
	})
}

// Remove implements durable.FS.
func (f *FS) Remove(name string) error {
	return f.do(OpRemove, name, func() error {
		n := f.lookup(name)
		if n == nil {
			return notExist("remove", name)
		}
		if n.dir {
			if len(f.dirs[path.Clean(name)].now) > 0 {
				return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
			}
			delete(f.dirs, path.Clean(name))
		}
		d := f.dirs[path.Dir(path.Clean(name))]
		c := change{from: path.Base(name), node: n}
		c.apply(d.now)
		d.pending = append(d.pending, c)
		return nil
	})
}

// Mkdir implements durable.FS.
func (f *FS) Mkdir(name string, _ fs.FileMode) error {
	return f.do(OpMkdir, name, func() error {
		name := path.Clean(name)
		if n := f.lookup(name); n != nil {
			return nil
		}
		d := f.dirs[path.Dir(name)]
		if d == nil {
			return notExist("mkdir", name)
		}
		n := &inode{dir: true}
		f.dirs[name] = newFolder()
		d.now[path.Base(name)] = n
		d.pending = append(d.pending, change{to: path.Base(name), node: n})
		return nil
	})
}

// ReadDir implements durable.FS.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	var out []fs.DirEntry
	err := f.look(name, func() error {
		d := f.dirs[path.Clean(name)]
		if d == nil {
			return notExist("readdir", name)
		}
		for _, base := range slices.Sorted(maps.Keys(d.now)) {
			out = append(out, fs.FileInfoToDirEntry(info{base, d.now[base].size, d.now[base].dir}))
		}
		return nil
	})
	return out, err
}

// Stat implements durable.FS.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	var i info
	err := f.look(name, func() error {
		n := f.lookup(name)
		if n == nil {
			return notExist("stat", name)
		}
		i = info{path.Base(name), n.size, n.dir}
		return nil
	})
	return i, err
}

// SyncDir implements durable.FS.
func (f *FS) SyncDir(name string) error {
	return f.do(OpSyncDir, name, func() error {
		d := f.dirs[path.Clean(name)]
		if d == nil {
			return notExist("sync", name)
		}
		d.synced, d.pending = maps.Clone(d.now), nil
		return nil
	})
}

// Chmod implements durable.FS; permissions are not kept.
func (f *FS) Chmod(name string, _ fs.FileMode) error {
	return f.do(OpChmod, name, func() error {
		if f.lookup(name) == nil {
			return notExist("chmod", name)
		}
		return nil
	})
}

// Free implements durable.FS.
func (f *FS) Free() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.free, nil
}

// String lists the tree, for messages of tests.
func (f *FS) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, dir := range slices.Sorted(maps.Keys(f.dirs)) {
		for _, name := range slices.Sorted(maps.Keys(f.dirs[dir].now)) {
			fmt.Fprintf(&b, "%s (%d bytes)\n", path.Join(dir, name), f.dirs[dir].now[name].size)
		}
	}
	return b.String()
}

type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string { return i.name }
func (i info) Size() int64  { return i.size }
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.dir }
func (i info) Sys() any           { return nil }
