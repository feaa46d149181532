package image

import (
	"bytes"
	"crypto/sha256"
)

const (
	// SectorSize is the unit of disk sizes, in bytes.
	SectorSize = 512
	// BlockSize is the unit of content, in bytes. It equals the block size that VHD files use.
	BlockSize = 2 << 20
	// MaxDiskSize is the largest disk, in bytes: what a dynamic VHD can address.
	MaxDiskSize = 2040 << 30
)

// BlockCount returns the number of blocks of a disk of size bytes.
func BlockCount(size int64) int { return int((size + BlockSize - 1) / BlockSize) }

// ValidSize reports whether size can be the size of a disk that is not empty.
func ValidSize(size int64) bool {
	return size > 0 && size <= MaxDiskSize && size%SectorSize == 0
}

// SumBlock returns the digest of a whole block. It panics when p is not BlockSize long.
func SumBlock(p []byte) Digest {
	if len(p) != BlockSize {
		panic("image: internal error: SumBlock of a partial block")
	}
	if IsZero(p) {
		return Digest{}
	}
	return sha256.Sum256(p)
}

var zeros [32 << 10]byte

// IsZero reports whether p holds zero bytes only.
func IsZero(p []byte) bool {
	for len(p) > len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}
