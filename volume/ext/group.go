package ext

import (
	"encoding/binary"
)

// Group is what the descriptor of a group of blocks says.
type Group struct {
	BlockMap, InodeMap, InodeTable int64 // blocks
	Free                           int64 // clusters
	MapSum                         uint32
	Flags                          uint16
}

// BlockUninit says that the map of a group was never written: nothing is used but the file system's own blocks.
const BlockUninit = 0x2

// HasSuper reports whether a group has a copy of the superblock.
func (s *Super) HasSuper(g int64) bool {
	if g == 0 {
		return true
	}
	if s.Compat&CompatSparseSuper2 != 0 {
		return g == s.U32(588) || g == s.U32(592)
	}
	if s.RO&ROSparseSuper == 0 || g == 1 {
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		p := base
		for p < g {
			p *= base
		}
		if p == g {
			return true
		}
	}
	return false
}

// SuperBlock returns the block that a group's copy of the superblock is in.
func (s *Super) SuperBlock(g int64) int64 {
	if g == 0 {
		return SuperAt / s.Block
	}
	return s.First + g*s.PerGroup
}

// DescsPerBlock returns how many descriptors are in a block.
func (s *Super) DescsPerBlock() int64 { return s.Block / s.DescSize }

// DescBlocks returns how many blocks of descriptors there are.
func (s *Super) DescBlocks() int64 { return (s.Groups + s.DescsPerBlock() - 1) / s.DescsPerBlock() }

// FirstMeta returns the first block of descriptors that is not behind the superblock, but with the groups it describes.
func (s *Super) FirstMeta() int64 {
	if s.Incompat&IncompatMetaBg == 0 {
		return s.DescBlocks()
	}
	return min(s.U32(260), s.DescBlocks())
}

// DescBlock returns where a block of descriptors is.
func (s *Super) DescBlock(i int64) int64 {
	if i < s.FirstMeta() {
		return s.SuperBlock(0) + 1 + i
	}
	g := i * s.DescsPerBlock()
	if g == 0 {
		return s.SuperBlock(0) + 1
	}
	at := s.First + g*s.PerGroup
	if s.HasSuper(g) {
		at++
	}
	return at
}

// ParseGroup reads a descriptor.
func (s *Super) ParseGroup(d []byte) Group {
	le := binary.LittleEndian
	g := Group{
		BlockMap: int64(le.Uint32(d)), InodeMap: int64(le.Uint32(d[4:])), InodeTable: int64(le.Uint32(d[8:])),
		Free: int64(le.Uint16(d[12:])), MapSum: uint32(le.Uint16(d[24:])),
	}
	if s.RO&(ROGdtCsum|ROMetadataCsum) != 0 {
		g.Flags = le.Uint16(d[18:])
	}
	if s.DescSize >= 64 {
		g.BlockMap |= int64(le.Uint32(d[32:])) << 32
		g.InodeMap |= int64(le.Uint32(d[36:])) << 32
		g.InodeTable |= int64(le.Uint32(d[40:])) << 32
		g.Free |= int64(le.Uint16(d[44:])) << 16
		g.MapSum |= uint32(le.Uint16(d[56:])) << 16
	}
	return g
}

// DescSumOK checks the checksum of a descriptor, where there is one.
func (s *Super) DescSumOK(g int64, d []byte) bool {
	const at = 30
	number := binary.LittleEndian.AppendUint32(nil, uint32(g))
	sum := binary.LittleEndian.Uint16(d[at:])
	switch {
	case s.RO&ROMetadataCsum != 0:
		return sum == uint16(Castagnoli(s.Seed, number, d[:at], []byte{0, 0}, d[at+2:]))
	case s.RO&ROGdtCsum != 0:
		return sum == crc16(^uint16(0), s.UUID(), number, d[:at], d[at+2:])
	}
	return true
}
