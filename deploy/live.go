package deploy

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
	"disksync/vhd"
)

// ErrInUse says that a leaf is open for writing already.
var ErrInUse = errors.New("the disk is in use")

// Live is a leaf that is open for writing, on top of its parents. As long as it is, none of these files is removed, and the VM that
// has it is neither updated, rolled back nor deleted. Who puts a new leaf on top of it opens that one as a Live of its own, with the
// same parents, before it closes this one.
//
// What was written outlives the process, by a log beside the leaf (vhd.WithLog): [OpenStore] brings in what it holds.
type Live struct {
	// Disk is what the VM reads and writes. It is closed with Close only.
	Disk *vhd.Disk
	// Leaf is the VHD that is written.
	Leaf image.UUID

	store *Store
	file  durable.File
	log   durable.File
	below *chain // the parents, open for reading
	ids   []image.UUID
	// passed is set when another Live writes the leaf from now on, whose before is this one; see Again.
	passed bool
	before *Live
}

// parentOther gives a parent in place of the file in the store; nil where it has none.
type parentOther func(child *vhd.Image) (*vhd.Image, error)

// OpenLive opens a leaf for writing. Its parents are found by uuid in the store. The error wraps ErrInUse when it is open already.
func (s *Store) OpenLive(leaf image.UUID) (*Live, error) { return s.openLive(leaf, nil) }

// openLive does what OpenLive does, with the parents that other has, which may be nil.
func (s *Store) openLive(leaf image.UUID, other parentOther) (*Live, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.written[leaf] {
		return nil, fmt.Errorf("open disk %s for writing: %w", leaf, ErrInUse)
	}
	l := &Live{Leaf: leaf, store: s}
	if err := l.open(other); err != nil {
		return nil, fmt.Errorf("open disk %s for writing: %w", leaf, err)
	}
	s.written[leaf] = true
	return l, nil
}

// Again opens the files anew, after a change of the leaf's parents. All that was written must be durable. What l has can still be
// read, not written, until it is closed.
func (l *Live) Again() (*Live, error) {
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	n := &Live{Leaf: l.Leaf, store: s, before: l}
	if err := n.open(nil); err != nil {
		return nil, fmt.Errorf("open disk %s anew: %w", l.Leaf, err)
	}
	l.passed = true
	return n, nil
}

// open opens the files and counts them as used. It is called with mu held.
func (l *Live) open(other parentOther) error {
	l.below = &chain{}
	err := l.take(l.Leaf, true)
	if err == nil {
		err = l.openFiles(other)
	}
	for _, id := range l.below.ids {
		if err == nil {
			err = l.take(id, false)
		}
	}
	if err != nil {
		err = errors.Join(err, l.closeFiles(), l.dropAll())
	}
	return err
}

func (l *Live) take(id image.UUID, writing bool) error {
	err := l.store.take(id, writing)
	if err == nil {
		l.ids = append(l.ids, id)
	}
	return err
}

// dropAll is called with mu held.
func (l *Live) dropAll() error {
	var errs []error
	for _, id := range l.ids {
		errs = append(errs, l.store.drop(id))
	}
	return errors.Join(errs...)
}

func (l *Live) openFiles(other parentOther) error {
	var err error
	if l.file, err = l.store.fsys.OpenWrite(vhdFile(l.Leaf)); err != nil {
		return err
	}
	size, err := l.file.Size()
	if err != nil {
		return err
	}
	m, err := vhd.Open(l.file, size)
	if err != nil {
		return err
	}
	if m.UUID() != l.Leaf {
		return fmt.Errorf("the file says that it is %s", m.UUID())
	}
	c, err := vhd.Resolve(m, func(child *vhd.Image) (*vhd.Image, error) {
		if other != nil {
			if p, err := other(child); p != nil || err != nil {
				return p, err
			}
		}
		return l.below.add(l.store, child.ParentUUID())
	})
	if err != nil {
		return err
	}
	l.log, err = l.store.fsys.OpenWrite(logFile(l.Leaf))
	if errors.Is(err, fs.ErrNotExist) {
		// Its name need not outlive a loss of power, after which it is worth nothing.
		l.log, err = l.store.fsys.Create(logFile(l.Leaf), 0o600)
	}
	if err != nil {
		return err
	}
	l.Disk, err = vhd.OpenDisk(l.file, size, c.Members()[1:], vhd.WithLog(l.log, l.store.boot))
	return err
}

