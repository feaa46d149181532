package deploy

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
)

// Commit makes installed states the current version of a VM: leaves are created, then the VM's record is replaced. name is the
// VM's; a VM that is not there is made. What the VM ran before becomes the previous version, with its leaves as they are.
//
// When Commit returns an error, the VM is as it was, but for two cases: when only the removal of what nobody needs any more
// failed, the new version is current already, and the returned record tells; when the file system failed in the one step that
// replaces the record, it may be either, and [Store.VM] tells.
func (s *Store) Commit(name string, m image.Verified, keep map[image.Role]bool) (VM, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, err := s.commit(name, m, keep, nil)
	return vm, explainDisk(err, fmt.Sprintf("VM %s was not brought to version %d", name, originOf(m.Manifest()).version))
}

// commit is called with mu held. incomplete are the VHDs that a version stands on which is not installed yet.
func (s *Store) commit(name string, m image.Verified, keep map[image.Role]bool, incomplete []image.UUID) (VM, error) {
	mf := m.Manifest()
	of := originOf(mf)
	old, err := s.VM(name)
	isNew := errors.Is(err, ErrNoVM)
	if err != nil && !isNew {
		return VM{}, err
	}
	if !isNew && old.ImageID != of.id {
		return old, problem.New("DS-OTHER-IMAGE", problem.Untrusted, nil,
			fmt.Sprintf("VM %s was made from another image than %s (its id differs)", name, mf.Image), "the VM is as it was",
			"deploy the image under another name with --as")
	}
	if err := errors.Join(s.idle(old, "updated"), old.Whole("updated")); err != nil {
		return old, err
	}
	manifest, err := s.writeManifest(m)
	if err != nil {
		return old, err
	}
	next := VM{
		Format: recordFormat, ID: old.ID, Name: name, Image: mf.Image, ImageID: of.id, Counter: old.Counter + 1, Kept: old.Kept,
		Backup: old.Backup, SaveChanges: old.SaveChanges && mf.Mode == image.Dynamic,
		Current: Deployment{Point: of.point, Version: of.version, Mode: mf.Mode, Manifest: manifest, Installed: s.now().UTC(), Incomplete: incomplete},
	}
	if of.point != 0 && len(keep) > 0 {
		next.Current.Version = old.Current.Version // that of the disks that stay
	}
	if isNew {
		next.ID = NewUUID()
	} else {
		next.Previous = &old.Current
	}
	for i := range mf.Disks {
		d, err := s.newDisk(&mf.Disks[i], &old.Current, keep, incomplete)
		if err != nil {
			return old, err
		}
		d.Own = d.Own || of.point != 0 && !keep[d.Role] && BackedUp(mf.Mode, d.Role)
		next.Current.Disks = append(next.Current.Disks, d)
	}
	dropped := s.retire(&next, old.Previous, old.SaveChanges)
	if err := s.writeVM(next); err != nil {
		return old, err
	}
	return next, s.release(dropped)
}

// origin is what the record of a VM says of where its disks come from: the image, even when they come from a backup.
type origin struct {
	id      image.UUID
	version image.Version
	point   image.Version // 0: none
}

func originOf(mf *image.Manifest) origin {
	if p := mf.Point; p != nil {
		return origin{p.ImageID, p.Version, mf.Version}
	}
	return origin{mf.ImageID, mf.Version, 0}
}

// newDisk makes one disk of a new deployment: a fresh leaf on the installed state, or the disk that the VM has when it is to
// be kept.
func (s *Store) newDisk(d *image.Disk, old *Deployment, keep map[image.Role]bool, incomplete []image.UUID) (InstalledDisk, error) {
	if had, ok := old.Disk(d.Role); ok && keep[d.Role] {
		return *had, nil
	}
	base := image.VHDUUID(d.State)
	ok, err := s.Installed(d.State)
	if err != nil {
		return InstalledDisk{}, err
	}
	if !ok && !slices.Contains(incomplete, base) {
		return InstalledDisk{}, fmt.Errorf("the %s disk is not installed", d.Role)
	}
	leaf, err := s.createLeaf(base, d.Size)
	return InstalledDisk{Role: d.Role, Size: d.Size, State: d.State, Base: base, Leaf: leaf}, err
}

