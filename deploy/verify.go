package deploy

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"disksync/image"
	"disksync/internal/problem"
	"disksync/layer"
)

// VerifyResult says what a check of a VM's disks found.
type VerifyResult struct {
	VM      string        `json:"vm"`
	Version image.Version `json:"version"`
	Blocks  int           `json:"blocks"` // compared with their digests
	Bad     []BadBlock    `json:"bad"`
	// Changed are disks that the VM has written to since it was deployed. That is as it should be.
	Changed []image.Role `json:"changed"`
}

// BadBlock is a block of an installed disk that is not what it was.
type BadBlock struct {
	Role  image.Role    `json:"role"`
	State image.StateID `json:"state"` // whose VHD it is in
	Block int           `json:"block"` // -1: the VHD as a whole cannot be read
	Why   string        `json:"why"`
}

// Verify reads the golden disks of a VM's current version, past the system's memory where it allows, and compares every block
// with the digests that the signed manifest names.
func (s *Store) Verify(ctx context.Context, name string, t *Tally, trusted ...image.PublicKey) (*VerifyResult, error) {
	vm, err := s.VM(name)
	if err != nil {
		return nil, err
	}
	if err := vm.Whole("verified"); err != nil {
		return nil, err
	}
	m, err := s.ManifestOf(vm, trusted...)
	if err != nil {
		return nil, err
	}
	res := &VerifyResult{VM: name, Version: vm.Current.Version, Bad: []BadBlock{}, Changed: []image.Role{}}
	states, err := s.stateNames(m.Manifest())
	if err != nil {
		return nil, err
	}
	for _, d := range vm.Current.Disks {
		v := &verifier{store: s, role: d.Role, states: states, res: res, tally: t}
		if err := v.disk(ctx, d); err != nil {
			return nil, fmt.Errorf("%s disk: %w", d.Role, err)
		}
		changed, err := s.leafChanged(d.Leaf)
		if err != nil {
			return nil, fmt.Errorf("%s disk: %w", d.Role, err)
		}
		if changed || len(d.Frozen) > 0 {
			res.Changed = append(res.Changed, d.Role)
		}
	}
	return res, nil
}

// verifier checks the golden VHDs of one disk, from the bottom of the chain up, so that what is found wrong in one is its own
// fault and not its parent's.
type verifier struct {
	store  *Store
	role   image.Role
	states map[image.UUID]image.StateID
	tally  *Tally

	mu  sync.Mutex
	res *VerifyResult // its Blocks and Bad
}

// stateNames tells which state each golden VHD holds: those that the manifest names, and those whose digest lists are here.
func (s *Store) stateNames(m *image.Manifest) (map[image.UUID]image.StateID, error) {
	out := map[image.UUID]image.StateID{}
	for _, d := range m.Disks {
		for _, l := range d.Layers {
			out[image.VHDUUID(l.To)] = l.To
		}
	}
	here, err := s.States()
	for _, id := range here {
		out[image.VHDUUID(id)] = id
	}
	return out, err
}

func (v *verifier) bad(state image.StateID, block int, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.res.Bad = append(v.res.Bad, BadBlock{v.role, state, block, err.Error()})
}

// disk checks a chain. What stands on a file that cannot be read is not looked at: it can be judged when that one is mended.
func (v *verifier) disk(ctx context.Context, d InstalledDisk) error {
	ids, err := v.store.ancestors(d.Base)
	if err != nil {
		v.bad(v.states[ids[len(ids)-1]], -1, err)
		return nil
	}
	var below image.State
	for _, id := range slices.Backward(ids) {
		c, st, err := v.open(id)
		if err != nil {
			v.bad(v.states[id], -1, err)
			return nil
		}
		err = v.vhd(ctx, c, st, below)
		c.Close()
		if err != nil {
			return err
		}
		below = st
	}
	return nil
}

// open opens a VHD with what is below it, and its digests.
func (v *verifier) open(id image.UUID) (*chain, image.State, error) {
	state, ok := v.states[id]
	if !ok {
		return nil, image.State{}, fmt.Errorf("disk %s: nothing here says what it should hold", id)
	}
	st, err := v.store.State(state)
	if err != nil {
		return nil, st, err
	}
	c, err := v.store.openChain(id)
	if err == nil && c.Size() != st.Size {
		c.Close()
		err = fmt.Errorf("disk %s: it has %d bytes, not %d", id, c.Size(), st.Size)
	}
	return c, st, err
}

