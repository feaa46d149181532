// Package remotedisk has one process read a disk at random for another, over a stream socket: who makes sense of what is on a disk has
// fewer rights than who has the disk open.
//
// The server says the disk's size (8 bytes, big-endian); then each request is an offset (8) and a length (4, at most 2 MiB), and each
// answer the same length and the bytes, or 0xFFFFFFFF, a length (4) and a problem.Problem in JSON. Both end with the connection.
package remotedisk

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"disksync/internal/problem"
)

const (
	failed = 0xFFFFFFFF
	// maxRead bounds one request, in bytes.
	maxRead      = 2 << 20
	maxErrorText = 64 << 10
	// idle is how long a reader may ask nothing.
	idle = 10 * time.Minute
)

// Source is a disk that is read for others.
type Source interface {
	io.ReaderAt
	Size() int64 // bytes
}

// Conn is the server's end of a connection, such as a *net.UnixConn.
type Conn interface {
	io.ReadWriter
	SetReadDeadline(t time.Time) error
}

// Serve answers what is asked on the connection until the other end is closed, or asks nothing for ten minutes. It takes 2 MiB of memory.
func Serve(conn Conn, d Source) error {
	if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, uint64(d.Size()))); err != nil {
		return err
	}
	var head [12]byte
	buf := make([]byte, 4+maxRead)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(idle)); err != nil {
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
			what := fmt.Sprintf("%d bytes at %d are wanted of a disk of %d", n, off, d.Size())
			err = problem.New("DS-USAGE", problem.Usage, nil, what, "nothing was changed", "")
		} else if _, err = d.ReadAt(answer[4:], off); errors.Is(err, io.EOF) {
			err = nil // all of it was there
		}
		if err != nil {
			answer = failure(err)
		}
		if _, err := conn.Write(answer); err != nil {
			return err
		}
	}
}

// failure is the answer to a request that failed.
func failure(err error) []byte {
	text, jsonErr := json.Marshal(problem.Of(err).Flat())
	if jsonErr != nil || len(text) > maxErrorText {
		text = []byte("{}")
	}
	b := binary.BigEndian.AppendUint32(nil, failed)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(text))), text...)
}
