package cache

import (
	"context"
	"sync"

	"disksync/diskmap"
	"disksync/image"
	"disksync/vhd"
)

// FindFree finds out what of a disk that somebody copied to a medium is free; the name is that of its file, for people. The file systems on
// it are hostile, so it is for somebody to read who can do little. The disk may be read until it returns. nil: nothing is known.
type FindFree func(ctx context.Context, name string, disk *vhd.Chain) *diskmap.Map

// LookForFree has the Sources that follow find out what is free on plain disks, of which nothing is free otherwise.
func (inv *Inventory) LookForFree(f FindFree) { inv.free = f }

// plainDisk is a disk made up of VHD files, as somebody copied them to a medium. What was published of it has zeros for what its
// file systems call free, unless everything was asked for; so a block counts in either form. It is safe for concurrent use.
type plainDisk struct {
	*vhd.Chain
	name string
	find FindFree // nil: nothing is free

	mu     sync.Mutex // held while somebody looks, too
	looked bool
	free   *diskmap.Map
}

// fit makes a block that was read at off the one that is wanted, where that takes no more than zeros for what is free. The disk
// is looked at when that is needed for the first time.
func (d *plainDisk) fit(ctx context.Context, b []byte, off int64, want image.Digest) {
	if d.find == nil || image.SumBlock(b) == want {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.looked {
		// Where nothing is known nothing is free, and the block is what it is.
		d.free = d.find(ctx, d.name, d.Chain)
		d.looked = ctx.Err() == nil // who was called off may not have seen all
	}
	if d.free != nil {
		d.free.Clear(b, off)
	}
}
