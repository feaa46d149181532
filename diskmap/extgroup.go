package diskmap

import (
	"encoding/binary"
	"slices"
)

// extGroup is what a group's descriptor says.
type extGroup struct {
	blockMap, inodeMap, inodeTable int64 // blocks
	free                           int64 // clusters
	mapSum                         uint32
	flags                          uint16
}

// blockUninit says that the map of a group was never written: nothing is used but the file system's own blocks.
const blockUninit = 0x2

// hasSuper reports whether a group has a copy of the superblock.
func (e *ext) hasSuper(g int64) bool {
	if g == 0 {
		return true
	}
	if e.compat&extSparseSuper2 != 0 {
		return g == e.u32(588) || g == e.u32(592)
	}
	if e.ro&extSparseSuper == 0 || g == 1 {
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

// superBlock returns the block that a group's copy of the superblock is in.
func (e *ext) superBlock(g int64) int64 {
	if g == 0 {
		return extSuperAt / e.block
	}
	return e.first + g*e.perGroup
}

func (e *ext) descsPerBlock() int64 { return e.block / e.descSize }

// descBlocks returns how many blocks of descriptors there are.
func (e *ext) descBlocks() int64 {
	return (int64(len(e.groups)) + e.descsPerBlock() - 1) / e.descsPerBlock()
}

// firstMeta returns the first block of descriptors that is not behind the superblock, but with the groups it describes.
func (e *ext) firstMeta() int64 {
	if e.incompat&extMetaBg == 0 {
		return e.descBlocks()
	}
	return min(e.u32(260), e.descBlocks())
}

// descBlock returns where a block of descriptors is.
func (e *ext) descBlock(i int64) int64 {
	if i < e.firstMeta() {
		return e.superBlock(0) + 1 + i
	}
	g := i * e.descsPerBlock()
	if g == 0 {
		return e.superBlock(0) + 1
	}
	at := e.first + g*e.perGroup
	if e.hasSuper(g) {
		at++
	}
	return at
}

// readGroups reads the descriptors.
func (e *ext) readGroups() error {
	per := e.descsPerBlock()
	for i := range e.descBlocks() {
		b, err := e.bytes(e.descBlock(i)*e.block, e.block)
		if err != nil {
			return err
		}
		for j := int64(0); j < per && i*per+j < int64(len(e.groups)); j++ {
			g := i*per + j
			d := b[j*e.descSize:][:e.descSize]
			if !e.descSumOK(g, d) {
				return keep("the checksum of group %d is wrong", g)
			}
			e.groups[g] = e.parseGroup(d)
		}
	}
	return nil
}

func (e *ext) parseGroup(d []byte) extGroup {
	le := binary.LittleEndian
	g := extGroup{
		blockMap: int64(le.Uint32(d)), inodeMap: int64(le.Uint32(d[4:])), inodeTable: int64(le.Uint32(d[8:])),
		free: int64(le.Uint16(d[12:])), mapSum: uint32(le.Uint16(d[24:])),
	}
	if e.ro&(extGdtCsum|extMetadataCsum) != 0 {
		g.flags = le.Uint16(d[18:])
	}
	if e.descSize >= 64 {
		g.blockMap |= int64(le.Uint32(d[32:])) << 32
		g.inodeMap |= int64(le.Uint32(d[36:])) << 32
		g.inodeTable |= int64(le.Uint32(d[40:])) << 32
		g.free |= int64(le.Uint16(d[44:])) << 16
		g.mapSum |= uint32(le.Uint16(d[56:])) << 16
	}
	return g
}

// descSumOK checks the checksum of a descriptor, where there is one.
func (e *ext) descSumOK(g int64, d []byte) bool {
	const at = 30
	number := binary.LittleEndian.AppendUint32(nil, uint32(g))
	sum := binary.LittleEndian.Uint16(d[at:])
	switch {
	case e.ro&extMetadataCsum != 0:
		return sum == uint16(castagnoli(e.seed, number, d[:at], []byte{0, 0}, d[at+2:]))
	case e.ro&extGdtCsum != 0:
		return sum == crc16(^uint16(0), e.sb[104:120], number, d[:at], d[at+2:])
	}
	return true
}

// clusters returns the clusters of a group, from and up to.
func (e *ext) clusters(g int64) (int64, int64) {
	per := e.perGroup / e.ratio
	return g * per, min(g*per+per, e.z.n)
}

// readMaps reads the groups' maps of used clusters.
func (e *ext) readMaps() error {
	b := make([]byte, e.block)
	for i, g := range e.groups {
		from, to := e.clusters(int64(i))
		if g.flags&blockUninit != 0 {
			e.z.set(from, to, true)
			continue
		}
		if g.blockMap <= e.first || g.blockMap >= e.blocks {
			return keep("the map of group %d is in an impossible place", i)
		}
		if err := e.read(b, g.blockMap*e.block); err != nil {
			return err
		}
		if e.ro&extMetadataCsum != 0 {
			sum := castagnoli(e.seed, b[:e.perGroup/e.ratio/8])
			if e.descSize < 64 {
				sum &= 0xffff
			}
			if sum != g.mapSum {
				return keep("the checksum of the map of group %d is wrong", i)
			}
		}
		e.z.load(b, from, to-from)
	}
	return nil
}

// metadata checks that the blocks of the file system itself are not free. In a group whose map was never written they are marked
// here.
func (e *ext) metadata() error {
	for i := range e.groups {
		for _, s := range e.own(int64(i)) {
			if s.off < 0 || s.off >= s.end || s.end > e.blocks {
				return keep("the structures of group %d are in impossible places", i)
			}
			if s.end <= e.first {
				continue
			}
			from, to := (max(s.off, e.first)-e.first)/e.ratio, (s.end-e.first+e.ratio-1)/e.ratio
			for to = min(to, e.z.n); from < to; {
				g := from / (e.perGroup / e.ratio)
				_, end := e.clusters(g)
				end = min(end, to)
				if e.groups[g].flags&blockUninit != 0 {
					e.z.set(from, end, false)
				} else if !e.z.holds(from, end) {
					return keep("blocks of its own structures are marked free in group %d", g)
				}
				from = end
			}
		}
	}
	return nil
}

// own returns the blocks of the file system itself that belong to a group; with flex_bg they may be in another.
func (e *ext) own(g int64) []span {
	d := e.groups[g]
	table := (e.inodes*e.inodeSize + e.block - 1) / e.block
	out := []span{{off: d.blockMap, end: d.blockMap + 1}, {off: d.inodeMap, end: d.inodeMap + 1}, {off: d.inodeTable, end: d.inodeTable + table}}
	at, n := e.first+g*e.perGroup, int64(0)
	if e.hasSuper(g) {
		at = e.superBlock(g)
		n = 1
	}
	per := e.descsPerBlock()
	switch meta := g / per; {
	case meta >= e.firstMeta(): // a block of descriptors is in the first, the second and the last group of those it describes
		if g%per == 0 || g%per == 1 || g%per == per-1 {
			n++
		}
	case e.hasSuper(g):
		n += e.firstMeta()
		if e.incompat&extMetaBg == 0 {
			n += e.u16(206) // kept free for more descriptors
		}
	}
	if n > 0 {
		out = append(out, span{off: at, end: min(at+n, e.blocks)})
	}
	return slices.Clip(out)
}

// count compares how much is free with what groups and superblock say.
func (e *ext) count() error {
	var sum int64
	for i, g := range e.groups {
		from, to := e.clusters(int64(i))
		n := e.z.count(from, to)
		if n != g.free {
			return keep("%d clusters of group %d are free, and it says %d", n, i, g.free)
		}
		sum += n
	}
	said := e.u32(12)
	if e.incompat&ext64bit != 0 {
		said |= e.u32(344) << 32
	}
	if sum*e.ratio != said {
		return keep("%d of its blocks are free, and it says %d", sum*e.ratio, said)
	}
	return nil
}
