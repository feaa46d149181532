package nbd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"disksync/disk/nbd"
)

const mib = 1 << 20

// TestOptions: what a client asks for in the negotiation, and what it gets.
func TestOptions(t *testing.T) {
	t.Parallel()
	s := start(t, newMemory(4*mib), nbd.Options{})
	const ack, info, context, unsup, invalid, unknown, tooBig = 1, 3, 4, 1<<31 + 1, 1<<31 + 3, 1<<31 + 6, 1<<31 + 9
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	all := join(u16(5), u16(0), u16(1), u16(3), u16(3), u16(77))
	tests := []struct {
		name string
		opt  uint32
		data []byte
		want []uint32
	}{
		{"list", 3, nil, []uint32{2, 2, ack}},
		{"list with data", 3, []byte{1}, []uint32{invalid}},
		{"no such option", 99, []byte("abc"), []uint32{unsup}},
		{"no TLS", 5, nil, []uint32{unsup}},
		{"info", 6, join(text("disk"), all), []uint32{info, info, info, ack}},
		{"info on nothing else", 6, join(text("disk"), u16(0)), []uint32{info, ack}},
		{"info on no export", 6, join(text("none"), u16(0)), []uint32{unknown}},
		{"no default export among two", 6, join(text(""), u16(0)), []uint32{unknown}},
		{"go to no export", 7, join(text("none"), u16(0)), []uint32{unknown}},
		{"a name longer than the option", 7, join(u32(1<<31), u16(0)), []uint32{invalid}},
		{"fewer requests than it says", 7, join(text("disk"), u16(2), u16(0)), []uint32{invalid}},
		{"a name of 5000 bytes", 7, join(text(strings.Repeat("x", 5000)), u16(0)), []uint32{invalid}},
		{"no data", 7, nil, []uint32{invalid}},
		{"a context before structured replies", 10, join(text("disk"), u32(1), text("base:allocation")), []uint32{invalid}},
		{"structured replies with data", 8, []byte{0}, []uint32{invalid}},
		{"structured replies", 8, nil, []uint32{ack}},
		{"all contexts", 9, join(text("disk"), u32(0)), []uint32{context, ack}},
		{"contexts of base:", 9, join(text("disk"), u32(1), text("base:")), []uint32{context, ack}},
		{"base: chooses none", 10, join(text("disk"), u32(1), text("base:")), []uint32{ack}},
		{"one of three", 10, join(text("disk"), u32(3), text("x-a:b"), text("base:allocation"), text("base:none")), []uint32{context, ack}},
		{"none", 10, join(text("disk"), u32(0)), []uint32{ack}},
		{"a context of no export", 10, join(text("none"), u32(0)), []uint32{unknown}},
		{"four billion queries", 10, join(text("disk"), u32(1<<32-1), text("base:")), []uint32{invalid}},
		{"bytes behind the queries", 10, join(text("disk"), u32(0), u16(0)), []uint32{invalid}},
		{"100 KiB", 10, make([]byte, 100<<10), []uint32{tooBig}},
		{"abort", 2, []byte("bye"), []uint32{ack}},
	}
	c := s.dial(t, 3)
	for _, tt := range tests {
		if got, _ := c.option(tt.opt, tt.data); fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s: replies %x, want %x", tt.name, got, tt.want)
		}
	}
	c.gone()
	if r := s.said(); len(r) > 0 {
		t.Errorf("reported %q", r)
	}
}

// TestExportName is the way of old clients into the transmission phase.
func TestExportName(t *testing.T) {
	t.Parallel()
	s := start(t, newMemory(4*mib), nbd.Options{})
	for flags, zeroes := range map[uint32]int{1: 124, 3: 0} {
		c := s.dial(t, flags)
		c.put([]byte("IHAVEOPT"), u32(1), text("disk"))
		got := c.take(10 + zeroes)
		if size := binary.BigEndian.Uint64(got); size != 4*mib || !bytes.Equal(got[10:], make([]byte, zeroes)) {
			t.Errorf("%x", got)
		}
		if errno := c.request(0, 0, 0, 4096); errno != 0 {
			t.Errorf("a read fails with %d", errno)
		}
	}
	c := s.dial(t, 3)
	c.put([]byte("IHAVEOPT"), u32(1), text("none"))
	c.gone()
}

