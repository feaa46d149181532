package vhd_test

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"

	"disksync/vhd"
)

// sparse is a file of which only the start and the footer at the end are kept; in between are zeros.
type sparse struct {
	head, foot []byte
	size       int64
}

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(s.head)) {
		copy(p, s.head[off:])
	}
	if at := s.size - int64(len(s.foot)); off+int64(len(p)) > at {
		if off >= at {
			copy(p, s.foot[off-at:])
		} else {
			copy(p[at-off:], s.foot)
		}
	}
	return len(p), nil
}

// fullDisk returns a disk of blocks 2 MiB blocks that are all allocated, in the order of their places or in the opposite one.
func fullDisk(t testing.TB, blocks int, inOrder bool) *sparse {
	t.Helper()
	f := create(t, vhd.CreateOptions{Size: int64(blocks) * vhd.DefaultBlockSize, UUID: newUUID(1)})
	first := (len(f.data) + 511) / 512
	for i := range blocks {
		place := i
		if !inOrder {
			place = blocks - 1 - i
		}
		setEntry(f.data, i, uint32(first+place*4097))
	}
	foot := bytes.Clone(f.data[len(f.data)-512:])
	return &sparse{f.data, foot, int64(first+blocks*4097)*512 + 512}
}

// TestLargestDiskInLittleMemory: the largest disk that there can be needs less than 16 MiB to open or to check, also when its
// blocks are in another order.
func TestLargestDiskInLittleMemory(t *testing.T) {
	for _, inOrder := range []bool{true, false} {
		f := fullDisk(t, vhd.MaxDynamicSize/vhd.DefaultBlockSize, inOrder)
		for name, do := range map[string]func() error{
			"open":  func() error { _, err := vhd.Open(f, f.size); return err },
			"check": func() error { _, err := vhd.Check(f, f.size, vhd.CheckOptions{}); return err },
		} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if err := do(); err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
				t.Errorf("in order %v: %s took %d bytes", inOrder, name, n)
			}
		}
	}
}

// TestCheckReadsOnce: without bitmaps a check reads the metadata and nothing else.
func TestCheckReadsOnce(t *testing.T) {
	f := fullDisk(t, 65536, false)
	c := &counter{sparse: f}
	rep, err := vhd.Check(c, f.size, vhd.CheckOptions{})
	if err != nil || len(rep.Findings) > 0 || rep.Allocated != 65536 {
		t.Fatalf("%v, findings %v, %d blocks", err, rep.Findings, rep.Allocated)
	}
	if limit := int64(4*65536 + 8<<10); c.n > limit {
		t.Errorf("read %d bytes, want at most %d", c.n, limit)
	}
}

type counter struct {
	*sparse
	n int64
}

func (c *counter) ReadAt(p []byte, off int64) (int, error) {
	c.n += int64(len(p))
	return c.sparse.ReadAt(p, off)
}

func BenchmarkCheck(b *testing.B) {
	for name, inOrder := range map[string]bool{"in order": true, "reversed": false} {
		f := fullDisk(b, 65536, inOrder)
		for what, o := range map[string]vhd.CheckOptions{"metadata": {}, "bitmaps": {Bitmaps: true}} {
			b.Run(name+" "+what, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if rep, err := vhd.Check(f, f.size, o); err != nil || len(rep.Findings) > 0 {
						b.Fatal(err, rep.Findings)
					}
				}
			})
		}
	}
}

// TestCheckOverlapOfShortBlock: a block that ends early must not hide that the one before it reaches further.
func TestCheckOverlapOfShortBlock(t *testing.T) {
	t.Parallel()
	b, _ := goodDisk(t)
	first := entry(b, 0)
	setEntry(b, 8, first+2) // the short last block, inside block 0
	setEntry(b, 1, first+9) // inside block 0, behind the short one
	rep := check(t, inMemory(b), vhd.CheckOptions{})
	if got := rep.Unusable; len(got) < 3 || got[0] != 0 || got[1] != 1 || got[len(got)-1] != 8 {
		t.Errorf("unusable %v, want 0, 1 and 8 among them", got)
	}
	if n := binary.BigEndian.Uint32(b[goodTable:]); n != first {
		t.Error("the test changed what it looks at")
	}
}
