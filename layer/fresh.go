package layer

import (
	"math/bits"

	"disksync/image"
	"disksync/internal/recompress"
)

// fresh finds content that is new in the blocks that were looked at before, so that what is new in two places is packed once. Blocks are
// looked at in their order, whatever the number of workers, and equal input gives equal frames. Each block gets a level as it is
// looked at, and refers to blocks of lower levels only: how many must be unpacked before it stays bounded. It is used by one goroutine at a
// time.
type fresh struct {
	anchors, clusters table
	levels            []uint8 // of the blocks that have a frame; notThere for others
	streams           streams
}

// notThere is the level of a block that may not be referred to: it has no frame, or was not looked at yet.
const notThere = 0xff

const (
	// freshBits are those of the tables for disks of which nothing is known yet: 2^21 anchors, of which there are some 4,000 in a block,
	// and 2^19 clusters.
	maxFreshAnchors  = 21
	maxFreshClusters = 19
	// leastShared is how many anchors a block has to share with others to refer to them at all: it has to wait for those.
	leastShared = 24
	// clusterWeight is what a whole cluster counts beside an anchor.
	clusterWeight = clusterSize >> anchorSpacing
)

// newFresh returns an empty table for a disk of size bytes, about so many of which are new.
func newFresh(size, isNew int64) *fresh {
	f := &fresh{
		anchors:  newTable(clamp(bits.Len64(uint64(isNew>>anchorSpacing))+1, minAnchorBits, maxFreshAnchors)),
		clusters: newTable(clamp(bits.Len64(uint64(isNew/clusterSize))+1, minClusterBits, maxFreshClusters)),
		levels:   make([]uint8, image.BlockCount(size)),
	}
	for i := range f.levels {
		f.levels[i] = notThere
	}
	return f
}

// mark is a hash of something new in a block, and the number of the cluster that has it.
type mark struct {
	hash    uint64
	cluster int
}

// levelOf returns the level of the block that a cluster is in.
func (f *fresh) levelOf(cluster int) uint8 {
	return f.levels[cluster/clustersInBlock]
}

// keep puts marks into a table, for blocks that come later. What is there stays unless its block has a higher level: who refers to
// low levels can be referred to.
func (f *fresh) keep(t *table, marks []mark, level uint8) {
	for _, m := range marks {
		p := &t.slots[m.hash>>t.shift]
		if *p != 0 && f.levelOf(int(uint32(*p))-1) <= level {
			continue
		}
		*p = (m.hash*0x9e3779b97f4a7c15)&^0xffffffff | uint64(m.cluster+1)
	}
}

// look decides on the level of a block by what it shares with others, whose clusters found gives with their weights.
func (f *fresh) look(found []shared) uint8 {
	var weight [MaxLevel + 1]int // of what blocks below a level have
	for _, s := range found {
		for l := int(f.levelOf(s.cluster)) + 1; l <= MaxLevel; l++ {
			weight[l] += s.weight
		}
	}
	if weight[MaxLevel] < leastShared {
		return 0
	}
	for l := 1; l < MaxLevel; l++ {
		if weight[l] >= weight[MaxLevel]-weight[MaxLevel]/8 {
			return uint8(l)
		}
	}
	return MaxLevel
}

// shared is a cluster of the To disk that has something in common with a block.
type shared struct{ cluster, weight int }

// findFresh returns what the new clusters of the block at the given numbers share with blocks before it.
func (f *fresh) find(anchors, clusters []mark) (found []shared) {
	for _, m := range anchors {
		if c, ok := f.anchors.find(m.hash); ok {
			found = append(found, shared{c, 1})
		}
	}
	for _, m := range clusters {
		if c, ok := f.clusters.find(m.hash); ok {
			found = append(found, shared{c, clusterWeight})
		}
	}
	return found
}

// looked is what the differ knows of a block when its turn is over.
type looked struct {
	level  uint8
	runs   []recompress.Run // deflate streams in it
	shared []shared         // what blocks of lower levels have
	moved  map[int]int      // by cluster of the block: where blocks of lower levels have the same
}

// turn looks a block up, gives it a level, and enters what is new in it.
func (f *fresh) turn(block int, b []byte, anchors, clusters []mark) looked {
	found := f.find(anchors, clusters)
	l := looked{}
	if len(clusters) > 0 {
		l.runs = f.streams.scan(b, block)
	}
	for i := range l.runs {
		eachAnchor(l.runs[i].Plain(), freshMask, func(h uint64) {
			if c, ok := f.anchors.find(h); ok {
				found = append(found, shared{c, 1})
			}
		})
	}
	level := f.look(found)
	l.level = level
	if level > 0 {
		for _, s := range found {
			if f.levelOf(s.cluster) < level {
				l.shared = append(l.shared, s)
			}
		}
		l.moved = map[int]int{}
		for _, m := range clusters {
			if c, ok := f.clusters.find(m.hash); ok && f.levelOf(c) < level {
				l.moved[m.cluster] = c
			}
		}
	}
	f.levels[block] = level
	if level < MaxLevel {
		f.keep(&f.anchors, anchors, level)
		f.keep(&f.clusters, clusters, level)
	}
	return l
}
