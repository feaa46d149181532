package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"

	"disksync/image"
	"disksync/internal/demodisk"
	"disksync/internal/progress"
)

// has checks that the laptop has a version, and whether its disk is the one that was published. With files it compares the
// files on the disk as well.
func (l *laptop) has(ctx context.Context, v image.Version, files bool) (identical bool, err error) {
	vms, err := l.vms(ctx)
	if err != nil {
		return false, err
	}
	if len(vms) != 1 || vms[0].Version != v {
		l.d.expect(false, "%s does not have version %d", l.name, v)
		return false, nil
	}
	const exported = "exported.raw"
	published := l.d.disks[v-1].file
	if _, err := l.run(ctx, l.manager("export", imageName, "--to", exported)); err != nil {
		return false, err
	}
	defer os.Remove(l.d.path(exported)) //nolint:forbidigo // not a persistent file
	n, err := compare(ctx, l.d.path(exported), l.d.path(published))
	if errors.Is(err, errDiffer) {
		l.d.expect(false, "%s and %s differ: %v", exported, published, err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	l.result("%s and %s are identical, byte for byte (%s)", exported, published, progress.Bytes(n))
	if !files {
		return true, nil
	}
	return l.d.sameFiles(ctx, exported, published)
}

var errDiffer = errors.New("not identical")

// compare compares two files and returns their size. The error wraps errDiffer when they are not identical.
func compare(ctx context.Context, a, b string) (int64, error) {
	fa, err := os.Open(a)
	if err != nil {
		return 0, err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return 0, err
	}
	defer fb.Close()
	pa, pb := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); ; {
		if ctx.Err() != nil {
			return at, context.Cause(ctx)
		}
		na, errA := io.ReadFull(fa, pa)
		nb, errB := io.ReadFull(fb, pb)
		for _, err := range []error{errA, errB} {
			if err != nil && !isEnd(err) {
				return at, err
			}
		}
		if !bytes.Equal(pa[:na], pb[:nb]) {
			return at, fmt.Errorf("%w within the MiB at %d", errDiffer, at)
		}
		at += int64(na)
		if errA != nil || errB != nil {
			return at, nil // both: the pieces are of the same length
		}
	}
}

// isEnd reports whether an error of io.ReadFull says that the end was reached.
func isEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// sameFiles reads all files on two disks and compares their paths, sizes and hashes.
func (d *demo) sameFiles(ctx context.Context, exported, published string) (bool, error) {
	var got, want []demodisk.File
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { got, err = demodisk.Check(gctx, d.path(exported)); return err })
	g.Go(func() (err error) { want, err = demodisk.Check(gctx, d.path(published)); return err })
	if err := g.Wait(); err != nil {
		return false, err
	}
	same := slices.Equal(got, want) && len(got) > 0
	d.expect(same, "the files on %s are not those on %s", exported, published)
	if same {
		d.result("and all %d files on it have the SHA-256 that they should have", len(got))
	}
	return same, nil
}
