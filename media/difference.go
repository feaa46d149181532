package media

import (
	"bytes"
	"io"
	"sync"
	"syscall"

	"disksync/image"
	"disksync/layer"
)

// errTooLarge is what a file system says of a file that it does not take.
const errTooLarge = syscall.EFBIG

// difference is the content of a VHD: of a dynamic one all blocks of the disk that are not zeros, of a differencing one the sectors
// that are not those of the disk below.
type difference struct {
	*layer.Reader
	x     *layer.Index
	below *layer.Reader // nil: the disk stands alone

	mu       sync.Mutex
	block    int // whose sectors are in now and then; -1 before the first
	now, had []byte
}

// NextRun returns the first run at or behind off.
func (d *difference) NextRun(off int64) (start, end int64, err error) {
	size := d.Size()
	if d.below == nil {
		start, err = d.NextData(off)
		return start, min((start/image.BlockSize+1)*image.BlockSize, size), err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for block := int(off / image.BlockSize); block < image.BlockCount(size); block++ {
		if _, ok := d.x.Find(block); !ok {
			continue
		}
		first := int64(block) * image.BlockSize
		if err := d.load(block); err != nil {
			return 0, 0, err
		}
		at := max(off-first, 0)
		for at < int64(len(d.now)) && d.same(at) {
			at += image.SectorSize
		}
		if at >= int64(len(d.now)) {
			continue
		}
		to := at
		for to < int64(len(d.now)) && !d.same(to) {
			to += image.SectorSize
		}
		return first + at, first + to, nil
	}
	return size, size, nil
}

func (d *difference) same(at int64) bool {
	return bytes.Equal(d.now[at:at+image.SectorSize], d.had[at:at+image.SectorSize])
}

// load reads a block of both disks. Behind the end of the one below there are zeros.
func (d *difference) load(block int) error {
	if d.now != nil && d.block == block {
		return nil
	}
	off := int64(block) * image.BlockSize
	n := min(image.BlockSize, d.Size()-off)
	d.now, d.had = make([]byte, n), make([]byte, n)
	if _, err := d.ReadAt(d.now, off); err != nil && err != io.EOF {
		return err
	}
	if k := min(n, d.below.Size()-off); k > 0 {
		if _, err := d.below.ReadAt(d.had[:k], off); err != nil && err != io.EOF {
			return err
		}
	}
	d.block = block
	return nil
}
