package cache

import (
	"sync"

	"disksync/diskmap"
	"disksync/image"
	"disksync/vhd"
)

// plainDisk is a disk made up of VHD files, as somebody copied them to a medium. What was published of it has zeros for what its
// file systems call free, unless everything was asked for; so a block counts in either form.
type plainDisk struct {
	*vhd.Chain
	once sync.Once
	free *diskmap.Map
}

// fit makes a block that was read at off the one that is wanted, where that takes no more than zeros for what is free. The disk
// is looked at when that is needed for the first time.
func (d *plainDisk) fit(b []byte, off int64, want image.Digest) {
	if image.SumBlock(b) == want {
		return
	}
	d.once.Do(func() {
		// What cannot be read, or makes no sense, has nothing free; the block is then what it is.
		if m, err := diskmap.Scan(d.Chain); err == nil {
			d.free = m
		}
	})
	if d.free != nil {
		d.free.Clear(b, off)
	}
}
