package layer

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"

	"disksync/image"
	"disksync/internal/hugepage"
	"disksync/internal/lzma"
	"disksync/internal/recompress"
)

const (
	sectorsInCluster = clusterSize / image.SectorSize
	sectorsInBlock   = image.BlockSize / image.SectorSize
	// regionClusters is the unit in which similar content is chosen.
	regionClusters = 4
	// maxDictionary bounds the similar content of a frame, in sectors: beyond it a decoder reads more than it gains.
	maxDictionary = (maxBase - image.BlockSize) / image.SectorSize
	// neighbours is how many regions beside one that is similar are taken along: what belongs to it often lies there.
	neighbours = 2
	// fewSectors is how many coded sectors of a block are not worth looking for elsewhere.
	fewSectors = 64
	// newSectors is how many coded sectors make a block a new one.
	newSectors = sectorsInBlock * 7 / 8
)

// differ makes Difference frames. Each worker has one.
type differ struct {
	from    io.ReaderAt // the From disk, and behind it the To disk: see Join
	size    int64       // of the From disk
	index   func() (*similar, error)
	similar *similar // nil until it is needed
	fresh   *fresh
	fast    bool // blocks that are new but for little are left to others
	lzma    lzma.Encoder
	split   recompress.Splitter

	old   []byte // the From disk's content of the same block
	probe []byte // a cluster of the From disk
	buf   []byte
	code  []byte // what is to be packed
	huge  bool   // it is on huge pages, which cost memory and save time where much is packed
}

// differs recycles them, since each has many MiB, for those who make one small layer after the other.
var differs = sync.Pool{New: func() any {
	return &differ{old: make([]byte, image.BlockSize), probe: make([]byte, clusterSize)}
}}

// newDiffer returns a differ between two disks; index gives what is similar in the From disk, which takes reading all of it; nil: nobody
// looks there. It is to be freed. much says that it will pack much.
func newDiffer(from io.ReaderAt, size int64, to io.ReaderAt, index func() (*similar, error), fresh *fresh, much bool) *differ {
	d := differs.Get().(*differ)
	if much && !d.huge {
		d.huge = true
		hugepage.For(d)
	}
	d.from, d.size, d.index, d.fresh = Join(from, size, to), size, index, fresh
	return d
}

// free gives the differ back. It must not be used afterwards.
func (d *differ) free() {
	d.from, d.index, d.similar, d.fresh, d.fast = nil, nil, nil, nil, false
	differs.Put(d)
}

// source says where sectors of the block come from.
type source struct {
	kind pieceKind
	at   int // in the From disk, sectors; of copied ones
}

// errNew says that a block has little of what was there before.
var errNew = errors.New("a new block")

// encode appends the Difference frame of a block to out. turn calls what it is given when that was called for all blocks before.
func (d *differ) encode(out, block []byte, number int, turn func(do func())) (frame []byte, codec Codec, level uint8, err error) {
	if err := d.readOld(number); err != nil {
		return nil, 0, 0, err
	}
	var from [sectorsInBlock]source
	d.findSame(block, number*sectorsInBlock, from[:])
	votes, err := d.findElsewhere(block, number, from[:])
	if err != nil {
		return nil, 0, 0, err
	}
	l, similar, err := d.findFresh(block, number, from[:], votes, turn)
	if err != nil {
		return nil, 0, 0, err
	}
	if d.fast && countCoded(from[:]) > newSectors {
		return out, 0, 0, errNew
	}
	head, skip := assemble(from[:], similar)
	if level = l.level; !head.refersTo(int(d.size / image.SectorSize)) {
		level = 0
	}
	out, codec, err = d.pack(out, head, skip, block, l.runs)
	return out, codec, level, err
}

