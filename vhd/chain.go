package vhd

import (
	"fmt"
	"iter"
	"sync"

	"disksync/image"
)

// MaxDepth is the largest number of members of a chain.
const MaxDepth = 128

// Chain is a disk: a leaf and its parents. It is safe for concurrent use.
type Chain struct {
	members []*Image // leaf first

	once    sync.Once
	parents *index // see below
}

// NewChain puts a chain together. The leaf is first; each differencing member is followed by its parent, whose uuid is
// checked (a nil parent uuid wants a [Raw] image), and the last member is not differencing.
func NewChain(members ...*Image) (*Chain, error) {
	if len(members) == 0 {
		return nil, fault(NoParent, -1, "an empty chain")
	}
	if len(members) > MaxDepth {
		return nil, fault(TooDeep, -1, "%d members, this program reads %d", len(members), MaxDepth)
	}
	for i, m := range members {
		if m.Type() != Differencing {
			if i != len(members)-1 {
				return nil, fault(WrongParent, -1, "member %d is %s and has no parent", i, m.Type())
			}
			return &Chain{members: members}, nil
		}
		if i+1 == len(members) {
			return nil, fault(NoParent, -1, "the parent %s of %s", m.ParentUUID(), m.UUID())
		}
		if err := checkParent(m, members[i+1]); err != nil {
			return nil, err
		}
		for _, above := range members[:i] {
			if !m.UUID().IsZero() && above.UUID() == m.UUID() {
				return nil, fault(Cycle, -1, "%s", m.UUID())
			}
		}
	}
	panic("vhd: internal error: chain without an end")
}

func checkParent(child, parent *Image) error {
	if child.ParentUUID().IsZero() && !parent.raw {
		return fault(WrongParent, -1, "%s has a raw parent, not a VHD", child.UUID())
	}
	if parent.UUID() != child.ParentUUID() {
		return fault(WrongParent, -1, "%s wants %s, this is %s", child.UUID(), child.ParentUUID(), parent.UUID())
	}
	return nil
}

// Resolve puts the chain of leaf together, asking parent for the parent of each differencing member. parent returns an
// error that wraps NoParent when it knows none.
func Resolve(leaf *Image, parent func(child *Image) (*Image, error)) (*Chain, error) {
	members := []*Image{leaf}
	seen := map[image.UUID]bool{leaf.UUID(): true}
	for m := leaf; m.Type() == Differencing; {
		if len(members) == MaxDepth {
			return nil, fault(TooDeep, -1, "more than %d members", MaxDepth)
		}
		if id := m.ParentUUID(); seen[id] && !id.IsZero() {
			return nil, fault(Cycle, -1, "%s", id)
		}
		p, err := parent(m)
		if err != nil {
			return nil, fmt.Errorf("parent of %s: %w", m.UUID(), err)
		}
		seen[p.UUID()] = true
		members = append(members, p)
		m = p
	}
	return NewChain(members...)
}

// Size returns the size of the disk in bytes: that of the leaf.
func (c *Chain) Size() int64 { return c.members[0].Size() }

// Members returns the chain's files, leaf first. The caller must not change the list.
func (c *Chain) Members() []*Image { return c.members }

// ReadAt implements io.ReaderAt over the composed disk. What no member holds is zeros.
func (c *Chain) ReadAt(p []byte, off int64) (int, error) {
	return readWithin(c.Size(), p, off, c.read)
}

func (c *Chain) read(p []byte, off int64) error {
	for len(p) > 0 {
		var l parts
		if err := l.find(c.members[0], off, int64(len(p))); err != nil {
			return err
		}
		if err := c.fill(p[:l.length], off, &l); err != nil {
			return err
		}
		p, off = p[l.length:], off+l.length
	}
	return nil
}

// parts is where one member has a range of the disk: parts that it holds and parts that it does not, in turn. It is found first and
// read then, so that a writer need not be kept out while files are read.
type parts struct {
	list   [8]extent
	count  int
	length int64 // of all parts, which may be less than was asked for
}

// find looks at the range of m from off, which lies within m.
func (l *parts) find(m *Image, off, length int64) error {
	for l.length < length {
		e, err := m.extent(off+l.length, length-l.length)
		if err != nil {
			return err
		}
		if last := l.count - 1; last >= 0 && !e.here && !l.list[last].here {
			l.list[last].length += e.length
		} else if l.count == len(l.list) {
			return nil
		} else {
			l.list[l.count] = e
			l.count++
		}
		l.length += e.length
	}
	return nil
}

