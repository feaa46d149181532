// Package netchaos gives tests a TCP line to a server on this machine that is as bad as they wish: slow, late, cut after so many
// bytes, dead without saying so, or changing bits on the way.
//
//	line := netchaos.Start(t, server.Addr().String())
//	line.Set(netchaos.Toxics{Down: netchaos.Toxic{CutAfter: 100_000}}) // each connection ends after 100,000 bytes to the client
//	… use line.Addr() …
//	line.Set(netchaos.Toxics{}) // a good line again, for open connections too
//
// A [Proxy] passes bytes on as they come and does not know what they mean, so that it serves TLS and plain connections alike. All
// is decided by counting bytes, never by chance: a test that fails does so again.
package netchaos

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// Toxics is what is wrong with a line. The zero value is a good line.
type Toxics struct {
	// Refuse resets new connections at once. Open ones live on; see [Proxy.Cut].
	Refuse bool
	Down   Toxic // what the server sends to the client
	Up     Toxic // what the client sends to the server
}

// Toxic is what is wrong with one direction of a line. Fields that are 0 do nothing; positions are counted in bytes of each
// connection by itself, from 1.
type Toxic struct {
	Latency time.Duration // each piece, of at most 16 KiB, comes so much later
	Rate    int           // bytes a second
	// Delay is how long everything is on its way, as on a long line: unlike with Latency, much can be on its way at once.
	Delay time.Duration
	// CutAfter lets that many bytes through, which all arrive, then closes both ends: to either side the other seems to have hung up.
	CutAfter int64
	// ResetAfter is CutAfter with a reset (RST), as a firewall or a rebooted machine gives.
	ResetAfter int64
	// StallAfter lets that many bytes through, then nothing more, while the connection stays open: a cable that was pulled.
	StallAfter int64
	// FlipAt flips the lowest bit of that byte.
	FlipAt int64
}

// end is how far a Toxic lets bytes through, and whether it stalls, closes or resets there.
func (x Toxic) end() (at int64, stalls, resets bool) {
	for _, e := range []struct {
		at             int64
		stalls, resets bool
	}{{x.CutAfter, false, false}, {x.ResetAfter, false, true}, {x.StallAfter, true, false}} {
		if e.at > 0 && (at == 0 || e.at < at) {
			at, stalls, resets = e.at, e.stalls, e.resets
		}
	}
	return at, stalls, resets
}

// Proxy is a line to a server. It is safe for concurrent use.
type Proxy struct {
	target   string
	listener net.Listener
	ctx      context.Context

	mu         sync.Mutex
	toxics     Toxics
	changed    chan struct{} // closed when the toxics change
	open       map[*link]bool
	conns      int
	down, up   int64
	everything sync.WaitGroup
}

// Start makes a line to target, host:port. It lives as long as the test.
func Start(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &Proxy{target: target, listener: l, ctx: ctx, changed: make(chan struct{}), open: map[*link]bool{}}
	p.everything.Go(p.accept)
	t.Cleanup(func() {
		stop()
		l.Close()
		p.endAll((*link).close)
		p.everything.Wait()
	})
	return p
}

// Addr returns where clients connect to, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Set replaces what is wrong with the line, for open connections too.
func (p *Proxy) Set(x Toxics) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.toxics = x
	close(p.changed)
	p.changed = make(chan struct{})
}

// Cut closes all open connections. What was let through before still arrives.
func (p *Proxy) Cut() { p.endAll(func(l *link) { l.end(false) }) }

// Reset resets all open connections.
func (p *Proxy) Reset() { p.endAll(func(l *link) { l.end(true) }) }

func (p *Proxy) endAll(end func(*link)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.open {
		end(l)
	}
}

// Conns returns how many connections were made to the server so far.
func (p *Proxy) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conns
}

// Carried returns how many bytes went to clients and to the server so far.
func (p *Proxy) Carried() (down, up int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.down, p.up
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.everything.Go(func() { p.serve(c.(*net.TCPConn)) })
	}
}

// now returns the toxics and a channel that is closed when they change.
func (p *Proxy) now() (Toxics, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.toxics, p.changed
}