// pack appends the frame to out: the head, and the packed bytes of the coded pieces.
func (d *differ) pack(out []byte, head *difference, skip int, block []byte, runs []recompress.Run) ([]byte, Codec, error) {
	size := head.coded() * image.SectorSize
	if size == 0 {
		return head.append(out), Difference, nil
	}
	d.code = d.code[:0]
	at := 0
	for _, p := range head.pieces {
		n := p.n * image.SectorSize
		if p.kind == coded {
			d.code = append(d.code, block[at:at+n]...)
		}
		at += n
	}
	// Of what is only copied the packed bytes need no more than the length, which no distance reaches beyond, and what stands before
	// them.
	unread := max(0, skip-1)
	base := (head.base() - unread) * image.SectorSize
	runs, plain := codedRuns(runs, head.pieces)
	d.grow(base + size + plain + size/8)
	d.buf = d.buf[:base]
	if err := head.readBase(d.from, d.buf, unread); err != nil {
		return nil, 0, err
	}
	codec := Difference
	if split, ok := d.split.Split(d.buf, d.code, runs); ok && len(split)-base <= maxSplit {
		codec, head.split, d.buf = Recompressed, len(split)-base, split
	} else {
		d.buf = append(d.buf, d.code...)
	}
	out = head.append(out)
	return d.lzma.Encode(out, d.buf, base, (skip-unread)*image.SectorSize), codec, nil
}

// grow makes room for size bytes in buf.
func (d *differ) grow(size int) {
	if cap(d.buf) >= size {
		return
	}
	d.buf = make([]byte, size)
	if d.huge {
		hugepage.ForBytes(d.buf)
	}
}

// readOld reads the same block of the From disk; zeros where that ends.
func (d *differ) readOld(number int) error {
	start := int64(number) * image.BlockSize
	n := max(0, min(d.size-start, image.BlockSize))
	clear(d.old[n:])
	return readFrom(d.from, d.old[:n], start)
}

// findSame marks the sectors that are zero, and those that are as they were. start is the number of the block's first sector.
func (d *differ) findSame(block []byte, start int, from []source) {
	limit := int(d.size / image.SectorSize)
	for i := range from {
		at := i * image.SectorSize
		b := block[at : at+image.SectorSize]
		switch {
		case image.IsZero(b):
			from[i] = source{kind: zeroed}
		case start+i < limit && bytes.Equal(b, d.old[at:at+image.SectorSize]):
			from[i] = source{copied, start + i}
		}
	}
}

// findElsewhere marks the clusters that were somewhere else on the From disk, and returns the regions that look like the rest. For
// a few sectors, those around where they were must do: to look everywhere means to read the whole disk.
func (d *differ) findElsewhere(block []byte, number int, from []source) (votes map[int]int, err error) {
	if countCoded(from) > fewSectors && d.index != nil {
		if d.similar == nil {
			var err error
			if d.similar, err = d.index(); err != nil {
				return nil, err
			}
		}
		if err := d.findMoved(block, from); err != nil {
			return nil, err
		}
		return d.findSimilar(block, number*clustersInBlock, from, true), nil
	}
	return d.findSimilar(block, number*clustersInBlock, from, false), nil
}

// findMoved marks the clusters that were somewhere else.
func (d *differ) findMoved(block []byte, from []source) error {
	limit := int(d.size/clusterSize) * sectorsInCluster
	next := -1 // where the From disk may go on as the block does
	for i := 0; i < sectorsInBlock; i += sectorsInCluster {
		if !isCoded(from[i : i+sectorsInCluster]) {
			next = -1
			continue
		}
		found, err := d.findCluster(block[i*image.SectorSize:][:clusterSize], next, limit)
		if err != nil {
			return err
		}
		if next = -1; found < 0 {
			continue
		}
		// What lies before a cluster that the table has may be one that it has lost.
		for at, i := found, i; ; {
			copyCluster(from[i:], at)
			at, i = at-sectorsInCluster, i-sectorsInCluster
			if i < 0 || at < 0 || !isCoded(from[i:i+sectorsInCluster]) {
				break
			}
			if same, err := d.sameAt(block[i*image.SectorSize:][:clusterSize], at); err != nil {
				return err
			} else if !same {
				break
			}
		}
		next = found + sectorsInCluster
	}
	return nil
}

