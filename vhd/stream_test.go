package vhd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"disksync/vhd"
)

// sources are contents of one disk, known in different ways.
func sources(t testing.TB) (map[string]vhd.Source, []byte) {
	t.Helper()
	fam := newFamily(t, vhd.Dynamic, 200*testBlock+512, 150*testBlock, 200*testBlock+1024)
	leaf := fam.files[2]
	c, err := vhd.NewChain(append([]*vhd.Image{openImage(t, leaf)}, fam.below(t, 2)...)...)
	if err != nil {
		t.Fatal(err)
	}
	d := openDisk(t, leaf, fam.below(t, 2)...)
	raw := fam.contents[2]
	return map[string]vhd.Source{"chain": c, "disk": d, "raw": vhd.Whole(bytes.NewReader(raw), int64(len(raw)))}, raw
}

// TestStreamAndConvert: every output holds the content, and has the same content whether written in a stream or not.
func TestStreamAndConvert(t *testing.T) {
	ctx := context.Background()
	all, want := sources(t)
	for name, src := range all {
		for _, o := range []vhd.CreateOptions{
			{UUID: newUUID(1)},
			{UUID: newUUID(1), BlockSize: testBlock},
			{UUID: newUUID(1), BlockSize: testBlock, MaxTableEntries: 5000, Size: 1000 * testBlock},
			{UUID: newUUID(1), Type: vhd.Fixed},
			{UUID: newUUID(1), Type: vhd.Fixed, SizeUnit: vhd.AzureSizeUnit},
		} {
			for _, copts := range []vhd.CopyOptions{{}, {DetectZeros: true}} {
				t.Run(fmt.Sprintf("%s %s block %d size %d %t", name, o.Type, o.BlockSize, o.Size, copts.DetectZeros), func(t *testing.T) {
					t.Parallel()
					var told int64
					copts.Progress = func(done, total int64) {
						if done < told || total != int64(len(want)) {
							t.Errorf("progress %d of %d after %d", done, total, told)
						}
						told = done
					}
					var out bytes.Buffer
					if err := vhd.Stream(ctx, &out, src, o, copts); err != nil {
						t.Fatal(err)
					}
					if told != int64(len(want)) {
						t.Errorf("progress ended at %d", told)
					}
					if n, err := vhd.StreamLength(ctx, src, o, copts); err != nil || n != int64(out.Len()) {
						t.Errorf("length %d, want %d: %v", n, out.Len(), err)
					}
					told = 0
					f := &memFile{}
					if err := vhd.Convert(ctx, f, src, o, copts); err != nil {
						t.Fatal(err)
					}
					if len(f.pending) > 0 {
						t.Error("not synced")
					}
					for _, f := range []*memFile{{data: out.Bytes()}, f} {
						m := openImage(t, f)
						if len(m.Warnings()) > 0 {
							t.Errorf("warnings: %v", m.Warnings())
						}
						if got := content(t, f); !bytes.Equal(got, resized(want, m.Size())) {
							t.Error("content differs")
						}
						if m.Type() == vhd.Fixed && f.size() != m.Size()+vhd.FooterSize || o.SizeUnit > 0 && m.Size()%o.SizeUnit != 0 {
							t.Errorf("%d bytes for a disk of %d", f.size(), m.Size())
						}
					}
				})
			}
		}
	}
}

func TestStreamRaw(t *testing.T) {
	ctx := context.Background()
	all, want := sources(t)
	for name, src := range all {
		t.Run(name, func(t *testing.T) {
			var out, copied bytes.Buffer
			if err := vhd.StreamRaw(ctx, &out, src, vhd.CopyOptions{}); err != nil || !bytes.Equal(out.Bytes(), want) {
				t.Errorf("StreamRaw: %v", err)
			}
			f := &memFile{}
			if err := vhd.ConvertRaw(ctx, f, src, vhd.CopyOptions{}); err != nil || !bytes.Equal(f.data, want) {
				t.Errorf("ConvertRaw: %v", err)
			}
			for _, off := range []int64{0, 777, 4096, int64(len(want)) - 3} {
				copied.Reset()
				if n, err := io.Copy(&copied, vhd.NewReader(src, off)); err != nil || !bytes.Equal(copied.Bytes(), want[off:]) {
					t.Errorf("WriteTo from %d: %d bytes, %v", off, n, err)
				}
			}
			got, err := io.ReadAll(io.LimitReader(vhd.NewReader(src, 4097), 1<<30))
			if err != nil || !bytes.Equal(got, want[4097:]) {
				t.Errorf("Read: %v", err)
			}
		})
	}
}

