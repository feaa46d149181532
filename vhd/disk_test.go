package vhd_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"disksync/vhd"
)

const testBlock = 4096 * 4

// newChainFiles makes a dynamic base with some content and depth differencing disks on it.
func newChainFiles(t testing.TB, size int64, depth int) (*memFile, []*vhd.Image, []byte) {
	t.Helper()
	base := create(t, vhd.CreateOptions{Size: size, BlockSize: testBlock, UUID: newUUID(1)})
	d := openDisk(t, base)
	model := make([]byte, size)
	p := noise(int(size/3)/512*512, 7)
	copy(model[512*5:], p)
	if _, err := d.WriteAt(p, 512*5); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	leaf, parents := base, []*vhd.Image(nil)
	for i := range depth {
		parents = append([]*vhd.Image{openImage(t, leaf)}, parents...)
		leaf = create(t, vhd.CreateOptions{
			Size: size, BlockSize: testBlock, UUID: newUUID(byte(2 + i)),
			Parent: &vhd.Parent{UUID: parents[0].UUID(), Path: "parent.vhd"},
		})
	}
	return leaf, parents, model
}

// TestDiskModel writes, syncs and reopens at random and compares with a plain array.
func TestDiskModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		size := int64(rapid.IntRange(1, 40*testBlock/512).Draw(rt, "sectors")) * 512
		size = max(size, 512*32)
		depth := rapid.IntRange(0, 3).Draw(rt, "depth")
		leaf, parents, model := newChainFiles(t, size, depth)
		d := openDisk(t, leaf, parents...)
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) {
				off := rapid.Int64Range(0, size-1).Draw(rt, "off")
				n := rapid.Int64Range(0, min(size-off, 3*testBlock)).Draw(rt, "n")
				p := noise(int(n), rapid.Uint64().Draw(rt, "seed"))
				if rapid.Bool().Draw(rt, "zero") {
					clear(p)
				}
				copy(model[off:], p)
				if _, err := d.WriteAt(p, off); err != nil {
					rt.Fatal(err)
				}
			},
			"sync": func(rt *rapid.T) {
				if err := d.Sync(); err != nil {
					rt.Fatal(err)
				}
			},
			"reopen": func(rt *rapid.T) {
				if err := d.WriteBack(); err != nil {
					rt.Fatal(err)
				}
				d = openDisk(t, leaf, parents...)
			},
			"": func(rt *rapid.T) {
				if !bytes.Equal(readAll(t, d, size), model) {
					rt.Fatal("content differs from the model")
				}
			},
		})
	})
}

// TestDiskPowerLoss cuts the power after every single write of a run, with none, some or all of the unsynced sectors kept.
// Afterwards the file must open, and every sector must hold what was synced or something written since.
func TestDiskPowerLoss(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		depth int
		ahead int64
	}{{0, 0}, {1, 0}, {0, 3 * testBlock}, {1, testBlock + 512}} {
		t.Run(fmt.Sprintf("depth %d, %d bytes ahead", c.depth, c.ahead), func(t *testing.T) {
			r := newPowerLossRun(t, c.depth)
			r.ahead = c.ahead
			total := r.play(t, 1<<30)
			if total < 50 {
				t.Fatalf("only %d steps, the run is too short to mean something", total)
			}
			for cut := 1; cut <= total; cut++ {
				r.play(t, cut)
			}
		})
	}
}

// powerLossRun is a fixed sequence of writes, with a sync after every fourth.
type powerLossRun struct {
	leaf    []byte // the file at the start
	parents []*vhd.Image
	model   []byte // the disk at the start
	writes  []write
	ahead   int64
}

const powerLossSize = 9*testBlock + 3*512

func newPowerLossRun(t *testing.T, depth int) *powerLossRun {
	leaf, parents, model := newChainFiles(t, powerLossSize, depth)
	run := &powerLossRun{leaf: leaf.data, parents: parents, model: model}
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 24 {
		off := r.Int64N(powerLossSize/512) * 512
		n := min(powerLossSize-off, r.Int64N(2*testBlock/512)*512)
		run.writes = append(run.writes, write{off: off, b: noise(int(n), uint64(i))})
	}
	return run
}