func copyCluster(from []source, at int) {
	for k := range sectorsInCluster {
		from[k] = source{copied, at + k}
	}
}

// findCluster returns the sector at which the From disk has a cluster's content, -1 when that is not known: first at next, then
// where the table says.
func (d *differ) findCluster(c []byte, next, limit int) (int, error) {
	if next >= 0 && next < limit {
		if same, err := d.sameAt(c, next); same || err != nil {
			return next, err
		}
	}
	if n, ok := d.similar.cluster(c); ok && n*sectorsInCluster < limit {
		if same, err := d.sameAt(c, n*sectorsInCluster); same || err != nil {
			return n * sectorsInCluster, err
		}
	}
	return -1, nil
}

func (d *differ) sameAt(c []byte, sector int) (bool, error) {
	err := readFrom(d.from, d.probe, int64(sector)*image.SectorSize)
	return err == nil && bytes.Equal(c, d.probe), err
}

// findSimilar returns the regions of the From disk, by their numbers, that look like what is to be coded: the surroundings of where
// that was, and those that share anchors with it; and how much they do.
func (d *differ) findSimilar(block []byte, first int, from []source, everywhere bool) map[int]int {
	votes := map[int]int{}
	for i := range clustersInBlock {
		if !isCoded(from[i*sectorsInCluster:][:sectorsInCluster]) {
			continue
		}
		if at := i * clusterSize; !image.IsZero(d.old[at : at+clusterSize]) {
			votes[(first+i)/regionClusters] += 2
		}
		if !everywhere {
			continue
		}
		eachAnchor(block[i*clusterSize:][:clusterSize], d.similar.anchorMask, func(h uint64) {
			if n, ok := d.similar.anchors.find(h); ok {
				votes[n/regionClusters]++
			}
		})
	}
	return votes
}

// findFresh marks the clusters that lower levels of the To disk have, and returns the ranges of both disks, in sectors and in order,
// that look most like what is to be coded. Regions of the To disk are counted behind those of the From disk.
func (d *differ) findFresh(block []byte, number int, from []source, votes map[int]int, turn func(do func())) (looked, []span, error) {
	anchors, clusters := d.marks(block, number, from)
	var l looked
	turn(func() { l = d.fresh.turn(number, block, anchors, clusters) })
	if d.similar != nil {
		for i := range l.runs {
			eachAnchor(l.runs[i].Plain(), d.similar.anchorMask, func(h uint64) {
				if n, ok := d.similar.anchors.find(h); ok {
					votes[n/regionClusters]++
				}
			})
		}
	}
	sectors := int(d.size / image.SectorSize)
	first := number * clustersInBlock
	for cluster, at := range l.moved {
		i := cluster - first
		same, err := d.sameAt(block[i*clusterSize:][:clusterSize], sectors+at*sectorsInCluster)
		if err != nil {
			return l, nil, err
		}
		if same {
			copyCluster(from[i*sectorsInCluster:], sectors+at*sectorsInCluster)
		}
	}
	behind := int(d.size/clusterSize)/regionClusters + 2*neighbours // nothing is beside both
	for _, s := range l.shared {
		votes[behind+s.cluster/regionClusters] += s.weight
	}
	regions := choose(votes, func(r int) bool {
		if r < behind {
			return r >= 0 && r < behind-2*neighbours
		}
		block := (r - behind) * regionClusters / clustersInBlock
		return block < number && d.fresh.levels[block] < l.level
	})
	slices.Sort(regions)
	var out []span
	for _, r := range regions {
		at := r * regionClusters * sectorsInCluster
		if r >= behind {
			at = sectors + (r-behind)*regionClusters*sectorsInCluster
		}
		s := span{at, regionClusters * sectorsInCluster}
		if n := len(out) - 1; n >= 0 && out[n].end() == s.at {
			out[n].n += s.n
		} else {
			out = append(out, s)
		}
	}
	return l, out, nil
}

