package dbusapi

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"disksync/image"
	"disksync/internal/problem"
)

// A disk's content goes from the service to its caller over a unix socket, as pieces: offset (8 bytes, big-endian), length (4),
// and the bytes. What is not sent is zeros. The last piece has length 0 and the disk's size as its offset; a failure is a piece
// of length 0xFFFFFFFF, followed by a problem.Problem in JSON of as many bytes as the offset says. Each piece has at most one
// block.

const (
	streamError = 0xFFFFFFFF
	// streamWait is how long a caller may take to come for its stream.
	streamWait   = 30 * time.Second
	maxErrorText = 64 << 10
)

// offerStream offers what send writes to the user uid on a socket, and returns its name.
func (s *server) offerStream(uid uint32, send func(ctx context.Context, out io.WriterAt) (int64, error)) (string, error) {
	return s.offerConn(uid, func(conn *net.UnixConn) error { return s.sendStream(conn, send) }, func() {})
}

// offerConn listens on a socket for one connection by the user uid, and hands it to serve, which need not close it; done is called in the
// end in any case, but with an error. It returns the socket's name. Anybody can read the names of sockets, so the name is no secret: it is
// the user that counts.
func (s *server) offerConn(uid uint32, serve func(conn *net.UnixConn) error, done func()) (string, error) {
	var random [16]byte
	rand.Read(random[:])
	name := "@disksyncmgr-" + hex.EncodeToString(random[:])
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return "", fmt.Errorf("offer a stream: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ctx.Err(); err != nil {
		return "", errors.Join(fmt.Errorf("offer a stream: %w", err), l.Close())
	}
	s.streams.Go(func() {
		defer done()
		defer l.Close()
		if err := s.serveConn(l, uid, serve); err != nil && s.ctx.Err() == nil {
			s.log.Warn("stream", "error", err)
		}
	})
	return name, nil
}

func (s *server) serveConn(l *net.UnixListener, uid uint32, serve func(conn *net.UnixConn) error) error {
	conn, err := s.awaitPeer(l, uid)
	if err != nil {
		return err
	}
	defer conn.Close()
	// The end of the service ends a stream, whether or not somebody reads it.
	defer context.AfterFunc(s.ctx, func() { conn.Close() })()
	return serve(conn)
}

func (s *server) sendStream(conn *net.UnixConn, send func(ctx context.Context, out io.WriterAt) (int64, error)) error {
	w := &streamWriter{w: bufio.NewWriterSize(conn, 256<<10)}
	size, err := send(s.ctx, w)
	if err == nil {
		return errors.Join(w.write(size, 0, nil), w.w.Flush())
	}
	text, jsonErr := json.Marshal(problem.Of(err).Flat())
	if jsonErr != nil || len(text) > maxErrorText {
		text = []byte("{}")
	}
	return errors.Join(err, w.write(int64(len(text)), streamError, text), w.w.Flush())
}

// awaitPeer waits for the user uid to come. Others who come first do not keep the user from coming.
func (s *server) awaitPeer(l *net.UnixListener, uid uint32) (*net.UnixConn, error) {
	defer context.AfterFunc(s.ctx, func() { l.Close() })()
	if err := l.SetDeadline(time.Now().Add(streamWait)); err != nil {
		return nil, err
	}
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		err = checkPeer(conn, uid)
		if err == nil {
			return conn, nil
		}
		conn.Close()
		s.log.Warn("stream refused", "error", err)
	}
}

// checkPeer refuses a connection by anybody but the user uid.
func checkPeer(conn *net.UnixConn, uid uint32) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, credErr); err != nil {
		return err
	}
	if cred.Uid != uid {
		return fmt.Errorf("user %d came for what user %d asked for", cred.Uid, uid)
	}
	return nil
}

// streamWriter sends writes as pieces. It is safe for concurrent use.
type streamWriter struct {
	mu sync.Mutex
	w  *bufio.Writer
}

// WriteAt implements io.WriterAt.
func (s *streamWriter) WriteAt(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil // a piece without bytes would be the end
	}
	if err := s.write(off, uint32(len(p)), p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// write sends one piece.
func (s *streamWriter) write(off int64, length uint32, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, uint64(off)), length)
	if _, err := s.w.Write(head); err != nil {
		return err
	}
	_, err := s.w.Write(p)
	return err
}

// receiveStream writes the pieces of a stream to out and returns the disk's size.
func receiveStream(ctx context.Context, name string, out io.WriterAt, progress func(done int64)) (int64, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", name)
	if err != nil {
		return 0, fmt.Errorf("fetch from the service: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r := bufio.NewReaderSize(conn, 256<<10)
	buf := make([]byte, image.BlockSize)
	var done int64
	for {
		var head [12]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return 0, streamBroken(ctx, err)
		}
		off, n := int64(binary.BigEndian.Uint64(head[:])), binary.BigEndian.Uint32(head[8:])
		switch {
		case n == 0:
			return off, nil
		case n == streamError:
			text := make([]byte, min(max(off, 0), maxErrorText))
			if _, err := io.ReadFull(r, text); err != nil {
				return 0, streamBroken(ctx, err)
			}
			p := problem.New("DS-FAILED", problem.Failure, nil, "the service could not export the disk", "", "")
			_ = json.Unmarshal(text, p) // whatever it is, it says that the export failed
			return 0, p
		case n > image.BlockSize || off < 0 || off > image.MaxDiskSize:
			return 0, fmt.Errorf("fetch from the service: a piece of %d bytes at %d", n, off)
		}
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return 0, streamBroken(ctx, err)
		}
		if _, err := out.WriteAt(buf[:n], off); err != nil {
			return 0, fmt.Errorf("write: %w", err)
		}
		done += int64(n)
		progress(done)
	}
}

func streamBroken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return problem.New("DS-SERVICE-GONE", problem.Unreachable, err, "the service stopped sending", "nothing was changed", "run the same command again")
}