// TestBadClients: what ends the connection, and is reported.
func TestBadClients(t *testing.T) {
	t.Parallel()
	s := start(t, newMemory(4*mib), nbd.Options{})
	for name, talk := range map[string]func() *client{
		"unknown flags": func() *client { return s.dial(t, 4) },
		"no option": func() *client {
			c := s.dial(t, 3)
			c.put([]byte("IHAVENONE       "))
			return c
		},
		"an option of 4 GiB": func() *client {
			c := s.dial(t, 3)
			c.put([]byte("IHAVEOPT"), u32(10), u32(1<<32-1))
			return c
		},
		"options without end": func() *client {
			c := s.dial(t, 3)
			for range 256 {
				c.option(99, nil)
			}
			return c
		},
		"no request": func() *client {
			c := s.transmit(t, true)
			c.put(make([]byte, 28))
			return c
		},
	} {
		before := len(s.said())
		talk().gone()
		if got := s.said(); len(got) != before+1 || !strings.Contains(got[before], "client: ") {
			t.Errorf("%s: reported %q", name, got[before:])
		}
	}
}

// TestRefusals: requests that are no good, with their error values. The connection goes on.
func TestRefusals(t *testing.T) {
	t.Parallel()
	const perm, inval, nospc, notsup = 1, 22, 28, 95
	const size = 4 * mib
	s := start(t, newMemory(size), nbd.Options{})
	ro := start(t, newMemory(size), nbd.Options{ReadOnly: true})
	tests := []struct {
		name       string
		readOnly   bool
		cmd, flags uint16
		off        uint64
		length     uint32
		want       uint32
	}{
		{"read behind the end", false, 0, 0, size - 1, 2, inval},
		{"read at the end of numbers", false, 0, 0, 1<<64 - 1, 4096, inval},
		{"read too much", false, 0, 0, 0, 32*mib + 1, inval},
		{"write behind the end", false, 1, 0, size, 1, nospc},
		{"write too much", false, 1, 0, 0, 33 * mib, inval},
		{"trim behind the end", false, 4, 0, size, 1, inval},
		{"cache behind the end", false, 5, 0, size, 1, inval},
		{"zeroes behind the end", false, 6, 0, size - 512, 1024, nospc},
		{"status behind the end", false, 7, 0, size, 1, inval},
		{"status of nothing", false, 7, 0, 0, 0, inval},
		{"no such command", false, 8, 0, 0, 0, inval},
		{"no such command either", false, 65535, 0, 0, 0, inval},
		{"no such flag", false, 0, 1 << 5, 0, 512, inval},
		{"another command's flag", false, 1, 1 << 2, 0, 512, inval},
		{"fast zeroes where data is", false, 6, 1 << 4, size/2 - 512, 1024, notsup},
		{"fast zeroes where nothing is", false, 6, 1 << 4, size / 2, mib, 0},
		{"fast zeroes without a hole", false, 6, 1<<4 | 1<<1, size / 2, mib, notsup},
		{"zeroes without a hole", false, 6, 1 << 1, size / 2, mib, 0},
		{"FUA on a read", false, 0, 1, 0, 512, 0},
		{"read nothing", false, 0, 0, size, 0, 0},
		{"read with DF", false, 0, 1 << 2, 0, size, 0},
		{"read everything", false, 0, 0, 0, size, 0},
		{"cache everything", false, 5, 0, 0, size, 0},
		{"write to what is read", true, 1, 0, 0, 512, perm},
		{"trim what is read", true, 4, 0, 0, 512, perm},
		{"zero what is read", true, 6, 0, 0, 512, perm},
		{"flush what is read", true, 3, 0, 0, 0, 0},
	}
	for _, structured := range []bool{true, false} {
		c := map[bool]*client{false: s.transmit(t, structured), true: ro.transmit(t, structured)}
		for _, tt := range tests {
			var data []byte
			if tt.cmd == 1 {
				data = make([]byte, tt.length)
			}
			if !structured && tt.cmd == 7 {
				tt.want = inval
			}
			if got := c[tt.readOnly].request(tt.cmd, tt.flags, tt.off, tt.length, data...); got != tt.want {
				t.Errorf("structured %v, %s: error value %d, want %d", structured, tt.name, got, tt.want)
			}
		}
		if got := c[false].request(7, 0, 0, 512); structured != (got == 0) {
			t.Errorf("structured %v: block status gives %d", structured, got)
		}
	}
	if r := append(s.said(), ro.said()...); len(r) > 0 {
		t.Errorf("reported %q", r)
	}
}

