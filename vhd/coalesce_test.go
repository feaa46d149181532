package vhd_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"disksync/image"
	"disksync/vhd"
)

// family is a chain of files with its disks' contents, base first.
type family struct {
	files    []*memFile
	contents [][]byte
}

// newFamily makes a chain of disks of these sizes, base first; each holds some sectors of its own, zeros among them.
func newFamily(t testing.TB, base vhd.Type, sizes ...int64) *family {
	t.Helper()
	fam := &family{}
	for i, size := range sizes {
		o := vhd.CreateOptions{Size: size, BlockSize: testBlock, UUID: newUUID(byte(i + 1)), Type: base}
		f := &memFile{}
		var err error
		var below []byte
		if i == 0 {
			err = vhd.Create(f, o)
		} else {
			o.Type = vhd.Differencing
			o.Parent = &vhd.Parent{UUID: newUUID(byte(i)), Path: "p.vhd"}
			err = vhd.Create(f, o)
			below = fam.contents[i-1]
		}
		if err != nil {
			t.Fatal(err)
		}
		fam.files, fam.contents = append(fam.files, f), append(fam.contents, resized(below, size))
		d := fam.disk(t, f, i)
		for n := range int64(12) {
			off := (n*7919 + int64(i)*104729) * 512 % size
			p := noise(int(min(size-off, 512*(1+n*n))), uint64(n)+100*uint64(i))
			if n%4 == 3 {
				clear(p)
			}
			if _, err := d.WriteAt(p, off); err != nil {
				t.Fatal(err)
			}
			copy(fam.contents[i][off:], p)
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		f.pending = nil
	}
	return fam
}

// below returns the images of the members below i, nearest first.
func (fam *family) below(t testing.TB, i int) []*vhd.Image {
	var out []*vhd.Image
	for i--; i >= 0; i-- {
		out = append(out, openImage(t, fam.files[i]))
	}
	return out
}

// disk opens f in the place of member i.
func (fam *family) disk(t testing.TB, f *memFile, i int) *vhd.Disk {
	return openDisk(t, f, fam.below(t, i)...)
}

// with returns the family with f in the place of member i.
func (fam *family) with(f *memFile, i int) *family {
	files := append([]*memFile(nil), fam.files...)
	files[i] = f
	return &family{files, fam.contents}
}

// above returns the images of the members from top down to the one above i.
func (fam *family) above(t testing.TB, top, i int) []*vhd.Image {
	var out []*vhd.Image
	for ; top > i; top-- {
		out = append(out, openImage(t, fam.files[top]))
	}
	return out
}

// TestCoalesce merges every range of several chains, with the power cut at every step: what is read through the topmost disk
// and through the leaf never changes, and going on ends with the ancestor's content being the topmost disk's.
func TestCoalesce(t *testing.T) {
	const b = testBlock
	for _, c := range []struct {
		name  string
		base  vhd.Type
		sizes []int64
	}{
		{"equal sizes", vhd.Dynamic, []int64{4 * b, 4 * b, 4 * b, 4 * b}},
		{"fixed base", vhd.Fixed, []int64{4 * b, 4 * b, 4 * b}},
		{"growing", vhd.Dynamic, []int64{3*b + 512, 4 * b, 5*b + 1024}},
		{"fixed base, growing", vhd.Fixed, []int64{3*b + 512, 4 * b}},
		{"one in between is smaller", vhd.Dynamic, []int64{6 * b, 2*b + 512, 4 * b}},
		{"the topmost is smaller", vhd.Dynamic, []int64{6 * b, 5 * b, 2*b + 512}},
		{"larger than everything below", vhd.Dynamic, []int64{6 * b, 2*b + 512, 3*b + 512, 9 * b}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fam := newFamily(t, c.base, c.sizes...)
			for top := 1; top < len(c.sizes); top++ {
				for ancestor := range top {
					if steps := coalesceRange(t, fam, top, ancestor); steps < 3 {
						t.Errorf("only %d steps", steps)
					}
				}
			}
		})
	}
}

