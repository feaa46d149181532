package ext

import (
	"encoding/binary"

	"disksync/volume"
)

// Blocks finds where the blocks of a file are.
type Blocks struct {
	Super *Super
	// Node reads a block of the map. What it returns has to stay only until the next call.
	Node func(block int64) ([]byte, error)
	// Run is told n blocks of the file from its block at on, in ascending order: they begin in block, and were written, or
	// they are not and read as zeros. What it is not told is nowhere, and zeros as well.
	Run func(at, block, n int64, written bool) error

	inode  Inode
	next   int64 // the block of the file that comes next at the earliest
	limit  int64 // the first block that is behind the end of the file
	nodes  [maxDepth][]byte
	damage error
}

const (
	maxDepth    = 5
	maxWritten  = 32768   // blocks of an extent; more mark one that was not written yet
	maxBlocks   = 1 << 32 // of a file
	pointers    = 12      // of an inode to blocks of content
	extentBytes = 12
)

// Walk goes through the map of an inode up to the block of the file that limit says. Errors are ErrDamaged, and those of the functions.
func (m *Blocks) Walk(n Inode, limit int64) error {
	m.inode, m.next, m.limit = n, 0, limit
	m.damage = volume.Damaged("inode %d: the map of its blocks makes no sense", n.Number)
	if n.flags()&flagExtents != 0 {
		return m.extents(n.blockMap(), -1)
	}
	return m.pointers(n.blockMap())
}

// has reports whether n blocks are where content may be.
func (m *Blocks) has(block, n int64) bool {
	return block > m.Super.First && n <= m.Super.Blocks && block <= m.Super.Blocks-n
}

// node reads a block of the map into memory of its own, one for each level.
func (m *Blocks) node(block int64, level int) ([]byte, error) {
	if !m.has(block, 1) {
		return nil, m.damage
	}
	b, err := m.Node(block)
	if err != nil {
		return nil, err
	}
	m.nodes[level] = append(m.nodes[level][:0], b...)
	return m.nodes[level], nil
}

// extents reads a node of an extent tree ("The Contents of inode.i_block: Extent Tree"). above is the depth of the node above it, -1
// for the root: depths fall, so it ends.
func (m *Blocks) extents(b []byte, above int) error {
	le := binary.LittleEndian
	n, most, depth := int(le.Uint16(b[2:])), int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	tail := extentBytes * (1 + most)
	if le.Uint16(b) != 0xf30a || n > most || tail > len(b) || depth > maxDepth || above >= 0 && (depth != above-1 || n == 0) {
		return m.damage
	}
	if above >= 0 && m.Super.RO&ROMetadataCsum != 0 &&
		(tail+4 > len(b) || Castagnoli(m.Super.InodeSeed(m.inode), b[:tail]) != le.Uint32(b[tail:])) {
		return volume.Damaged("inode %d: a checksum of its extents is wrong", m.inode.Number)
	}
	for i := range n {
		x := b[extentBytes*(1+i):][:extentBytes]
		at := int64(le.Uint32(x))
		if at < m.next {
			return m.damage
		}
		if depth == 0 {
			if err := m.extent(at, x); err != nil {
				return err
			}
			continue
		}
		child, err := m.node(int64(le.Uint32(x[4:]))|int64(le.Uint16(x[8:]))<<32, depth-1)
		if err != nil {
			return err
		}
		if err := m.extents(child, depth); err != nil {
			return err
		}
	}
	return nil
}

func (m *Blocks) extent(at int64, x []byte) error {
	le := binary.LittleEndian
	block, n := int64(le.Uint32(x[8:]))|int64(le.Uint16(x[6:]))<<32, int64(le.Uint16(x[4:]))
	written := n <= maxWritten
	if !written {
		n -= maxWritten
	}
	if n == 0 || at+n > maxBlocks || !m.has(block, n) {
		return m.damage
	}
	m.next = at + n
	if at >= m.limit {
		return nil // kept for the file to grow
	}
	return m.Run(at, block, min(n, m.limit-at), written)
}

// pointers reads the pointers of an inode to blocks, and to blocks of pointers, of pointers to pointers, and so on ("The Contents
// of inode.i_block: Direct/Indirect Block Addressing"). One that is zero is for blocks that are nowhere.
func (m *Blocks) pointers(b []byte) error {
	if err := m.leaves(b[:4*pointers]); err != nil {
		return err
	}
	for depth := range 3 {
		if err := m.indirect(int64(binary.LittleEndian.Uint32(b[4*(pointers+depth):])), depth); err != nil {
			return err
		}
	}
	if m.next < m.limit {
		return m.damage
	}
	return nil
}

func (m *Blocks) leaves(b []byte) error {
	for ; len(b) >= 4 && m.next < m.limit; b = b[4:] {
		block := int64(binary.LittleEndian.Uint32(b))
		if block != 0 {
			if !m.has(block, 1) {
				return m.damage
			}
			if err := m.Run(m.next, block, 1, true); err != nil {
				return err
			}
		}
		m.next++
	}
	return nil
}

// indirect reads a block of pointers, that are depth levels above those to content.
func (m *Blocks) indirect(block int64, depth int) error {
	if m.next >= m.limit {
		return nil
	}
	if block == 0 {
		n := m.Super.Block / 4
		for range depth {
			n *= m.Super.Block / 4
		}
		m.next += n
		return nil
	}
	b, err := m.node(block, depth)
	if err != nil || depth == 0 {
		if err == nil {
			err = m.leaves(b)
		}
		return err
	}
	for ; len(b) >= 4; b = b[4:] {
		if err := m.indirect(int64(binary.LittleEndian.Uint32(b)), depth-1); err != nil {
			return err
		}
	}
	return nil
}
