package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/cache"
	"disksync/image"
	"disksync/layer"
)

// TestFilesThatChange: between the scan and the reading anything may happen to a file. What is still good is given, what is not is
// noticed, block by block.
func TestFilesThatChange(t *testing.T) {
	g := get(t)
	first, last := g.full.Frame(0), g.full.Frame(g.full.Len()-1)
	all := len(blocks(g.full.state))
	for _, c := range []struct {
		name      string
		file      []byte
		change    func(file string) error
		good, bad int
	}{
		{"nothing happens", g.full.file, func(string) error { return nil }, all, 0},
		{"it is removed", g.full.file, os.Remove, all, 0},
		{"another takes its name", g.full.file, func(file string) error {
			return errors.Join(os.WriteFile(file+"2", g.diff.file, 0o600), os.Rename(file+"2", file))
		}, all, 0},
		{"it becomes empty", g.full.file, func(file string) error { return os.Truncate(file, 0) }, 0, all},
		{"it is cut in a frame", g.full.file, func(file string) error { return os.Truncate(file, last.Offset+1) }, all - 1, 1},
		{"it is cut behind the first frame", g.full.file, func(file string) error { return os.Truncate(file, first.Offset+int64(first.Length)) }, 1, all - 1},
		{"it is overwritten", g.full.file, func(file string) error { return os.WriteFile(file, make([]byte, len(g.full.file)), 0o600) }, 0, all},
		{"one byte changes", g.full.file, func(file string) error {
			return os.WriteFile(file, changed(g.full.file, int(first.Offset)+first.Length/2), 0o600)
		}, all - 1, 1},
		{"a VHD file becomes empty", g.base, func(file string) error { return os.Truncate(file, 0) }, 0, all},
		{"a VHD file loses its last block", g.base, func(file string) error { return os.Truncate(file, int64(len(g.base))-block) }, all - 1, 1},
		{"a VHD file is overwritten", g.base, func(file string) error { return os.WriteFile(file, make([]byte, len(g.base)), 0o600) }, 0, all},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			file := write(t, dir, "file", c.file)
			inv := scan(t, dir)
			w := g.wanted()
			s := inv.Source(w)
			if s.Len() != all {
				t.Fatalf("%d claims, want %d", s.Len(), all)
			}
			if err := c.change(file); err != nil {
				t.Fatal(err)
			}
			h := fetch(t, s, w)
			if h.err != nil || len(h.good) != c.good || len(h.bad) != c.bad {
				t.Errorf("%d good and %d bad blocks, want %d and %d: %v %v", len(h.good), len(h.bad), c.good, c.bad, h.err, h.bad)
			}
		})
	}
}

// failing is a file that fails from some read on, counted over all files of a medium.
type failing struct {
	io.ReaderAt
	reads *int
	from  int
	err   error
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if *f.reads++; *f.reads >= f.from {
		return len(p) / 2, f.err
	}
	return f.ReaderAt.ReadAt(p, off)
}

// TestMediumFails: a bad sector costs its block, and a medium that was pulled out ends the reading; what was read before is good.
func TestMediumFails(t *testing.T) {
	g := get(t)
	w := g.wanted()
	all := len(w.Blocks)
	for _, form := range []struct {
		name  string
		files map[string][]byte
	}{
		{"layers", map[string][]byte{"1": g.full.file, "2": g.diff.file}},
		{"a chain", map[string][]byte{"1": g.base, "2": g.child}},
	} {
		dir := t.TempDir()
		for name, b := range form.files {
			write(t, dir, name, b)
		}
		for _, c := range []struct {
			err  error
			gone bool
		}{
			{syscall.EIO, false}, {io.ErrUnexpectedEOF, false}, {os.ErrClosed, true}, {errors.New("odd"), false},
			{syscall.ENODEV, true}, {syscall.ENXIO, true}, {syscall.ENOTCONN, true}, {syscall.ESTALE, true}, {syscall.ENOMEDIUM, true},
		} {
			for _, from := range []int{1, 3, all} {
				t.Run(fmt.Sprintf("%s/%v/from read %d", form.name, c.err, from), func(t *testing.T) {
					s := scan(t, dir).Source(w)
					s.ReadAtLeast(1)
					reads := 0
					s.Wrap(func(r io.ReaderAt) io.ReaderAt { return failing{r, &reads, from, c.err} })
					h := fetch(t, s, w)
					if errors.Is(h.err, cache.ErrGone) != c.gone || c.gone && !errors.Is(h.err, c.err) || !c.gone && h.err != nil {
						t.Errorf("ended with %v", h.err)
					}
					wantBad := all - from + 1
					if c.gone {
						wantBad = 0
					}
					if len(h.good) != from-1 || len(h.bad) != wantBad {
						t.Errorf("%d good and %d bad blocks, want %d and %d", len(h.good), len(h.bad), from-1, wantBad)
					}
					for d, err := range h.bad {
						if !errors.Is(err, c.err) {
							t.Errorf("block %s: %v", d.Short(), err)
						}
					}
				})
			}
		}
	}
}