// marks returns what can be found again of the clusters that are to be coded.
func (d *differ) marks(block []byte, number int, from []source) (anchors, clusters []mark) {
	for i := range clustersInBlock {
		n := number*clustersInBlock + i
		if !isCoded(from[i*sectorsInCluster:][:sectorsInCluster]) {
			continue
		}
		c := block[i*clusterSize:][:clusterSize]
		clusters = append(clusters, mark{hashCluster(c), n})
		eachAnchor(c, freshMask, func(h uint64) { anchors = append(anchors, mark{h, n}) })
	}
	return anchors, clusters
}

func isCoded(s []source) bool {
	return slices.ContainsFunc(s, func(v source) bool { return v.kind == coded })
}

func countCoded(s []source) int {
	n := 0
	for _, v := range s {
		if v.kind == coded {
			n++
		}
	}
	return n
}

// choose returns the regions with the most votes and some beside them, as many as a dictionary may have. Of regions with as many
// votes the lower ones are taken.
func choose(votes map[int]int, allowed func(region int) bool) []int {
	type vote struct{ region, n int }
	all := make([]vote, 0, len(votes)*(2*neighbours+1))
	beside := map[int]int{}
	for r, n := range votes {
		all = append(all, vote{r, 2 * n})
		for i := 1; i <= neighbours; i++ {
			beside[r-i] = max(beside[r-i], n)
			beside[r+i] = max(beside[r+i], n)
		}
	}
	for r, n := range beside {
		if _, there := votes[r]; !there {
			all = append(all, vote{r, n})
		}
	}
	slices.SortFunc(all, func(a, b vote) int {
		if a.n != b.n {
			return b.n - a.n
		}
		return a.region - b.region
	})
	var out []int
	for _, v := range all {
		if len(out) == maxDictionary/(regionClusters*sectorsInCluster) {
			break
		}
		if allowed(v.region) {
			out = append(out, v.region)
		}
	}
	return out
}

// assemble puts the head of the frame together. In the base what is copied comes first, for nobody looks for matches there; skip
// is its length in sectors. What is close to the coded bytes, at the end, costs least to refer to.
func assemble(from []source, similar []span) (head *difference, skip int) {
	head = &difference{}
	copies := make([]span, 0, 64)
	for i := 0; i < len(from); {
		p := piece{kind: from[i].kind, n: 1}
		for i+p.n < len(from) && from[i+p.n].kind == p.kind && (p.kind != copied || from[i+p.n].at == from[i].at+p.n) {
			p.n++
		}
		if p.kind == copied {
			p.at = from[i].at // in the From disk, for now
			copies = append(copies, span{p.at, p.n})
		}
		head.pieces = append(head.pieces, p)
		i += p.n
	}
	copies = join(copies)
	// What there is no room for must be coded. A block has at most as many pieces as sectors, so this is rare.
	if len(copies) > maxRefs/2 {
		copies = copies[:maxRefs/2]
	}
	for i := range head.pieces {
		p := &head.pieces[i]
		if p.kind != copied {
			continue
		}
		at, ok := inJoined(copies, p.at)
		if !ok {
			p.kind = coded
			continue
		}
		p.at = at
	}
	head.refs = copies
	skip = head.base()
	if head.coded() > 0 {
		head.refs = append(head.refs, similar[:min(len(similar), maxRefs-len(copies))]...)
	}
	return head, skip
}

// join sorts ranges and puts those together that touch or overlap.
func join(s []span) []span {
	slices.SortFunc(s, func(a, b span) int { return a.at - b.at })
	out := s[:0]
	for _, r := range s {
		if n := len(out) - 1; n >= 0 && r.at <= out[n].end() {
			out[n].n = max(out[n].end(), r.end()) - out[n].at
			continue
		}
		out = append(out, r)
	}
	return out
}

// inJoined returns where a sector of the From disk is in the joined ranges.
func inJoined(refs []span, sector int) (at int, ok bool) {
	for _, r := range refs {
		if sector >= r.at && sector < r.end() {
			return at + sector - r.at, true
		}
		at += r.n
	}
	return 0, false
}