// TestErrors: an error of the device reaches the client, and whoever keeps the log; the connection goes on.
func TestErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("the disk is on fire")
	for name, tt := range map[string]struct {
		err      error
		want     uint32
		reported bool
	}{
		"any":      {broken, 5, true},
		"no room":  {fmt.Errorf("write: %w", syscall.ENOSPC), 28, true},
		"no room ": {fmt.Errorf("%w on the device", nbd.ErrNoSpace), 28, true},
		"going":    {nbd.ErrShutdown, 108, false},
	} {
		for _, structured := range []bool{true, false} {
			m := newMemory(4 * mib)
			s := start(t, m, nbd.Options{})
			c := s.transmit(t, structured)
			m.mu.Lock()
			m.err = tt.err
			m.mu.Unlock()
			type op struct {
				cmd, flags uint16
				length     uint32
				data       []byte
			}
			ops := []op{{1, 0, 4, []byte("data")}, {3, 0, 0, nil}, {4, 0, 512, nil}, {6, 0, 512, nil}}
			if structured {
				ops = append(ops, op{7, 0, 512, nil}, op{6, 1 << 4, 512, nil}, op{0, 0, 4 * mib, nil})
			}
			for i, o := range ops {
				if got := c.request(o.cmd, o.flags, 0, o.length, o.data...); got != tt.want {
					t.Errorf("%s, structured %v: command %d gets %d, want %d", name, structured, o.cmd, got, tt.want)
				}
				if got := len(s.said()); tt.reported && got != i+1 || !tt.reported && got != 0 {
					t.Errorf("%s: %d reports after %d commands", name, got, i+1)
				}
			}
		}
	}
	m := newMemory(4 * mib)
	short := start(t, shortDevice{m}, nbd.Options{})
	if got := short.transmit(t, true).request(0, 0, 0, 4096); got != 5 {
		t.Errorf("a read that is too short gets %d", got)
	}
}

// shortDevice reads less than it should.
type shortDevice struct{ *memory }

func (d shortDevice) ReadAt(p []byte, off int64) (int, error) { return len(p) - 1, io.EOF }

