package lab

import (
	"context"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// piece is the most that a Line passes on at once.
const piece = 16 << 10

// Line is a line of a known speed to the lab, which counts what it carries. It is safe for concurrent use.
type Line struct {
	URL string // of the Synchronizer at its other end

	server string
	down   atomic.Int64
	conns  atomic.Int64
	broken atomic.Bool
	perSec atomic.Int64

	mu   sync.Mutex
	next time.Time // when the line is free again
	open map[net.Conn]bool
}

// Line makes a line that brings all its clients together at most that many bytes a second, 0 for as many as they can take.
// What they send is not held up. The line lives as long as the test.
func (l *Lab) Line(t testing.TB, bytesPerSecond int64) *Line {
	t.Helper()
	u, err := url.Parse(l.URL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	line := &Line{URL: "https://" + listener.Addr().String(), server: u.Host, open: map[net.Conn]bool{}}
	line.SetRate(bytesPerSecond)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() { line.serve(ctx, c) })
		}
	})
	t.Cleanup(func() {
		cancel()
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		line.cut()
		work.Wait()
	})
	return line
}

// SetRate changes the speed of the line.
func (l *Line) SetRate(bytesPerSecond int64) { l.perSec.Store(bytesPerSecond) }

// Down returns how many bytes clients were sent so far.
func (l *Line) Down() int64 { return l.down.Load() }

// Conns returns how many connections there have been.
func (l *Line) Conns() int64 { return l.conns.Load() }

// Break cuts the line, and keeps it cut until Mend.
func (l *Line) Break() {
	l.broken.Store(true)
	l.cut()
}

// Mend ends what Break began.
func (l *Line) Mend() { l.broken.Store(false) }

func (l *Line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		c.Close()
	}
}

func (l *Line) serve(ctx context.Context, client net.Conn) {
	defer client.Close()
	var d net.Dialer
	server, err := d.DialContext(ctx, "tcp", l.server)
	if err != nil {
		return
	}
	defer server.Close()
	l.note(true, client, server)
	defer l.note(false, client, server)
	if l.broken.Load() || ctx.Err() != nil {
		return
	}
	l.conns.Add(1)
	// Little is under way, so that what counts as carried is nearly at the client.
	_ = client.(*net.TCPConn).SetWriteBuffer(4 * piece)
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(server, client)
		server.Close() // the client has gone; so does what it asked for
	})
	l.carry(ctx, client, server)
	client.Close()
	server.Close()
	up.Wait()
}

func (l *Line) note(open bool, conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		if open {
			l.open[c] = true
		} else {
			delete(l.open, c)
		}
	}
}

// carry passes on what the server sends.
func (l *Line) carry(ctx context.Context, client io.Writer, server io.Reader) {
	buf := make([]byte, piece)
	for {
		n, readErr := server.Read(buf)
		if n > 0 && l.wait(ctx, n) != nil {
			return
		}
		n, err := client.Write(buf[:n])
		l.down.Add(int64(n))
		if readErr != nil || err != nil {
			return
		}
	}
}

// wait waits until n bytes more have room on the line.
func (l *Line) wait(ctx context.Context, n int) error {
	perSec := l.perSec.Load()
	if perSec == 0 {
		return nil
	}
	l.mu.Lock()
	now := time.Now()
	if l.next.Before(now) {
		l.next = now
	}
	l.next = l.next.Add(time.Duration(int64(n) * int64(time.Second) / perSec))
	free := l.next
	l.mu.Unlock()
	timer := time.NewTimer(time.Until(free))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Host returns the line's host and port.
func (l *Line) Host() string { return strings.TrimPrefix(l.URL, "https://") }
