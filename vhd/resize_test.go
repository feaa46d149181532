package vhd_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"disksync/vhd"
)

// resizeCase is a disk and what it is resized to.
type resizeCase struct {
	name  string
	o     vhd.CreateOptions
	under int64 // size of the parent of a differencing disk
	to    int64
	force bool
	noCut bool // the file cannot be truncated
}

func resizeCases() []resizeCase {
	const b = testBlock
	dyn := func(size int64, room uint32) vhd.CreateOptions {
		return vhd.CreateOptions{Size: size, BlockSize: b, UUID: newUUID(1), MaxTableEntries: room}
	}
	diff := dyn(3*b+1024, 0)
	diff.Parent = &vhd.Parent{UUID: newUUID(9), Path: "p.vhd"}
	fixed := vhd.CreateOptions{Size: 3*b + 512, Type: vhd.Fixed, UUID: newUUID(1)}
	return []resizeCase{
		{name: "dynamic grows within the table", o: dyn(3*b+1024, 100), to: 8 * b},
		{name: "dynamic grows within the last block", o: dyn(3*b+1024, 0), to: 3*b + 2048},
		{name: "dynamic grows, table moves", o: dyn(3*b+1024, 0), to: 130*b + 512},
		{name: "differencing grows over a larger parent", o: diff, under: 5*b + 512, to: 7 * b},
		{name: "differencing grows less than the parent", o: diff, under: 9 * b, to: 4 * b},
		{name: "differencing shrinks", o: diff, under: 9 * b, to: b + 512, force: true},
		{name: "dynamic shrinks", o: dyn(6*b, 0), to: b + 1024, force: true},
		{name: "dynamic shrinks, file stays", o: dyn(6*b, 0), to: b + 1024, force: true, noCut: true},
		{name: "fixed grows", o: fixed, to: 4 * b},
		{name: "fixed grows by a sector", o: fixed, to: 3*b + 1024},
		{name: "fixed shrinks", o: fixed, to: b, force: true},
		{name: "fixed shrinks, file stays", o: fixed, to: b, force: true, noCut: true},
	}
}

// fileOnly hides Truncate.
type fileOnly struct{ vhd.File }

// open opens the case's disk in f.
func (c resizeCase) open(t testing.TB, f *memFile, parents []*vhd.Image) *vhd.Disk {
	t.Helper()
	var file vhd.File = f
	if c.noCut {
		file = fileOnly{f}
	}
	d, err := vhd.OpenDisk(file, f.size(), parents)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestResize cuts the power at every step: the disk has the old or the new size, and everything that both have. A second
// resize then ends in the new state, and what was once cut off does not come back.
func TestResize(t *testing.T) {
	for _, c := range resizeCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := create(t, c.o)
			var parents []*vhd.Image
			model := make([]byte, c.o.Size)
			if c.under > 0 {
				below := noise(int(c.under), 3)
				parents = append(parents, vhd.Content(newUUID(9), bytes.NewReader(below), c.under))
				copy(model, below)
			}
			d := c.open(t, f, parents)
			p := noise(int(c.o.Size)-700, 1)
			if _, err := d.WriteAt(p, 600); err != nil {
				t.Fatal(err)
			}
			copy(model[600:], p)
			if err := d.Sync(); err != nil {
				t.Fatal(err)
			}
			after := resized(model, c.to)
			cuts := eachCrash(t, f.data, func(f *memFile) error {
				return c.open(t, f, parents).Resize(context.Background(), c.to, vhd.ResizeOptions{Force: c.force})
			}, func(cut int, f *memFile) {
				got := content(t, f, parents...)
				if !bytes.Equal(got, model) && !bytes.Equal(got, after) || cut == 0 && !bytes.Equal(got, after) {
					t.Fatalf("cut %d: %d bytes that are neither the old nor the new disk", cut, len(got))
				}
				if cut%3 == 0 {
					c.finish(t, f, parents, after)
				}
			})
			if cuts < 3 {
				t.Errorf("only %d steps", cuts)
			}
		})
	}
}

// finish goes on from a crash: resize, write, shrink and grow again.
func (c resizeCase) finish(t *testing.T, f *memFile, parents []*vhd.Image, want []byte) {
	t.Helper()
	resize := func(to int64) *vhd.Disk {
		t.Helper()
		d := c.open(t, f, parents)
		if err := d.Resize(context.Background(), to, vhd.ResizeOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		return d
	}
	want = bytes.Clone(want)
	d := resize(c.to)
	tail := noise(512, 8)
	copy(want[c.to-512:], tail)
	if _, err := d.WriteAt(tail, c.to-512); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, f, parents...), want) {
		t.Fatal("content differs after resizing again")
	}
	resize(512)
	resize(c.to)
	if !bytes.Equal(content(t, f, parents...), resized(want[:512], c.to)) {
		t.Fatal("what was cut off came back")
	}
}

