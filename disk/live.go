// Package disk has disks that are in use: they are read and written while what they consist of is exchanged below them.
package disk

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"disksync/disk/nbd"
	"disksync/vhd"
)

// Live is a disk in use. It is safe for concurrent use, and serves as an [nbd.Device].
//
// What WriteAt and Zero return from is there for every read that begins later, and survives the death of the process when the
// [vhd.Disk] has a log. What Flush returned from survives a loss of power.
type Live struct {
	// changing is held for reading by whatever changes the disk, and for writing by Swap. Reads do not hold it: they may wait for
	// long, for a block that is still to be fetched, and nobody else shall.
	changing sync.RWMutex
	now      atomic.Pointer[generation]
}

// generation is what a disk consists of between two swaps.
type generation struct {
	d *vhd.Disk
	// users counts the reads that go on, and 1 as long as this is the present generation.
	users atomic.Int64
	gone  chan struct{} // closed when users is 0
}

func newGeneration(d *vhd.Disk) *generation {
	g := &generation{d: d, gone: make(chan struct{})}
	g.users.Store(1)
	return g
}

func (g *generation) release() {
	if g.users.Add(-1) == 0 {
		close(g.gone)
	}
}

// NewLive returns a disk that begins as d. From then on d is used through it only.
func NewLive(d *vhd.Disk) *Live {
	l := &Live{}
	l.now.Store(newGeneration(d))
	return l
}

// use returns the present generation, which stays usable until it is released.
func (l *Live) use() *generation {
	for {
		g := l.now.Load()
		n := g.users.Load()
		// Once it is 0 nobody may come back.
		if n > 0 && g.users.CompareAndSwap(n, n+1) {
			return g
		}
	}
}

// Size returns the size of the disk in bytes.
func (l *Live) Size() int64 {
	g := l.use()
	defer g.release()
	return g.d.Size()
}

// ReadAt implements io.ReaderAt.
func (l *Live) ReadAt(p []byte, off int64) (int, error) {
	g := l.use()
	defer g.release()
	return g.d.ReadAt(p, off)
}

// WriteAt implements io.WriterAt.
func (l *Live) WriteAt(p []byte, off int64) (int, error) {
	l.changing.RLock()
	defer l.changing.RUnlock()
	n, err := l.now.Load().d.WriteAt(p, off)
	return n, noSpace(err)
}

// Zero makes a range read as zeros, storing no more than must be.
func (l *Live) Zero(off, length int64) error {
	l.changing.RLock()
	defer l.changing.RUnlock()
	return noSpace(l.now.Load().d.Discard(off, length))
}

// ZeroStored makes a range read as zeros for which there is room in the leaf. It implements [nbd.Provisioner].
func (l *Live) ZeroStored(off, length int64) error {
	l.changing.RLock()
	defer l.changing.RUnlock()
	return noSpace(l.now.Load().d.WriteZeros(off, length))
}

// noSpace makes a full block device known to clients as such.
func noSpace(err error) error {
	if errors.Is(err, vhd.ErrDeviceFull) {
		return fmt.Errorf("%w: %w", nbd.ErrNoSpace, err)
	}
	return err
}

// Flush makes everything durable for which WriteAt or Zero returned before.
func (l *Live) Flush() error {
	l.changing.RLock()
	defer l.changing.RUnlock()
	return l.now.Load().d.Sync()
}

// Extent is a run of a disk.
type Extent = nbd.Extent

// Extents yields the runs of a range in order and without gaps. It stops after an error. What no file of the chain holds is a hole
// and zeros. A write that comes meanwhile may or may not be seen.
func (l *Live) Extents(off, length int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		g := l.use()
		defer g.release()
		extents(g.d.Extents(off, length))(yield)
	}
}

// extents tells what members hold as a client wants to know it.
func extents(runs iter.Seq2[vhd.Extent, error]) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		for e, err := range runs {
			hole := e.Member < 0
			if !yield(Extent{Offset: e.Offset, Length: e.Length, Hole: hole, Zero: hole}, err) {
				return
			}
		}
	}
}

// Swap exchanges what the disk consists of: it waits for the writes that are under way and makes them durable, lets next say what
// to go on with, and goes on. With an error from next it goes on as it was. It is how a leaf is frozen (next makes a new leaf on
// top), how a parent is exchanged after coalescing, and how a disk that was still downloading gets its real chain.
//
// What next returns must read as what it was given, and be of the same size; it may have the same leaf, opened anew. Writes wait
// meanwhile; reads go on, on what was there before. So next must leave the old disk usable. When Swap has returned without an error
// nobody uses it any more, and it can be closed, without writing to it.
func (l *Live) Swap(next func(now *vhd.Disk) (*vhd.Disk, error)) error {
	return SwapAll([]*Live{l}, func(now []*vhd.Disk) ([]*vhd.Disk, error) {
		d, err := next(now[0])
		return []*vhd.Disk{d}, err
	})
}

// SwapAll is [Live.Swap] for a group of disks, which are all stopped at one instant. next is called once for all of them. With an
// error all of them go on as they were. Two groups that share disks must not be swapped at the same time.
func SwapAll(disks []*Live, next func(now []*vhd.Disk) ([]*vhd.Disk, error)) error {
	old, err := swapAll(disks, next)
	for _, g := range old {
		g.release()
		<-g.gone
	}
	return err
}

// swapAll returns the generations that are over, while reads of them may still be under way.
func swapAll(disks []*Live, next func(now []*vhd.Disk) ([]*vhd.Disk, error)) ([]*generation, error) {
	now := make([]*vhd.Disk, len(disks))
	var syncs errgroup.Group
	for i, l := range disks {
		l.changing.Lock()
		defer l.changing.Unlock()
		now[i] = l.now.Load().d
	}
	for _, d := range now {
		syncs.Go(d.Sync)
	}
	if err := syncs.Wait(); err != nil {
		return nil, err
	}
	fresh, err := next(slices.Clone(now))
	if err != nil {
		return nil, err
	}
	for i, d := range now {
		if n := fresh[i].Size(); n != d.Size() {
			return nil, fmt.Errorf("disk: internal error: a disk of %d bytes in place of one of %d", n, d.Size())
		}
	}
	var old []*generation
	for i, l := range disks {
		if fresh[i] != now[i] {
			old = append(old, l.now.Load())
			l.now.Store(newGeneration(fresh[i]))
		}
	}
	return old, nil
}
