package netchaos

import (
	"net"
	"sync"
	"time"
)

// piece is the most that is passed on at once.
const piece = 16 << 10

// link is one connection through the Proxy.
type link struct {
	client, server *net.TCPConn
	once           sync.Once
	ended          chan struct{}
}

// end hangs up on both sides, or resets them. Who hangs up while there is something that he did not read sends a reset, which
// takes with it what is still on its way to the other; so the flows go on reading, for nobody, until the others hang up too.
func (l *link) end(reset bool) {
	l.once.Do(func() {
		for _, c := range []*net.TCPConn{l.client, l.server} {
			if reset {
				_ = c.SetLinger(0)
				c.Close()
			} else {
				_ = c.CloseWrite()
			}
		}
		close(l.ended)
	})
}

// close ends both sides without waiting for anybody.
func (l *link) close() {
	l.end(false)
	l.client.Close()
	l.server.Close()
}

func (p *Proxy) serve(client *net.TCPConn) {
	if x, _ := p.now(); x.Refuse {
		_ = client.SetLinger(0)
		client.Close()
		return
	}
	var d net.Dialer
	c, err := d.DialContext(p.ctx, "tcp", p.target)
	if err != nil {
		client.Close()
		return
	}
	l := &link{client: client, server: c.(*net.TCPConn), ended: make(chan struct{})}
	p.mu.Lock()
	p.open[l] = true
	p.conns++
	p.mu.Unlock()
	if p.ctx.Err() != nil {
		l.close() // the test has ended, and nobody may have seen this one
	}
	down := &flow{p: p, l: l, to: l.client, from: l.server, count: &p.down, direction: func(x Toxics) Toxic { return x.Down }}
	up := &flow{p: p, l: l, to: l.server, from: l.client, count: &p.up, direction: func(x Toxics) Toxic { return x.Up }}
	var both sync.WaitGroup
	both.Go(down.carry)
	both.Go(up.carry)
	both.Wait()
	l.close()
	p.mu.Lock()
	delete(p.open, l)
	p.mu.Unlock()
}

// flow is one direction of a link.
type flow struct {
	p         *Proxy
	l         *link
	to, from  *net.TCPConn
	count     *int64 // of the Proxy; guarded by its mu
	direction func(Toxics) Toxic
	moved     int64
	free      time.Time // when the line has passed on what is before
}

// sent is what one side sent at once.
type sent struct {
	b     []byte
	err   error // the end, when it is not nil
	due   time.Time
	taken chan struct{} // nil: the next may come before this one is passed on
}

// maxSent bounds what is on its way on a line with a Delay, in pieces.
const maxSent = 4096

// carry passes bytes on until the flow ends.
func (f *flow) carry() {
	way := make(chan sent, maxSent)
	var reading sync.WaitGroup
	reading.Go(func() { f.read(way) })
	defer reading.Wait()
	defer f.drop(way)
	for s := range way {
		ok := f.passOn(s)
		if s.taken != nil {
			close(s.taken)
		}
		if !ok {
			return
		}
	}
}

// passOn passes on what was sent. It returns false when the flow has ended.
func (f *flow) passOn(s sent) bool {
	if !f.l.until(s.due) {
		return false
	}
	for b := s.b; len(b) > 0; {
		k, ok := f.pass(b)
		if !ok {
			return false
		}
		b = b[k:]
	}
	if s.err != nil {
		// The other direction may still have something to say.
		_ = f.to.CloseWrite()
	}
	return s.err == nil
}

// read reads what one side sends. Without a Delay nothing more is read before the last piece is passed on, so that who sends too fast
// notices.
func (f *flow) read(way chan<- sent) {
	defer close(way)
	for {
		b := make([]byte, piece)
		n, err := f.from.Read(b)
		x, _ := f.p.now()
		s := sent{b: b[:n], err: err}
		if d := f.direction(x).Delay; d > 0 {
			s.due = time.Now().Add(d)
		} else {
			s.taken = make(chan struct{})
		}
		way <- s
		if err != nil {
			return
		}
		if s.taken != nil {
			<-s.taken
		}
	}
}

// drop goes on reading for nobody after the end.
func (f *flow) drop(way <-chan sent) {
	for s := range way {
		if s.taken != nil {
			close(s.taken)
		}
	}
}

// until waits for a moment and returns false when the connection has ended before.
func (l *link) until(due time.Time) bool {
	d := time.Until(due)
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	return l.wait(t.C, nil)
}

// pass passes on the beginning of b as the toxics of this moment allow. It returns false when the connection has ended.
func (f *flow) pass(b []byte) (int, bool) {
	all, changed := f.p.now()
	x := f.direction(all)
	at, stalls, resets := x.end()
	if at > 0 && f.moved >= at && stalls {
		return 0, f.l.wait(nil, changed)
	}
	if at > 0 {
		b = b[:max(min(int64(len(b)), at-f.moved), 0)]
	}
	pause := x.Latency
	if x.Rate > 0 {
		b = b[:min(len(b), max(x.Rate/20, 1))]
		pause += f.inTurn(time.Duration(len(b)) * time.Second / time.Duration(x.Rate))
	}
	if pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		if !f.l.wait(t.C, nil) {
			return 0, false
		}
	}
	if i := x.FlipAt - 1 - f.moved; x.FlipAt > 0 && i >= 0 && i < int64(len(b)) {
		b[i] ^= 1
	}
	// Counted first: whoever got the bytes must find them counted.
	f.counted(len(b))
	n, err := f.to.Write(b)
	f.counted(n - len(b))
	f.moved += int64(n)
	if at > 0 && f.moved >= at && !stalls {
		f.l.end(resets)
		return n, false
	}
	return n, err == nil
}

// inTurn returns how long to wait until something that takes the line for so long is through. What a timer came too late before is
// made up for, so that a line is as fast as it says.
func (f *flow) inTurn(takes time.Duration) time.Duration {
	const late = 20 * time.Millisecond
	now := time.Now()
	if now.Sub(f.free) > late {
		f.free = now
	}
	f.free = f.free.Add(takes)
	return max(f.free.Sub(now), 0)
}

func (f *flow) counted(n int) {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	*f.count += int64(n)
}

// wait waits for one of the two and returns false when the connection has ended before.
func (l *link) wait(timer <-chan time.Time, changed <-chan struct{}) bool {
	select {
	case <-timer:
		return true
	case <-changed:
		return true
	case <-l.ended:
		return false
	}
}
