package layer

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"disksync/image"
)

// place names the frame of a block in a layer of the path.
type place struct{ layer, block int }

// unpacked is a block that was unpacked before, or is now.
type unpacked struct {
	mu   sync.Mutex // held while it is unpacked and read
	data *[image.BlockSize]byte
	slot int64 // its place in the scratch room, in blocks; -1: none
	once bool  // it was unpacked before
	good bool  // its digest was compared
	err  error
}

// content is a block that is there.
type content struct {
	r *Reader
	u *unpacked
	f Frame
}

// read reads bytes of the block.
func (c content) read(p []byte, in int64) error {
	if c.u.data != nil {
		copy(p, c.u.data[in:])
		return nil
	}
	if _, err := c.r.scratch.ReadAt(p, c.u.slot*image.BlockSize+in); err != nil {
		return fmt.Errorf("read back block %d: %w", c.f.Block, err)
	}
	return nil
}

// confirm compares the block with its digest, unless that was done.
func (c content) confirm() error {
	if c.u.good {
		return nil
	}
	b := blockBuffers.Get().(*[image.BlockSize]byte)
	defer blockBuffers.Put(b)
	err := c.read(b[:], 0)
	if err == nil {
		err = CheckBlock(b[:], c.f.Block, c.f.Digest)
	}
	c.u.good = err == nil
	return err
}

// blockBuffers recycles the room for blocks.
var blockBuffers = sync.Pool{New: func() any { return new([image.BlockSize]byte) }}

// Trust has r give blocks without comparing them with their digests: for who compares what comes of them, and asks Confirm where that is
// wrong. It is to be called before anything is read.
func (r *Reader) Trust() { r.trusts = true }

// Confirm compares a block of the disk with its digest.
func (r *Reader) Confirm(block int) error {
	i, f, ok := r.find(len(r.path)-1, block)
	if !ok {
		return nil
	}
	return r.unpack(i, f, false, content.confirm)
}

// unpack calls do with a block, which it unpacks unless it is there. keep says that it is to be kept in the scratch room.
func (r *Reader) unpack(i int, f Frame, keep bool, do func(content) error) error {
	r.mu.Lock()
	u := r.blocks[place{i, f.Block}]
	if u == nil {
		u = &unpacked{slot: -1}
		r.blocks[place{i, f.Block}] = u
	}
	r.mu.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil && u.data == nil && u.slot < 0 {
		// Whoever needs it a second time may need it often.
		keep = keep || u.once
		u.err = r.decode(i, f, u, keep)
		u.once = true
	}
	if u.err == nil && keep {
		u.err = r.keep(f, u)
	}
	if u.err != nil {
		return u.err
	}
	return do(content{r, u, f})
}

// decode unpacks a block to memory; the caller holds u.mu. Where it is to be kept, so is what it refers to, and nothing that it needs is
// dropped while it holds its buffers.
func (r *Reader) decode(i int, f Frame, u *unpacked, keep bool) error {
	if err := r.prepare(i, f, keep); err != nil {
		return err
	}
	packed := blockBuffers.Get().(*[image.BlockSize]byte)
	defer blockBuffers.Put(packed)
	if err := readFull(r.path[i].R, packed[:f.Length], f.Offset); err != nil {
		return fmt.Errorf("block %d: %w", f.Block, err)
	}
	data := blockBuffers.Get().(*[image.BlockSize]byte)
	err := r.dec.unpack(data[:], f, packed[:f.Length], r.base(i, f))
	if err == nil && !r.trusts {
		err = CheckBlock(data[:], f.Block, f.Digest)
		u.good = err == nil
	}
	if err != nil {
		blockBuffers.Put(data)
		return r.confirmed(f, packed[:f.Length], err)
	}
	u.data = data
	r.remember(u)
	return nil
}

// remember notes that a block is in memory, and drops the oldest ones beyond a few for each processor. Those that are being read stay.
func (r *Reader) remember(u *unpacked) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recent = append(r.recent, u)
	for i := 0; len(r.recent) > recentBlocks*runtime.GOMAXPROCS(0) && i < len(r.recent)-1; {
		old := r.recent[i]
		if !old.mu.TryLock() {
			i++
			continue
		}
		old.drop()
		old.mu.Unlock()
		r.recent = slices.Delete(r.recent, i, i+1)
	}
}

// recentBlocks is how many blocks stay in memory for each processor.
const recentBlocks = 4

func (u *unpacked) drop() {
	if u.data != nil {
		blockBuffers.Put(u.data)
		u.data = nil
	}
}

// keep writes a block that is in memory to the scratch room; the caller holds u.mu.
func (r *Reader) keep(f Frame, u *unpacked) error {
	if u.slot >= 0 {
		return nil
	}
	r.mu.Lock()
	slot := r.slots
	r.slots++
	r.mu.Unlock()
	if _, err := r.scratch.WriteAt(u.data[:], slot*image.BlockSize); err != nil {
		return fmt.Errorf("keep block %d: %w", f.Block, err)
	}
	u.slot = slot
	return nil
}

// manyReferences is how many blocks a frame refers to that are better kept in the scratch room than in memory until they are read.
const manyReferences = 4

// prepare unpacks the blocks that a frame refers to. They would be when they are read, but then the buffers of every layer of a
// long path could be in use at once.
func (r *Reader) prepare(i int, f Frame, keep bool) error {
	if !f.Codec.refers() {
		return nil
	}
	packed := make([]byte, f.Length)
	if err := readFull(r.path[i].R, packed, f.Offset); err != nil {
		return fmt.Errorf("block %d: %w", f.Block, err)
	}
	refs := References(f, packed)
	for _, ref := range refs {
		top := i - 1
		if ref.To {
			top = i
		}
		j, g, ok := r.find(top, ref.Block)
		if !ok || j == i && g.Level >= f.Level {
			continue // zeros, or what reading it will tell
		}
		err := r.unpack(j, g, keep || len(refs) > manyReferences, func(content) error { return nil })
		if err != nil {
			return err
		}
	}
	return nil
}

// confirmed returns the error of a frame that did not give its block: when something that it refers to is to blame, that.
func (r *Reader) confirmed(f Frame, packed []byte, err error) error {
	from, ok := r.from.(interface{ Confirm(block int) error })
	if !ok || !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrFrom) {
		return err
	}
	for _, ref := range References(f, packed) {
		if ref.To {
			continue
		}
		if bad := from.Confirm(ref.Block); bad != nil {
			return fmt.Errorf("block %d: %w: %w", f.Block, ErrFrom, bad)
		}
	}
	return err
}
