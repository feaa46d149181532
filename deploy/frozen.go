package deploy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
	"disksync/vhd"
)

// pointSuffix is that of the digest list of what the newest backup holds of a disk. It proves itself by its hash and may be lost.
const pointSuffix = ".point"

func pointFile(id image.StateID) string {
	return disksDir + "/" + image.VHDUUID(id).String() + pointSuffix
}

// Frozen is what was frozen of one disk of a VM, open for reading. It is safe for concurrent use.
type Frozen struct {
	Role image.Role
	Top  image.UUID // the VHD with the content
	Base image.StateID
	Held image.StateID // what the newest backup holds, as far as that can be read here; else Base

	s       *Store
	chain   *chain
	omitted omitted // of Held
	held    int     // index in the chain of the VHD with Held
	base    int     // and of that with Base
}

// OpenFrozen opens what is frozen of a disk: all that the VM has written up to the last Freeze.
func (s *Store) OpenFrozen(d InstalledDisk) (*Frozen, error) {
	f := &Frozen{Role: d.Role, Top: d.Base, Base: d.State, Held: d.State, s: s}
	if n := len(d.Frozen); n > 0 {
		f.Top = d.Frozen[n-1]
	}
	c, err := s.openChain(f.Top)
	if err != nil {
		return nil, err
	}
	f.chain = c
	f.base = slices.Index(c.ids, d.Base)
	f.held = f.base
	if d.Held != nil {
		f.hold(d.Held)
	}
	if f.base < 0 || f.held < 0 {
		c.Close()
		return nil, fmt.Errorf("disk %s does not stand on what its record names", f.Top)
	}
	return f, nil
}

// hold takes what the newest backup holds, unless nobody knows any more where that has zeros: then there is only what was installed.
func (f *Frozen) hold(h *Held) {
	o, err := f.s.readOmitted(h.Omitted, f.chain.Size())
	if err == nil {
		f.Held, f.held, f.omitted = h.State, slices.Index(f.chain.ids, h.At), o
	}
}

// Close closes the files.
func (f *Frozen) Close() { f.chain.Close() }

// Size returns the size of the disk in bytes.
func (f *Frozen) Size() int64 { return f.chain.Size() }

// ReadAt implements io.ReaderAt.
func (f *Frozen) ReadAt(p []byte, off int64) (int, error) { return f.chain.ReadAt(p, off) }

// NextData returns the offset of the first byte at or behind off that may be other than zero; the disk's size when there is none.
func (f *Frozen) NextData(off int64) (int64, error) { return f.chain.NextData(off) }

// Same reports whether nothing was written since the newest backup.
func (f *Frozen) Same() bool { return f.held == 0 }

// Omits reports whether the newest backup has left out something as free.
func (f *Frozen) Omits() bool { return len(f.omitted) > 0 }

// Start is a state that a layer to a frozen disk may start from.
type Start struct {
	State image.State
	Disk  io.ReaderAt // its content; nil for nothing
	// Changed says of a block whether the disk may have something else in it; nil: every block may.
	Changed func(block int) bool
	Bytes   int64 // of what may be different, by sectors
	To      *Content
}

// Count returns how many blocks of a disk of size bytes may have changed.
func (s *Start) Count(size int64) int {
	n := image.BlockCount(size)
	if s.Changed == nil {
		return n
	}
	changed := 0
	for b := range n {
		if s.Changed(b) {
			changed++
		}
	}
	return changed
}

// Below returns the states that are installed below Base, on which the disk stands, the topmost first.
func (f *Frozen) Below() ([]image.StateID, error) {
	all, err := f.s.States()
	if err != nil {
		return nil, err
	}
	var out []image.StateID
	for _, id := range f.chain.ids[f.base+1:] {
		if i := slices.IndexFunc(all, func(st image.StateID) bool { return image.VHDUUID(st) == id }); i >= 0 {
			out = append(out, all[i])
		}
	}
	return out, nil
}

// Since returns the start at a state: what the newest backup holds, Base, one of Below, or the zero id for nothing. free says what of the disk
// is left out; nil: nothing. What the newest backup has left out and is not free any more counts as changed. The digests of what the backup
// holds are read from a list beside the disk, and made anew from the disk where that is missing or wrong.
func (f *Frozen) Since(ctx context.Context, id image.StateID, free Free) (Start, error) {
	to := &Content{chain: f.chain, written: map[int]bool{}, free: free, omitted: omitted{}}
	at := f.base
	switch {
	case id.IsZero():
		for b := range image.BlockCount(f.Size()) {
			to.written[b] = true
		}
		return Start{Bytes: f.Size(), To: to}, nil
	case id == f.Held:
		at, to.before = f.held, f.omitted
	case id != f.Base:
		if at = slices.Index(f.chain.ids, image.VHDUUID(id)); at < f.base {
			return Start{}, fmt.Errorf("the %s disk has no state %s", f.Role, id.Short())
		}
	}
	below, err := vhd.NewChain(f.chain.Members()[at:]...)
	if err != nil {
		return Start{}, err
	}
	disk := without{below, to.before}
	st, err := f.digests(ctx, id, disk)
	if err != nil {
		return Start{}, err
	}
	written, bytes, err := f.written(at)
	if err != nil {
		return Start{}, err
	}
	for block := range to.before {
		written[block] = written[block] || to.misses(block)
	}
	to.written = written
	return Start{State: st, Disk: disk, Changed: func(block int) bool { return written[block] }, Bytes: bytes, To: to}, nil
}

