package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxWorkers is how many requests of one connection are worked on at a time.
	maxWorkers = 32
	// inputSize is how much is read from a connection at a time, in bytes: several small requests come together.
	inputSize = 64 << 10
	// partingTime is how long a client may take to receive the last answers when the server ends.
	partingTime = 10 * time.Second
)

// request is a request message. Its data follows it on the wire when it is a write.
type request struct {
	flags, cmd     uint16
	cookie         uint64
	off            uint64
	length         uint32
	buf            *buffer // of a write and of a read
	held           int64   // what it took of the budget
	tooLong, ended bool
}

// session is the transmission phase of one connection.
//
// Its goroutines take turns in reading: one reads a request, lets the next one read, does what was asked and answers. So no request
// is handed from one goroutine to another, and there are no more goroutines than requests under way.
type session struct {
	srv        *server
	conn       net.Conn
	dev        Device
	name       string
	size       uint64
	structured bool
	status     bool // base:allocation was negotiated

	reading sync.Mutex // guards in and over
	in      *bufio.Reader
	over    bool

	writing sync.Mutex // a reply goes out in one piece
	budget  *budget
	work    sync.WaitGroup
	workers atomic.Int32
	idle    atomic.Int32 // goroutines that wait for their turn to read
}

// serve does one connection from beginning to end.
func (s *server) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() {
		// Nothing more is read; what was read is answered.
		_ = c.SetReadDeadline(time.Unix(1, 0))
		_ = c.SetWriteDeadline(time.Now().Add(partingTime))
	})
	defer stop()
	in := bufio.NewReaderSize(c, inputSize)
	n := &negotiation{srv: s, conn: c, in: in}
	err := n.run(ctx)
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	if err != nil || ctx.Err() != nil {
		s.complain(ctx, n.name, err)
		return
	}
	t := &session{
		srv: s, conn: c, dev: n.dev, name: n.name, size: uint64(n.dev.Size()), structured: n.structured,
		status: n.chosen && n.context == n.name, in: in, budget: newBudget(),
	}
	t.workers.Store(1)
	t.work.Go(func() { t.worker(ctx) })
	t.work.Wait()
}

// complain reports a client that was disconnected for what it sent. That it went away is no fault.
func (s *server) complain(ctx context.Context, name string, err error) {
	var ne net.Error
	if err == nil || ctx.Err() != nil || errors.Is(err, errAbort) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &ne) {
		return
	}
	s.o.Report(name, "client", err)
}

// worker takes requests until there are no more.
func (t *session) worker(ctx context.Context) {
	for {
		r, ok := t.next(ctx)
		if !ok {
			return
		}
		t.handle(&r)
		r.buf.free()
		t.budget.give(r.held)
	}
}

// next reads one request when it is this goroutine's turn, and sees to it that somebody reads the next one.
func (t *session) next(ctx context.Context) (request, bool) {
	t.idle.Add(1)
	t.reading.Lock()
	t.idle.Add(-1)
	defer t.reading.Unlock()
	if t.over {
		return request{}, false
	}
	r, err := t.read(ctx)
	if err != nil {
		t.over = true
		t.srv.complain(ctx, t.name, err)
		return request{}, false
	}
	if r.ended {
		t.over = true
		return request{}, false
	}
	if t.idle.Load() == 0 && t.workers.Load() < maxWorkers {
		t.workers.Add(1)
		t.work.Go(func() { t.worker(ctx) })
	}
	return r, true
}

// read reads a request with its data ("Request message").
func (t *session) read(ctx context.Context) (request, error) {
	const headerLen = 28
	h, err := t.in.Peek(headerLen)
	if err != nil {
		if len(h) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return request{}, err
	}
	if m := binary.BigEndian.Uint32(h); m != magicRequest {
		return request{}, fmt.Errorf("%#x where a request begins", m)
	}
	r := request{
		flags: binary.BigEndian.Uint16(h[4:]), cmd: binary.BigEndian.Uint16(h[6:]), cookie: binary.BigEndian.Uint64(h[8:]),
		off: binary.BigEndian.Uint64(h[16:]), length: binary.BigEndian.Uint32(h[24:]),
	}
	if _, err := t.in.Discard(headerLen); err != nil {
		return request{}, err
	}
	switch r.cmd {
	case cmdDisc:
		r.ended = true
		return r, nil
	case cmdRead, cmdWrite:
	default:
		return r, nil
	}
	if r.length > maxPayload {
		r.tooLong = true
		if r.cmd == cmdWrite {
			_, err = io.CopyN(io.Discard, t.in, int64(r.length))
		}
		return r, err
	}
	r.held = int64(r.length)
	t.budget.take(r.held)
	r.buf = newBuffer(int(r.length))
	if r.cmd == cmdWrite {
		_, err = io.ReadFull(t.in, r.buf.data(int(r.length)))
	}
	return r, err
}