// play plays the sequence until the file's operation number cut fails, cuts the power there and checks the file. It returns the
// number of operations.
func (p *powerLossRun) play(t *testing.T, cut int) int {
	t.Helper()
	leaf := &memFile{data: bytes.Clone(p.leaf), synced: bytes.Clone(p.leaf), failAt: cut}
	d := openDisk(t, leaf, p.parents...)
	if p.ahead > 0 {
		d = openAhead(t, roomyFile{memFile: leaf}, p.ahead, 1<<30, p.parents...)
	}
	model, durable := bytes.Clone(p.model), bytes.Clone(p.model)
	since := []write(nil) // since the last Sync that returned
	for i, w := range p.writes {
		since = append(since, w)
		_, err := d.WriteAt(w.b, w.off)
		if err == nil {
			copy(model[w.off:], w.b)
		}
		if i%4 == 3 && err == nil {
			if err = d.Sync(); err == nil {
				copy(durable, model)
				since = nil
			}
			if err == nil && i%8 == 7 {
				err = d.Trim()
			}
		}
		if errors.Is(err, errInjected) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for seed, keep := range []float64{0, 1, 0.5, 0.5} {
		after := leaf.afterPowerLoss(keep, rand.New(rand.NewPCG(uint64(cut), uint64(seed))))
		got := readAll(t, openDisk(t, after, p.parents...), powerLossSize)
		for s := int64(0); s < powerLossSize; s += 512 {
			if !plausible(got[s:s+512], s, durable, since) {
				t.Fatalf("cut at %d, keep %v: sector %d holds what nobody wrote there last", cut, keep, s/512)
			}
		}
	}
	return leaf.ops
}

// plausible reports whether a sector holds the durable content or that of a later write.
func plausible(got []byte, at int64, durable []byte, since []write) bool {
	if bytes.Equal(got, durable[at:at+512]) {
		return true
	}
	for _, w := range since {
		if at >= w.off && at < w.off+int64(len(w.b)) && bytes.Equal(got, w.b[at-w.off:at-w.off+512]) {
			return true
		}
	}
	return false
}

// TestDiskRefusesAfterFailedSync: what a failed sync left in the file is not known, so nothing more is written to it.
func TestDiskRefusesAfterFailedSync(t *testing.T) {
	leaf, parents, _ := newChainFiles(t, 4*testBlock, 1)
	d := openDisk(t, leaf, parents...)
	if _, err := d.WriteAt(noise(512, 1), 0); err != nil {
		t.Fatal(err)
	}
	leaf.failAt = leaf.ops + 2 // the bitmap's write, then the sync
	if err := d.Sync(); !errors.Is(err, errInjected) {
		t.Fatalf("sync: %v", err)
	}
	if _, err := d.WriteAt(noise(512, 2), 0); !errors.Is(err, errInjected) {
		t.Errorf("write after a failed sync: %v", err)
	}
	for _, again := range []func() error{d.Sync, d.SyncBack, d.WriteBack} {
		if err := again(); !errors.Is(err, errInjected) {
			t.Errorf("second sync: %v", err)
		}
	}
	d = openDisk(t, leaf, parents...)
	leaf.failAt = leaf.ops + 1
	if err := d.SyncBack(); !errors.Is(err, errInjected) {
		t.Fatalf("sync: %v", err)
	}
	if _, err := d.WriteAt(noise(512, 2), 0); !errors.Is(err, errInjected) {
		t.Errorf("write after a failed sync: %v", err)
	}
}

// TestDiskExactSectors: a differencing disk owns the sectors that were written and no others.
func TestDiskExactSectors(t *testing.T) {
	leaf, parents, _ := newChainFiles(t, 8*testBlock, 1)
	d := openDisk(t, leaf, parents...)
	for _, s := range []int64{3, 4, 9, 70} {
		if _, err := d.WriteAt(noise(512, 1), s*512); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	c, err := vhd.NewChain(append([]*vhd.Image{openImage(t, leaf)}, parents...)...)
	if err != nil {
		t.Fatal(err)
	}
	var own []int64
	for e, err := range c.Extents(0, c.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		for s := e.Offset; e.Member == 0 && s < e.Offset+e.Length; s += 512 {
			own = append(own, s/512)
		}
	}
	if fmt.Sprint(own) != "[3 4 9 70]" {
		t.Errorf("the leaf owns sectors %v", own)
	}
}

func TestWriteBeyondEnd(t *testing.T) {
	leaf, parents, _ := newChainFiles(t, 4*testBlock, 1)
	d := openDisk(t, leaf, parents...)
	for _, off := range []int64{-1, d.Size(), d.Size() - 511, 1 << 62} {
		if _, err := d.WriteAt(make([]byte, 512), off); !errors.Is(err, vhd.ErrBeyondEnd) {
			t.Errorf("write at %d: %v", off, err)
		}
	}
}

// TestWriteWithBadCopy: a new block moves the footer, and a crash may leave neither the old nor the new one. A copy at the start
// that is damaged, old, or has a stale checksum must be good before that.
func TestWriteWithBadCopy(t *testing.T) {
	leaf, _, model := newChainFiles(t, 20*testBlock, 0)
	end := len(leaf.data) - vhd.FooterSize
	for name, spoil := range map[string]func(b []byte){
		"damaged": func(b []byte) { b[70] ^= 1 },
		"old": func(b []byte) {
			old := create(t, vhd.CreateOptions{Size: 10 * testBlock, BlockSize: testBlock, UUID: newUUID(1)})
			copy(b, old.data[:vhd.FooterSize])
		},
		"stale":            func(b []byte) { b[27]++; b[end+27]++ },
		"stale, header as": func(b []byte) { b[27]++; b[end+27]++; b[512+60]++ },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := bytes.Clone(leaf.data)
			spoil(start)
			p := noise(1000, 1)
			after := bytes.Clone(model)
			copy(after[15*testBlock:], p)
			eachCrash(t, start, func(f *memFile) error {
				d := openDisk(t, f)
				if _, err := d.WriteAt(p, 15*testBlock); err != nil {
					return err
				}
				return d.Sync()
			}, func(cut int, f *memFile) {
				if got := content(t, f); !bytes.Equal(got, after) && (cut == 0 || !bytes.Equal(got, model)) {
					t.Errorf("cut %d: content differs", cut)
				}
			})
		})
	}
}

