package deploy

import (
	"hash/crc32"
	"sync"
)

// checksum tells the content of a block from what a disk may have made of it. It is the remainders by two polynomials without a
// common factor, and so a CRC of 64 bits: it finds every damage that is at most 64 bits long and misses one in 2^64 of the others.
// Processors have instructions for both. It is no digest: whoever can choose the bytes can choose two blocks with one checksum.
type checksum struct{ castagnoli, ieee uint32 }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksumPiece is read twice in a row, in bytes, so that it comes from the processor's cache the second time.
const checksumPiece = 16 << 10

// checksumOf returns the checksum of a block.
func checksumOf(b []byte) checksum {
	var c checksum
	for len(b) > 0 {
		piece := b[:min(len(b), checksumPiece)]
		c.castagnoli = crc32.Update(c.castagnoli, castagnoli, piece)
		c.ieee = crc32.Update(c.ieee, crc32.IEEETable, piece)
		b = b[len(piece):]
	}
	return c
}

// checksums remembers those of blocks whose digests were compared in this process. It is safe for concurrent use.
type checksums struct {
	mu sync.Mutex
	of map[int]checksum
}

// note remembers the checksum of b, which is the right content of blocks: its digest was compared.
func (c *checksums) note(b []byte, blocks ...int) {
	sum := checksumOf(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, block := range blocks {
		c.of[block] = sum
	}
}

// get returns the checksum of a block, if it is known.
func (c *checksums) get(block int) (sum checksum, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum, known = c.of[block]
	return sum, known
}
