package diskmap

import "encoding/binary"

const (
	journalInode = 8
	journalMagic = 0xc03b3998
	// maxJournalRuns bounds the memory for the places of a journal. One has a few; an ext3 has a run for each indirect block.
	maxJournalRuns = 1 << 20
	// maxJournalBlocks is the most that mke2fs makes.
	maxJournalBlocks = 10_240_000
)

// journal frees the blocks of the journal behind its superblock: the file system was unmounted cleanly, so nobody will read
// what is in them. A journal on another device is not touched.
func (e *ext) journal() error {
	if e.compat&extHasJournal == 0 || e.u32(224) == 0 {
		return nil
	}
	if e.u32(224) != journalInode {
		return keep("its journal is in an impossible place")
	}
	inode, err := e.bytes(e.groups[0].inodeTable*e.block+(journalInode-1)*e.inodeSize, e.inodeSize)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	size := int64(le.Uint32(inode[4:])) | int64(le.Uint32(inode[108:]))<<32
	if !e.inodeSumOK(inode) || le.Uint16(inode)&0xf000 != 0x8000 || size <= 0 || size%e.block != 0 || size/e.block > maxJournalBlocks {
		return keep("the inode of its journal makes no sense")
	}
	m := &blockWalk{ext: e, inode: inode, want: size / e.block}
	if err := m.walk(); err != nil {
		return err
	}
	b, err := e.bytes(m.runs[0].off*e.block, 1024)
	if err != nil {
		return err
	}
	if err := e.journalSuper(b, m.want); err != nil {
		return err
	}
	m.runs[0].off++ // the superblock stays
	for _, r := range m.runs {
		// Whole clusters only: others' blocks may be in the rest.
		from, to := (r.off-e.first+e.ratio-1)/e.ratio, (r.end-e.first)/e.ratio
		if from >= to {
			continue
		}
		if !e.z.holds(from, to) {
			return keep("blocks of its journal are marked free, or used twice")
		}
		e.z.set(from, to, true)
	}
	return nil
}

// journalSuper checks the superblock of the journal: the journal is empty, and of a known kind.
func (e *ext) journalSuper(b []byte, blocks int64) error {
	const known = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 // revoke, 64bit, async commit, checksums, fast commit
	be := binary.BigEndian
	kind, features := be.Uint32(b[4:]), be.Uint32(b[40:])
	switch {
	case be.Uint32(b) != journalMagic || kind != 3 && kind != 4,
		int64(be.Uint32(b[12:])) != e.block, int64(be.Uint32(b[16:])) > blocks, be.Uint32(b[20:]) != 1,
		kind == 4 && (be.Uint32(b[36:])&^1 != 0 || features&^known != 0 || be.Uint32(b[44:]) != 0):
		return keep("its journal makes no sense")
	case be.Uint32(b[28:]) != 0:
		return keep("its journal still has to be carried out")
	case be.Uint32(b[32:]) != 0:
		return keep("its journal has met an error")
	}
	if kind == 4 && features&0x18 != 0 { // checksums of version 2 or 3
		sum := be.Uint32(b[252:])
		be.PutUint32(b[252:], 0)
		if castagnoli(^uint32(0), b) != sum {
			return keep("the checksum of its journal is wrong")
		}
	}
	return nil
}

// inodeSumOK checks the checksum of an inode, where there is one.
func (e *ext) inodeSumOK(inode []byte) bool {
	if e.ro&extMetadataCsum == 0 {
		return true
	}
	le := binary.LittleEndian
	b := append([]byte(nil), inode...)
	sum, mask := uint32(le.Uint16(b[124:])), uint32(0xffff)
	le.PutUint16(b[124:], 0)
	if e.inodeSize > 128 && le.Uint16(b[128:]) >= 4 {
		sum |= uint32(le.Uint16(b[130:])) << 16
		mask = ^uint32(0)
		le.PutUint16(b[130:], 0)
	}
	return castagnoli(e.inodeSeed(inode), b)&mask == sum
}

// inodeSeed returns what the checksums of an inode and its extents begin with.
func (e *ext) inodeSeed(inode []byte) uint32 {
	return castagnoli(e.seed, binary.LittleEndian.AppendUint32(nil, journalInode), inode[100:104])
}

