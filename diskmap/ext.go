package diskmap

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
)

const (
	extSuperAt  = 1024
	extSuperLen = 1024
	extMagic    = 0xef53
	// maxGroups is what 2 TiB in blocks of 1 KiB have.
	maxGroups = 1 << 18
)

// Features of ext2, ext3 and ext4. A file system with one that is not here is kept whole: nobody knows what its maps mean.
const (
	extHasJournal   = 0x4
	extMetaBg       = 0x10
	extExtents      = 0x40
	ext64bit        = 0x80
	extMMP          = 0x100
	extFlexBg       = 0x200
	extCsumSeed     = 0x2000
	extSparseSuper2 = 0x200
	extRecover      = 0x4

	extSparseSuper  = 0x1
	extGdtCsum      = 0x10
	extBigalloc     = 0x200
	extMetadataCsum = 0x400
	extOrphans      = 0x10000

	extCompatKnown   = 0x1 | 0x2 | extHasJournal | 0x8 | 0x10 | 0x20 | extSparseSuper2 | 0x400 | 0x800 | 0x1000
	extIncompatKnown = 0x2 | extMetaBg | extExtents | ext64bit | extMMP | extFlexBg | 0x400 | extCsumSeed | 0x4000 | 0x8000 | 0x10000 | 0x20000
	extROKnown       = extSparseSuper | 0x2 | 0x4 | 0x8 | extGdtCsum | 0x20 | 0x40 | 0x100 | extBigalloc | extMetadataCsum | 0x1000 | 0x2000 | 0x8000
	// Those with which an ext3 is an ext4.
	ext4Incompat = extExtents | ext64bit | extFlexBg | extMMP | 0x400 | extCsumSeed | 0x4000 | 0x8000 | 0x10000 | 0x20000
	ext4RO       = 0x8 | extGdtCsum | 0x20 | 0x40 | extBigalloc | extMetadataCsum
)

// ext is a file system of the family of ext2.
type ext struct {
	region
	sb []byte

	compat, incompat, ro uint32

	block     int64 // bytes of a block
	blocks    int64
	first     int64 // the first block of group 0
	perGroup  int64 // blocks of a group
	ratio     int64 // blocks of a cluster
	inodes    int64 // of a group
	inodeSize int64
	descSize  int64
	groups    []extGroup
	seed      uint32 // of checksums
	z         *zone  // of clusters
}

func isExt(head []byte) bool {
	return len(head) >= extSuperAt+extSuperLen && binary.LittleEndian.Uint16(head[extSuperAt+56:]) == extMagic
}

func (e *ext) u16(at int) int64 { return int64(binary.LittleEndian.Uint16(e.sb[at:])) }
func (e *ext) u32(at int) int64 { return int64(binary.LittleEndian.Uint32(e.sb[at:])) }

// openExt reads the maps of an ext2, ext3 or ext4.
func openExt(s *scan, r region, v *Volume) (*zone, error) {
	e := &ext{region: r}
	var err error
	if e.sb, err = r.bytes(extSuperAt, extSuperLen); err != nil {
		return nil, err
	}
	v.Kind = e.features()
	for _, step := range []func() error{e.known, e.clean, e.geometry, e.hostMark} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if e.z, err = s.zone(r, e.first*e.block, e.ratio*e.block, (e.blocks-e.first)/e.ratio); err != nil {
		return nil, err
	}
	for _, step := range []func() error{e.readGroups, e.readMaps, e.metadata, e.count, e.journal, e.metadata} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return e.z, nil
}

// features reads the features, and tells by them what the file system is called.
func (e *ext) features() Kind {
	if e.u32(76) == 0 {
		return Ext2 // the first revision has none, and the fields may hold anything
	}
	e.compat, e.incompat, e.ro = uint32(e.u32(92)), uint32(e.u32(96)), uint32(e.u32(100))
	switch {
	case e.incompat&ext4Incompat != 0 || e.ro&ext4RO != 0:
		return Ext4
	case e.compat&extHasJournal != 0:
		return Ext3
	}
	return Ext2
}

