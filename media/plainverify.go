package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"disksync/image"
	"disksync/layer"
	"disksync/vhd"
)

// serially has visit called by one goroutine at a time.
func serially(visit func(layer.Frame, error) error) func(layer.Frame, error) error {
	var mu sync.Mutex
	return func(f layer.Frame, err error) error {
		mu.Lock()
		defer mu.Unlock()
		return visit(f, err)
	}
}

// errForeign says that a VHD has a uuid that does not follow from its content.
var errForeign = errors.New("nothing tells what it should hold")

// plain checks the VHDs: one that `media write --plain` wrote has a uuid that follows from all its blocks.
func (v *verifier) plain(ctx context.Context) error {
	byID := map[image.UUID]*vhd.Image{}
	for _, f := range v.vhds {
		byID[f.m.UUID()] = f.m
	}
	for _, f := range v.vhds {
		c := Checked{Path: f.name, Kind: KindVHD, Length: f.size}
		st, err := readState(ctx, f.m, byID, func(done, total int64) { v.Progress("verify "+f.name, done, total) })
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && image.VHDUUID(st.ID()) == f.m.UUID():
			c.Blocks = len(st.Blocks)
		case err == nil && f.m.UUID()[6]>>4 == 8: // such as are made here
			c.fail(FaultDamaged, errors.New("its blocks are not those that its uuid stands for"))
		case err == nil:
			v.out.Notes = append(v.out.Notes, fmt.Sprintf("%s can be read; %v", f.name, errForeign))
			continue
		default:
			c.fail(FaultDamaged, err)
		}
		v.out.Files = append(v.out.Files, c)
	}
	return nil
}

// readState reads the disk of a VHD and its parents, and returns its state.
func readState(ctx context.Context, leaf *vhd.Image, byID map[image.UUID]*vhd.Image, progress func(done, total int64)) (image.State, error) {
	chain, err := vhd.Resolve(leaf, func(child *vhd.Image) (*vhd.Image, error) {
		if p := byID[child.ParentUUID()]; p != nil {
			return p, nil
		}
		return nil, vhd.NoParent
	})
	if err != nil {
		return image.State{}, err
	}
	st := image.State{Size: chain.Size(), Blocks: make([]image.Digest, image.BlockCount(chain.Size()))}
	b := make([]byte, image.BlockSize)
	for i := range st.Blocks {
		if ctx.Err() != nil {
			return st, context.Cause(ctx)
		}
		off := int64(i) * image.BlockSize
		n := min(image.BlockSize, chain.Size()-off)
		clear(b[n:])
		if _, err := chain.ReadAt(b[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return st, err
		}
		st.Blocks[i] = image.SumBlock(b)
		progress(off+n, chain.Size())
	}
	return st, nil
}