// vhd checks the top of a chain: the blocks that it holds, and that it lacks none of those that differ from below, the state of
// its parent.
func (v *verifier) vhd(ctx context.Context, c *chain, st, below image.State) error {
	state := st.ID()
	top := c.Members()[0]
	for _, w := range top.Warnings() {
		v.bad(state, -1, w) // it had none when it was made
	}
	for _, f := range c.files {
		f.DropCache()
	}
	v.tally.begin(StageChecksum, v.role, int64(len(st.Blocks))*image.BlockSize)
	return inParallel(ctx, len(st.Blocks), func(block int, b []byte) error {
		defer v.tally.add(image.BlockSize)
		want := st.Blocks[block]
		if !top.Allocated(block) && want == below.Block(block) && !want.IsZero() {
			return nil // checked with the parent that holds it
		}
		h, err := c.holds(block)
		if err == nil && !(h == nobody && want.IsZero()) {
			if err = readBlock(c, b, block); err == nil {
				err = layer.CheckBlock(b, block, want)
			}
		}
		if err != nil {
			v.bad(state, block, err)
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.res.Blocks++
		return nil
	})
}

// Damaged returns an error for people when the result has bad blocks.
func (r *VerifyResult) Damaged() error {
	if len(r.Bad) == 0 {
		return nil
	}
	return problem.New("DS-DISK-DAMAGED", problem.Damaged, nil,
		fmt.Sprintf("%d of %d blocks of VM %s are damaged, the first one: %s", len(r.Bad), r.Blocks, r.VM, r.Bad[0].Why),
		"nothing was changed", "run `verify "+r.VM+" --repair`, which gets good copies of the damaged blocks")
}

// Export writes the current content of a VM's disk, with what the VM has written, to out, which must be empty: sparse where
// it is zero. Blocks that the VM has not written to are compared with their digests.
func (s *Store) Export(ctx context.Context, name string, r image.Role, out io.WriterAt, t *Tally) (int64, error) {
	vm, err := s.VM(name)
	if err != nil {
		return 0, err
	}
	if err := vm.Whole("exported"); err != nil {
		return 0, err
	}
	d, ok := vm.Current.Disk(r)
	if !ok {
		return 0, problem.New("DS-NO-DISK", problem.NotFound, nil, fmt.Sprintf("VM %s has no %s disk", name, r), "", "")
	}
	st, err := s.State(d.State)
	if err != nil {
		return 0, err
	}
	c, err := s.openChain(d.Leaf)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	t.begin(StageTransfer, r, c.Size())
	c.own = max(1, slices.Index(c.ids, d.Base))
	e := &exporter{chain: c, state: st, out: out, tally: t}
	if err := inParallel(ctx, image.BlockCount(c.Size()), e.block); err != nil {
		return 0, err
	}
	return c.Size(), nil
}

type exporter struct {
	chain *chain
	state image.State
	out   io.WriterAt
	tally *Tally
}

func (e *exporter) block(block int, b []byte) error {
	start := int64(block) * image.BlockSize
	n := min(image.BlockSize, e.chain.Size()-start)
	defer e.tally.add(n)
	h, err := e.chain.holds(block)
	if err != nil {
		return err
	}
	want := e.state.Block(block)
	if h == nobody && want.IsZero() {
		return nil
	}
	if err := readBlock(e.chain, b, block); err != nil {
		return err
	}
	if h != leafHolds {
		if err := layer.CheckBlock(b, block, want); err != nil {
			return problem.New("DS-DISK-DAMAGED", problem.Damaged, err, "the installed disk is damaged", "nothing was changed",
				"run `verify --repair` on the VM first")
		}
	}
	if image.IsZero(b[:n]) {
		return nil
	}
	if _, err := e.out.WriteAt(b[:n], start); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// holder says which members of a chain have something of a block.
type holder int

const (
	nobody      holder = iota // the block is zero, and need not be read
	parentHolds               // but the leaf, and what is frozen below it, has nothing of it
	leafHolds
)

// holds tells who holds a block. A disk of 2 TiB may have a million blocks that nobody does.
func (c *chain) holds(block int) (holder, error) {
	h := nobody
	for x, err := range c.Extents(int64(block)*image.BlockSize, image.BlockSize) {
		if err != nil {
			return 0, err
		}
		switch {
		case x.Member >= 0 && x.Member < max(1, c.own):
			return leafHolds, nil
		case x.Member >= 0:
			h = parentHolds
		}
	}
	return h, nil
}
