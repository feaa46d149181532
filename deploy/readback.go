package deploy

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
	"disksync/vhd"
)

// ErrDiskLies says that the endpoint's disk did not keep what was written to it.
var ErrDiskLies = errors.New("this machine's disk does not keep what is written to it")

// readBack compares what was written to a part with what was to be written, reading from the disk and not from memory where the
// system allows.
// What is synced is read while the transfer goes on, so that the slower of the two takes the time and not both; the rest, and all
// that says where blocks are, when the part is complete.
type readBack struct {
	in   *installer
	sums checksums

	mu     sync.Mutex
	change *sync.Cond
	todo   []int
	closed bool
	// places has the blocks that were found good, and where they were in the file.
	places map[int]int64
}

func newReadBack(in *installer) *readBack {
	r := &readBack{in: in, places: map[int]int64{}, sums: checksums{of: map[int]checksum{}}}
	r.change = sync.NewCond(&r.mu)
	return r
}

// add has blocks read that were synced.
func (r *readBack) add(blocks []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.todo = append(r.todo, blocks...)
	r.change.Broadcast()
}

// close says that nothing comes any more.
func (r *readBack) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.change.Broadcast()
}

// readAtOnce is how many blocks a reader takes, and opens the part for, at a time.
const readAtOnce = 16

// next waits for a few blocks, so that several can read. At the end of the transfer what is still to be done is left for finish, which has
// all processors.
func (r *readBack) next() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.todo) == 0 && !r.closed {
		r.change.Wait()
	}
	if r.closed {
		return nil
	}
	n := min(len(r.todo), readAtOnce)
	todo := r.todo[:n:n]
	r.todo = r.todo[n:]
	return todo
}

// run reads what is synced until close is called.
func (r *readBack) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, r.close)
	defer stop()
	b := getBlock()
	defer putBlock(b)
	for todo := r.next(); todo != nil; todo = r.next() {
		if err := r.read(todo, b[:]); err != nil {
			return err
		}
	}
	return nil
}

// read compares blocks of the part as it is now. It is being written to, and may just then look like a file that was cut short;
// what cannot be judged is left for finish.
func (r *readBack) read(todo []int, b []byte) error {
	v, err := r.open(vhd.Salvage())
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	defer v.Close()
	for _, block := range todo {
		if r.over() {
			return nil
		}
		if !v.Members()[0].Allocated(block) {
			continue
		}
		if err := r.compare(v, block, b); err != nil {
			return err
		}
	}
	return nil
}

func (r *readBack) over() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// compare reads a block and notes where it was.
func (r *readBack) compare(v *opened, block int, b []byte) error {
	f, ok := r.in.x.Find(block)
	if !ok {
		return fmt.Errorf("deploy: internal error: block %d was written, and layer %s has none", block, r.in.x.ID().Short())
	}
	err := readBlock(v, b, block)
	if err == nil {
		err = r.check(b, block, f.Digest)
	}
	if errors.Is(err, layer.ErrCorrupt) {
		err = fmt.Errorf("%w: %w", ErrDiskLies, err)
	}
	if err != nil {
		return fmt.Errorf("read back disk %s: %w", r.in.p.id, err)
	}
	place, _ := v.Members()[0].Place(block)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.places[block] = place
	r.in.tally.count(1, 0, 0)
	return nil
}

// check returns ErrCorrupt unless b is what the block is to be: by the checksum of what had the right digest when it was written,
// or by the digest when that was before this process began.
func (r *readBack) check(b []byte, block int, want image.Digest) error {
	sum, known := r.sums.get(block)
	if !known {
		return layer.CheckBlock(b, block, want)
	}
	if checksumOf(b) != sum {
		return fmt.Errorf("%w: block %d is not what was written", layer.ErrCorrupt, block)
	}
	return nil
}

// finish opens the complete part as a stranger would, compares the blocks that were not compared yet, and sees to it that the
// others are where they were.
func (r *readBack) finish(ctx context.Context) error {
	v, err := r.open()
	if err != nil {
		return err
	}
	defer v.Close()
	top := v.Members()[0]
	if err := checkOwn(top, r.in.x); err != nil {
		return fmt.Errorf("read back disk %s: %w", r.in.p.id, err)
	}
	var rest []int
	for i := range r.in.x.Len() {
		block := r.in.x.Frame(i).Block
		was, good := r.places[block]
		if !good {
			rest = append(rest, block)
		} else if now, _ := top.Place(block); now != was {
			return fmt.Errorf("read back disk %s: %w: block %d was at %d and is at %d", r.in.p.id, ErrDiskLies, block, was, now)
		}
	}
	r.in.tally.begin(StageChecksum, r.in.role, int64(len(rest))*image.BlockSize)
	return inParallel(ctx, len(rest), func(i int, b []byte) error {
		r.in.tally.add(image.BlockSize)
		return r.compare(v, rest[i], b)
	})
}

// opened is the part, opened for reading with what is below it.
type opened struct {
	*vhd.Chain
	file  durable.File
	below *chain
}

// Close closes the files.
func (v *opened) Close() {
	v.file.Close()
	if v.below != nil {
		v.below.Close()
	}
}

// open opens the part anew, past what the system has in memory of it.
func (r *readBack) open(o ...vhd.Option) (*opened, error) {
	s, in := r.in.store, r.in
	f, err := s.fsys.Open(partFile(in.p.id))
	if err != nil {
		return nil, err
	}
	v := &opened{file: f}
	f.DropCache()
	f.Direct()
	err = v.open(s, in.x, o)
	if err != nil {
		v.Close()
		return nil, fmt.Errorf("read back disk %s: %w", in.p.id, err)
	}
	return v, nil
}

func (v *opened) open(s *Store, x *layer.Index, o []vhd.Option) error {
	size, err := v.file.Size()
	if err != nil {
		return err
	}
	m, err := vhd.Open(v.file, size, o...)
	if err != nil {
		return err
	}
	members := []*vhd.Image{m}
	if !x.From().IsZero() {
		if v.below, err = s.openChain(image.VHDUUID(x.From())); err != nil {
			return err
		}
		members = append(members, v.below.Members()...)
	}
	v.Chain, err = vhd.NewChain(members...)
	return err
}
