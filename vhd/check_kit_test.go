package vhd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"disksync/internal/testkit"
	"disksync/vhd"
)

// Where things are in the disks that goodDisk makes.
const (
	goodHeader = 512
	goodTable  = 1536
	goodSize   = 8*testBlock + 3*512
)

// goodDisk returns a dynamic disk with blocks 0, 1, 3, 5 and the last, partial one, and its content.
func goodDisk(t testing.TB) (file, content []byte) {
	t.Helper()
	return goodDiskOf(t, testBlock)
}

func goodDiskOf(t testing.TB, blockSize int) (file, content []byte) {
	t.Helper()
	size := 8*blockSize + 3*512
	f := create(t, vhd.CreateOptions{Size: int64(size), BlockSize: int64(blockSize), UUID: newUUID(1)})
	d := openDisk(t, f)
	content = make([]byte, size)
	for _, block := range []int{0, 1, 3, 5, 8} {
		p := noise(min(blockSize, size-block*blockSize), uint64(block))
		copy(content[block*blockSize:], p)
		if _, err := d.WriteAt(p, int64(block)*int64(blockSize)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	return f.data, content
}

// goodChild returns a differencing disk with single sectors of its own on a parent, and the composed content.
func goodChild(t testing.TB) (file []byte, parents []*vhd.Image, content []byte) {
	t.Helper()
	leaf, parents, content := newChainFiles(t, goodSize, 1)
	d := openDisk(t, leaf, parents...)
	for _, s := range []int64{0, 3, 70, 100} {
		p := noise(512, uint64(s))
		copy(content[s*512:], p)
		if _, err := d.WriteAt(p, s*512); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	return leaf.data, parents, content
}

// smallTap is goodDisk with small blocks as tapdisk would have made it: with a batmap behind the block table, where the gap before
// the first block is. bits are its first byte; 0xd4 is true, and block 8 is called full in any case.
func smallTap(t testing.TB, bits byte) (file, content []byte) {
	t.Helper()
	b, content := goodDiskOf(t, 4096)
	editFooters(b, func(f []byte) { copy(f[28:], "tap\x00\x00\x01\x00\x03\x00\x00\x00\x00") })
	head, bitmap := b[2048:2560], b[2560:3072]
	clear(head)
	clear(bitmap)
	copy(head, "tdbatmap")
	head[14], head[19], head[21], head[23] = 2560>>8, 1, 1, 2
	bitmap[0], bitmap[1] = bits, 0x80
	batmapSum(head, bitmap)
	return b, content
}

// corpusBytes returns an unpacked file of the corpus.
func corpusBytes(t testing.TB, name string) []byte {
	t.Helper()
	return testkit.Gunzip(t, "testdata/corpus/"+name+".vhd.gz")
}

// inMemory returns the bytes as a file that has been synced.
func inMemory(b []byte) *memFile { return &memFile{data: bytes.Clone(b), synced: bytes.Clone(b)} }

// sum stores the checksum of the structure b, which lies at offset at of it.
func sum(b []byte, at int) {
	clear(b[at : at+4])
	var n uint32
	for _, c := range b {
		n += uint32(c)
	}
	binary.BigEndian.PutUint32(b[at:], ^n)
}

// editFooters changes both footers, checksums included.
func editFooters(b []byte, edit func(footer []byte)) {
	for _, f := range [][]byte{b[:512], b[len(b)-512:]} {
		edit(f)
		sum(f, 64)
	}
}

// editHeader changes the dynamic header, its checksum included.
func editHeader(b []byte, edit func(header []byte)) {
	h := b[goodHeader : goodHeader+1024]
	edit(h)
	sum(h, 36)
}

// setEntry changes an entry of the block table.
func setEntry(b []byte, block int, sector uint32) {
	binary.BigEndian.PutUint32(b[goodTable+4*block:], sector)
}

func entry(b []byte, block int) uint32 { return binary.BigEndian.Uint32(b[goodTable+4*block:]) }

func check(t testing.TB, f *memFile, o vhd.CheckOptions) *vhd.Report {
	t.Helper()
	rep, err := vhd.Check(f, f.size(), o)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// composed returns the content of a leaf on its parents.
func composed(t testing.TB, f *memFile, parents ...*vhd.Image) []byte {
	t.Helper()
	c, err := vhd.NewChain(append([]*vhd.Image{openImage(t, f)}, parents...)...)
	if err != nil {
		t.Fatal(err)
	}
	return readAll(t, c, c.Size())
}

// crashEverywhere runs do on a file again and again, cuts the power at each of its operations in turn, with none, some or all
// of the unsynced sectors kept, and gives what is left to look.
func crashEverywhere(t *testing.T, start []byte, do func(*memFile) error, look func(t *testing.T, after *memFile)) {
	t.Helper()
	whole := inMemory(start)
	if err := do(whole); err != nil {
		t.Fatal(err)
	}
	total := whole.ops
	if total < 2 {
		t.Fatalf("only %d operations: this test tests nothing", total)
	}
	look(t, whole)
	for cut := 1; cut <= total; cut++ {
		f := inMemory(start)
		f.failAt = cut
		if err := do(f); !errors.Is(err, errInjected) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		for i, keep := range []float64{0, 1, 0.5, 0.5} {
			look(t, f.afterPowerLoss(keep, rand.New(rand.NewPCG(uint64(cut), uint64(i)))))
		}
	}
}
