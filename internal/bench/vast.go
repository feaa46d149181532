package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"disksync/disk/fusefile"
	"disksync/image"
)

// vast is a version of a disk that no real disk has room for: what it has at a place is computed when it is read. Every cluster holds data
// and is like no other, but they pack well. It is safe for concurrent use.
type vast struct {
	size    int64 // a whole number of blocks
	version int   // 1, or 2: with changes
}

const (
	clustersInBlock = image.BlockSize / cluster
	// changedEvery is how many blocks there are for each that version 2 has changed.
	changedEvery = 200
	// leastChanged is how many blocks are changed at least, where there are as many.
	leastChanged = 8
	// pageBytes of a block are repeated in it all over, so that it packs well; a number of their own makes clusters differ.
	pageBytes = 1 << 10
	// runClusters is how many clusters in a row are changed in the same way.
	runClusters = clustersInBlock / 8
)

// Size returns the size of the disk in bytes.
func (v vast) Size() int64 { return v.size }

// blocks returns how many blocks the disk has.
func (v vast) blocks() int { return image.BlockCount(v.size) }

// changed reports whether version 2 has another content in a block.
func (v vast) changed(block int) bool {
	every := max(1, min(changedEvery, v.blocks()/leastChanged))
	return block%every == every/2
}

// ReadAt implements io.ReaderAt.
func (v vast) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("a negative offset")
	}
	if off >= v.size {
		return 0, io.EOF
	}
	if left := v.size - off; int64(len(p)) > left {
		p, err = p[:left], io.EOF
	}
	var whole [cluster]byte
	for n < len(p) {
		at := off + int64(n)
		if in := at % cluster; in > 0 || len(p)-n < cluster {
			v.cluster(whole[:], at/cluster)
			n += copy(p[n:], whole[in:])
			continue
		}
		v.cluster(p[n:n+cluster], at/cluster)
		n += cluster
	}
	return n, err
}

// cluster makes a cluster. A changed block has a run of clusters that are noise, one that stands elsewhere on the disk as well, and one of
// which a few bytes are others.
func (v vast) cluster(p []byte, n int64) {
	block, in := n/clustersInBlock, n%clustersInBlock
	if v.version == 1 || !v.changed(int(block)) {
		oldCluster(p, n)
		return
	}
	switch in / runClusters {
	case 0:
		words(p, uint64(n)|1<<62)
	case 2:
		from := int64(mix(uint64(block)|1<<61) % uint64(v.size/cluster-runClusters))
		oldCluster(p, from+in%runClusters)
	case 4:
		oldCluster(p, n)
		at := mix(uint64(n)|1<<60) % (cluster - 8)
		binary.LittleEndian.PutUint64(p[at:], mix(at^uint64(n)))
	default:
		oldCluster(p, n)
	}
}

// oldCluster makes a cluster of version 1: the page of its block, several times, with words that are the cluster's own.
func oldCluster(p []byte, n int64) {
	words(p[:pageBytes], uint64(n/clustersInBlock))
	for at := pageBytes; at < cluster; at *= 2 {
		copy(p[at:], p[:at])
	}
	for at := 0; at < cluster; at += pageBytes {
		// An odd factor gives each number below 2^32 another word.
		binary.LittleEndian.PutUint32(p[at:], (uint32(n)*4+uint32(at/pageBytes))*0x9e3779b1)
	}
}

// words fills p with words that look random, others for each seed.
func words(p []byte, seed uint64) {
	x := mix(seed)
	for i := 0; i < len(p); i += 8 {
		x += 0x9e3779b97f4a7c15
		binary.LittleEndian.PutUint64(p[i:], mix(x))
	}
}

// mix is the last step of splitmix64 (public domain).
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// states returns the digests of version 1 and of version 2.
func (v vast) states(ctx context.Context) (one, two image.State, err error) {
	one = image.State{Size: v.size, Blocks: make([]image.Digest, v.blocks())}
	two = image.State{Size: v.size, Blocks: make([]image.Digest, v.blocks())}
	err = onAllCores(v.blocks(), func(i int, b *buffers) error {
		vast{v.size, 1}.block(b.block, i)
		one.Blocks[i] = image.SumBlock(b.block)
		two.Blocks[i] = one.Blocks[i]
		if v.changed(i) {
			vast{v.size, 2}.block(b.block, i)
			two.Blocks[i] = image.SumBlock(b.block)
		}
		return ctx.Err()
	})
	return one, two, err
}

// block makes a block.
func (v vast) block(p []byte, n int) {
	for i := range int64(clustersInBlock) {
		v.cluster(p[i*cluster:][:cluster], int64(n)*clustersInBlock+i)
	}
}

// compare compares the blocks that version 2 has changed, and those behind them, with what a reader has of it.
func (v vast) compare(ctx context.Context, got io.ReaderAt) error {
	return onAllCores(v.blocks(), func(i int, b *buffers) error {
		if !v.changed(i) && (i == 0 || !v.changed(i-1)) {
			return ctx.Err()
		}
		v.block(b.block, i)
		if _, err := got.ReadAt(b.packed, int64(i)*image.BlockSize); err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
		if !bytes.Equal(b.packed, b.block) {
			return fmt.Errorf("block %d is not what was published", i)
		}
		return ctx.Err()
	})
}

// vastDisk is the name of the file of a version.
func vastDisk(version int) string { return "v" + strconv.Itoa(version) + ".raw" }

// serveVast shows both versions of a disk of so many bytes in a folder that is there and empty, until it is interrupted. It prints a line
// when they are there.
func serveVast(dir, bytes string) error {
	size, err := strconv.ParseInt(bytes, 10, 64)
	if err != nil || size <= 0 || size%image.BlockSize != 0 {
		return fmt.Errorf("%q is no size of a disk, in bytes", bytes)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	disks := map[string]fusefile.Reader{vastDisk(1): vast{size, 1}, vastDisk(2): vast{size, 2}}
	m, err := fusefile.Mount(dir, fusefile.Readers(disks), fusefile.Options{Once: true})
	if err != nil {
		return err
	}
	fmt.Println(dir)
	return m.Serve(ctx, func() {})
}
