package deploy

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/vhd"
)

// needed returns every VHD that some record needs: leaves and all their ancestors.
func (s *Store) needed(vms []VM) (map[image.UUID]bool, error) {
	out := map[image.UUID]bool{}
	for _, vm := range vms {
		for _, id := range s.standsOn(vm.Pending) {
			out[id] = true
		}
		for _, leaf := range vm.leaves() {
			ids, err := s.ancestors(leaf)
			if err != nil {
				return nil, fmt.Errorf("disks of VM %s: %w", vm.Name, err)
			}
			for _, id := range ids {
				out[id] = true
			}
		}
		for _, id := range vm.incomplete() {
			ids, err := s.ancestors(id)
			if err != nil {
				return nil, fmt.Errorf("disks of VM %s: %w", vm.Name, err)
			}
			for _, id := range ids {
				out[id] = true
			}
		}
	}
	return out, nil
}

// leaves returns all leaves of a VM: of its deployments, and those that are kept.
func (vm *VM) leaves() []image.UUID {
	var out []image.UUID
	for _, d := range vm.Current.Disks {
		out = append(out, d.Leaf)
	}
	if vm.Previous != nil {
		for _, d := range vm.Previous.Disks {
			out = append(out, d.Leaf)
		}
	}
	return append(out, vm.Kept...)
}

// ancestors returns a leaf and what is below it, as far as it is there: a chain with a gap needs what is left of it all the
// more. With an error, the last one is the one that cannot be opened, so that nobody knows what is below it.
func (s *Store) ancestors(leaf image.UUID) ([]image.UUID, error) {
	ids := []image.UUID{leaf}
	seen := map[image.UUID]bool{leaf: true}
	for id := leaf; ; {
		parent, err := s.parentOf(id)
		if errors.Is(err, fs.ErrNotExist) || err == nil && (parent.IsZero() || seen[parent]) {
			return ids, nil
		}
		if err != nil {
			return ids, err
		}
		seen[parent] = true
		ids = append(ids, parent)
		id = parent
	}
}

// rest returns what is left of a leaf that is given up. Of a chain that is damaged what can be found is enough: what stays costs
// space only.
func (s *Store) rest(leaf image.UUID) []image.UUID {
	ids, _ := s.ancestors(leaf)
	return ids
}

// parentOf returns the uuid of the parent of a VHD, zero when it has none.
func (s *Store) parentOf(id image.UUID) (image.UUID, error) {
	m, f, err := s.openVHD(id)
	if err != nil {
		return image.UUID{}, err
	}
	defer f.Close()
	if m.Type() != vhd.Differencing {
		return image.UUID{}, nil
	}
	return m.ParentUUID(), nil
}

func (s *Store) openVHD(id image.UUID) (*vhd.Image, durable.File, error) {
	f, err := s.fsys.Open(vhdFile(id))
	if err != nil {
		return nil, nil, err
	}
	size, err := f.Size()
	if err == nil {
		var m *vhd.Image
		if m, err = vhd.Open(f, size); err == nil {
			return m, f, nil
		}
	}
	f.Close()
	return nil, nil, fmt.Errorf("disk %s: %w", id, err)
}

// release removes the VHDs among candidates that no record needs any more, or has it done later when somebody holds them (see
// Hold) or uses them (see Live). It runs after the commit, with mu held; what a crash keeps it from removing costs space only, until the
// same disks are released again.
func (s *Store) release(candidates []image.UUID) error {
	if len(candidates) == 0 {
		return nil
	}
	if s.holders > 0 {
		s.later = append(s.later, candidates...)
		return nil
	}
	vms, err := s.VMs()
	if err != nil {
		return err
	}
	needed, err := s.needed(vms)
	if err != nil {
		return err
	}
	for _, id := range candidates {
		if needed[id] {
			continue
		}
		if s.used[id] != nil {
			s.later = append(s.later, id)
			continue
		}
		// A digest list without its VHD does not count, so the VHD goes first.
		if err := durable.Remove(s.fsys, vhdFile(id)); err != nil {
			return err
		}
		if err := errors.Join(durable.Remove(s.fsys, stateFile(id)), durable.Remove(s.fsys, logFile(id))); err != nil {
			return err
		}
	}
	return nil
}

// removeStrayLeaves removes the leaves that a crash left between their creation and the commit: no record has them, no disk
// has them as its parent, and nothing was written to them. Anything else in the folder is left alone.
func (s *Store) removeStrayLeaves() error {
	entries, err := s.fsys.ReadDir(disksDir)
	if err != nil {
		return err
	}
	vms, err := s.VMs()
	if err != nil {
		return err
	}
	wanted := map[image.UUID]bool{}
	for _, vm := range vms {
		for _, leaf := range vm.leaves() {
			wanted[leaf] = true
		}
	}
	var empty []image.UUID
	for _, e := range entries {
		text, ok := strings.CutSuffix(e.Name(), vhdSuffix)
		id, err := image.ParseUUID(text)
		if !ok || err != nil {
			continue
		}
		m, f, err := s.openVHD(id)
		if err != nil {
			continue // not readable, so nobody knows what it is worth
		}
		f.Close()
		wanted[m.ParentUUID()] = true
		golden, err := s.exists(stateFile(id))
		if err != nil {
			return err
		}
		logged, err := s.logged(id)
		if err != nil {
			return err
		}
		if !golden && !logged && m.Type() == vhd.Differencing && m.AllocatedBlocks() == 0 {
			empty = append(empty, id)
		}
	}
	for _, id := range empty {
		if !wanted[id] {
			if err := durable.Remove(s.fsys, vhdFile(id)); err != nil {
				return err
			}
		}
	}
	return nil
}
