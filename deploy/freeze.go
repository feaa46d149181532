package deploy

import (
	"fmt"
	"slices"

	"disksync/image"
	"disksync/internal/durable"
)

// Swapper is the disks of a VM that runs, as whoever serves them has them.
type Swapper interface {
	// Swap keeps everybody from the disks, sees to it that all that was acknowledged is in the files of the leaves and durable, and
	// calls next once, with the leaves that are written now. It then goes on with the leaves that next names in their place; one that
	// stays is opened anew, since its file may have changed. With an error of next it goes on as it was.
	Swap(next func(now []image.UUID) (instead map[image.UUID]image.UUID, err error)) error
}

// BackedUp reports whether backups hold what the user has written to a disk. The others are as they were published: the system disk
// of a VM with a profile is made anew from that, and its application disk stays on this machine.
func BackedUp(m image.Mode, r image.Role) bool { return m == image.Static || r == image.User }

// Freeze puts what a VM has written to its disks, as far as backups hold them, beyond its reach: each leaf that has something gets
// an empty one on top, which the VM writes to from then on. All disks show one instant. Replacing the record is the commit point; a
// crash before leaves empty leaves, which go at the next start, and the disks as they were. live is nil for a VM that does not run; c is
// what the disks are at that instant.
func (s *Store) Freeze(name string, live Swapper, c image.Consistency) (VM, error) {
	var vm VM
	next := func(now []image.UUID) (instead map[image.UUID]image.UUID, err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		vm, instead, err = s.freeze(name, now, c)
		return instead, err
	}
	var err error
	if live == nil {
		_, err = next(nil)
	} else {
		err = live.Swap(next)
	}
	return vm, explainDisk(err, "the disks of VM "+name+" were not frozen for a backup")
}

// freeze is called with mu held, and nobody writing to the leaves, which are now where somebody has them open.
func (s *Store) freeze(name string, now []image.UUID, c image.Consistency) (VM, map[image.UUID]image.UUID, error) {
	vm, err := s.VM(name)
	if err == nil {
		err = vm.Whole("backed up")
	}
	if err == nil {
		vm, err = s.settleMerges(vm)
	}
	if err != nil {
		return vm, nil, err
	}
	next := vm.clone()
	instead := map[image.UUID]image.UUID{}
	for _, d := range vm.Current.Disks {
		// After a freeze whose end is not known the record may be ahead of who writes.
		if i := slices.IndexFunc(d.Frozen, func(id image.UUID) bool { return slices.Contains(now, id) }); i >= 0 {
			if i != len(d.Frozen)-1 {
				return vm, nil, fmt.Errorf("the %s disk is written below VHDs that were frozen since", d.Role)
			}
			instead[d.Frozen[i]] = d.Leaf
			continue
		}
		if !BackedUp(vm.Current.Mode, d.Role) {
			continue
		}
		if s.written[d.Leaf] && !slices.Contains(now, d.Leaf) {
			return vm, nil, Running(name, "backed up as one that does not")
		}
		written, err := s.leafChanged(d.Leaf)
		if err != nil {
			return vm, nil, fmt.Errorf("%s disk: %w", d.Role, err)
		}
		if !written {
			continue
		}
		leaf, err := s.createLeaf(d.Leaf, d.Size)
		if err != nil {
			return vm, nil, fmt.Errorf("%s disk: %w", d.Role, err)
		}
		instead[d.Leaf] = leaf
		next.eachDisk(func(k *InstalledDisk) {
			if k.Leaf == d.Leaf {
				k.Frozen, k.Leaf = append(k.Frozen, k.Leaf), leaf
			}
		})
	}
	next.Counter++
	next.Instant = &Instant{At: s.now().UTC(), Consistency: c}
	if err := s.writeVM(next); err != nil {
		return vm, nil, err
	}
	return next, instead, nil
}

// eachDisk calls do with each disk of the VM's deployments. A disk that an update has kept is in both.
func (vm *VM) eachDisk(do func(d *InstalledDisk)) {
	for i := range vm.Current.Disks {
		do(&vm.Current.Disks[i])
	}
	if vm.Previous == nil {
		return
	}
	for i := range vm.Previous.Disks {
		do(&vm.Previous.Disks[i])
	}
}

// clone returns a copy whose disks can be changed.
func (vm *VM) clone() VM {
	c := *vm
	c.Current.Disks = slices.Clone(vm.Current.Disks)
	if vm.Previous != nil {
		p := *vm.Previous
		p.Disks = slices.Clone(p.Disks)
		c.Previous = &p
	}
	c.eachDisk(func(d *InstalledDisk) {
		d.Frozen = slices.Clone(d.Frozen)
		if d.Held != nil {
			held := *d.Held
			d.Held = &held
		}
	})
	return c
}

// vmOf returns the VM with that id, whatever its name is now.
func (s *Store) vmOf(id image.UUID) (VM, error) {
	ok, err := s.exists(recordFile(id))
	if err == nil && !ok {
		err = ErrNoVM
	}
	if err != nil {
		return VM{}, err
	}
	return s.readVM(id)
}

// recoverFrozen brings records up to date after a crash between the end of a merge and its record, and removes the digest lists of
// backups that no record names.
func (s *Store) recoverFrozen() error {
	vms, err := s.VMs()
	if err != nil {
		return err
	}
	for _, vm := range vms {
		if _, err := s.settleMerges(vm); err != nil {
			return fmt.Errorf("disks of VM %s: %w", vm.Name, err)
		}
	}
	return s.removeLists()
}

// settleMerges removes from a record the frozen VHDs that were merged into the ones below them: those that the disk's chain goes
// around, from one that the record has above them to one that it has below. With mu held, or nobody else there.
func (s *Store) settleMerges(vm VM) (VM, error) {
	next := vm.clone()
	var merged []image.UUID
	next.eachDisk(func(d *InstalledDisk) {
		ids, _ := s.ancestors(d.Leaf) // of a chain that is damaged nothing is concluded
		merged = append(merged, d.settle(ids)...)
	})
	if len(merged) == 0 {
		return vm, nil
	}
	for _, id := range merged {
		if err := durable.Remove(s.fsys, vhdFile(id)); err != nil {
			return vm, err
		}
	}
	next.Counter++
	if err := s.writeVM(next); err != nil {
		return vm, err
	}
	return next, nil
}

// settle takes out of a disk the frozen VHDs that its chain, the leaf first, does not have, and returns them. The lowest has no other
// to go into.
func (d *InstalledDisk) settle(chain []image.UUID) (merged []image.UUID) {
	if !slices.Contains(chain, d.Base) {
		return nil
	}
	var left []image.UUID
	for i, id := range d.Frozen {
		if i == 0 || slices.Contains(chain, id) {
			left = append(left, id)
			continue
		}
		merged = append(merged, id)
		if d.Held != nil && d.Held.At == id {
			d.Held.At = left[len(left)-1]
		}
	}
	d.Frozen = left
	return merged
}

// Idle returns a problem when a VM runs, so that it cannot be what doing says, such as "updated".
func (s *Store) Idle(vm VM, doing string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.idle(vm, doing)
}