func TestResizeRefuses(t *testing.T) {
	ctx := context.Background()
	f := create(t, vhd.CreateOptions{Size: 8 * testBlock, BlockSize: testBlock, UUID: newUUID(1)})
	d := openDisk(t, f)
	if _, err := d.WriteAt([]byte{1}, 6*testBlock); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(f.data)
	for _, size := range []int64{0, -512, 100, vhd.MaxDynamicSize + 512, 1 << 62} {
		if err := d.Resize(ctx, size, vhd.ResizeOptions{Force: true}); !errors.Is(err, vhd.BadSize) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	if err := d.Resize(ctx, 6*testBlock, vhd.ResizeOptions{}); !errors.Is(err, vhd.ErrCutsData) {
		t.Errorf("cut: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := d.Resize(gone, 9*testBlock, vhd.ResizeOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if !bytes.Equal(f.data, before) {
		t.Error("a refused resize changed the file")
	}
	// Nothing but zeros is lost here.
	if err := d.Resize(ctx, 6*testBlock+512, vhd.ResizeOptions{}); err != nil {
		t.Error(err)
	}
	raw := vhd.OpenRawDisk(&memFile{data: make([]byte, 512)}, 512)
	if err := raw.Resize(ctx, 1024, vhd.ResizeOptions{}); !errors.Is(err, vhd.BadType) {
		t.Errorf("raw: %v", err)
	}
}

// TestDiscard: a discarded range reads as zeros, and nothing is stored where nothing has to be hidden.
func TestDiscard(t *testing.T) {
	for _, depth := range []int{0, 2} {
		leaf, parents, model := newChainFiles(t, 20*testBlock+512, depth)
		d := openDisk(t, leaf, parents...)
		empty := leaf.size()
		if err := d.Discard(12*testBlock, 5*testBlock+100); err != nil {
			t.Fatal(err)
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		if leaf.size() != empty {
			t.Errorf("depth %d: discarding what nobody holds made the file grow by %d", depth, leaf.size()-empty)
		}
		for _, r := range [][2]int64{{700, 20}, {1000, 5000}, {4096, 4096}, {testBlock + 1, 3 * testBlock}, {d.Size() - 9, 9}, {5, 0}} {
			if err := d.Discard(r[0], r[1]); err != nil {
				t.Fatal(err)
			}
			clear(model[r[0] : r[0]+r[1]])
			if !bytes.Equal(readAll(t, d, d.Size()), model) {
				t.Fatalf("depth %d: content differs after discarding %v", depth, r)
			}
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(content(t, leaf, parents...), model) {
			t.Errorf("depth %d: content differs in the file", depth)
		}
		for _, r := range [][2]int64{{-1, 1}, {0, d.Size() + 1}, {d.Size(), 1}, {0, -1}, {1 << 62, 1 << 62}} {
			if err := d.Discard(r[0], r[1]); !errors.Is(err, vhd.ErrBeyondEnd) {
				t.Errorf("discard %v: %v", r, err)
			}
		}
	}
}

// TestResizeKeepsBatmap: tapdisk's batmap stays valid when its disk grows, with and without the table moving, and shrinks.
func TestResizeKeepsBatmap(t *testing.T) {
	t.Parallel()
	data := corpusBytes(t, "gen-vhd-util/batmap")
	// Copies of the whole disk would take most of the time.
	small := &memFile{data: data, synced: bytes.Clone(data)}
	if err := openDisk(t, small).Resize(context.Background(), 8<<20, vhd.ResizeOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	data = small.data
	model := content(t, &memFile{data: data})
	checks := 0
	for _, size := range []int64{33 << 30, 6<<20 + 512} {
		eachCrash(t, data, func(f *memFile) error {
			return openDisk(t, f).Resize(context.Background(), size, vhd.ResizeOptions{Force: true})
		}, func(cut int, f *memFile) {
			m := openImage(t, f)
			if m.Size() != size && (cut == 0 || m.Size() != int64(len(model))) {
				t.Fatalf("size %d, cut %d: now %d", size, cut, m.Size())
			}
			if checks++; cut != 0 && checks%6 != 0 {
				return // the rest takes long
			}
			c, err := vhd.NewChain(m)
			if err != nil {
				t.Fatal(err)
			}
			n := min(m.Size(), int64(len(model)))
			if !bytes.Equal(readAll(t, c, n), model[:n]) {
				t.Fatalf("size %d, cut %d: content differs", size, cut)
			}
			rep, err := vhd.Check(f, f.size(), vhd.CheckOptions{Bitmaps: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, found := range rep.Findings {
				if errors.Is(found, vhd.BatmapWrong) || cut == 0 && errors.Is(found, vhd.BatmapDamaged) {
					t.Errorf("size %d, cut %d: %v", size, cut, found)
				}
			}
		})
	}
}
