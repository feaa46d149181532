package nbd_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"disksync/disk/nbd"
)

// memory is a device in memory. Its first half holds data as far as extents say, its second is a hole.
type memory struct {
	mu      sync.RWMutex
	b       []byte
	flushes int
	err     error           // of every call
	gate    <-chan struct{} // reads and writes wait for it; nil: they do not
	waiting chan<- struct{} // gets one for each that waits
}

func newMemory(size int) *memory { return &memory{b: make([]byte, size)} }

func (m *memory) Size() int64 { return int64(len(m.b)) }

func (m *memory) wait() {
	if m.gate != nil {
		m.waiting <- struct{}{}
		<-m.gate
	}
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	m.wait()
	m.mu.RLock()
	defer m.mu.RUnlock()
	return copy(p, m.b[off:]), m.err
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(m.b[off:], p), m.err
}

func (m *memory) Flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flushes++
	return m.err
}

func (m *memory) Zero(off, length int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.b[off : off+length])
	return m.err
}

func (m *memory) Extents(off, length int64) iter.Seq2[nbd.Extent, error] {
	return func(yield func(nbd.Extent, error) bool) {
		half := m.Size() / 2
		for end := off + length; off < end; {
			e := nbd.Extent{Offset: off, Length: end - off}
			if off < half {
				e.Length = min(e.Length, half-off, 1<<20) // neighbours of one kind are joined
			} else {
				e.Hole, e.Zero = true, true
			}
			if !yield(e, m.err) || m.err != nil {
				return
			}
			off += e.Length
		}
	}
}

// server is a server of a device called "disk".
type server struct {
	socket  string
	stop    func() error
	mu      sync.Mutex
	reports []string
}

func (s *server) said() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.reports...)
}

func start(t testing.TB, d nbd.Device, o nbd.Options) *server {
	t.Helper()
	s := &server{socket: filepath.Join(t.TempDir(), "s")}
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	o.Report = func(export, op string, err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reports = append(s.reports, export+": "+op+": "+err.Error())
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- nbd.Serve(ctx, l, map[string]nbd.Device{"disk": d, "other": newMemory(512)}, o) }()
	s.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// client speaks the protocol as a test wants it spoken.
type client struct {
	net.Conn
	t testing.TB
}

// dial connects and does the first part of the handshake.
func (s *server) dial(t testing.TB, flags uint32) *client {
	t.Helper()
	c, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	k := &client{c, t}
	if got := k.take(18); string(got[:16]) != "NBDMAGICIHAVEOPT" || got[17] != 3 {
		t.Fatalf("the server begins with %x", got)
	}
	k.put(u32(flags))
	return k
}

func (c *client) put(parts ...[]byte) {
	c.t.Helper()
	if _, err := c.Write(bytes.Join(parts, nil)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) take(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatalf("read %d bytes: %v", n, err)
	}
	return b
}

// gone waits until the server has closed the connection.
func (c *client) gone() {
	c.t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, net.ErrClosed) {
		c.t.Errorf("the connection is still there: %d, %v", n, err)
	}
}

func u16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
func u64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func text(s string) []byte { return append(u32(uint32(len(s))), s...) }

// option sends an option and returns the kinds of the replies, and the data of the first one.
func (c *client) option(opt uint32, data []byte) (kinds []uint32, first []byte) {
	c.t.Helper()
	c.put([]byte("IHAVEOPT"), u32(opt), u32(uint32(len(data))), data)
	for {
		h := c.take(20)
		if m := binary.BigEndian.Uint64(h); m != 0x3e889045565a9 {
			c.t.Fatalf("a reply begins with %#x", m)
		}
		if got := binary.BigEndian.Uint32(h[8:]); got != opt {
			c.t.Fatalf("a reply to option %d", got)
		}
		kind, data := binary.BigEndian.Uint32(h[12:]), c.take(int(binary.BigEndian.Uint32(h[16:])))
		if kinds = append(kinds, kind); len(kinds) == 1 {
			first = data
		}
		if kind == 1 || kind>>31 == 1 {
			return kinds, first
		}
	}
}

// transmit goes to the transmission phase of "disk".
func (s *server) transmit(t testing.TB, structured bool) *client {
	t.Helper()
	c := s.dial(t, 3)
	if structured {
		c.option(8, nil)
		c.option(10, bytes.Join([][]byte{text("disk"), u32(1), text("base:allocation")}, nil))
	}
	if kinds, _ := c.option(7, append(text("disk"), u16(0)...)); kinds[len(kinds)-1] != 1 {
		t.Fatalf("NBD_OPT_GO is answered with %v", kinds)
	}
	return c
}

func message(cmd, flags uint16, cookie, off uint64, length uint32) []byte {
	return bytes.Join([][]byte{u32(0x25609513), u16(flags), u16(cmd), u64(cookie), u64(off), u32(length)}, nil)
}

// request sends a request and returns the error value of the answer. Data of reads is thrown away.
func (c *client) request(cmd, flags uint16, off uint64, length uint32, data ...byte) uint32 {
	c.t.Helper()
	c.put(message(cmd, flags, 42, off, length), data)
	return c.answer(cmd == 0, length)
}

// answer reads an answer.
func (c *client) answer(isRead bool, length uint32) uint32 {
	c.t.Helper()
	for {
		switch m := binary.BigEndian.Uint32(c.take(4)); m {
		case 0x67446698:
			errno := binary.BigEndian.Uint32(c.take(12))
			if errno == 0 && isRead {
				c.take(int(length))
			}
			return errno
		case 0x668e33ef:
			h := c.take(16)
			body := c.take(int(binary.BigEndian.Uint32(h[12:])))
			if binary.BigEndian.Uint16(h[2:])>>15 == 1 {
				return binary.BigEndian.Uint32(body)
			}
			if h[1]&1 == 1 {
				return 0
			}
		default:
			c.t.Fatalf("an answer begins with %#x", m)
		}
	}
}