// TestOneDifferenceForMany: the members above a base become one differencing disk that reads as they do.
func TestOneDifferenceForMany(t *testing.T) {
	ctx := context.Background()
	const b = testBlock
	for _, sizes := range [][]int64{{6 * b, 6 * b, 6 * b, 6 * b}, {6 * b, 2*b + 512, 5*b + 512}, {3 * b, 4 * b, 5 * b}} {
		fam := newFamily(t, vhd.Dynamic, sizes...)
		leaf := len(sizes) - 1
		c, err := vhd.NewChain(append([]*vhd.Image{openImage(t, fam.files[leaf])}, fam.below(t, leaf)...)...)
		if err != nil {
			t.Fatal(err)
		}
		base := leaf // index in the chain
		src, err := c.Above(base)
		if err != nil {
			t.Fatal(err)
		}
		var changed int64
		for e, err := range c.Changed(base, 0, c.Size()) {
			if err != nil || e.Member >= base {
				t.Fatalf("changed: %v %v", e, err)
			}
			changed += e.Length
		}
		o := vhd.CreateOptions{UUID: newUUID(50), BlockSize: testBlock, Parent: &vhd.Parent{UUID: newUUID(1), Path: "base.vhd"}}
		var out bytes.Buffer
		if err := vhd.Stream(ctx, &out, src, o, vhd.CopyOptions{DetectZeros: true}); err != nil {
			t.Fatal(err)
		}
		f := &memFile{}
		if err := vhd.Convert(ctx, f, src, o, vhd.CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(f.data, out.Bytes()) {
			t.Error("stream and file differ")
		}
		if !bytes.Equal(content(t, f, openImage(t, fam.files[0])), fam.contents[leaf]) {
			t.Errorf("%v: content differs", sizes)
		}
		one, err := vhd.NewChain(openImage(t, f), openImage(t, fam.files[0]))
		if err != nil {
			t.Fatal(err)
		}
		var own int64
		for e, err := range one.Extents(0, one.Size()) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Member == 0 {
				own += e.Length
			}
		}
		if own != changed || own == 0 {
			t.Errorf("the difference owns %d bytes, %d changed", own, changed)
		}
	}
	if _, err := (&vhd.Chain{}).Above(1); err == nil {
		t.Error("Above outside the chain")
	}
}

// failing gives an error at and behind a place.
type failing struct {
	vhd.Source
	at int64
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.at {
		return 0, errInjected
	}
	return f.Source.ReadAt(p, off)
}

func TestCopyErrors(t *testing.T) {
	all, want := sources(t)
	ctx := context.Background()
	gone, cancel := context.WithCancel(ctx)
	cancel()
	o := vhd.CreateOptions{UUID: newUUID(1), BlockSize: testBlock}
	src := failing{all["raw"], int64(len(want)) / 2}
	for name, run := range map[string]func(context.Context, vhd.Source) error{
		"Stream": func(ctx context.Context, s vhd.Source) error {
			return vhd.Stream(ctx, io.Discard, s, o, vhd.CopyOptions{})
		},
		"StreamRaw": func(ctx context.Context, s vhd.Source) error {
			return vhd.StreamRaw(ctx, io.Discard, s, vhd.CopyOptions{})
		},
		"ConvertRaw": func(ctx context.Context, s vhd.Source) error {
			return vhd.ConvertRaw(ctx, &memFile{}, s, vhd.CopyOptions{})
		},
		"Convert": func(ctx context.Context, s vhd.Source) error {
			f := &memFile{}
			err := vhd.Convert(ctx, f, s, o, vhd.CopyOptions{})
			if _, openErr := vhd.Open(f, f.size()); openErr == nil {
				t.Error("a file that was not finished opens")
			}
			return err
		},
	} {
		if err := run(ctx, src); !errors.Is(err, errInjected) {
			t.Errorf("%s: %v", name, err)
		}
		if err := run(gone, all["raw"]); !errors.Is(err, context.Canceled) {
			t.Errorf("%s cancelled: %v", name, err)
		}
		short := vhd.Whole(bytes.NewReader(want[:len(want)/2]), int64(len(want)))
		if err := run(ctx, short); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s of a source that ends early: %v", name, err)
		}
	}
	if err := vhd.Stream(ctx, io.Discard, all["raw"], vhd.CreateOptions{Size: 512}, vhd.CopyOptions{}); !errors.Is(err, vhd.BadSize) {
		t.Errorf("too small: %v", err)
	}
}

// TestQemuReadsCopies: what is converted and streamed here is what qemu-img reads.
func TestQemuReadsCopies(t *testing.T) {
	ctx := context.Background()
	want := patchy(9<<20 + 512*3)
	src := vhd.Whole(bytes.NewReader(want), int64(len(want)))
	for _, typ := range []vhd.Type{vhd.Dynamic, vhd.Fixed} {
		for _, stream := range []bool{true, false} {
			dir := t.TempDir()
			name, raw := filepath.Join(dir, "disk.vhd"), filepath.Join(dir, "raw")
			f, err := os.Create(name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			o := vhd.CreateOptions{Type: typ, UUID: newUUID(1)}
			if stream {
				err = vhd.Stream(ctx, f, src, o, vhd.CopyOptions{})
			} else {
				err = vhd.Convert(ctx, f, src, o, vhd.CopyOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
			qemuImg(t, "convert", "-f", "vpc", "-O", "raw", name, raw)
			if got, err := os.ReadFile(raw); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, stream %t: qemu-img reads %d bytes, and others than were written: %v", typ, stream, len(got), err)
			}
		}
	}
}