// known checks that every feature is known, and the checksum of what was read.
func (e *ext) known() error {
	if e.u32(76) > 1 || e.compat&^extCompatKnown != 0 || e.incompat&^(extIncompatKnown|extRecover) != 0 || e.ro&^(extROKnown|extOrphans) != 0 {
		return keep("it has features that are not known")
	}
	if e.ro&extMetadataCsum == 0 {
		return nil
	}
	if e.sb[373] != 1 || castagnoli(^uint32(0), e.sb[:1020]) != uint32(e.u32(1020)) {
		return keep("the checksum of its superblock is wrong")
	}
	e.seed = castagnoli(^uint32(0), e.sb[104:120])
	if e.incompat&extCsumSeed != 0 {
		e.seed = uint32(e.u32(624))
	}
	return nil
}

// clean checks that the file system was unmounted, and found to be good.
func (e *ext) clean() error {
	const valid, hasErrors, hasOrphans = 1, 2, 4
	switch state := e.u16(58); {
	case e.incompat&extRecover != 0 || state&valid == 0:
		return keep("it was not unmounted cleanly")
	case state&hasErrors != 0 || e.u32(404) != 0:
		return keep("errors were found in it")
	case state&hasOrphans != 0 || e.ro&extOrphans != 0 || e.u32(232) != 0:
		return keep("files that were deleted while they were open still have to be cleaned up")
	}
	return nil
}

// geometry checks the sizes.
func (e *ext) geometry() error {
	bad := keep("its superblock makes no sense")
	logBlock, logCluster := e.u32(24), e.u32(24)
	if e.ro&extBigalloc != 0 {
		logCluster = e.u32(28)
	}
	if logBlock > 6 || logCluster < logBlock || logCluster > 20 {
		return bad
	}
	e.block, e.ratio = 1024<<logBlock, 1<<(logCluster-logBlock)
	e.blocks, e.first, e.perGroup, e.inodes = e.u32(4), e.u32(20), e.u32(32), e.u32(40)
	e.inodeSize, e.descSize = 128, 32
	if e.u32(76) > 0 {
		e.inodeSize = e.u16(88)
	}
	if e.incompat&ext64bit != 0 {
		e.blocks |= e.u32(336) << 32
		e.descSize = e.u16(254)
	}
	firstWanted := int64(0)
	if e.block == 1024 && e.ratio == 1 {
		firstWanted = 1
	}
	switch {
	case e.first != firstWanted,
		e.perGroup%(8*e.ratio) != 0 || e.perGroup < 256 || e.perGroup/e.ratio > 8*e.block,
		e.inodes < 1 || e.inodes > 8*e.block,
		e.inodeSize < 128 || e.inodeSize > e.block || e.inodeSize&(e.inodeSize-1) != 0,
		e.descSize < 32 || e.descSize > 1024 || e.descSize > e.block || e.descSize&(e.descSize-1) != 0,
		e.incompat&ext64bit != 0 && e.descSize < 64,
		e.blocks <= e.first:
		return bad
	case e.blocks > e.size/e.block:
		return keep("it is larger than the place it is in")
	}
	n := (e.blocks - e.first + e.perGroup - 1) / e.perGroup
	if n > maxGroups {
		return keep("it has more than %d groups", maxGroups)
	}
	if n*e.inodes != e.u32(0) {
		return bad
	}
	e.groups = make([]extGroup, n)
	return nil
}

// hostMark checks that no other machine has the file system mounted, where that is recorded.
func (e *ext) hostMark() error {
	if e.incompat&extMMP == 0 {
		return nil
	}
	at := int64(binary.LittleEndian.Uint64(e.sb[360:]))
	if at <= e.first || at >= e.blocks {
		return keep("its superblock makes no sense")
	}
	b, err := e.bytes(at*e.block, 8)
	if err != nil {
		return err
	}
	if string(b) != "\x50\x4d\x4d\x00\x50\x4d\x4d\xff" {
		return keep("another machine may have it mounted")
	}
	return nil
}

// castagnoli is the CRC that the file system uses, without the inversions that the library adds.
func castagnoli(crc uint32, parts ...[]byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	for _, b := range parts {
		crc = ^crc32.Update(^crc, table, b)
	}
	return crc
}

// crc16 is the CRC of group descriptors before all metadata had checksums.
func crc16(crc uint16, parts ...[]byte) uint16 {
	for _, b := range slices.Concat(parts...) {
		crc ^= uint16(b)
		for range 8 {
			if crc&1 != 0 {
				crc = crc>>1 ^ 0xa001
			} else {
				crc >>= 1
			}
		}
	}
	return crc
}
