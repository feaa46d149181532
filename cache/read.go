package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"disksync/image"
	"disksync/layer"
)

const (
	// leastRead is how much is read at once where so much is wanted in one place, in bytes: a drive is slow with short reads.
	leastRead = 1 << 20
	// maxGap is how much that is not wanted may lie between two frames that are read at once, in bytes. To read it costs a drive
	// less than to skip it.
	maxGap = 128 << 10
)

// deliverer takes the blocks of a Fetch.
type deliverer func(image.Digest, layer.Frame, []byte, error) error

// claim is a block and where it is.
type claim struct {
	digest image.Digest
	place
}

// Fetch reads blocks in the order of their places and hands each to deliver: the frame and its bytes, or the error that kept it
// from being read. The bytes are deliver's to keep. It reads while it is its turn to have the drive. It ends early with deliver's
// error, with ctx's, or with ErrGone when the medium is no longer there.
func (s *Source) Fetch(ctx context.Context, blocks []image.Digest, deliver func(image.Digest, layer.Frame, []byte, error) error) error {
	todo := make([]claim, 0, len(blocks))
	for _, d := range blocks {
		todo = append(todo, claim{d, s.places[d]})
	}
	slices.SortFunc(todo, inOrder)
	r, err := s.turn.begin(ctx)
	if err != nil {
		return err
	}
	defer r.end()
	for len(todo) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, span := s.together(todo)
		if err := s.fetchRun(ctx, todo[:n], span, deliver); err != nil {
			return err
		}
		todo = todo[n:]
		if err := r.read(ctx, span); err != nil {
			return err
		}
	}
	return nil
}

// inOrder compares claims as a head passes them: those of which it is known where they are, then the others, file by file.
func inOrder(p, q claim) int {
	return cmp.Or(
		cmp.Compare(min(q.at, 0), min(p.at, 0)),
		cmp.Compare(p.at, q.at),
		cmp.Compare(p.rank, q.rank), cmp.Compare(p.offset, q.offset),
	)
}

// together returns how many of the first claims are read at once, and how many bytes that are.
func (s *Source) together(todo []claim) (n int, span int64) {
	first := todo[0]
	n, span = 1, int64(first.frame.Length)
	for _, p := range todo[1:] {
		if span >= s.least || first.plain != nil || p.plain != nil || p.rank != first.rank {
			break
		}
		// Two layers may claim the same frame of one file, which is then named by two digests.
		gap := p.offset - first.offset - span
		if gap < 0 || gap > maxGap {
			break
		}
		n, span = n+1, span+gap+int64(p.frame.Length)
	}
	return n, span
}

// fetchRun reads claims that lie close to one another. When that fails, each of those that did not come is read by itself, so that a
// bad sector costs one block.
func (s *Source) fetchRun(ctx context.Context, run []claim, span int64, deliver deliverer) error {
	if len(run) == 1 {
		return s.fetchOne(ctx, run[0], deliver)
	}
	b := make([]byte, span)
	got, failed := run[0].r.ReadAt(b, run[0].offset)
	for _, c := range run {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		start := c.offset - run[0].offset
		end := start + int64(c.frame.Length)
		var err error
		switch {
		case end <= int64(got):
			err = deliver(c.digest, c.frame, b[start:end:end], nil)
		case s.lost(ctx, failed):
			return s.gone(failed)
		default:
			err = s.fetchOne(ctx, c, deliver)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Source) fetchOne(ctx context.Context, c claim, deliver deliverer) error {
	b := make([]byte, c.frame.Length)
	err := c.read(ctx, b)
	switch {
	case s.lost(ctx, err):
		return s.gone(err)
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx) // nobody waited long enough to know whose fault it is
	}
	return deliver(c.digest, c.frame, b, err)
}

// lost reports whether an error means that the medium is no longer there.
func (s *Source) lost(ctx context.Context, err error) bool { return gone(err) || s.pulled(ctx, err) }

func (s *Source) gone(err error) error { return fmt.Errorf("%s: %w: %w", s.Name(), ErrGone, err) }

func (p place) read(ctx context.Context, b []byte) error {
	n := min(int64(len(b)), p.end-p.offset)
	clear(b[n:])
	_, err := p.r.ReadAt(b[:n], p.offset)
	if err == nil && p.plain != nil {
		p.plain.fit(ctx, b, p.offset, p.frame.Digest)
	}
	return err
}

// gone tells the errors of a medium that was pulled out from those of a bad sector. Files are closed under a reader when their medium
// is to be used no more.
func gone(err error) bool {
	for _, e := range []error{unix.ENODEV, unix.ENXIO, unix.ENOTCONN, unix.ESTALE, unix.ENOMEDIUM, fs.ErrNotExist, os.ErrClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