// blockWalk collects the blocks of the journal in their order.
type blockWalk struct {
	*ext
	inode []byte
	want  int64  // blocks
	have  int64  // blocks found
	runs  []span // blocks
}

func (m *blockWalk) walk() error {
	const usesExtents = 0x80000
	var err error
	if binary.LittleEndian.Uint32(m.inode[32:])&usesExtents != 0 {
		err = m.extents(m.inode[40:100], -1)
	} else {
		err = m.pointers(m.inode[40:100])
	}
	if err != nil {
		return err
	}
	if m.have != m.want || m.want < 2 {
		return m.bad()
	}
	return nil
}

func (m *blockWalk) bad() error { return keep("the inode of its journal makes no sense") }

// add takes the next n blocks of the file.
func (m *blockWalk) add(at, n int64) error {
	if at <= m.first || n <= 0 || at+n > m.blocks || m.have+n > m.want {
		return m.bad()
	}
	m.have += n
	if i := len(m.runs) - 1; i >= 0 && m.runs[i].end == at {
		m.runs[i].end += n
		return nil
	}
	if len(m.runs) == maxJournalRuns {
		return m.bad()
	}
	m.runs = append(m.runs, span{off: at, end: at + n})
	return nil
}

// extents reads a node of an extent tree. above is the depth of the node above it, -1 for the root: depths fall, so it ends.
func (m *blockWalk) extents(b []byte, above int) error {
	const maxDepth = 5
	le := binary.LittleEndian
	n, most, depth := int(le.Uint16(b[2:])), int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	if le.Uint16(b) != 0xf30a || n > most || n == 0 || 12+12*most > len(b) || depth > maxDepth || above >= 0 && depth != above-1 {
		return m.bad()
	}
	if tail := 12 + 12*most; above >= 0 && m.ro&extMetadataCsum != 0 &&
		(tail+4 > len(b) || castagnoli(m.inodeSeed(m.inode), b[:tail]) != le.Uint32(b[tail:])) {
		return keep("a checksum of its journal's extents is wrong")
	}
	for i := range n {
		x := b[12+12*i:][:12]
		if int64(le.Uint32(x)) != m.have { // a journal has no holes
			return m.bad()
		}
		if depth == 0 {
			// More than 32768 marks blocks that were not written yet.
			length := int64(le.Uint16(x[4:]))
			if length > 32768 {
				return m.bad()
			}
			if err := m.add(int64(le.Uint32(x[8:]))|int64(le.Uint16(x[6:]))<<32, length); err != nil {
				return err
			}
			continue
		}
		child, err := m.node(int64(le.Uint32(x[4:])) | int64(le.Uint16(x[8:]))<<32)
		if err != nil {
			return err
		}
		if err := m.extents(child, depth); err != nil {
			return err
		}
	}
	return nil
}

// node reads a block of an extent tree or of pointers.
func (m *blockWalk) node(at int64) ([]byte, error) {
	if at <= m.first || at >= m.blocks {
		return nil, m.bad()
	}
	return m.bytes(at*m.block, m.block)
}

// pointers reads the 12 pointers to blocks of an inode, and those to blocks of pointers, of pointers to pointers, and so on.
func (m *blockWalk) pointers(b []byte) error {
	if err := m.leaves(b[:48]); err != nil {
		return err
	}
	for depth := range 3 {
		if m.have == m.want {
			return nil
		}
		if err := m.indirect(int64(binary.LittleEndian.Uint32(b[48+4*depth:])), depth); err != nil {
			return err
		}
	}
	return nil
}

func (m *blockWalk) leaves(b []byte) error {
	for i := 0; i < len(b) && m.have < m.want; i += 4 {
		if err := m.add(int64(binary.LittleEndian.Uint32(b[i:])), 1); err != nil {
			return err
		}
	}
	return nil
}

func (m *blockWalk) indirect(at int64, depth int) error {
	b, err := m.node(at)
	if err != nil || depth == 0 {
		if err == nil {
			err = m.leaves(b)
		}
		return err
	}
	for i := 0; i < len(b) && m.have < m.want; i += 4 {
		if err := m.indirect(int64(binary.LittleEndian.Uint32(b[i:])), depth-1); err != nil {
			return err
		}
	}
	return nil
}