// TestBoundedWork: a client that sends requests without end and takes no answers gets no more goroutines and memory than its share.
func TestBoundedWork(t *testing.T) {
	gate, waiting := make(chan struct{}), make(chan struct{}, 1000)
	m := newMemory(64 * mib)
	m.gate, m.waiting = gate, waiting
	s := start(t, m, nbd.Options{})
	c := s.transmit(t, true)
	before := runtime.NumGoroutine()
	var all []byte
	for i := range uint64(500) {
		all = append(all, message(0, 0, i, 0, 2*mib)...)
	}
	c.put(all)
	for range 4 { // of 2 MiB in 8
		<-waiting
	}
	if n := runtime.NumGoroutine() - before; n > 40 || len(waiting) > 0 {
		t.Errorf("%d goroutines, %d reads more than may be under way", n, len(waiting))
	}
	close(gate)
	c.Close() // no answer is taken
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

// TestSmallRequestsAtOnce: as many small requests are under way as there may be.
func TestSmallRequestsAtOnce(t *testing.T) {
	t.Parallel()
	const workers = 32
	gate, waiting := make(chan struct{}), make(chan struct{}, 100)
	m := newMemory(mib)
	m.gate, m.waiting = gate, waiting
	c := start(t, m, nbd.Options{}).transmit(t, false)
	for i := range uint64(40) {
		c.put(message(0, 0, i, 0, 512))
	}
	for range workers {
		<-waiting
	}
	close(gate)
	for range 40 {
		if errno := c.answer(true, 512); errno != 0 {
			t.Errorf("error value %d", errno)
		}
	}
}

// TestServeEnds: when the server ends, what was under way is finished and answered, and connections that do nothing are closed.
func TestServeEnds(t *testing.T) {
	t.Parallel()
	gate, waiting := make(chan struct{}), make(chan struct{}, 1)
	m := newMemory(mib)
	m.gate, m.waiting = gate, waiting
	s := start(t, m, nbd.Options{})
	idle, halfway, busy := s.transmit(t, true), s.dial(t, 3), s.transmit(t, true)
	busy.put(message(1, 0, 7, 0, 4), []byte("data"))
	<-waiting
	ended := make(chan error, 1)
	go func() { ended <- s.stop() }()
	idle.gone()
	halfway.gone()
	close(gate)
	if errno := busy.answer(false, 0); errno != 0 {
		t.Errorf("error value %d", errno)
	}
	busy.gone()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if string(m.b[:4]) != "data" {
		t.Error("the write is not there")
	}
	if _, err := net.Dial("unix", s.socket); err == nil {
		t.Error("the socket is still there")
	}
}

// TestMaxConns: one connection more waits until another ends.
func TestMaxConns(t *testing.T) {
	t.Parallel()
	s := start(t, newMemory(mib), nbd.Options{MaxConns: 1})
	first := s.transmit(t, true)
	second, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if errno := first.request(0, 0, 0, 512); errno != 0 {
		t.Errorf("error value %d", errno)
	}
	first.put(message(2, 0, 0, 0, 0))
	first.gone()
	if _, err := io.ReadFull(second, make([]byte, 18)); err != nil {
		t.Error(err)
	}
}

// FuzzServe: no client makes the server panic, hang, or take much memory.
func FuzzServe(f *testing.F) {
	handshake := bytes.Join([][]byte{
		u32(3), []byte("IHAVEOPT"), u32(8), u32(0),
		[]byte("IHAVEOPT"), u32(10), u32(31), text("disk"), u32(1), text("base:allocation"),
		[]byte("IHAVEOPT"), u32(7), u32(10), text("disk"), u16(0),
	}, nil)
	f.Add(handshake)
	f.Add(append(bytes.Clone(handshake), bytes.Join([][]byte{
		message(0, 0, 1, 0, 70000), message(1, 1, 2, 0, 3), []byte("abc"), message(7, 0, 3, 0, mib), message(6, 16, 4, 0, mib), message(3, 0, 5, 0, 0),
		message(4, 0, 6, 0, 1<<32-1), message(5, 0, 7, 0, mib), message(2, 0, 8, 0, 0),
	}, nil)...))
	f.Add(bytes.Join([][]byte{u32(1), []byte("IHAVEOPT"), u32(1), text("disk"), message(0, 0, 1, 0, 512)}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := start(t, newMemory(mib), nbd.Options{})
		c, err := net.Dial("unix", s.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, c)
		}()
		_, _ = c.Write(b)
		_ = c.(*net.UnixConn).CloseWrite()
		<-read // the server ends the connection by itself
	})
}
