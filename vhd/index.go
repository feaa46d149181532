package vhd

import (
	"slices"
	"sort"
	"sync"
	"sync/atomic"
)

// index knows which of some members, which do not change, holds what. To ask one member after the other takes a bitmap of each,
// most of which must be read from files; with an index a long chain is read as fast as a short one. It is made region by region, when
// something in a region is asked for, and forgets regions when it becomes too large. It is safe for concurrent use.
type index struct {
	members []*Image
	size    int64 // of the first member
	pages   []atomic.Pointer[indexPage]

	mu    sync.Mutex // guards what follows, and is held while pages change
	bytes int64      // of all pages
	hand  int        // the page to be forgotten next
}

const (
	regionSize  = 2 << 20 // bytes of the disk
	pageRegions = 512
	// maxIndex bounds the memory of an index in bytes. A region takes some 60 bytes when one member has all of it.
	maxIndex = 32 << 20
)

// indexPage is a part of an index.
type indexPage struct {
	regions [pageRegions]atomic.Pointer[region]
	bytes   int64
}

// region lists the runs of a region of the disk in order.
type region struct{ runs []indexRun }

// indexRun is a run of sectors.
type indexRun struct {
	end    uint16 // in sectors from the start of the region, 1 to 4096
	member int16  // -1: nobody's
}

func newIndex(members []*Image) *index {
	x := &index{members: members}
	if len(members) > 0 {
		x.size = members[0].Size()
	}
	x.pages = make([]atomic.Pointer[indexPage], (x.size+regionSize*pageRegions-1)/(regionSize*pageRegions))
	return x
}

// lookup returns who holds off, and how far at most limit bytes that stays so. The run may go on behind that.
func (x *index) lookup(off, limit int64) (Extent, error) {
	if off >= x.size {
		return Extent{off, limit, -1}, nil
	}
	r, err := x.region(int(off / regionSize))
	if err != nil {
		return Extent{}, err
	}
	start := off / regionSize * regionSize
	s := uint16((off - start) / sectorSize)
	i := 0
	if len(r.runs) > 1 {
		i = sort.Search(len(r.runs), func(i int) bool { return r.runs[i].end > s })
	}
	run := r.runs[i]
	return Extent{off, min(limit, start+int64(run.end)*sectorSize-off), int(run.member)}, nil
}

// read fills p. What nobody holds is zeros.
func (x *index) read(p []byte, off int64) error {
	for len(p) > 0 {
		e, err := x.lookup(off, int64(len(p)))
		if err != nil {
			return err
		}
		if e.Member < 0 {
			clear(p[:e.Length])
		} else if err := x.members[e.Member].readHeld(p[:e.Length], off); err != nil {
			return err
		}
		p, off = p[e.Length:], off+e.Length
	}
	return nil
}

// readHeld fills p from the member, which holds all of it.
func (m *Image) readHeld(p []byte, off int64) error {
	if m.header == nil {
		return readFull(m.r, p, off)
	}
	size := m.blocks.blockSize
	for len(p) > 0 {
		in := off % size
		n := min(int64(len(p)), size-in)
		if err := readFull(m.r, p[:n], int64(m.bat[off/size])*sectorSize+m.blocks.bitmapSize+in); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// region returns what is known of a region.
func (x *index) region(n int) (*region, error) {
	page := x.pages[n/pageRegions].Load()
	if page != nil {
		if r := page.regions[n%pageRegions].Load(); r != nil {
			return r, nil
		}
	}
	r, err := x.find(int64(n) * regionSize)
	if err == nil {
		x.keep(n, r)
	}
	return r, err
}

// Owners of sectors that no member holds, as far as was looked and for good.
const unknown, nobody = -2, -1

// find asks the members, each once, from the top.
func (x *index) find(start int64) (*region, error) {
	var owner [regionSize / sectorSize]int16
	length := min(regionSize, x.size-start)
	sectors := owner[:length/sectorSize]
	for i := range sectors {
		sectors[i] = unknown
	}
	left := len(sectors)
	claim := func(from, to int64, member int16) {
		for i := from / sectorSize; i < to/sectorSize; i++ {
			if sectors[i] == unknown {
				sectors[i] = member
				left--
			}
		}
	}
	for level, m := range x.members {
		if left == 0 {
			break
		}
		held := min(max(m.Size()-start, 0), length)
		claim(held, length, nobody) // whatever the members below have there
		for in := int64(0); in < held; {
			e, err := m.extent(start+in, held-in)
			if err != nil {
				return nil, err
			}
			if e.here {
				claim(in, in+e.length, int16(level))
			}
			in += e.length
		}
	}
	return &region{runs: runsOf(sectors)}, nil
}

// runsOf joins neighbours that have the same owner.
func runsOf(sectors []int16) []indexRun {
	var runs []indexRun
	for i, member := range sectors {
		member = max(member, nobody)
		if last := len(runs) - 1; last >= 0 && runs[last].member == member {
			runs[last].end = uint16(i + 1)
		} else {
			runs = append(runs, indexRun{uint16(i + 1), member})
		}
	}
	return slices.Clip(runs)
}

// keep remembers a region, and forgets others when there are too many.
func (x *index) keep(n int, r *region) {
	const pageBytes, regionBytes, runBytes = 8 * pageRegions, 56, 4
	x.mu.Lock()
	defer x.mu.Unlock()
	at := n / pageRegions
	page := x.pages[at].Load()
	if page == nil {
		page = &indexPage{bytes: pageBytes}
		x.bytes += pageBytes
		x.pages[at].Store(page)
	}
	if page.regions[n%pageRegions].Swap(r) == nil {
		more := int64(regionBytes + runBytes*cap(r.runs))
		page.bytes += more
		x.bytes += more
	}
	for x.bytes > maxIndex {
		if x.hand = (x.hand + 1) % len(x.pages); x.hand == at {
			if len(x.pages) == 1 {
				return // 512 regions of 4096 runs at most
			}
			continue
		}
		if gone := x.pages[x.hand].Swap(nil); gone != nil {
			x.bytes -= gone.bytes
		}
	}
}
