package syncclient_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"disksync/internal/limit"
	"disksync/internal/testkit/lab"
	"disksync/syncclient"
)

// The tests in this file are about time, so they run in a bubble where it only passes when everybody waits: what takes minutes is
// over at once, and a busy machine makes no difference.

// pause lets time go by in a bubble.
func pause(d time.Duration) { <-time.After(d) }

// carry passes on what comes from one end of a line to the other, so many bytes a second, and ends with either. What is on its way
// has room: with TLS both sides may speak at once.
func carry(to, from net.Conn, rate int) {
	way := make(chan []byte, 1<<16)
	go func() {
		defer close(way)
		for {
			b := make([]byte, max(rate/20, 1))
			n, err := from.Read(b)
			if err != nil {
				return
			}
			way <- b[:n]
		}
	}()
	for b := range way {
		pause(time.Duration(len(b)) * time.Second / time.Duration(rate))
		if _, err := to.Write(b); err != nil {
			break
		}
	}
	to.Close()
	from.Close()
	for range way { // nobody waits for it any more
	}
}

// pipes is a listener for connections inside the process.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { close(p.closed); return nil }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// overPipes returns a client, as patient as clients are by themselves, of a server with the handler. On their line rate bytes a
// second arrive at the client. Both end with the bubble.
func overPipes(t *testing.T, rate int, http2 bool, h http.Handler) *syncclient.Client {
	t.Helper()
	return overLimitedPipes(t, rate, http2, h)
}

// overLimitedPipes is overPipes for a client that holds back.
func overLimitedPipes(t *testing.T, rate int, http2 bool, h http.Handler, limits ...*limit.Limiter) *syncclient.Client {
	t.Helper()
	i := newIdentity(t, nil, nil, nil)
	p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	protos := []string{"http/1.1"}
	if http2 {
		protos = []string{"h2"}
	}
	var work sync.WaitGroup
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		work.Add(1)
		defer work.Done()
		h.ServeHTTP(w, r)
	})
	s := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{i.cert}, NextProtos: protos,
	}}
	served := make(chan error)
	go func() { served <- s.ServeTLS(p, "", "") }()
	c := syncclient.NewOver(syncclient.Options{URL: parse(t, "https://pipe"), Fingerprint: i.fingerprint(t), Limit: limits},
		func(ctx context.Context, _, _ string) (net.Conn, error) {
			client, near := net.Pipe()
			far, server := net.Pipe()
			select {
			case p.conns <- server:
				work.Go(func() { carry(near, far, rate) })
				work.Go(func() { carry(far, near, 1<<20) })
				return client, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
	t.Cleanup(func() {
		c.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		work.Wait()
	})
	return c
}

// inBubbles runs a test for both versions of HTTP.
func inBubbles(t *testing.T, name string, test func(t *testing.T, http2 bool)) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("%s/HTTP2=%v", name, http2), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, http2) })
		})
	}
}

// TestSlowLine: a line may be as slow as the Line allows, however its bytes are packed, and not slower.
func TestSlowLine(t *testing.T) {
	p := pack(t, lab.Disk(1))
	const much = 60_000 // several frames of HTTP/2, each of which takes longer than LowSpeedTime
	tests := []struct {
		name string
		rate int
		read func(io.Reader) ([]byte, error)
		ok   bool
	}{
		{"just fast enough", 1200, io.ReadAll, true},
		{"in small pieces", 1200, inPieces(500), true},
		{"in large pieces", 1200, inPieces(48_000), true},
		{"a modem", 7000, io.ReadAll, true},
		{"too slow", 800, io.ReadAll, false},
		{"too slow in small pieces", 800, inPieces(100), false},
		{"too slow in large pieces", 800, inPieces(48_000), false},
	}
	for _, test := range tests {
		inBubbles(t, test.name, func(t *testing.T, http2 bool) {
			c := overPipes(t, test.rate, http2, serveFile(p))
			body, err := c.Range(t.Context(), p.ref, 0, much)
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			start := time.Now()
			got, err := test.read(body)
			took := time.Since(start)
			if !bytes.Equal(got, p.file[:len(got)]) {
				t.Error("wrong bytes")
			}
			if test.ok && (err != nil || len(got) != much || took < 7*time.Second) {
				t.Errorf("%d bytes in %v, %v", len(got), took, err)
			}
			if !test.ok && (!stalled.fits(err) || len(got) == much || took > time.Minute) {
				t.Errorf("%d bytes in %v, %v", len(got), took, err)
			}
		})
	}
}