// recorder notes the order of the reads.
type recorder struct {
	io.ReaderAt
	at *[]int64
}

func (r recorder) ReadAt(p []byte, off int64) (int, error) {
	*r.at = append(*r.at, off)
	return r.ReaderAt.ReadAt(p, off)
}

// TestOnePass: blocks are read in the order in which they lie, whatever the order in which they are asked for: the head of a disc
// drive is slow.
func TestOnePass(t *testing.T) {
	d := disk(11, 12, 13, 14, 15, 16, 17, 18)
	p, err := pack(image.State{}, d)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, "layer", p.file)
	w := cache.Wanted{Blocks: blocks(p.state), Layers: []*layer.Index{p.Index}}
	s := scan(t, dir).Source(w)
	s.ReadAtLeast(1)
	var at []int64
	s.Wrap(func(r io.ReaderAt) io.ReaderAt { return recorder{r, &at} })
	h := fetch(t, s, w) // in the order of the digests
	if h.err != nil || len(h.good) != p.state.DataBlocks() {
		t.Fatalf("%v, %d good", h.err, len(h.good))
	}
	if len(at) != p.state.DataBlocks() || !slices.IsSorted(at) {
		t.Errorf("read at %v", at)
	}
}

// TestFetchEnds: the taker's error and the end of the context end the reading.
func TestFetchEnds(t *testing.T) {
	g := get(t)
	dir := t.TempDir()
	write(t, dir, "layer", g.full.file)
	w := g.wanted()
	s := scan(t, dir).Source(w)
	if s.Kind() != "usb" || s.Name() != dir {
		t.Errorf("kind %s, name %s", s.Kind(), s.Name())
	}
	claims := slices.Collect(maps.Keys(blocks(g.full.state)))
	for _, d := range claims {
		f, ok := g.full.Find(slices.Index(g.full.state.Blocks, d))
		if n, holds := s.Holds(d); !ok || !holds || n != int64(f.Length) {
			t.Errorf("block %s: %d bytes, %v; want %d", d.Short(), n, holds, f.Length)
		}
	}
	if _, ok := s.Holds(image.Digest{1}); ok {
		t.Error("it claims what it does not have")
	}
	enough := errors.New("enough")
	n := 0
	err := s.Fetch(t.Context(), claims, func(image.Digest, layer.Frame, []byte, error) error {
		n++
		return enough
	})
	if !errors.Is(err, enough) || n != 1 {
		t.Errorf("%v after %d blocks", err, n)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	n = 0
	err = s.Fetch(ctx, claims, func(image.Digest, layer.Frame, []byte, error) error {
		n++
		cancel(enough)
		return nil
	})
	if !errors.Is(err, enough) || n != 1 {
		t.Errorf("%v after %d blocks", err, n)
	}
	// Whoever keeps a block must not find another in it later.
	var kept [][]byte
	if err := s.Fetch(t.Context(), claims, func(_ image.Digest, _ layer.Frame, b []byte, err error) error {
		kept = append(kept, b)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for i := range kept {
		for _, other := range kept[:i] {
			if cmp.Equal(kept[i], other) {
				t.Error("two blocks are in one buffer")
			}
		}
	}
}
