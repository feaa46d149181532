package diskmap

import (
	"slices"

	extfs "disksync/volume/ext"
)

// readGroups reads the descriptors.
func (e *ext) readGroups() error {
	per := e.DescsPerBlock()
	for i := range e.DescBlocks() {
		b, err := e.bytes(e.DescBlock(i)*e.Block, e.Block)
		if err != nil {
			return err
		}
		for j := int64(0); j < per && i*per+j < int64(len(e.groups)); j++ {
			g := i*per + j
			d := b[j*e.DescSize:][:e.DescSize]
			if !e.DescSumOK(g, d) {
				return keep("the checksum of group %d is wrong", g)
			}
			e.groups[g] = e.ParseGroup(d)
		}
	}
	return nil
}

// clusters returns the clusters of a group, from and up to.
func (e *ext) clusters(g int64) (int64, int64) {
	per := e.PerGroup / e.Ratio
	return g * per, min(g*per+per, e.z.n)
}

// readMaps reads the groups' maps of used clusters.
func (e *ext) readMaps() error {
	b := make([]byte, e.Block)
	for i, g := range e.groups {
		from, to := e.clusters(int64(i))
		if g.Flags&extfs.BlockUninit != 0 {
			e.z.set(from, to, true)
			continue
		}
		if g.BlockMap <= e.First || g.BlockMap >= e.Blocks {
			return keep("the map of group %d is in an impossible place", i)
		}
		if err := e.read(b, g.BlockMap*e.Block); err != nil {
			return err
		}
		if e.RO&extfs.ROMetadataCsum != 0 {
			sum := extfs.Castagnoli(e.Seed, b[:e.PerGroup/e.Ratio/8])
			if e.DescSize < 64 {
				sum &= 0xffff
			}
			if sum != g.MapSum {
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
			if s.off < 0 || s.off >= s.end || s.end > e.Blocks {
				return keep("the structures of group %d are in impossible places", i)
			}
			if s.end <= e.First {
				continue
			}
			from, to := (max(s.off, e.First)-e.First)/e.Ratio, (s.end-e.First+e.Ratio-1)/e.Ratio
			for to = min(to, e.z.n); from < to; {
				g := from / (e.PerGroup / e.Ratio)
				_, end := e.clusters(g)
				end = min(end, to)
				if e.groups[g].Flags&extfs.BlockUninit != 0 {
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
	table := (e.Inodes*e.InodeSize + e.Block - 1) / e.Block
	out := []span{{off: d.BlockMap, end: d.BlockMap + 1}, {off: d.InodeMap, end: d.InodeMap + 1}, {off: d.InodeTable, end: d.InodeTable + table}}
	at, n := e.First+g*e.PerGroup, int64(0)
	if e.HasSuper(g) {
		at = e.SuperBlock(g)
		n = 1
	}
	per := e.DescsPerBlock()
	switch meta := g / per; {
	case meta >= e.FirstMeta(): // a block of descriptors is in the first, the second and the last group of those it describes
		if g%per == 0 || g%per == 1 || g%per == per-1 {
			n++
		}
	case e.HasSuper(g):
		n += e.FirstMeta()
		if e.Incompat&extfs.IncompatMetaBg == 0 {
			n += e.U16(206) // kept free for more descriptors
		}
	}
	if n > 0 {
		out = append(out, span{off: at, end: min(at+n, e.Blocks)})
	}
	return slices.Clip(out)
}

// count compares how much is free with what groups and superblock say.
func (e *ext) count() error {
	var sum int64
	for i, g := range e.groups {
		from, to := e.clusters(int64(i))
		n := e.z.count(from, to)
		if n != g.Free {
			return keep("%d clusters of group %d are free, and it says %d", n, i, g.Free)
		}
		sum += n
	}
	said := e.U32(12)
	if e.Incompat&extfs.Incompat64bit != 0 {
		said |= e.U32(344) << 32
	}
	if sum*e.Ratio != said {
		return keep("%d of its blocks are free, and it says %d", sum*e.Ratio, said)
	}
	return nil
}