// inPieces reads with a buffer of n bytes that is filled each time.
func inPieces(n int) func(io.Reader) ([]byte, error) {
	return func(r io.Reader) ([]byte, error) {
		var all []byte
		piece := make([]byte, n)
		for {
			k, err := io.ReadFull(r, piece)
			all = append(all, piece[:k]...)
			if errors.Is(err, io.EOF) || err == io.ErrUnexpectedEOF { //nolint:errorlint // only what ReadFull itself says
				return all, nil
			}
			if err != nil {
				return all, err
			}
		}
	}
}

// TestDrip: bytes that come one by one fill the line with their packaging, and are too slow all the same.
func TestDrip(t *testing.T) {
	p := pack(t, lab.Disk(1))
	for name, test := range map[string]struct {
		every time.Duration
		bytes int
		ok    bool
	}{
		"a byte":   {20 * time.Millisecond, 1, false},
		"a little": {20 * time.Millisecond, 30, true},
	} {
		inBubbles(t, name, func(t *testing.T, http2 bool) {
			const much = 10_000
			c := overPipes(t, 1<<20, http2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				want := piece{p: p, to: much}
				want.honest(w)
				w.WriteHeader(http.StatusPartialContent)
				for b := want.bytes(); len(b) > 0 && r.Context().Err() == nil; b = b[min(test.bytes, len(b)):] {
					_, _ = w.Write(b[:min(test.bytes, len(b))])
					_ = http.NewResponseController(w).Flush()
					pause(test.every)
				}
			}))
			start := time.Now()
			got, err := readRange(t.Context(), c, p.ref, 0, much)
			if took := time.Since(start); test.ok != (err == nil) || !test.ok && (!stalled.fits(err) || took > 6*time.Second) {
				t.Errorf("%d bytes in %v, %v", len(got), took, err)
			}
		})
	}
}