// written returns the blocks that the members above the one at an index have something of, and how many bytes that is.
func (f *Frozen) written(at int) (map[int]bool, int64, error) {
	out, bytes := map[int]bool{}, int64(0)
	for x, err := range f.chain.Changed(at, 0, f.Size()) {
		if err != nil {
			return nil, 0, err
		}
		bytes += x.Length
		for b := x.Offset / image.BlockSize; b*image.BlockSize < x.Offset+x.Length; b++ {
			out[int(b)] = true
		}
	}
	return out, bytes, nil
}

// digests returns the digest list of a state whose content is here.
func (f *Frozen) digests(ctx context.Context, id image.StateID, disk without) (image.State, error) {
	if id != f.Held || id == f.Base {
		return f.s.State(id)
	}
	b, err := durable.ReadFile(f.s.fsys, pointFile(id), image.EncodedStateSize(image.MaxDiskSize))
	if err == nil {
		if st, err := image.ParseState(b, id); err == nil && st.Size == disk.Size() {
			return st, nil
		}
	}
	st := image.State{Size: disk.Size(), Blocks: make([]image.Digest, image.BlockCount(disk.Size()))}
	err = inParallel(ctx, len(st.Blocks), func(i int, b []byte) error {
		if err := readBlock(disk, b, i); err != nil {
			return err
		}
		st.Blocks[i] = image.SumBlock(b)
		return nil
	})
	if err == nil && st.ID() != id {
		err = fmt.Errorf("%w: what the newest backup holds of the %s disk is not what is here", layer.ErrMismatch, f.Role)
	}
	return st, err
}

// Noted is a disk of a point that was made.
type Noted struct {
	Top   image.UUID // of the Frozen that it was made from
	State image.State
	To    *Content // as it was packed; nil: with all that is on the disk
}

// NotePoint notes in the record of a VM that a point of a line of backups is complete, made of disks that were frozen at an instant.
func (s *Store) NotePoint(id image.UUID, b Backup, made []Noted) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, err := s.vmOf(id)
	if err != nil {
		return err
	}
	omitted := make([]string, len(made))
	for i, m := range made {
		if err := s.writePoint(m.State); err != nil {
			return err
		}
		if m.To == nil {
			continue
		}
		if omitted[i], err = s.writeOmitted(m.To.all(), m.State.Size); err != nil {
			return err
		}
	}
	next := vm.clone()
	next.Counter++
	next.Backup, next.Instant = &b, nil
	next.eachDisk(func(d *InstalledDisk) {
		for i, m := range made {
			if slices.Contains(d.Frozen, m.Top) {
				d.Held = &Held{State: m.State.ID(), At: m.Top, Omitted: omitted[i]}
			}
		}
	})
	if err := s.writeVM(next); err != nil {
		return err
	}
	return s.removeLists()
}

// BeginLine notes the line of a VM's backups, before there is a point.
func (s *Store) BeginLine(id, line image.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, err := s.vmOf(id)
	if err != nil || vm.Backup != nil && vm.Backup.Line == line {
		return err
	}
	next := vm.clone()
	next.Counter++
	next.Backup = &Backup{Line: line}
	return s.writeVM(next)
}

func (s *Store) writePoint(st image.State) error {
	b, err := st.MarshalBinary()
	if err != nil {
		return err
	}
	had, err := durable.ReadFile(s.fsys, pointFile(st.ID()), int64(len(b)))
	if err == nil && bytes.Equal(had, b) {
		return nil
	}
	return durable.WriteFile(s.fsys, pointFile(st.ID()), b, 0o600)
}

// View is a disk of the store, open for reading. It is safe for concurrent use.
type View struct{ *chain }

// Close closes the files.
func (v *View) Close() error {
	v.chain.Close()
	return nil
}

// OpenView opens the disk whose topmost VHD is id. What somebody writes to it meanwhile is seen or not.
func (s *Store) OpenView(id image.UUID) (*View, error) {
	c, err := s.openChain(id)
	if err != nil {
		return nil, err
	}
	return &View{c}, nil
}
