package dbusapi

import (
	"context"
	"errors"
	"io"
	"net"

	"disksync/image"
	"disksync/internal/remotedisk"
)

// Disk is a disk that is read at random. It is safe for concurrent use.
type Disk interface {
	io.ReaderAt
	io.Closer
	Size() int64 // bytes
}

// OpenDisk is endpoint.Engine.OpenDisk.
func (c *Client) OpenDisk(ctx context.Context, vm string, point image.Version, r image.Role) (Disk, error) {
	body, err := c.call(ctx, "open_disk", vm, uint32(point), string(r))
	if err != nil {
		return nil, err
	}
	name, _ := body[0].(string)
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", name)
	if err != nil {
		return nil, streamBroken(ctx, err)
	}
	v := &lentDisk{ctx: ctx, conn: conn, stop: context.AfterFunc(ctx, func() { conn.Close() })}
	if v.Disk, err = remotedisk.Open(conn); err != nil {
		return nil, errors.Join(streamBroken(ctx, err), v.Close())
	}
	return v, nil
}

// lentDisk is a disk that the service reads. It has a context because io.ReaderAt takes none.
type lentDisk struct {
	*remotedisk.Disk
	ctx  context.Context //nolint:containedctx // see above
	stop func() bool
	conn net.Conn
}

func (v *lentDisk) Close() error {
	v.stop()
	return v.conn.Close()
}

// ReadAt implements io.ReaderAt.
func (v *lentDisk) ReadAt(p []byte, off int64) (int, error) {
	n, err := v.Disk.ReadAt(p, off)
	if errors.Is(err, remotedisk.ErrBroken) {
		err = streamBroken(v.ctx, err)
	}
	return n, err
}
