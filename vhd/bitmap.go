package vhd

import (
	"encoding/binary"
	"sync/atomic"
)

// bitmap is a block's sector bitmap: bit 7 of byte 0 is sector 0; 1 means that the sector is here.
type bitmap []byte

// run returns the value of the bit of sector s and the number of sectors from s, at most limit, that share it.
func (b bitmap) run(s, limit int64) (here bool, n int64) {
	here = b.get(s)
	for n = 1; n < limit; {
		i := s + n
		if i%64 == 0 && limit-n >= 64 {
			// Whole words of one kind are the usual case.
			if v := binary.NativeEndian.Uint64(b[i/8:]); here && v == 1<<64-1 || !here && v == 0 {
				n += 64
				continue
			}
		}
		if i%8 == 0 && limit-n >= 8 {
			if v := b[i/8]; here && v == 0xff || !here && v == 0 {
				n += 8
				continue
			}
		}
		if b.get(i) != here {
			break
		}
		n++
	}
	return here, n
}

func (b bitmap) get(s int64) bool { return b[s/8]&(0x80>>(s%8)) != 0 }

func (b bitmap) set(s, n int64) {
	for i := s; i < s+n; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
}

// bitmapCache keeps the bitmaps read last, each in the one slot that its block can have. It is safe for concurrent use, but for
// pinned.
type bitmapCache struct {
	slots atomic.Pointer[[]bitmapSlot]
	// pinned are newer than the file's and kept until they are written. Only the leaf of a [Disk] has any; the Disk's mu guards them.
	pinned map[int]bitmap
}

type bitmapSlot = atomic.Pointer[cachedBitmap]

type cachedBitmap struct {
	block int
	bits  bitmap
}

const (
	// readSlots is for files that are read, from one end to the other as a rule.
	readSlots = 64
	// writeSlots is for a leaf that is in use: 8 MiB for bitmaps of 32 GiB in use, with blocks of 2 MiB.
	writeSlots = 16384
)

// enlarge gives the cache room for a leaf with so many blocks. Nobody uses it yet.
func (c *bitmapCache) enlarge(blocks int) {
	s := make([]bitmapSlot, max(min(blocks, writeSlots), 1))
	c.slots.Store(&s)
}

// slot returns the place of a block's bitmap.
func (c *bitmapCache) slot(block int) *bitmapSlot {
	s := c.slots.Load()
	if s == nil {
		n := make([]bitmapSlot, readSlots)
		c.slots.CompareAndSwap(nil, &n)
		s = c.slots.Load()
	}
	return &(*s)[block%len(*s)]
}

// drop forgets the bitmap of a block that is no longer there.
func (c *bitmapCache) drop(block int) {
	s := c.slot(block)
	if b := s.Load(); b != nil && b.block == block {
		s.Store(nil)
	}
}

// bitmap returns the sector bitmap of an allocated block. The caller must not change it.
func (m *Image) bitmap(block int) (bitmap, error) {
	c := &m.bitmaps
	if b, ok := c.pinned[block]; ok {
		return b, nil
	}
	s := c.slot(block)
	if b := s.Load(); b != nil && b.block == block {
		return b.bits, nil
	}
	b := make(bitmap, m.blocks.bitmapSize)
	if err := readFull(m.r, b, int64(m.bat[block])*sectorSize); err != nil {
		return nil, err
	}
	s.Store(&cachedBitmap{block, b})
	return b, nil
}

// pin makes b the bitmap of block until unpin.
func (m *Image) pin(block int, b bitmap) {
	c := &m.bitmaps
	if c.pinned == nil {
		c.pinned = map[int]bitmap{}
	}
	c.pinned[block] = b
}

// unpin makes the file's bitmap of block count again, which must be the same by now.
func (m *Image) unpin(block int) {
	c := &m.bitmaps
	if b, ok := c.pinned[block]; ok {
		delete(c.pinned, block)
		c.slot(block).Store(&cachedBitmap{block, b})
	}
}
