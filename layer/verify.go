package layer

import (
	"context"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"disksync/image"
)

// Verify reads the frames of the layer x from r in the order of the file and decodes each on all processors, with from, the
// disk that the layer starts from, and scratch for the blocks that frames refer to, when the layer has several Levels. Where from is
// nil, of a frame that is not Alone only the check sum of its own bytes is compared. Verify calls visit with each frame and the error of
// reading or checking it, nil for a good one, from several goroutines at once; visit's own error ends the work and is returned. Where
// from is a [Reader] that trusts, it is asked to confirm what a frame refers to that does not give its block.
func Verify(ctx context.Context, r io.ReaderAt, x *Index, from io.ReaderAt, scratch Scratch, visit func(f Frame, err error) error) error {
	return verifyFrames(ctx, r, x, 0, x.Len(), from, scratch, visit)
}

// verifyFrames is Verify for n frames from number first on.
func verifyFrames(ctx context.Context, r io.ReaderAt, x *Index, first, n int, from io.ReaderAt, scratch Scratch,
	visit func(f Frame, err error) error,
) error {
	workers := runtime.GOMAXPROCS(0)
	rd := newReader([]Source{{x, r}}, from, x.Size(), scratch)
	defer rd.Close()
	top := x.Levels() - 1
	type buffers struct{ packed, block []byte }
	free := make(chan buffers, 2*workers) // bounds the bytes in flight
	for range min(cap(free), n) {
		free <- buffers{make([]byte, image.BlockSize), make([]byte, image.BlockSize)}
	}
	g, ctx := errgroup.WithContext(ctx)
	for i := range n {
		f := x.Frame(first + i)
		var b buffers
		select {
		case b = <-free:
		case <-ctx.Done():
			return waitCause(g, ctx)
		}
		// Reading stays in this goroutine: two readers would make a disc drive seek.
		packed := b.packed[:f.Length]
		readErr := readFull(r, packed, f.Offset)
		g.Go(func() error {
			defer func() { free <- b }()
			if readErr != nil {
				return visit(f, fmt.Errorf("block %d: %w", f.Block, readErr))
			}
			switch {
			case from == nil:
				return visit(f, rd.dec.Check(b.block, f, packed))
			case f.Level < top:
				// Those above may need it, and then soon.
				return visit(f, rd.unpack(0, f, false, content.confirm))
			}
			return visit(f, rd.confirmed(f, packed, rd.dec.Block(b.block, f, packed, rd.base(0, f))))
		})
	}
	return waitCause(g, ctx)
}

// waitCause waits for the group and returns its error, or why the context ended.
func waitCause(g *errgroup.Group, ctx context.Context) error {
	cause := context.Cause(ctx)
	if err := g.Wait(); err != nil {
		return err
	}
	return cause
}
