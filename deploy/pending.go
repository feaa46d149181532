package deploy

import (
	"fmt"

	"disksync/image"
	"disksync/internal/problem"
)

// Pending is a version that is installed and becomes a VM's current one when the VM does not run.
type Pending struct {
	Version  image.Version   `json:"version"`
	Manifest string          `json:"manifest"` // as in Deployment
	States   []image.StateID `json:"states"`   // what it stands on
	// Replace puts changes of a static VM's disk aside, as its user said.
	Replace bool `json:"replace,omitempty"`
}

// Postpone notes an installed version for [Store.Apply]. What was pending before is forgotten.
func (s *Store) Postpone(name string, m image.Verified, replace bool) (VM, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, err := s.postpone(name, m, replace)
	return vm, explainDisk(err, fmt.Sprintf("version %d of VM %s was not noted for its next start", m.Manifest().Version, name))
}

func (s *Store) postpone(name string, m image.Verified, replace bool) (VM, error) {
	mf := m.Manifest()
	vm, err := s.VM(name)
	if err != nil {
		return vm, err
	}
	if vm.ImageID != mf.ImageID || mf.Point != nil {
		return vm, fmt.Errorf("version %d of %s is no update of VM %s", mf.Version, mf.Image, name)
	}
	manifest, err := s.writeManifest(m)
	if err != nil {
		return vm, err
	}
	next := vm
	next.Pending = &Pending{Version: mf.Version, Manifest: manifest, Replace: replace}
	for i := range mf.Disks {
		next.Pending.States = append(next.Pending.States, mf.Disks[i].State)
	}
	next.Counter++
	if err := s.writeVM(next); err != nil {
		return vm, err
	}
	return next, s.release(s.standsOn(vm.Pending))
}

// Apply makes the pending version of a VM its current one; keep are the disks that stay. When that cannot be, the error says why, the
// VM is as it was, and the version stays pending.
func (s *Store) Apply(name string, m image.Verified, keep map[image.Role]bool) (VM, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, err := s.VM(name)
	if err != nil {
		return vm, err
	}
	was := s.standsOn(vm.Pending)
	vm, err = s.commit(name, m, keep, nil)
	if err == nil {
		err = s.release(was) // of disks that were kept nothing is needed
	}
	return vm, explainDisk(err, fmt.Sprintf("VM %s was not brought to version %d", name, m.Manifest().Version))
}

// Forget drops the pending version of a VM.
func (s *Store) Forget(name string) (VM, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, err := s.VM(name)
	if err != nil || vm.Pending == nil {
		return vm, err
	}
	next := vm
	next.Pending = nil
	next.Counter++
	if err := s.writeVM(next); err != nil {
		return vm, explainDisk(err, "the pending version of VM "+name+" was not forgotten")
	}
	return next, s.release(s.standsOn(vm.Pending))
}

// standsOn returns the VHDs of a pending version, of which some may have no other use.
func (s *Store) standsOn(p *Pending) []image.UUID {
	if p == nil {
		return nil
	}
	var ids []image.UUID
	for _, st := range p.States {
		if !st.IsZero() {
			ids = append(ids, s.rest(image.VHDUUID(st))...)
		}
	}
	return ids
}

// SaveChanges says whether the system disk of a dynamic VM stays as it is when the VM starts, for whoever makes the next version in it.
func (s *Store) SaveChanges(name string, save bool) (VM, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, err := s.VM(name)
	if err != nil || vm.SaveChanges == save {
		return vm, err
	}
	if vm.Current.Mode != image.Dynamic {
		return vm, problem.New("DS-USAGE", problem.Usage, nil, fmt.Sprintf("VM %s is a %s VM, which keeps its changes anyway", name, vm.Current.Mode), "it is as it was", "")
	}
	next := vm
	next.SaveChanges = save
	next.Counter++
	if err := s.writeVM(next); err != nil {
		return vm, explainDisk(err, "VM "+name+" is as it was")
	}
	return next, nil
}