// TestStandstill: the watch begins anew with each byte, and a reader who is busy elsewhere is not watched.
func TestStandstill(t *testing.T) {
	p := pack(t, lab.Disk(1))
	inBubbles(t, "", func(t *testing.T, http2 bool) {
		c := overPipes(t, 1<<20, http2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			want := piece{p: p, to: 3000}
			want.honest(w)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(want.bytes()[:2000])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		body, err := c.Range(t.Context(), p.ref, 0, 3000)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		b := make([]byte, 1000)
		for range 2 {
			if _, err := io.ReadFull(body, b); err != nil {
				t.Fatal(err)
			}
			pause(time.Hour)
		}
		start := time.Now()
		n, err := body.Read(b)
		if took := time.Since(start); n > 0 || !stalled.fits(err) || took != 5*time.Second {
			t.Errorf("%d bytes, %v after %v", n, err, took)
		}
		if n, err := body.Read(b); n > 0 || err == nil {
			t.Errorf("afterwards: %d bytes, %v", n, err)
		}
	})
}

// TestStandstillAmongOthers: that the line moves for another answer does not hold up the end of one that stands still for ever.
func TestStandstillAmongOthers(t *testing.T) {
	p := pack(t, lab.Disk(1))
	synctest.Test(t, func(t *testing.T) {
		c := overPipes(t, 4000, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			want := piece{p: p, to: len(p.file)}
			want.honest(w)
			w.WriteHeader(http.StatusPartialContent)
			if r.Header.Get("Authorization") == "Bearer still" {
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
				return
			}
			_, _ = w.Write(want.bytes())
		}))
		still, err := c.WithToken("still").Range(t.Context(), p.ref, 0, p.ref.Length)
		if err != nil {
			t.Fatal(err)
		}
		defer still.Close()
		moving, err := c.Range(t.Context(), p.ref, 0, p.ref.Length)
		if err != nil {
			t.Fatal(err)
		}
		defer moving.Close()
		go func() { _, _ = io.Copy(io.Discard, moving) }()
		start := time.Now()
		_, err = still.Read(make([]byte, 100))
		if took := time.Since(start); !stalled.fits(err) || took < 5*time.Second || took > 40*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

func limited(t *testing.T, text string) *limit.Limiter {
	t.Helper()
	s, err := limit.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return limit.New("the limit", s)
}

// TestLimitIsNoStandstill: who holds back, and be it to less than what counts as a standstill, does not take the line for a bad one.
func TestLimitIsNoStandstill(t *testing.T) {
	p := pack(t, lab.Disk(1))
	for _, test := range []struct {
		limit string
		line  int
		bytes int64
		rate  float64 // that comes of it
	}{
		{"100", 1 << 20, 20_000, 100},
		{"500", 1 << 20, 60_000, 500},
		{"500", 1500, 60_000, 500},
		{"20K", 1 << 20, 1_000_000, 20 << 10},
		{"20K", 4000, 60_000, 4000}, // the line gives less
		{"60%", 10_000, 1_000_000, 6000},
		{"60%", 4000, 400_000, 2400},
	} {
		inBubbles(t, fmt.Sprintf("%s of %d", test.limit, test.line), func(t *testing.T, http2 bool) {
			c := overLimitedPipes(t, test.line, http2, serveFile(p), limited(t, test.limit))
			start := time.Now()
			got, err := readRange(t.Context(), c, p.ref, 0, test.bytes)
			if err != nil || !bytes.Equal(got, p.file[:test.bytes]) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			rate := float64(c.Bytes()) / time.Since(start).Seconds()
			if rate < 0.8*test.rate || rate > 1.15*test.rate {
				t.Errorf("%.0f bytes a second, want %.0f", rate, test.rate)
			}
		})
	}
}

// TestStandstillUnderALimit: a line that stands still is found out, and one that is too slow by itself, though we hold back as well.
func TestStandstillUnderALimit(t *testing.T) {
	p := pack(t, lab.Disk(1))
	for _, text := range []string{"300", "10K", "50%"} {
		inBubbles(t, text, func(t *testing.T, http2 bool) {
			c := overLimitedPipes(t, 1<<20, http2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				want := piece{p: p, to: 30_000}
				want.honest(w)
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(want.bytes()[:20_000])
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}), limited(t, text))
			start := time.Now()
			got, err := readRange(t.Context(), c, p.ref, 0, 30_000)
			if !stalled.fits(err) || len(got) > 20_000 {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if took := time.Since(start); took > 2*time.Minute {
				t.Errorf("it took %v", took)
			}
		})
	}
	for _, http2 := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := overLimitedPipes(t, 800, http2, serveFile(p), limited(t, "2K"))
			if got, err := readRange(t.Context(), c, p.ref, 0, 60_000); !stalled.fits(err) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

// TestLimitedWords: what is sent is held back too.
func TestLimitedWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := overLimitedPipes(t, 1<<20, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusNoContent)
		}), limited(t, "10K"))
		start := time.Now()
		if err := c.SetPassword(t.Context(), "alice", string(make([]byte, 100_000))); err != nil {
			t.Fatal(err)
		}
		if rate := float64(c.Bytes()) / time.Since(start).Seconds(); rate < 9<<10 || rate > 12<<10 {
			t.Errorf("%.0f bytes a second", rate)
		}
		// Nothing is let through, but a few words are.
		c = overLimitedPipes(t, 1<<20, true, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }), limited(t, "off"))
		if err := c.Logout(t.Context()); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if n, err := c.ReaderAt(ctx, pack(t, lab.Disk(1)).ref).ReadAt(make([]byte, 10), 0); n > 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}
