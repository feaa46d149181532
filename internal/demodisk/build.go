package demodisk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

const (
	minBytes   = 48 << 20  // below, FAT32 is not FAT32
	usualBytes = 320 << 20 // from 261 MiB on the library makes clusters of 4 KiB, below it of 512 bytes
	roundBytes = 64 << 20

	usualClusterBytes = 4096
)

// Build makes an image at path, which must not exist.
func Build(ctx context.Context, path string, opts Options) (Report, error) {
	source := opts.Source
	if source == "" {
		var err error
		if source, err = toolchainRoot(ctx); err != nil {
			return Report{}, err
		}
	}
	tree, err := os.OpenRoot(source)
	if err != nil {
		return Report{}, fmt.Errorf("open source: %w", err)
	}
	defer tree.Close()
	p, err := planTree(ctx, tree.FS(), opts.MaxBytes)
	if err != nil {
		return Report{}, err
	}
	size := opts.Size
	if size == 0 {
		size = usualSize(p.clusters(usualClusterBytes) * usualClusterBytes)
	}
	if size < minBytes || size%sectorBytes != 0 {
		return Report{}, fmt.Errorf("image size %d: must be whole sectors and at least %d", size, int64(minBytes))
	}
	image, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return Report{}, fmt.Errorf("create image: %w", err)
	}
	err = fill(ctx, image, size, tree.FS(), p)
	if err := errors.Join(err, image.Close()); err != nil {
		return Report{}, errors.Join(err, os.Remove(path))
	}
	return Report{
		Size:    size,
		Total:   Count{Files: len(p.files), Bytes: p.bytes},
		Skipped: p.skipped,
		Renamed: p.renamed,
	}, nil
}

// usualSize leaves room for a few updates.
func usualSize(need int64) int64 {
	size := partitionStart + need + need/2
	return max(usualBytes, (size+roundBytes-1)/roundBytes*roundBytes)
}

// fill makes an empty file an image of the planned files.
func fill(ctx context.Context, image *os.File, size int64, tree fs.FS, p *plan) error {
	if err := image.Truncate(size); err != nil {
		return fmt.Errorf("size image: %w", err)
	}
	v, err := format(image, size)
	if err != nil {
		return err
	}
	for _, f := range p.files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := v.store(tree, f); err != nil {
			return err
		}
	}
	return v.finish(time.Time{}, buildTime)
}

// store copies a file into the image.
func (v *volume) store(tree fs.FS, f sourceFile) error {
	content, err := tree.Open(f.from)
	if err != nil {
		return fmt.Errorf("read source: %w", err)
	}
	defer content.Close()
	n, err := v.write(f.dir, f.name, content)
	if err != nil {
		return err
	}
	if n != f.size {
		return fmt.Errorf("source %s changed while it was read", f.from)
	}
	return nil
}
