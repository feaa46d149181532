package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// A line is a slow line to a server: a port of its own, from which bytes pass at a limited rate. It is safe for concurrent
// use.
type line struct {
	to     string
	port   net.Listener
	limit  *rate.Limiter
	passed atomic.Int64 // from the server
	hangUp func()
	wg     sync.WaitGroup
}

// pieceBytes is how much passes at once.
const pieceBytes = 16 << 10

// openLine opens a line to an address, with so many bytes a second from there.
func openLine(to string, bytesPerSecond int64) (*line, error) {
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a line: %w", err)
	}
	l := &line{to: to, port: port, limit: rate.NewLimiter(rate.Limit(bytesPerSecond), 2*pieceBytes)}
	ctx, hangUp := context.WithCancel(context.Background())
	l.hangUp = hangUp
	l.wg.Go(func() {
		for {
			near, err := port.Accept()
			if err != nil {
				return // it is closed
			}
			l.wg.Go(func() { l.connect(ctx, near) })
		}
	})
	return l, nil
}

// address returns where its near end listens.
func (l *line) address() string { return l.port.Addr().String() }

// close ends all connections.
func (l *line) close() error {
	l.hangUp()
	err := l.port.Close()
	l.wg.Wait()
	return err
}

// connect passes the bytes of one connection until either side hangs up.
func (l *line) connect(ctx context.Context, near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", l.to)
	if err != nil {
		return // the near side sees that nobody answers
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, func() { _, _ = near.Close(), far.Close() })
	l.wg.Go(func() {
		defer cancel()
		_, _ = io.Copy(far, near)
	})
	l.slow(ctx, near, far)
}

// slow passes bytes at the rate of the line.
func (l *line) slow(ctx context.Context, to io.Writer, from io.Reader) {
	piece := make([]byte, pieceBytes)
	for {
		n, err := from.Read(piece)
		if waitErr := l.limit.WaitN(ctx, n); waitErr != nil {
			return
		}
		if _, writeErr := to.Write(piece[:n]); writeErr != nil {
			return
		}
		l.passed.Add(int64(n))
		if err != nil {
			return // the end, or as good as the end
		}
	}
}
