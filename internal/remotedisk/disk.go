package remotedisk

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"disksync/internal/problem"
)

// ErrBroken says that the connection gives no answers any more.
var ErrBroken = errors.New("the connection is broken")

func broken(err error) error { return fmt.Errorf("%w: %w", ErrBroken, err) }

// Disk is a disk that another process reads. It is safe for concurrent use; one request is under way at a time.
type Disk struct {
	size int64

	mu   sync.Mutex
	conn io.ReadWriter
}

// Open waits for the size of the disk that is served at the other end of a connection. The caller closes the connection.
func Open(conn io.ReadWriter) (*Disk, error) {
	var size [8]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, broken(err)
	}
	return &Disk{conn: conn, size: int64(binary.BigEndian.Uint64(size[:]))}, nil
}

// Size returns the size of the disk in bytes.
func (d *Disk) Size() int64 { return d.size }

// ReadAt implements io.ReaderAt. An error is ErrBroken, or the *problem.Problem of who reads the disk.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= d.size {
			return n, io.EOF
		}
		want := p[n:min(int64(len(p)), int64(n)+min(maxRead, d.size-at))]
		if err := d.read(want, at); err != nil {
			return n, err
		}
		n += len(want)
	}
	return n, nil
}

func (d *Disk) read(p []byte, off int64) error {
	b := binary.BigEndian.AppendUint64(nil, uint64(off))
	if _, err := d.conn.Write(binary.BigEndian.AppendUint32(b, uint32(len(p)))); err != nil {
		return broken(err)
	}
	var head [4]byte
	if _, err := io.ReadFull(d.conn, head[:]); err != nil {
		return broken(err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n != failed && int64(n) != int64(len(p)) {
		return broken(errors.New("an answer of another length"))
	}
	if n != failed {
		if _, err := io.ReadFull(d.conn, p); err != nil {
			return broken(err)
		}
		return nil
	}
	if _, err := io.ReadFull(d.conn, head[:]); err != nil {
		return broken(err)
	}
	text := make([]byte, min(binary.BigEndian.Uint32(head[:]), maxErrorText))
	if _, err := io.ReadFull(d.conn, text); err != nil {
		return broken(err)
	}
	told := problem.New("DS-FAILED", problem.Failure, nil, "the service could not read the disk", "", "")
	_ = json.Unmarshal(text, told) // whatever it is, it says that the read failed
	return told
}
