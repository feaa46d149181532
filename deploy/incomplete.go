package deploy

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
	"disksync/vhd"
)

// CommitEarly does what Commit does before the disks of the plan are installed, so that the VM can run on what is fetched for it (see
// [Job.OpenEarly]) and its leaves are found again whatever happens. Until Complete, the version is incomplete: it is neither updated,
// rolled back, verified nor exported, and what is there of its disks is not removed.
func (s *Store) CommitEarly(name string, m image.Verified, keep map[image.Role]bool, p *Plan) (VM, error) {
	var ids []image.UUID
	for _, d := range p.Disks {
		if len(d.Steps) == 0 {
			continue
		}
		if !d.Start.IsZero() {
			ids = append(ids, image.VHDUUID(d.Start))
		}
		for _, st := range d.Steps {
			ids = append(ids, image.VHDUUID(st.To))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, err := s.commit(name, m, keep, ids)
	return vm, explainDisk(err, fmt.Sprintf("VM %s was not made", name))
}

// Replan notes that the disks of an incomplete version are reached over another path.
func (s *Store) Replan(name string, p *Plan) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, err := s.VM(name)
	if err != nil || len(vm.Current.Incomplete) == 0 {
		return err
	}
	next := vm
	next.Current.Incomplete = slices.Clone(vm.Current.Incomplete)
	for _, d := range p.Disks {
		for _, st := range d.Steps {
			for _, id := range []image.StateID{st.From, st.To} {
				if u := image.VHDUUID(id); !id.IsZero() && !slices.Contains(next.Current.Incomplete, u) {
					next.Current.Incomplete = append(next.Current.Incomplete, u)
				}
			}
		}
	}
	if len(next.Current.Incomplete) == len(vm.Current.Incomplete) {
		return nil
	}
	return s.writeVM(next)
}

// Complete notes that all disks of an incomplete version are installed. The VM may run. What is there of other paths to its disks is
// removed.
func (s *Store) Complete(name string) (VM, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, err := s.VM(name)
	if err != nil || len(vm.Current.Incomplete) == 0 {
		return vm, err
	}
	for _, d := range vm.Current.Disks {
		if there, err := s.exists(vhdFile(d.Base)); err != nil || !there {
			return vm, errors.Join(err, fmt.Errorf("the %s disk is not installed", d.Role))
		}
	}
	next := vm
	next.Counter++
	next.Current.Incomplete, next.Current.Installed = nil, s.now().UTC()
	if err := s.writeVM(next); err != nil {
		return vm, explainDisk(err, fmt.Sprintf("VM %s is not complete yet", name))
	}
	return next, errors.Join(s.release(vm.Current.Incomplete), s.dropParts(vm.Current.Incomplete))
}

// Whole returns a problem when a version of the VM is incomplete, which keeps what doing says, such as "rolled back", from being done
// with it.
func (vm *VM) Whole(doing string) error {
	if len(vm.incomplete()) == 0 {
		return nil
	}
	return problem.New("DS-INCOMPLETE", problem.Busy, nil,
		fmt.Sprintf("VM %s is still being downloaded, so it cannot be %s", vm.Name, doing), "it is as it was",
		fmt.Sprintf("run `download %s --as %s`, which goes on with the download, and try again when it is done", vm.Image, vm.Name))
}

// incomplete returns the VHDs that incomplete versions of a VM are to stand on.
func (vm *VM) incomplete() []image.UUID {
	out := vm.Current.Incomplete
	if vm.Previous != nil {
		out = slices.Concat(out, vm.Previous.Incomplete)
	}
	return out
}

// partWanted reports whether a VHD is one that an incomplete version stands on.
func (s *Store) partWanted(id image.UUID) (bool, error) {
	vms, err := s.VMs()
	return slices.ContainsFunc(vms, func(vm VM) bool { return slices.Contains(vm.incomplete(), id) }), err
}

// dropParts removes what was built of VHDs that nobody wants any more.
func (s *Store) dropParts(ids []image.UUID) error {
	for _, id := range ids {
		if wanted, err := s.partWanted(id); err != nil {
			return err
		} else if wanted || s.sites.building(id) {
			continue
		}
		if err := durable.Remove(s.fsys, partFile(id)); err != nil {
			return err
		}
	}
	return nil
}

// OpenLiveEarly opens the leaf of a disk for writing, on top of content, which is what the golden disk below it will hold. When that is
// installed the leaf is opened anew.
func (s *Store) OpenLiveEarly(d InstalledDisk, content io.ReaderAt) (*Live, error) {
	return s.openLive(d.Leaf, func(child *vhd.Image) (*vhd.Image, error) {
		if child.ParentUUID() != d.Base {
			return nil, nil
		}
		return vhd.Content(d.Base, content, d.Size), nil
	})
}
