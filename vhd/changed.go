package vhd

import (
	"fmt"
	"io"
	"iter"
)

// Changed yields, in order, the runs of the disk from off to off+length in which it may differ from the disk that begins with
// the member at index ancestor: the runs that the members above that one hold, neighbours of the same Member joined. Everything
// else is the same in both; where one of the two disks has ended, count zeros. It stops after an error.
//
// A member above that is smaller than the ancestor cuts it off: behind that member's end are zeros, in a run whose Member is -1.
func (c *Chain) Changed(ancestor int, off, length int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		if ancestor < 0 || ancestor >= len(c.members) {
			yield(Extent{}, fmt.Errorf("vhd: no member %d in a chain of %d", ancestor, len(c.members)))
			return
		}
		for e, err := range c.extents(off, length, c.above(ancestor)) {
			if err == nil && e.Member == ancestor {
				continue // the same in both
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// above returns a lookup among the members above ancestor only. What shows through them has the Member ancestor; -1 is what
// one of them cuts off.
func (c *Chain) above(ancestor int) func(off, limit int64) (Extent, error) {
	return func(off, limit int64) (Extent, error) {
		for level, m := range c.members[:ancestor] {
			if off >= m.Size() {
				if size := c.members[ancestor].Size(); off < size {
					return Extent{off, min(limit, size-off), -1}, nil
				}
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
		return Extent{off, limit, ancestor}, nil
	}
}

// Above returns what [Chain.Changed] yields as a [Source]: with it [Stream] and [Convert] write one differencing disk that
// stands for all members above ancestor.
func (c *Chain) Above(ancestor int) (Source, error) {
	if ancestor < 1 || ancestor >= len(c.members) {
		return nil, fmt.Errorf("vhd: nothing is above member %d of a chain of %d", ancestor, len(c.members))
	}
	return newChanges(c, ancestor), nil
}

// changes is the part of a chain above a member. What shows through reads as zeros.
type changes struct {
	c        *Chain
	ancestor int
	top      *Chain // the members above the ancestor
}

func newChanges(c *Chain, ancestor int) changes {
	return changes{c, ancestor, &Chain{members: c.members[:ancestor]}}
}

func (s changes) Size() int64 { return s.c.Size() }

func (s changes) NextRun(off int64) (start, end int64, err error) {
	look := s.c.above(s.ancestor)
	return nextRun(off, s.c.Size(), func(off, limit int64) (Extent, error) {
		e, err := look(off, limit)
		if e.Member == s.ancestor {
			e.Member = -1
		} else {
			e.Member = 0
		}
		return e, err
	})
}

func (s changes) ReadAt(p []byte, off int64) (int, error) {
	return s.top.ReadAt(p, off)
}

// readWithin does what io.ReaderAt wants at the end of a disk of size bytes.
func readWithin(size int64, p []byte, off int64, read func([]byte, int64) error) (int, error) {
	if off < 0 {
		return 0, errNegative
	}
	if off >= size {
		return 0, io.EOF
	}
	short := int64(len(p)) > size-off
	if short {
		p = p[:size-off]
	}
	if err := read(p, off); err != nil {
		return 0, err
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}