// coalesceRange returns the number of cuts.
func coalesceRange(t *testing.T, fam *family, top, ancestor int) (steps int) {
	t.Helper()
	o := vhd.CoalesceOptions{Grow: true, Children: vhd.NoOtherChildren, CheckpointBytes: 4096}
	merge := func(f *memFile) error {
		return vhd.Coalesce(context.Background(), fam.disk(t, f, ancestor), fam.above(t, top, ancestor), o)
	}
	size := int64(len(fam.contents[top]))
	leaf := len(fam.files) - 1
	merged := func(f *memFile) {
		t.Helper()
		got := content(t, f, fam.below(t, ancestor)...)
		if !bytes.Equal(got, resized(fam.contents[top], max(size, int64(len(got))))) {
			t.Fatalf("%d into %d: the ancestor's content is not the topmost disk's", top, ancestor)
		}
	}
	steps += eachCrash(t, fam.files[ancestor].data, merge, func(cut int, f *memFile) {
		now := fam.with(f, ancestor)
		for _, i := range []int{top, leaf} {
			if !bytes.Equal(content(t, now.files[i], now.below(t, i)...), fam.contents[i]) {
				t.Fatalf("%d into %d, cut %d: disk %d changed", top, ancestor, cut, i)
			}
		}
		if cut == 0 {
			merged(f)
		} else if cut%5 == 0 { // going on takes as long as the whole
			if err := merge(f); err != nil {
				t.Fatal(err)
			}
			merged(f)
		}
	})
	return steps
}

func TestCoalesceRefuses(t *testing.T) {
	const b = testBlock
	ctx := context.Background()
	fam := newFamily(t, vhd.Dynamic, 2*b, 2*b, 3*b)
	before := bytes.Clone(fam.files[0].data)
	d := fam.disk(t, fam.files[0], 0)
	ok := vhd.NoOtherChildren
	sibling := func(of byte) func(*vhd.Image) ([]image.UUID, error) {
		return func(p *vhd.Image) ([]image.UUID, error) {
			if p.UUID() == newUUID(of) {
				return []image.UUID{newUUID(of + 1), newUUID(77)}, nil
			}
			return nil, nil
		}
	}
	all := fam.above(t, 2, 0)
	for _, c := range []struct {
		name  string
		above []*vhd.Image
		o     vhd.CoalesceOptions
		want  error
	}{
		{"nothing", nil, vhd.CoalesceOptions{Children: ok}, vhd.NoParent},
		{"not asked for siblings", all, vhd.CoalesceOptions{Grow: true}, nil},
		{"sibling of the lowest", all, vhd.CoalesceOptions{Grow: true, Children: sibling(1)}, vhd.ErrSibling},
		{"sibling in between", all, vhd.CoalesceOptions{Grow: true, Children: sibling(2)}, vhd.ErrSibling},
		{"child is larger", all, vhd.CoalesceOptions{Children: ok}, vhd.SizeDiffers},
		{"gap", all[:1], vhd.CoalesceOptions{Grow: true, Children: ok}, vhd.WrongParent},
		{"no child", []*vhd.Image{openImage(t, fam.files[0])}, vhd.CoalesceOptions{Children: ok}, vhd.WrongParent},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := vhd.Coalesce(ctx, d, c.above, c.o)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	if !bytes.Equal(fam.files[0].data, before) {
		t.Error("a refused merge changed the file")
	}
	// The topmost disk may have as many children as it likes.
	if err := vhd.Coalesce(ctx, d, all, vhd.CoalesceOptions{Grow: true, Children: sibling(3)}); err != nil {
		t.Error(err)
	}
}

// TestCoalesceResumes: after a cancelled merge the last checkpoint is a place to go on.
func TestCoalesceResumes(t *testing.T) {
	const b = testBlock
	const size = 99 * b
	fam := newFamily(t, vhd.Dynamic, size, size)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	reached, told := int64(-1), int64(0)
	o := vhd.CoalesceOptions{Children: vhd.NoOtherChildren, CheckpointBytes: 8192, Checkpoint: func(off int64) {
		if reached = off; off > b {
			cancel()
		}
	}}
	f := fam.files[0]
	if err := vhd.Coalesce(ctx, fam.disk(t, f, 0), fam.above(t, 1, 0), o); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if reached <= b || reached >= size {
		t.Fatalf("stopped at %d", reached)
	}
	f = f.afterPowerLoss(0, nil)
	o = vhd.CoalesceOptions{Children: vhd.NoOtherChildren, Start: reached, Progress: func(done, total int64) {
		if done < reached || done < told || total != size {
			t.Errorf("progress %d of %d after %d", done, total, told)
		}
		told = done
	}}
	if err := vhd.Coalesce(context.Background(), fam.disk(t, f, 0), fam.above(t, 1, 0), o); err != nil {
		t.Fatal(err)
	}
	if told != size {
		t.Errorf("progress ended at %d", told)
	}
	if !bytes.Equal(content(t, f), fam.contents[1]) {
		t.Error("content differs")
	}
}
