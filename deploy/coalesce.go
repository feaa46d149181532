package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/vhd"
)

// Coalesce merges the frozen VHDs of a VM that backups no longer tell apart, each group into its lowest: those up to what the newest
// backup holds, and those above it, which come from backups that were not finished. What the disks hold does not change. It may be
// interrupted at any time and called again. live returns the VM's disks when it runs, else nil.
func (s *Store) Coalesce(ctx context.Context, id image.UUID, live func() Swapper, t *Tally) error {
	for {
		g, ok, err := s.nextGroup(id)
		if err != nil || !ok {
			return err
		}
		if err := s.merge(ctx, g, live, t); err != nil {
			return fmt.Errorf("merge what was frozen for backups: %w", err)
		}
	}
}

// group is what is merged: VHDs of one disk, the lowest first, and the one above them.
type group struct {
	vm    image.UUID
	ids   []image.UUID
	child image.UUID
	role  image.Role
	leaf  bool // child is what the VM writes to
}

// nextGroup returns a group of a VM that is to be merged.
func (s *Store) nextGroup(id image.UUID) (g group, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, err := s.vmOf(id)
	if errors.Is(err, ErrNoVM) {
		return g, false, nil
	}
	if err == nil {
		vm, err = s.settleMerges(vm)
	}
	vm.eachDisk(func(d *InstalledDisk) {
		held := 0 // how many the newest backup holds
		if d.Held != nil {
			held = 1 + slices.Index(d.Frozen, d.Held.At)
		}
		chain := append(slices.Clone(d.Frozen), d.Leaf)
		for _, r := range [][2]int{{0, held}, {held, len(d.Frozen)}} {
			if !ok && r[1]-r[0] > 1 {
				g, ok = group{id, slices.Clone(chain[r[0]:r[1]]), chain[r[1]], d.Role, r[1] == len(d.Frozen)}, true
			}
		}
	})
	return g, ok && err == nil, err
}

// merge merges one group: the contents, with nobody kept from anything; then what is above goes onto the lowest, and the others go.
func (s *Store) merge(ctx context.Context, g group, live func() Swapper, t *Tally) error {
	done, err := s.parts.start(ctx, g.ids[0])
	if err != nil {
		return err
	}
	defer done()
	if err := s.mergeContent(ctx, g, t); err != nil {
		return err
	}
	put := func(now []image.UUID) (map[image.UUID]image.UUID, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.written[g.child] && !slices.Contains(now, g.child) {
			return nil, fmt.Errorf("disk %s: %w", g.child, ErrInUse)
		}
		return map[image.UUID]image.UUID{g.child: g.child}, s.relinkAndDrop(g)
	}
	if l := live(); l != nil && g.leaf {
		// The file may have changed even when that failed, so it is opened anew in any case.
		var failed error
		err := l.Swap(func(now []image.UUID) (map[image.UUID]image.UUID, error) {
			var same map[image.UUID]image.UUID
			if same, failed = put(now); same == nil {
				return nil, failed
			}
			return same, nil
		})
		return errors.Join(err, failed)
	}
	_, err = put(nil)
	return err
}

// mergeContent merges VHDs, the lowest first, into that one.
func (s *Store) mergeContent(ctx context.Context, g group, t *Tally) (err error) {
	ids := g.ids
	letGo, err := s.alone(ids[0])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, letGo()) }()
	c, err := s.openChain(ids[len(ids)-1])
	if err != nil {
		return err
	}
	defer c.Close()
	n := len(ids) - 1
	if len(c.ids) <= n+1 || c.ids[n] != ids[0] {
		return fmt.Errorf("disk %s does not stand on %s", ids[n], ids[0])
	}
	f, err := s.fsys.OpenWrite(vhdFile(ids[0]))
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	into, err := vhd.OpenDisk(f, size, c.Members()[n+1:])
	if err != nil {
		return err
	}
	t.begin(StageMerge, g.role, c.Size())
	return vhd.Coalesce(ctx, into, c.Members()[:n], vhd.CoalesceOptions{
		Progress: func(done, _ int64) { t.Done(done) },
		Children: func(parent *vhd.Image) ([]image.UUID, error) { return s.children(parent.UUID()) },
	})
}

// children returns the VHDs of the store that stand on id.
func (s *Store) children(id image.UUID) ([]image.UUID, error) {
	entries, err := s.fsys.ReadDir(disksDir)
	if err != nil {
		return nil, err
	}
	var out []image.UUID
	for _, e := range entries {
		text, ok := strings.CutSuffix(e.Name(), vhdSuffix)
		child, err := image.ParseUUID(text)
		if !ok || err != nil {
			continue
		}
		parent, err := s.parentOf(child)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just gone
		}
		if err != nil {
			return nil, err // nobody knows what it stands on
		}
		if parent == id {
			out = append(out, child)
		}
	}
	return out, nil
}

// relinkAndDrop ends a merge, with mu held and nobody writing to the child: the child goes onto the lowest of the group, then the
// others go, then the record tells. Whatever of it is cut off is done when the record is looked at next.
func (s *Store) relinkAndDrop(g group) error {
	if err := s.take(g.child, true); err != nil {
		return err
	}
	f, err := s.fsys.OpenWrite(vhdFile(g.child))
	if err == nil {
		err = errors.Join(relink(f, g.ids[0]), f.Close())
	}
	if err := errors.Join(err, s.drop(g.child)); err != nil {
		return err
	}
	vm, err := s.vmOf(g.vm)
	if err == nil {
		_, err = s.settleMerges(vm)
	}
	return err
}

// relink gives a VHD the parent of that uuid, which has the content of the one that it had. What a relink that was cut off has left
// is mended first.
func relink(f durable.File, parent image.UUID) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	m, err := vhd.Open(f, size)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(m.Warnings(), func(w *vhd.Error) bool { return w.Fault.Repairable() }) {
		mended, err := vhd.Repair(f, size, vhd.RepairOptions{})
		if err != nil {
			return err
		}
		size = mended.Size
	}
	_, err = vhd.Relink(f, size, vhd.Parent{UUID: parent, Path: parent.String() + vhdSuffix}, vhd.RelinkOptions{SameContent: true})
	return err
}

// removeLists removes the lists of backups that no record names: those of digests, and those of what was left out.
func (s *Store) removeLists() error {
	vms, err := s.VMs()
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, vm := range vms {
		vm.eachDisk(func(d *InstalledDisk) {
			if d.Held != nil {
				keep[pointFile(d.Held.State)], keep[omittedFile(d.Held.Omitted)] = true, true
			}
		})
	}
	entries, err := s.fsys.ReadDir(disksDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := disksDir + "/" + e.Name()
		if (strings.HasSuffix(name, pointSuffix) || strings.HasSuffix(name, omittedSuffix)) && !keep[name] {
			if err := durable.Remove(s.fsys, name); err != nil {
				return err
			}
		}
	}
	return nil
}
