package vhd

import (
	"errors"
	"iter"
	"sync"
	"sync/atomic"
)

// Disk is a chain whose leaf is written. It is safe for concurrent use: reads and writes go on at once, and wait for one another
// only where a write changes bitmaps or the block table, and then not for the files of the parents.
//
// What [Disk.WriteAt] wrote is there for good when [Disk.Sync] returned. After a crash at any write before that the file
// opens and holds at least everything synced: Sync first brings data and the bitmaps of new blocks to the disk, then makes
// them reachable. With a log, see [WithLog], what WriteAt wrote also outlives the process.
type Disk struct {
	// Locks are taken in the order in which they stand here.

	// shape is held for reading by all use of the disk, for writing by Resize.
	shape sync.RWMutex
	// edges is held for reading by writes of whole sectors, for writing by those that read the rest of a sector first.
	edges sync.RWMutex
	// syncing is held by whatever brings bitmaps and table to the file.
	syncing sync.Mutex
	syncs   atomic.Int64 // that began; changes while syncing is held

	chain *Chain
	leaf  *Image // its table and bitmaps are guarded by mu
	f     File

	mu       sync.RWMutex
	end      int64          // behind the last block and all metadata
	fileEnd  int64          // length of the file
	device   bool           // see Device
	ahead    int64          // see Ahead; 0: the file is as long as it must be
	most     int64          // how long the file may become by that
	zeroEnd  int64          // between end and here the file has zeros …
	taken    int64          // … and as far as here room for them
	fresh    map[int]bitmap // bitmaps of blocks that the table in the file does not have yet
	changed  map[int]bitmap // bitmaps, changed in memory, of blocks that it has
	tableDue map[int64]bool // offsets of the table's sectors that must be written
	batmap   *batmap        // tapdisk's, which must not begin to lie; nil when there is none that is gone by
	copyDue  bool           // the footer's copy at the start is not the footer
	broken   error          // after a failed sync nobody knows what the file holds
	log      *writeLog      // nil: none
}

// ErrBeyondEnd is returned for a write outside the disk.
var ErrBeyondEnd = errors.New("vhd: write beyond the end of the disk")

// ErrDeviceFull is returned when a block device has no room for what is to be written. Everything written before is safe.
var ErrDeviceFull = errors.New("vhd: no room on the block device")

// Device opens a leaf that lies on a block device: its length, fileSize, does not change, and the footer stays in its last
// sector. It matters to [OpenDisk] only.
func Device() Option { return func(o *options) { o.device = true } }

// OpenDisk opens the leaf in f, of fileSize bytes, for writing, and its parents for reading. Options apply to the leaf.
// Nothing else may write to f meanwhile, which this package cannot know.
func OpenDisk(f File, fileSize int64, parents []*Image, opts ...Option) (*Disk, error) {
	var o options
	for _, set := range opts {
		set(&o)
	}
	if o.byGeometry {
		return nil, errors.New("vhd: a disk that is opened by its geometry can only be read; nothing was changed")
	}
	leaf, err := Open(f, fileSize, opts...)
	if err != nil {
		return nil, err
	}
	c, err := NewChain(append([]*Image{leaf}, parents...)...)
	if err != nil {
		return nil, err
	}
	d := newDisk(f, c, fileSize)
	d.device, d.ahead, d.most = o.device, o.ahead, o.most
	if leaf.header == nil {
		d.end = leaf.footer.Size
		return d, d.finishGrowth()
	}
	if d.batmap, err = leaf.writableBatmap(); err != nil {
		return nil, err
	}
	for _, w := range leaf.warnings {
		d.copyDue = d.copyDue || w.Fault == CopyDiffers || w.Fault == CopyDamaged || w.Fault == ChecksumStale
	}
	for _, i := range leaf.dropped {
		// An entry that Salvage left out must not come back from the table in the file.
		d.tableDue[d.tableSector(i)] = true
	}
	if o.log != nil {
		if err := d.openLog(o.log, o.boot); err != nil {
			return nil, err
		}
	}
	d.end = d.usedEnd()
	return d, nil
}

// usedEnd returns where the last block and all metadata end.
func (d *Disk) usedEnd() int64 { return d.leaf.structureEnd() }

// OpenRawDisk opens a raw disk of size bytes, a multiple of 512, for writing, such as the raw parent of a chain that is to be
// coalesced.
func OpenRawDisk(f File, size int64) *Disk {
	return newDisk(f, &Chain{members: []*Image{Raw(f, size)}}, size)
}

func newDisk(f File, c *Chain, fileSize int64) *Disk {
	c.members[0].bitmaps.enlarge(len(c.members[0].bat))
	return &Disk{
		chain: c, leaf: c.members[0], f: f, fileEnd: fileSize,
		fresh: map[int]bitmap{}, changed: map[int]bitmap{}, tableDue: map[int64]bool{},
	}
}

// Size returns the size of the disk in bytes.
func (d *Disk) Size() int64 {
	d.shape.RLock()
	defer d.shape.RUnlock()
	return d.chain.Size()
}

// Leaf returns the file that is written. Its content may only be looked at through the Disk.
func (d *Disk) Leaf() *Image { return d.leaf }

// ReadAt implements io.ReaderAt over the composed disk, with everything written so far. It waits for no write while it reads.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	d.shape.RLock()
	defer d.shape.RUnlock()
	return d.readAt(p, off)
}

func (d *Disk) readAt(p []byte, off int64) (int, error) {
	return readWithin(d.chain.Size(), p, off, d.read)
}

func (d *Disk) read(p []byte, off int64) error {
	for len(p) > 0 {
		var l parts
		d.mu.RLock()
		err := l.find(d.leaf, off, int64(len(p)))
		d.mu.RUnlock()
		if err != nil {
			return err
		}
		// What a block holds stays where it is.
		if err := d.chain.fill(p[:l.length], off, &l); err != nil {
			return err
		}
		p, off = p[l.length:], off+l.length
	}
	return nil
}

// Allocated reports whether the leaf has block number block.
func (d *Disk) Allocated(block int) bool {
	d.shape.RLock()
	defer d.shape.RUnlock()
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.leaf.bat != nil && d.leaf.bat[block] != unallocated
}

// lookup is [Chain.lookup] with everything written so far.
func (d *Disk) lookup(off, limit int64) (Extent, error) {
	d.mu.RLock()
	e, err := d.leaf.extent(off, limit)
	d.mu.RUnlock()
	if err != nil {
		return Extent{}, err
	}
	if e.here {
		return Extent{off, e.length, 0}, nil
	}
	return d.chain.lookBelow(off, e.length)
}

// NextRun implements [Source]: the runs that some member holds, with everything written so far.
func (d *Disk) NextRun(off int64) (start, end int64, err error) {
	d.shape.RLock()
	defer d.shape.RUnlock()
	return nextRun(off, d.chain.Size(), d.lookup)
}

// Extents is [Chain.Extents] of the disk with everything written so far. What is written meanwhile may or may not be seen. The
// disk must not be resized meanwhile.
func (d *Disk) Extents(off, length int64) iter.Seq2[Extent, error] {
	return d.chain.extents(off, length, d.lookup)
}
