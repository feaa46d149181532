package media

import (
	"context"

	"disksync/internal/durable"
	"disksync/syncclient"
)

// WriteOn is Write to the folder fsys, whatever the folder's name is.
func WriteOn(ctx context.Context, c *syncclient.Client, o Options, fsys durable.FS) (Result, error) {
	return write(ctx, c, o, func() (durable.FS, error) { return fsys, nil })
}

// WriteImageOn is WriteImage to the folder fsys.
func WriteImageOn(ctx context.Context, c *syncclient.Client, o Options, fsys durable.FS) (Result, error) {
	return writeImage(ctx, c, o, func() (durable.FS, error) { return fsys, nil })
}
