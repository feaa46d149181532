package dbusapi

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"disksync/image"
	"disksync/internal/problem"
)

// A disk that is read at random goes over a unix socket: the service says its size (8 bytes, big-endian); then each request is an offset
// (8) and a length (4), and each answer the same length and the bytes, or streamError, a length (4) and a problem.Problem in JSON.

const (
	// maxRead bounds one request, in bytes.
	maxRead = image.BlockSize
	// idleReads is how long a caller may ask nothing.
	idleReads = 10 * time.Minute
)

// Disk is a disk that is read at random. It is safe for concurrent use.
type Disk interface {
	io.ReaderAt
	io.Closer
	Size() int64 // bytes
}

// serveReads answers what is asked on the connection until it is closed.
func serveReads(conn *net.UnixConn, d interface {
	io.ReaderAt
	Size() int64
}) error {
	if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, uint64(d.Size()))); err != nil {
		return err
	}
	var head [12]byte
	buf := make([]byte, 4+maxRead)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(idleReads)); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, head[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		off, n := int64(binary.BigEndian.Uint64(head[:])), int64(binary.BigEndian.Uint32(head[8:]))
		answer := buf[:4+min(n, maxRead)]
		copy(answer, head[8:])
		var err error
		if n > maxRead || off < 0 || off > d.Size() || n > d.Size()-off {
			err = usage("%d bytes at %d are wanted of a disk of %d", n, off, d.Size())
		} else if _, err = d.ReadAt(answer[4:], off); errors.Is(err, io.EOF) {
			err = nil // all of it was there
		}
		if err != nil {
			answer = readError(err)
		}
		if _, err := conn.Write(answer); err != nil {
			return err
		}
	}
}

// readError is the answer to a request that failed.
func readError(err error) []byte {
	text, jsonErr := json.Marshal(problem.Of(err).Flat())
	if jsonErr != nil || len(text) > maxErrorText {
		text = []byte("{}")
	}
	b := binary.BigEndian.AppendUint32(nil, streamError)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(text))), text...)
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
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	v := &remoteDisk{ctx: ctx, conn: conn, stop: stop}
	var size [8]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, errors.Join(streamBroken(ctx, err), v.Close())
	}
	v.size = int64(binary.BigEndian.Uint64(size[:]))
	return v, nil
}

// remoteDisk is a disk that the service reads. It has a context because io.ReaderAt takes none.
type remoteDisk struct {
	ctx  context.Context //nolint:containedctx // see above
	stop func() bool
	size int64

	mu   sync.Mutex
	conn net.Conn
}

func (v *remoteDisk) Size() int64 { return v.size }

func (v *remoteDisk) Close() error {
	v.stop()
	return v.conn.Close()
}

func (v *remoteDisk) ReadAt(p []byte, off int64) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= v.size {
			return n, io.EOF
		}
		want := p[n:min(int64(len(p)), int64(n)+min(maxRead, v.size-at))]
		if err := v.read(want, at); err != nil {
			return n, err
		}
		n += len(want)
	}
	return n, nil
}

func (v *remoteDisk) read(p []byte, off int64) error {
	b := binary.BigEndian.AppendUint64(nil, uint64(off))
	if _, err := v.conn.Write(binary.BigEndian.AppendUint32(b, uint32(len(p)))); err != nil {
		return streamBroken(v.ctx, err)
	}
	var head [4]byte
	if _, err := io.ReadFull(v.conn, head[:]); err != nil {
		return streamBroken(v.ctx, err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n != streamError && int(n) != len(p) {
		return streamBroken(v.ctx, errors.New("an answer of another length"))
	}
	if n != streamError {
		if _, err := io.ReadFull(v.conn, p); err != nil {
			return streamBroken(v.ctx, err)
		}
		return nil
	}
	if _, err := io.ReadFull(v.conn, head[:]); err != nil {
		return streamBroken(v.ctx, err)
	}
	text := make([]byte, min(binary.BigEndian.Uint32(head[:]), maxErrorText))
	if _, err := io.ReadFull(v.conn, text); err != nil {
		return streamBroken(v.ctx, err)
	}
	failed := problem.New("DS-FAILED", problem.Failure, nil, "the service could not read the disk", "", "")
	_ = json.Unmarshal(text, failed) // whatever it is, it says that the read failed
	return failed
}
