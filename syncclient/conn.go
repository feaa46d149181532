package syncclient

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"disksync/internal/limit"
)

// meter is what a Client and those that share its connections count of the line, and what the line is held to.
type meter struct {
	limit limit.Chain
	bytes atomic.Int64 // in both directions
	held  heldClock

	mu   sync.Mutex
	open map[*measuredConn]bool
}

// heldClock counts the time in which some connection is held up by our own limit.
type heldClock struct {
	mu    sync.Mutex
	conns int // that are held up now
	since time.Time
	sum   time.Duration
}

func (h *heldClock) begin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conns == 0 {
		h.since = time.Now()
	}
	h.conns++
}

func (h *heldClock) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conns--; h.conns == 0 {
		h.sum += time.Since(h.since)
	}
}

// total returns the time until now.
func (h *heldClock) total() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conns > 0 {
		return h.sum + time.Since(h.since)
	}
	return h.sum
}

// measured wraps the connections that dial makes.
func (m *meter) measured(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		mc := &measuredConn{Conn: c, m: m, closed: make(chan struct{})}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.open == nil {
			m.open = map[*measuredConn]bool{}
		}
		m.open[mc] = true
		return mc, nil
	}
}

// HangUp closes all connections at once. What the other side has sent ahead need not come any more; an answer that is given up on a
// connection that stays would still bring that.
func (c *Client) HangUp() {
	c.meter.mu.Lock()
	conns := slices.Collect(maps.Keys(c.meter.open))
	c.meter.mu.Unlock()
	for _, mc := range conns {
		_ = mc.Close() // of a TLS connection this is the bare one, which says nothing any more
	}
}

// freeBytes of a connection go by without waiting, as a debt: a TLS handshake has its time, whatever the limit.
const freeBytes = 8 << 10

// measuredConn counts its bytes and keeps to the limit. What came is paid for before the next piece is taken, so that the last words of
// an answer are not held up. What is sent is paid for where a body is read that is to be sent (see pieces): a connection's other words
// are few, and many wait for them.
type measuredConn struct {
	net.Conn
	m      *meter
	free   atomic.Int64 // bytes that went by
	owed   int          // bytes that came and are not paid for; there is one reader
	window float64      // the rate that the TCP window was set for; 0: none

	once   sync.Once
	closed chan struct{}
}

// Read implements net.Conn.
func (c *measuredConn) Read(p []byte) (int, error) {
	if len(c.m.limit) == 0 {
		n, err := c.Conn.Read(p)
		c.m.bytes.Add(int64(n))
		return n, err
	}
	if c.owed > 0 {
		c.m.held.begin()
		c.m.limit.Take(limit.Down, c.owed, c.closed)
		c.m.held.end()
		c.owed = 0
	}
	c.narrow()
	n, err := c.Conn.Read(p[:min(len(p), c.m.limit.Piece(limit.Down))])
	c.m.bytes.Add(int64(n))
	if c.free.Add(int64(n)) <= freeBytes {
		c.m.limit.Note(limit.Down, n)
	} else {
		c.owed = n
	}
	return n, err
}

// Write implements net.Conn.
func (c *measuredConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.m.bytes.Add(int64(n))
	c.free.Add(int64(n))
	c.m.limit.Note(limit.Up, n)
	return n, err
}

// Close implements net.Conn.
func (c *measuredConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.m.mu.Lock()
		delete(c.m.open, c)
		c.m.mu.Unlock()
	})
	return c.Conn.Close()
}

const (
	// windowTime is for how long a limited line may be ahead of us.
	windowTime  = 2 * time.Second
	leastWindow = 4 << 10
	noWindow    = 1 << 30
)

// narrow has the other side send no more ahead than a limit lets us take: what it sends crosses the line, whenever we look at it. It is
// a wish; where the system does not know it, the limit comes true a few MiB later.
func (c *measuredConn) narrow() {
	rate := c.m.limit.Rate(limit.Down)
	if rate == c.window {
		return
	}
	c.window = rate
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok {
		return
	}
	window := noWindow
	if rate > 0 {
		window = int(min(max(rate*windowTime.Seconds(), leastWindow), noWindow))
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, window) })
	}
}

// Limited reports whether there is a limit, which may let everything through at present.
func (c *Client) Limited() bool { return len(c.meter.limit) > 0 }

// Rate returns how many bytes a second may come at present; 0: as many as do, or it is not known.
func (c *Client) Rate() float64 { return c.meter.limit.Rate(limit.Down) }

// WaitOpen waits until the limit lets something through; see [limit.Chain.WaitOpen]. Whoever asks for much does so before. The small
// questions of the API need not.
func (c *Client) WaitOpen(ctx context.Context, tell func(limit.Hold)) error {
	return c.meter.limit.WaitOpen(ctx, tell)
}

// WhileOpen returns a context that ends with [limit.ErrOff] when the limit lets nothing through any more; see [limit.Chain.WhileOpen].
func (c *Client) WhileOpen(ctx context.Context) (context.Context, context.CancelFunc) {
	return c.meter.limit.WhileOpen(ctx)
}