// fill reads what l found in the leaf, and the rest from the members below. A child may be larger than its parent: what lies
// beyond the parent's end is zeros, whatever the grandparent holds there.
func (c *Chain) fill(p []byte, off int64, l *parts) error {
	for _, e := range l.list[:l.count] {
		part := p[:e.length]
		var err error
		if e.here {
			err = readFull(c.members[0].r, part, e.place)
		} else {
			err = c.below().read(part, off)
		}
		if err != nil {
			return err
		}
		p, off = p[e.length:], off+e.length
	}
	return nil
}

// below returns the index of the members below the leaf.
func (c *Chain) below() *index {
	c.once.Do(func() { c.parents = newIndex(c.members[1:]) })
	return c.parents
}

// extent is a run of a disk that one file does or does not hold.
type extent struct {
	here   bool
	length int64
	place  int64 // in the file
}

// extent returns the longest run from off, at most limit bytes, that the member holds in one piece or not at all.
func (m *Image) extent(off, limit int64) (extent, error) {
	if m.header == nil {
		return m.fixedExtent(off, limit), nil
	}
	size := m.blocks.blockSize
	block, in := int(off/size), off%size
	if m.bat[block] == unallocated {
		n := size - in
		for block++; n < limit && m.bat[block] == unallocated; block++ {
			n += size
		}
		return extent{length: min(n, limit)}, nil
	}
	b, err := m.bitmap(block)
	if err != nil {
		return extent{}, err
	}
	limit = min(limit, size-in)
	sector := in / sectorSize
	here, n := b.run(sector, (in+limit+sectorSize-1)/sectorSize-sector)
	length := min((sector+n)*sectorSize-in, limit)
	return extent{here, length, int64(m.bat[block])*sectorSize + m.blocks.bitmapSize + in}, nil
}

// Extent is a run of a disk's content that comes from one place.
type Extent struct {
	Offset int64 // in the disk, in bytes
	Length int64
	// Member is the index in [Chain.Members] of the file that holds the run, -1 when none does and the run is zeros.
	Member int
}

// Extents yields the runs of the disk from off to off+length in order, neighbours of the same Member joined. It stops after
// an error.
func (c *Chain) Extents(off, length int64) iter.Seq2[Extent, error] {
	return c.extents(off, length, c.lookup)
}

// extents joins what look finds.
func (c *Chain) extents(off, length int64, look func(off, limit int64) (Extent, error)) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		end := min(off+length, c.Size())
		var cur Extent
		for off < end {
			e, err := look(off, end-off)
			if err != nil {
				yield(Extent{}, err)
				return
			}
			if cur.Length > 0 && cur.Member == e.Member {
				cur.Length += e.Length
			} else {
				if cur.Length > 0 && !yield(cur, nil) {
					return
				}
				cur = e
			}
			off += e.Length
		}
		if cur.Length > 0 {
			yield(cur, nil)
		}
	}
}

// NextData returns the offset of the first byte at or behind off that some member holds, and the disk's size when there is
// none: what lies before it is zeros.
func (c *Chain) NextData(off int64) (int64, error) {
	for off < c.Size() {
		e, err := c.lookup(off, c.Size()-off)
		if err != nil {
			return 0, err
		}
		if e.Member >= 0 {
			return off, nil
		}
		off += e.Length
	}
	return c.Size(), nil
}

// lookup finds the member that holds off, which lies within the disk, and how far, at most limit bytes, that stays so.
func (c *Chain) lookup(off, limit int64) (Extent, error) {
	e, err := c.members[0].extent(off, limit)
	if err != nil {
		return Extent{}, err
	}
	if e.here {
		return Extent{off, e.length, 0}, nil
	}
	return c.lookBelow(off, e.length)
}

// lookBelow is lookup among the members below the leaf.
func (c *Chain) lookBelow(off, limit int64) (Extent, error) {
	e, err := c.below().lookup(off, limit)
	if e.Member >= 0 {
		e.Member++
	}
	return e, err
}

// lookup goes through all members from the top.
func lookup(members []*Image, off, limit int64) (Extent, error) {
	for level, m := range members {
		if off >= m.Size() {
			break
		}
		e, err := m.extent(off, min(limit, m.Size()-off))
		if err != nil {
			return Extent{}, err
		}
		limit = e.length
		if e.here {
			return Extent{off, limit, level}, nil
		}
	}
	return Extent{off, limit, -1}, nil
}