// retire takes leave of a deployment that next no longer names. It returns the VHDs that may then be of no use. A leaf that its
// user has written to is kept for the user, but for the system disk of a dynamic VM, whose changes are not meant to last unless that was said (saved). So is
// one that cannot be read: nobody knows what it is worth.
func (s *Store) retire(next *VM, gone *Deployment, saved bool) []image.UUID {
	if gone == nil {
		return nil
	}
	var dropped []image.UUID
	for _, d := range gone.Disks {
		if slices.Contains(next.leaves(), d.Leaf) {
			continue
		}
		changed, err := s.diskChanged(&d)
		lost := errors.Is(err, fs.ErrNotExist)
		if (changed || err != nil && !lost) && !(gone.Mode == image.Dynamic && d.Role == image.System && !saved) {
			next.Kept = append(slices.Clone(next.Kept), d.Leaf)
			continue
		}
		dropped = append(dropped, s.rest(d.Leaf)...)
	}
	return dropped
}

// RollBack makes the previous version the current one again, and the current one the previous. Nothing is fetched.
func (s *Store) RollBack(name string) (VM, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, err := s.VM(name)
	if err != nil {
		return VM{}, err
	}
	if vm.Previous == nil {
		return vm, problem.New("DS-NO-PREVIOUS", problem.NotFound, nil, fmt.Sprintf("VM %s has no previous version", name),
			"it is as it was", fmt.Sprintf("`update %s --version N` goes to any version that the Synchronizer has", name))
	}
	if err := errors.Join(s.idle(vm, "rolled back"), vm.Whole("rolled back")); err != nil {
		return vm, err
	}
	for _, d := range vm.Previous.Disks {
		c, err := s.openChain(d.Leaf)
		if err != nil {
			return vm, problem.New("DS-PREVIOUS-DAMAGED", problem.Damaged, err,
				fmt.Sprintf("version %d of VM %s cannot be opened", vm.Previous.Version, name), "the VM is as it was",
				fmt.Sprintf("bring it back from the Synchronizer with `update %s --version %d`", name, vm.Previous.Version))
		}
		c.Close()
	}
	next := vm
	next.Counter++
	next.Current, next.Previous = *vm.Previous, &vm.Current
	next.Pending = nil
	if err := s.writeVM(next); err != nil {
		return vm, explainDisk(err, fmt.Sprintf("VM %s was not rolled back", name))
	}
	return next, s.release(s.standsOn(vm.Pending))
}

// Delete removes a VM with everything that nothing else needs. Leaves that its user has written to go with it.
func (s *Store) Delete(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, err := s.VM(name)
	if err != nil {
		return err
	}
	if err := s.idle(vm, "deleted"); err != nil {
		return err
	}
	dropped := s.standsOn(vm.Pending)
	for _, leaf := range vm.leaves() {
		dropped = append(dropped, s.rest(leaf)...)
	}
	if err := durable.Remove(s.fsys, recordFile(vm.ID)); err != nil {
		return err
	}
	// What is there of an incomplete version is no use without it.
	return errors.Join(s.release(append(dropped, vm.incomplete()...)), s.dropParts(vm.incomplete()))
}

// diskChanged reports whether a disk has anything of its user's: in its leaf, in what was frozen, or in what it was restored from.
func (s *Store) diskChanged(d *InstalledDisk) (bool, error) {
	changed, err := s.leafChanged(d.Leaf)
	return err == nil && (changed || len(d.Frozen) > 0 || d.Own), err
}

// Changed returns the roles of those disks of a VM's current version that its user has written to.
func (s *Store) Changed(vm VM) (map[image.Role]bool, error) {
	out := map[image.Role]bool{}
	for _, d := range vm.Current.Disks {
		changed, err := s.diskChanged(&d)
		if err != nil {
			return nil, fmt.Errorf("%s disk: %w", d.Role, err)
		}
		if changed {
			out[d.Role] = true
		}
	}
	return out, nil
}