func (l *Live) closeFiles() error {
	l.below.Close()
	var errs []error
	for _, f := range []durable.File{l.file, l.log} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Close makes everything written durable and lets go of the files. Nobody may use the disk meanwhile or afterwards. With an error,
// what was written since the last Sync may be lost.
func (l *Live) Close() error {
	s := l.store
	var err error
	if !l.passed {
		err = l.Disk.Sync()
	}
	synced := err == nil
	err = errors.Join(err, l.closeFiles())
	s.mu.Lock()
	defer s.mu.Unlock()
	if !l.passed {
		delete(s.written, l.Leaf)
		if synced {
			err = errors.Join(err, durable.Remove(s.fsys, logFile(l.Leaf)))
		}
	}
	return errors.Join(err, l.dropAll(), s.releaseLater())
}

// GiveUp closes a Live that nobody has written to. When it came from Again, the one before is written again.
func (l *Live) GiveUp() error {
	if l.before == nil {
		return l.Close()
	}
	s := l.store
	s.mu.Lock()
	l.passed, l.before.passed = true, false
	s.mu.Unlock()
	return l.Close()
}

// recoverLogs brings what logs hold to their leaves, after the death of a process that had them open. What cannot be brought in
// stays, and counts as a change of the leaf. It is called before anybody else uses the store.
func (s *Store) recoverLogs() error {
	entries, err := s.fsys.ReadDir(disksDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		text, ok := strings.CutSuffix(e.Name(), logSuffix)
		id, err := image.ParseUUID(text)
		if !ok || err != nil {
			continue
		}
		if there, err := s.exists(vhdFile(id)); err != nil {
			return err
		} else if !there {
			if err := durable.Remove(s.fsys, logFile(id)); err != nil {
				return err
			}
			continue
		}
		if l, err := s.OpenLive(id); err == nil {
			if err := l.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}

// logged reports whether the log of a leaf holds something that may not be in the leaf.
func (s *Store) logged(leaf image.UUID) (bool, error) {
	st, err := s.fsys.Stat(logFile(leaf))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && st.Size() > vhd.EmptyLogSize, err
}

// releaseLater removes what could not be removed when it was released. It is called with mu held.
func (s *Store) releaseLater() error {
	later := s.later
	s.later = nil
	return s.release(later)
}

// idle returns a problem when a disk of a deployment is open for writing: doing what cannot be done meanwhile. It is called with mu
// held.
func (s *Store) idle(vm VM, doing string) error {
	for _, leaf := range vm.leaves() {
		if s.written[leaf] || s.occupied[leaf] {
			return Running(vm.Name, doing)
		}
	}
	return nil
}

// Occupy keeps a VM as it is though nobody has its disks open, until leave is called: a guest waits for them, and what it knows of their
// content is not to become wrong meanwhile. They can be opened as always.
func (s *Store) Occupy(vm VM) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	leaves := vm.leaves()
	for _, l := range leaves {
		s.occupied[l] = true
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, l := range leaves {
			delete(s.occupied, l)
		}
	}
}

// Running returns the problem that a VM runs, which keeps what doing says, such as "deleted", from being done with it.
func Running(name, doing string) error {
	return problem.New("DS-RUNNING", problem.Busy, nil, fmt.Sprintf("VM %s is running, so it cannot be %s", name, doing),
		"it goes on as it was", fmt.Sprintf("shut it down from within, or with `stop %s`, and try again", name))
}

// Renew gives the current version of a VM an empty leaf for each disk of a role in roles, so that these are as they were
// published. What their old leaves hold is given up. It is how the system disk of a dynamic VM begins anew.
func (s *Store) Renew(name string, roles map[image.Role]bool) (VM, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, err := s.VM(name)
	if err != nil {
		return VM{}, err
	}
	if err := s.idle(vm, "started anew"); err != nil {
		return vm, err
	}
	next := vm
	next.Current.Disks = append([]InstalledDisk(nil), vm.Current.Disks...)
	var dropped []image.UUID
	for i := range next.Current.Disks {
		d := &next.Current.Disks[i]
		if !roles[d.Role] {
			continue
		}
		if changed, err := s.leafChanged(d.Leaf); err == nil && !changed {
			continue
		}
		dropped = append(dropped, s.rest(d.Leaf)...)
		if d.Leaf, err = s.createLeaf(d.Base, d.Size); err != nil {
			return vm, explainDisk(err, fmt.Sprintf("the %s disk of VM %s was not made anew", d.Role, name))
		}
	}
	if dropped == nil {
		return vm, nil
	}
	next.Counter++
	if err := s.writeVM(next); err != nil {
		return vm, explainDisk(err, fmt.Sprintf("VM %s was not started anew", name))
	}
	return next, s.release(dropped)
}
