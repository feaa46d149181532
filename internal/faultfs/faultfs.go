// Package faultfs is a file system in memory that fails and loses power on request, for testing what must survive both.
//
// Every operation that changes something, or syncs, is a step. A test runs its protocol once to count the steps, then once
// for each step and [Fault]: the operation fails before or after it took effect, or the power goes. After a loss of power
// [FS.Restart] gives the file system as a disk may hold it: what was synced is there; of everything else each page of data
// and each change of a name is there or not, by chance.
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
	NoSpace          // a write or create returns ENOSPC, from this step on; other operations work
	PowerLoss        // the operation does nothing, and neither does any after it
)

// Errors that the file system injects.
var (
	ErrInjected = errors.New("injected fault")
	ErrPowerOff = errors.New("the power is off")
)

// FS is the file system. It is safe for concurrent use.
type FS struct {
	mu    sync.Mutex
	dirs  map[string]*folder
	step  int
	at    int
	fault Fault
	off   bool
	fired bool
	// unsafeRenames are names that were given to content that was not synced.
	unsafeRenames []string
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
	f := &FS{dirs: map[string]*folder{}}
	f.dirs["."] = newFolder()
	return f
}

func newFolder() *folder {
	return &folder{now: map[string]*inode{}, synced: map[string]*inode{}}
}

// Arm makes the step number at, counted from now and from 1, suffer fault.
func (f *FS) Arm(at int, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.step, f.at, f.fault, f.fired = 0, at, fault, false
}

// Steps returns the number of steps since Arm.
func (f *FS) Steps() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.step
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

// do runs one step under the lock. grows says that the operation needs space.
func (f *FS) do(grows bool, op func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.off {
		return ErrPowerOff
	}
	f.step++
	if f.step != f.at && !(f.fault == NoSpace && f.fired) {
		return op()
	}
	if f.fault != None {
		f.fired = true
	}
	switch f.fault {
	case FailBefore:
		return ErrInjected
	case FailAfter:
		if err := op(); err != nil {
			return err
		}
		return ErrInjected
	case NoSpace:
		if grows {
			return fmt.Errorf("write: %w", syscall.ENOSPC)
		}
	case PowerLoss:
		f.off = true
		return ErrPowerOff
	}
	return op()
}

// look runs an operation that changes nothing.
func (f *FS) look(op func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.off {
		return ErrPowerOff
	}
	return op()
}

// Restart returns the file system after a loss of power and a new start: each unsynced page and name is there with
// probability keep. The old one must not be used any more.
func (f *FS) Restart(keep float64, r *rand.Rand) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off = true
	g := &FS{dirs: map[string]*folder{}}
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
	err := f.do(true, func() error {
		d := f.dirs[path.Dir(path.Clean(name))]
		if d == nil {
			return notExist("create", name)
		}
		base := path.Base(name)
		if n = d.now[base]; n != nil && !n.dir {
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
	return &file{fs: f, n: n}, nil
}

// Open implements durable.FS.
func (f *FS) Open(name string) (durable.File, error) {
	var n *inode
	err := f.look(func() error {
		if n = f.lookup(name); n == nil || n.dir {
			return notExist("open", name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &file{fs: f, n: n}, nil
}

// OpenWrite implements durable.FS.
func (f *FS) OpenWrite(name string) (durable.File, error) { return f.Open(name) }

// Rename implements durable.FS.
func (f *FS) Rename(from, to string) error {
	return f.do(false, func() error {
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
		c := change{from: path.Base(from), to: path.Base(to), node: n}
		c.apply(d.now)
		d.pending = append(d.pending, c)
		return nil
	})
}

// Remove implements durable.FS.
func (f *FS) Remove(name string) error {
	return f.do(false, func() error {
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
	return f.do(true, func() error {
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
	err := f.look(func() error {
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
	err := f.look(func() error {
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
	return f.do(false, func() error {
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
	_, err := f.Stat(name)
	return err
}

// Free implements durable.FS.
func (f *FS) Free() (int64, error) { return 1 << 40, nil }

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
