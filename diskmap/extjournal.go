package diskmap

import (
	"encoding/binary"
	"errors"

	"disksync/volume"
	extfs "disksync/volume/ext"
)

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
	if e.Compat&extfs.CompatJournal == 0 || e.U32(224) == 0 {
		return nil
	}
	if e.U32(224) != journalInode {
		return keep("its journal is in an impossible place")
	}
	raw, err := e.bytes(e.groups[0].InodeTable*e.Block+(journalInode-1)*e.InodeSize, e.InodeSize)
	if err != nil {
		return err
	}
	inode := extfs.Inode{Number: journalInode, Raw: raw}
	size := int64(inode.Size())
	if !e.InodeSumOK(inode) || inode.Mode()&0xf000 != 0x8000 || size <= 0 || size%e.Block != 0 || size/e.Block > maxJournalBlocks {
		return keep("the inode of its journal makes no sense")
	}
	m := &blockWalk{ext: e, want: size / e.Block}
	if err := m.walk(inode); err != nil {
		return err
	}
	b, err := e.bytes(m.runs[0].off*e.Block, 1024)
	if err != nil {
		return err
	}
	if err := e.journalSuper(b, m.want); err != nil {
		return err
	}
	m.runs[0].off++ // the superblock stays
	for _, r := range m.runs {
		// Whole clusters only: others' blocks may be in the rest.
		from, to := (r.off-e.First+e.Ratio-1)/e.Ratio, (r.end-e.First)/e.Ratio
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
		int64(be.Uint32(b[12:])) != e.Block, int64(be.Uint32(b[16:])) > blocks, be.Uint32(b[20:]) != 1,
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
		if extfs.Castagnoli(^uint32(0), b) != sum {
			return keep("the checksum of its journal is wrong")
		}
	}
	return nil
}

// blockWalk collects the blocks of the journal in their order.
type blockWalk struct {
	*ext
	want int64 // blocks
	have int64 // blocks found
	runs []span
}

// walk goes through the map of an inode.
func (m *blockWalk) walk(inode extfs.Inode) error {
	blocks := extfs.Blocks{
		Super: m.Super,
		Node:  func(at int64) ([]byte, error) { return m.bytes(at*m.Block, m.Block) },
		Run:   m.add,
	}
	err := blocks.Walk(inode, m.want)
	switch {
	case errors.Is(err, volume.ErrDamaged) || err == nil && (m.have != m.want || m.want < 2):
		return m.bad()
	}
	return err
}

func (m *blockWalk) bad() error { return keep("the inode of its journal makes no sense") }

// add takes the next n blocks of the file. A journal has no holes.
func (m *blockWalk) add(at, block, n int64, written bool) error {
	if at != m.have || !written {
		return m.bad()
	}
	m.have += n
	if i := len(m.runs) - 1; i >= 0 && m.runs[i].end == block {
		m.runs[i].end += n
		return nil
	}
	if len(m.runs) == maxJournalRuns {
		return m.bad()
	}
	m.runs = append(m.runs, span{off: block, end: block + n})
	return nil
}
