package netchaos_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"disksync/internal/netchaos"
)

// echo is a server that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		work.Wait()
	})
	return l.Addr().String()
}

func dial(t *testing.T, p *netchaos.Proxy) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// exchange sends b and returns what comes back until the end, and the error that ended it.
func exchange(t *testing.T, c *net.TCPConn, b []byte) ([]byte, error) {
	t.Helper()
	var sending sync.WaitGroup
	sending.Go(func() {
		_, _ = c.Write(b)
		_ = c.CloseWrite()
	})
	defer sending.Wait()
	got, err := io.ReadAll(c)
	c.Close()
	return got, err
}

var text = bytes.Repeat([]byte("0123456789abcdef"), 20_000)

func TestToxics(t *testing.T) {
	flipped := bytes.Clone(text)
	flipped[99_999] ^= 1
	tests := []struct {
		name   string
		toxics netchaos.Toxics
		want   []byte
		reset  bool
		least  time.Duration
	}{
		{name: "good line", want: text},
		{name: "cut", toxics: netchaos.Toxics{Down: netchaos.Toxic{CutAfter: 12_345}}, want: text[:12_345]},
		{name: "reset", toxics: netchaos.Toxics{Down: netchaos.Toxic{ResetAfter: 5_000}}, reset: true},
		{name: "the nearest end counts", toxics: netchaos.Toxics{Down: netchaos.Toxic{ResetAfter: 6_000, CutAfter: 5_000}}, want: text[:5_000]},
		{name: "bit flip", toxics: netchaos.Toxics{Down: netchaos.Toxic{FlipAt: 100_000}}, want: flipped},
		{name: "latency", toxics: netchaos.Toxics{Up: netchaos.Toxic{Latency: 5 * time.Millisecond}}, want: text, least: 100 * time.Millisecond},
		{name: "rate", toxics: netchaos.Toxics{Down: netchaos.Toxic{Rate: 2_000_000}}, want: text, least: 150 * time.Millisecond},
	}
	target := echo(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := netchaos.Start(t, target)
			p.Set(test.toxics)
			start := time.Now()
			got, err := exchange(t, dial(t, p), text)
			if took := time.Since(start); took < test.least {
				t.Errorf("took %v, want at least %v", took, test.least)
			}
			if test.reset {
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("ended with %v, want a reset", err)
				}
				return
			}
			if err != nil || !bytes.Equal(got, test.want) {
				t.Errorf("got %d bytes, want %d, or not the same: %v", len(got), len(test.want), err)
			}
			if down, _ := p.Carried(); down != int64(len(test.want)) {
				t.Errorf("carried %d bytes, want %d", down, len(test.want))
			}
		})
	}
}

func TestCutOnTheWayUp(t *testing.T) {
	p := netchaos.Start(t, echo(t))
	p.Set(netchaos.Toxics{Up: netchaos.Toxic{CutAfter: 7}})
	// The echo of what got through may or may not be faster than the cut, but the end is a friendly one.
	if got, err := exchange(t, dial(t, p), text); len(got) > 7 || err != nil {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	if _, up := p.Carried(); up != 7 {
		t.Errorf("carried %d bytes, want 7", up)
	}
}

func TestStallEndsWhenMended(t *testing.T) {
	p := netchaos.Start(t, echo(t))
	p.Set(netchaos.Toxics{Down: netchaos.Toxic{StallAfter: 10}})
	c := dial(t, p)
	if _, err := c.Write([]byte("0123456789abcdef")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	if _, err := io.ReadFull(c, b[:10]); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(b[10:]); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes came through, %v", n, err)
	}
	p.Set(netchaos.Toxics{})
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, b[10:]); err != nil || string(b) != "0123456789abcdef" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestRefuseAndCut(t *testing.T) {
	p := netchaos.Start(t, echo(t))
	open := dial(t, p)
	if _, err := open.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := io.ReadFull(open, b); err != nil {
		t.Fatal(err)
	}
	p.Set(netchaos.Toxics{Refuse: true})
	// The reset can come as early as from connect.
	if c, err := net.Dial("tcp", p.Addr()); err == nil {
		if n, err := c.Read(b); n > 0 || err == nil {
			t.Errorf("a refused connection gave %d bytes, %v", n, err)
		}
		c.Close()
	}
	p.Set(netchaos.Toxics{})
	if got, err := exchange(t, dial(t, p), []byte("again")); err != nil || string(got) != "again" {
		t.Errorf("after the refusal: %q, %v", got, err)
	}
	p.Reset()
	if _, err := open.Read(b); err == nil {
		t.Error("the open connection lived on")
	}
	if down, up := p.Carried(); down != 6 || up != 6 {
		t.Errorf("carried %d bytes down and %d up, want 6 each", down, up)
	}
	if p.Conns() != 2 {
		t.Errorf("%d connections, want 2", p.Conns())
	}
}

// TestDelay: however long the line is, it carries as much as it can.
func TestDelay(t *testing.T) {
	p := netchaos.Start(t, echo(t))
	const far = 100 * time.Millisecond
	p.Set(netchaos.Toxics{Up: netchaos.Toxic{Delay: far}, Down: netchaos.Toxic{Delay: far}})
	start := time.Now()
	got, err := exchange(t, dial(t, p), text)
	if err != nil || !bytes.Equal(got, text) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	// Each of the 20 pieces by itself would take as long.
	if took := time.Since(start); took < 2*far || took > 10*far {
		t.Errorf("took %v for a way of %v there and back", took, 2*far)
	}
	// What is on its way is lost with the connection.
	c := dial(t, p)
	write := func() {
		if _, err := c.Write(text[:100]); err != nil {
			t.Fatal(err)
		}
	}
	write()
	if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	write()
	p.Reset()
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("%d bytes, %v, after a reset", n, err)
	}
}
