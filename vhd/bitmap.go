package vhd

import "sync"

// bitmap is a block's sector bitmap: bit 7 of byte 0 is sector 0; 1 means that the sector is here.
type bitmap []byte

// run returns the value of the bit of sector s and the number of sectors from s, at most limit, that share it.
func (b bitmap) run(s, limit int64) (here bool, n int64) {
	here = b.get(s)
	for n = 1; n < limit; {
		i := s + n
		if i%8 == 0 && limit-n >= 8 {
			// Whole bytes of one kind are the usual case.
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

// bitmapCache keeps the bitmaps read last, so that sequential readers read each once. It is safe for concurrent use.
type bitmapCache struct {
	mu   sync.Mutex
	slot [16]struct {
		block int
		bits  bitmap
	}
	next   int
	pinned map[int]bitmap // newer than the file's, kept until they are written
}

func (c *bitmapCache) get(block int) bitmap {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b, ok := c.pinned[block]; ok {
		return b
	}
	for i := range c.slot {
		if c.slot[i].bits != nil && c.slot[i].block == block {
			return c.slot[i].bits
		}
	}
	return nil
}

func (c *bitmapCache) put(block int, b bitmap) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.slot {
		if c.slot[i].bits != nil && c.slot[i].block == block {
			c.slot[i].bits = b // never two, or one of them would grow stale
			return
		}
	}
	c.slot[c.next].block, c.slot[c.next].bits = block, b
	c.next = (c.next + 1) % len(c.slot)
}

// drop forgets the bitmap of a block that is no longer there.
func (c *bitmapCache) drop(block int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.slot {
		if c.slot[i].block == block {
			c.slot[i].bits = nil
		}
	}
}

// bitmap returns the sector bitmap of an allocated block. The caller must not change it.
func (m *Image) bitmap(block int) (bitmap, error) {
	if b := m.bitmaps.get(block); b != nil {
		return b, nil
	}
	b := make(bitmap, m.blocks.bitmapSize)
	if err := readFull(m.r, b, int64(m.bat[block])*sectorSize); err != nil {
		return nil, err
	}
	m.bitmaps.put(block, b)
	return b, nil
}

// pin makes b the bitmap of block until unpin.
func (m *Image) pin(block int, b bitmap) {
	c := &m.bitmaps
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pinned == nil {
		c.pinned = map[int]bitmap{}
	}
	c.pinned[block] = b
}

// unpin makes the file's bitmap of block count again, which must be the same by now.
func (m *Image) unpin(block int) {
	c := &m.bitmaps
	c.mu.Lock()
	b, ok := c.pinned[block]
	delete(c.pinned, block)
	c.mu.Unlock()
	if ok {
		m.bitmaps.put(block, b)
	}
}
