package layer

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"disksync/image"
)

const (
	// clusterSize is the unit in which file systems place what belongs together, in bytes.
	clusterSize     = 4096
	clustersInBlock = image.BlockSize / clusterSize
	// windowSize is how many bytes an anchor stands for: few enough to lie between two addresses of machine code that a new build
	// has moved, enough to be rare.
	windowSize  = 32
	windowShift = 64 / windowSize
	// anchorBits and clusterBits bound the tables: 2^24 entries of 8 bytes and 2^22 of 8.
	minAnchorBits, maxAnchorBits   = 12, 23
	minClusterBits, maxClusterBits = 10, 21
	// anchorSpacing is the mean distance of anchors in bytes, as a power of two, where the table has room for all.
	anchorSpacing = 9
)

// similar finds content of a disk by what it looks like: whole clusters by their hash, and ranges by anchors, places that the
// content itself marks (a rolling hash of the last bytes ends in zeros), so that they are found wherever the content moves.
// Both tables have a fixed size. Of a disk that is too large for them a sample is kept, chosen by the hashes, so that it is the
// same on both sides. What a table has of two entries that meet in a slot does not depend on their order.
type similar struct {
	anchors, clusters table
	anchorMask        uint64 // an anchor's rolling hash has zeros here
	clusterMask       uint64 // so has a sampled cluster's
	anchorBits        int
}

// table maps hashes to the numbers of clusters. An entry has the upper half of the hash, and the cluster's number + 1.
type table struct {
	slots []uint64
	shift uint
}

func newTable(bits int) table { return table{make([]uint64, 1<<bits), uint(64 - bits)} }

// add is safe for concurrent use.
func (t *table) add(h uint64, cluster int) {
	p := &t.slots[h>>t.shift]
	// Multiplied, so that the tag says something that the slot does not.
	e := (h*0x9e3779b97f4a7c15)&^0xffffffff | uint64(cluster+1)
	for {
		old := atomic.LoadUint64(p)
		if old != 0 && old <= e || atomic.CompareAndSwapUint64(p, old, e) {
			return
		}
	}
}

func (t *table) find(h uint64) (cluster int, ok bool) {
	e := t.slots[h>>t.shift]
	if e == 0 || e>>32 != (h*0x9e3779b97f4a7c15)>>32 {
		return 0, false
	}
	return int(uint32(e)) - 1, true
}

// newSimilar reads the blocks of a disk that are not zero, in parallel.
func newSimilar(ctx context.Context, disk io.ReaderAt, st image.State, workers int) (*similar, error) {
	data := int64(st.DataBlocks()) * image.BlockSize
	s := &similar{}
	aBits := clamp(bits.Len64(uint64(data>>anchorSpacing))+1, minAnchorBits, maxAnchorBits)
	cBits := clamp(bits.Len64(uint64(data/clusterSize))+1, minClusterBits, maxClusterBits)
	s.anchors, s.clusters = newTable(aBits), newTable(cBits)
	// So sparse that the tables are at most half full.
	s.anchorBits = max(anchorSpacing, bits.Len64(uint64(data>>aBits))+1)
	s.anchorMask = (1<<s.anchorBits - 1) << (64 - s.anchorBits)
	sparse := max(0, bits.Len64(uint64(data/clusterSize>>cBits)))
	s.clusterMask = 1<<sparse - 1
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range workers {
		g.Go(func() error {
			b := make([]byte, image.BlockSize)
			for ctx.Err() == nil {
				block := int(next.Add(1)) - 1
				if block >= len(st.Blocks) {
					return nil
				}
				if st.Blocks[block].IsZero() {
					continue
				}
				start := int64(block) * image.BlockSize
				n := min(st.Size-start, image.BlockSize)
				clear(b[n:])
				if err := readFrom(disk, b[:n], start); err != nil {
					return fmt.Errorf("block %d: %w", block, err)
				}
				s.addBlock(b, block)
			}
			return ctx.Err()
		})
	}
	return s, g.Wait()
}

func clamp(v, low, high int) int { return max(low, min(v, high)) }

func (s *similar) addBlock(b []byte, block int) {
	for i := range clustersInBlock {
		c := b[i*clusterSize:][:clusterSize]
		if image.IsZero(c) {
			continue
		}
		n := block*clustersInBlock + i
		if h := hashCluster(c); h&s.clusterMask == 0 {
			s.clusters.add(h, n)
		}
		eachAnchor(c, s.anchorMask, func(h uint64) { s.anchors.add(h, n) })
	}
}

// hashCluster is not meant to withstand anybody: what it finds is compared.
func hashCluster(c []byte) uint64 {
	a, b := uint64(0x9e3779b97f4a7c15), uint64(0xc2b2ae3d27d4eb4f)
	for ; len(c) >= 16; c = c[16:] {
		hi, lo := bits.Mul64(a^binary.LittleEndian.Uint64(c), b^binary.LittleEndian.Uint64(c[8:]))
		a, b = b^hi^lo, a+lo
	}
	return (a ^ b>>29) * 0xff51afd7ed558ccd
}

// cluster returns where the disk has the content c, if it was kept in the table and unless another has its place.
func (s *similar) cluster(c []byte) (cluster int, ok bool) {
	h := hashCluster(c)
	if h&s.clusterMask != 0 {
		return 0, false
	}
	return s.clusters.find(h)
}

// freshMask is that of the anchors of new content.
const freshMask = (1<<anchorSpacing - 1) << (64 - anchorSpacing)

// eachAnchor calls do with the hash of each anchor in p: where the rolling hash has zeros in mask.
func eachAnchor(p []byte, mask uint64, do func(h uint64)) {
	var h, last uint64
	for i, c := range p {
		h = h<<windowShift + gear[c]
		if h&mask == 0 && i >= windowSize && h != last {
			last = h // runs of one byte say nothing
			do(h * 0xff51afd7ed558ccd)
		}
	}
}

// gear gives each byte 64 bits that look random (splitmix64, public domain): a rolling hash of which the oldest byte is shifted
// out.
var gear = func() (g [256]uint64) {
	x := uint64(0)
	for i := range g {
		x += 0x9e3779b97f4a7c15
		z := x
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		g[i] = z ^ z>>31
	}
	return g
}()