// TestSyncBack: what was written before is durable, and others write while the disk is waited for.
func TestSyncBack(t *testing.T) {
	const size = 4 * testBlock
	leaf := create(t, vhd.CreateOptions{Size: size, BlockSize: testBlock, UUID: newUUID(1)})
	f := &slowSync{memFile: leaf, began: make(chan struct{}), goOn: make(chan struct{})}
	d, err := vhd.OpenDisk(f, leaf.size(), nil)
	if err != nil {
		t.Fatal(err)
	}
	before, meanwhile := noise(testBlock, 1), noise(testBlock, 2)
	if _, err := d.WriteAt(before, 0); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- d.SyncBack() }()
	<-f.began
	if _, err := d.WriteAt(meanwhile, 2*testBlock); err != nil {
		t.Error(err)
	}
	if err := d.WriteBack(); err != nil {
		t.Error(err)
	}
	close(f.goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	after := leaf.afterPowerLoss(0, rand.New(rand.NewPCG(1, 1)))
	if got := readAll(t, openDisk(t, after), size); !bytes.Equal(got[:testBlock], before) {
		t.Error("what was synced is lost")
	}
	want := slices.Concat(before, make([]byte, testBlock), meanwhile, make([]byte, testBlock))
	if got := readAll(t, d, size); !bytes.Equal(got, want) {
		t.Error("the content differs")
	}
}

// slowSync is a file whose first Sync waits until it is told to go on.
type slowSync struct {
	*memFile
	began, goOn chan struct{}
	once        sync.Once
}

func (f *slowSync) Sync() error {
	f.once.Do(func() { close(f.began); <-f.goOn })
	return f.memFile.Sync()
}
