package ext

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"disksync/volume"
)

// Where the superblock is, and the part of it that is read, in bytes.
const (
	SuperAt  = 1024
	SuperLen = 1024
	magic    = 0xef53
)

// Features ("Super Block": s_feature_compat, s_feature_incompat, s_feature_ro_compat).
const (
	CompatJournal      = 0x4
	CompatSparseSuper2 = 0x200

	IncompatFileType   = 0x2
	IncompatRecover    = 0x4
	IncompatMetaBg     = 0x10
	IncompatExtents    = 0x40
	Incompat64bit      = 0x80
	IncompatMMP        = 0x100
	IncompatFlexBg     = 0x200
	IncompatEAInode    = 0x400
	IncompatCsumSeed   = 0x2000
	IncompatLargeDir   = 0x4000
	IncompatInlineData = 0x8000
	IncompatEncrypt    = 0x10000
	IncompatCasefold   = 0x20000

	ROSparseSuper  = 0x1
	ROHugeFile     = 0x8
	ROGdtCsum      = 0x10
	RODirNlink     = 0x20
	ROExtraIsize   = 0x40
	ROBigalloc     = 0x200
	ROMetadataCsum = 0x400
	ROOrphans      = 0x10000

	// Those with which an ext3 is an ext4.
	ext4Incompat = IncompatExtents | Incompat64bit | IncompatFlexBg | IncompatMMP | IncompatEAInode | IncompatCsumSeed |
		IncompatLargeDir | IncompatInlineData | IncompatEncrypt | IncompatCasefold
	ext4RO = ROHugeFile | ROGdtCsum | RODirNlink | ROExtraIsize | ROBigalloc | ROMetadataCsum
)

// Super is a superblock.
type Super struct {
	Raw []byte

	Compat, Incompat, RO uint32

	Block     int64 // bytes of a block
	Blocks    int64
	First     int64 // the first block of group 0
	PerGroup  int64 // blocks of a group
	Ratio     int64 // blocks of a cluster
	Inodes    int64 // of a group
	InodeSize int64
	DescSize  int64
	Groups    int64
	Seed      uint32 // of checksums
}

// IsSuper reports whether this has the mark of a superblock.
func IsSuper(b []byte) bool { return len(b) >= SuperLen && binary.LittleEndian.Uint16(b[56:]) == magic }

// NewSuper takes a superblock, and reads its features.
func NewSuper(b []byte) *Super {
	s := &Super{Raw: b}
	if s.U32(76) > 0 { // the first revision has none, and the fields may hold anything
		s.Compat, s.Incompat, s.RO = uint32(s.U32(92)), uint32(s.U32(96)), uint32(s.U32(100))
	}
	s.Seed = Castagnoli(^uint32(0), s.UUID())
	if s.Incompat&IncompatCsumSeed != 0 {
		s.Seed = uint32(s.U32(624))
	}
	return s
}

// U16 reads a number at a place in the superblock.
func (s *Super) U16(at int) int64 { return int64(binary.LittleEndian.Uint16(s.Raw[at:])) }

// U32 reads a number at a place in the superblock.
func (s *Super) U32(at int) int64 { return int64(binary.LittleEndian.Uint32(s.Raw[at:])) }

// UUID returns the 16 bytes that tell one file system from another.
func (s *Super) UUID() []byte { return s.Raw[104:120] }

// Type tells by the features what the file system is called.
func (s *Super) Type() string {
	switch {
	case s.Incompat&ext4Incompat != 0 || s.RO&ext4RO != 0:
		return "ext4"
	case s.Compat&CompatJournal != 0:
		return "ext3"
	}
	return "ext2"
}

// SumOK checks the checksum of the superblock, where there is one.
func (s *Super) SumOK() bool {
	const crc32c = 1
	return s.RO&ROMetadataCsum == 0 || s.Raw[373] == crc32c && Castagnoli(^uint32(0), s.Raw[:1020]) == uint32(s.U32(1020))
}

// Geometry reads the sizes, and checks that they go together; not that they fit where the file system is. The error is ErrDamaged.
func (s *Super) Geometry() error {
	bad := volume.Damaged("the superblock makes no sense")
	logBlock, logCluster := s.U32(24), s.U32(24)
	if s.RO&ROBigalloc != 0 {
		logCluster = s.U32(28)
	}
	if logBlock > 6 || logCluster < logBlock || logCluster > 20 {
		return bad
	}
	s.Block, s.Ratio = 1024<<logBlock, 1<<(logCluster-logBlock)
	s.Blocks, s.First, s.PerGroup, s.Inodes = s.U32(4), s.U32(20), s.U32(32), s.U32(40)
	s.InodeSize, s.DescSize = 128, 32
	if s.U32(76) > 0 {
		s.InodeSize = s.U16(88)
	}
	if s.Incompat&Incompat64bit != 0 {
		s.Blocks |= s.U32(336) << 32
		s.DescSize = s.U16(254)
	}
	firstWanted := int64(0)
	if s.Block == 1024 && s.Ratio == 1 {
		firstWanted = 1
	}
	switch {
	case s.First != firstWanted,
		s.PerGroup%(8*s.Ratio) != 0 || s.PerGroup < 256 || s.PerGroup/s.Ratio > 8*s.Block,
		s.Inodes < 1 || s.Inodes > 8*s.Block,
		s.InodeSize < 128 || s.InodeSize > s.Block || s.InodeSize&(s.InodeSize-1) != 0,
		s.DescSize < 32 || s.DescSize > 1024 || s.DescSize > s.Block || s.DescSize&(s.DescSize-1) != 0,
		s.Incompat&Incompat64bit != 0 && s.DescSize < 64,
		s.Blocks <= s.First || s.Blocks > volume.MaxFile/s.Block:
		return bad
	}
	s.Groups = (s.Blocks - s.First + s.PerGroup - 1) / s.PerGroup
	if s.Groups > 1<<32 || s.Groups*s.Inodes != s.U32(0) {
		return bad
	}
	return nil
}

// uuidString writes a UUID as people do.
func uuidString(u []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Castagnoli is the CRC that the file system uses, without the inversions that the library adds.
func Castagnoli(crc uint32, parts ...[]byte) uint32 {
	for _, b := range parts {
		crc = ^crc32.Update(^crc, castagnoli, b)
	}
	return crc
}

// crc16 is the CRC of group descriptors before all metadata had checksums.
func crc16(crc uint16, parts ...[]byte) uint16 {
	for _, p := range parts {
		for _, b := range p {
			crc ^= uint16(b)
			for range 8 {
				if crc&1 != 0 {
					crc = crc>>1 ^ 0xa001
				} else {
					crc >>= 1
				}
			}
		}
	}
	return crc
}
