package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A line leads to a server and counts the bytes that pass, in both directions, with all that protocols and encryption add. It is
// as fast as the machine. It is safe for concurrent use.
type line struct {
	to     string
	port   net.Listener
	passed atomic.Int64
	open   atomic.Int64 // connections
	stop   chan struct{}
	wg     sync.WaitGroup
}

// openLine opens a line to an address.
func openLine(to string) (*line, error) {
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a line: %w", err)
	}
	l := &line{to: to, port: port, stop: make(chan struct{})}
	l.wg.Go(func() {
		for {
			near, err := port.Accept()
			if err != nil {
				return // it is closed
			}
			l.open.Add(1)
			l.wg.Go(func() {
				defer l.open.Add(-1)
				l.connect(near.(*net.TCPConn))
			})
		}
	})
	return l, nil
}

// address returns where its near end listens.
func (l *line) address() string { return l.port.Addr().String() }

// connect passes the bytes of one connection until both sides have hung up.
func (l *line) connect(near *net.TCPConn) {
	defer near.Close()
	c, err := net.Dial("tcp", l.to)
	if err != nil {
		return // the client sees that
	}
	far := c.(*net.TCPConn)
	defer far.Close()
	ended := make(chan struct{})
	defer close(ended)
	l.wg.Go(func() {
		select {
		case <-l.stop:
			near.Close()
			far.Close()
		case <-ended:
		}
	})
	var both sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{near, far}, {far, near}} {
		both.Go(func() {
			n, _ := io.Copy(way[1], way[0]) // an end is an end: the programs say what was wrong
			l.passed.Add(n)
			_ = way[1].CloseWrite()
		})
	}
	both.Wait()
}

// hangUpTime is how long a server may take to hang up after its client.
const hangUpTime = 20 * time.Second

// count returns how many bytes have passed since it was asked last. All clients have ended.
func (l *line) count(ctx context.Context) (int64, error) {
	if err := waitUntil(ctx, hangUpTime, func() bool { return l.open.Load() == 0 }); err != nil {
		return 0, fmt.Errorf("wait for the connections to end: %w", err)
	}
	return l.passed.Swap(0), nil
}

// close ends all connections.
func (l *line) close() error {
	close(l.stop)
	err := l.port.Close()
	l.wg.Wait()
	return err
}

var errNotSoon = errors.New("it took too long")

// waitUntil asks again and again until ok says so.
func waitUntil(ctx context.Context, limit time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errNotSoon)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
