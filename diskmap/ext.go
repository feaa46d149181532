package diskmap

import (
	"encoding/binary"

	extfs "disksync/volume/ext"
)

// maxGroups is what 2 TiB in blocks of 1 KiB have.
const maxGroups = 1 << 18

// Features of ext2, ext3 and ext4. A file system with one that is not here is kept whole: nobody knows what its maps mean.
const (
	extCompatKnown   = 0x1 | 0x2 | extfs.CompatJournal | 0x8 | 0x10 | 0x20 | extfs.CompatSparseSuper2 | 0x400 | 0x800 | 0x1000
	extIncompatKnown = extfs.IncompatFileType | extfs.IncompatMetaBg | extfs.IncompatExtents | extfs.Incompat64bit | extfs.IncompatMMP |
		extfs.IncompatFlexBg | extfs.IncompatEAInode | extfs.IncompatCsumSeed | extfs.IncompatLargeDir | extfs.IncompatInlineData |
		extfs.IncompatEncrypt | extfs.IncompatCasefold
	extROKnown = extfs.ROSparseSuper | 0x2 | 0x4 | extfs.ROHugeFile | extfs.ROGdtCsum | extfs.RODirNlink | extfs.ROExtraIsize | 0x100 |
		extfs.ROBigalloc | extfs.ROMetadataCsum | 0x1000 | 0x2000 | 0x8000
)

// ext is a file system of the family of ext2.
type ext struct {
	region
	*extfs.Super
	groups []extfs.Group
	z      *zone // of clusters
}

func isExt(head []byte) bool {
	return len(head) >= extfs.SuperAt && extfs.IsSuper(head[extfs.SuperAt:])
}

// openExt reads the maps of an ext2, ext3 or ext4.
func openExt(s *scan, r region, v *Volume) (*zone, error) {
	e := &ext{region: r}
	b, err := r.bytes(extfs.SuperAt, extfs.SuperLen)
	if err != nil {
		return nil, err
	}
	e.Super = extfs.NewSuper(b)
	v.Kind = Kind(e.Type())
	for _, step := range []func() error{e.known, e.clean, e.geometry, e.hostMark} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if e.z, err = s.zone(r, e.First*e.Block, e.Ratio*e.Block, (e.Blocks-e.First)/e.Ratio); err != nil {
		return nil, err
	}
	for _, step := range []func() error{e.readGroups, e.readMaps, e.metadata, e.count, e.journal, e.metadata} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return e.z, nil
}

// known checks that every feature is known, and the checksum of what was read.
func (e *ext) known() error {
	if e.U32(76) > 1 || e.Compat&^extCompatKnown != 0 || e.Incompat&^(extIncompatKnown|extfs.IncompatRecover) != 0 || e.RO&^(extROKnown|extfs.ROOrphans) != 0 {
		return keep("it has features that are not known")
	}
	if !e.SumOK() {
		return keep("the checksum of its superblock is wrong")
	}
	return nil
}

// clean checks that the file system was unmounted, and found to be good.
func (e *ext) clean() error {
	const valid, hasErrors, hasOrphans = 1, 2, 4
	switch state := e.U16(58); {
	case e.Incompat&extfs.IncompatRecover != 0 || state&valid == 0:
		return keep("it was not unmounted cleanly")
	case state&hasErrors != 0 || e.U32(404) != 0:
		return keep("errors were found in it")
	case state&hasOrphans != 0 || e.RO&extfs.ROOrphans != 0 || e.U32(232) != 0:
		return keep("files that were deleted while they were open still have to be cleaned up")
	}
	return nil
}

// geometry checks the sizes.
func (e *ext) geometry() error {
	switch err := e.Geometry(); {
	case e.Groups > 0 && e.Blocks > e.size/e.Block: // all but the number of inodes made sense, or that as well
		return keep("it is larger than the place it is in")
	case e.Groups > maxGroups:
		return keep("it has more than %d groups", maxGroups)
	case err != nil:
		return keep("its superblock makes no sense")
	}
	e.groups = make([]extfs.Group, e.Groups)
	return nil
}

// hostMark checks that no other machine has the file system mounted, where that is recorded.
func (e *ext) hostMark() error {
	if e.Incompat&extfs.IncompatMMP == 0 {
		return nil
	}
	at := int64(binary.LittleEndian.Uint64(e.Raw[360:]))
	if at <= e.First || at >= e.Blocks {
		return keep("its superblock makes no sense")
	}
	b, err := e.bytes(at*e.Block, 8)
	if err != nil {
		return err
	}
	if string(b) != "\x50\x4d\x4d\x00\x50\x4d\x4d\xff" {
		return keep("another machine may have it mounted")
	}
	return nil
}
