package synchronizer_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"disksync/api"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/syncclient"
	"disksync/synchronizer"
)

// TestRanges: one range or the whole, exactly.
func TestRanges(t *testing.T) {
	h := newHouse(t)
	p := h.publish(t, "golden", 1, image.State{}, disk(1, 2, 3))
	size := len(p.file)
	if size < 1<<20 {
		t.Fatalf("a layer of %d bytes has no large ranges", size)
	}
	tag := `"` + p.id() + `"`
	tests := []struct {
		name, rang string
		from, to   int // of the body
		header     http.Header
		status     int
	}{
		{name: "whole", to: size, status: 200},
		{name: "first byte", rang: "bytes=0-0", to: 1, status: 206},
		{name: "last byte", rang: fmt.Sprintf("bytes=%d-%d", size-1, size-1), from: size - 1, to: size, status: 206},
		{name: "many pieces", rang: "bytes=70000-1000000", from: 70000, to: 1000001, status: 206},
		{name: "to the end", rang: "bytes=1000-", from: 1000, to: size, status: 206},
		{name: "beyond the end", rang: "bytes=1000-999999999", from: 1000, to: size, status: 206},
		{name: "the end", rang: "bytes=-10", from: size - 10, to: size, status: 206},
		{name: "all of it", rang: fmt.Sprintf("bytes=0-%d", size-1), to: size, status: 206},
		{name: "behind the end", rang: fmt.Sprintf("bytes=%d-", size), status: 416},
		{name: "backwards", rang: "bytes=10-5", status: 416},
		{name: "other unit", rang: "blocks=0-1", status: 416},
		{name: "ranges that overlap", rang: "bytes=0-5,5-5", status: 400},
		{name: "ranges in another order", rang: "bytes=5-5,0-0", status: 400},
		{name: "several ranges, one open", rang: "bytes=0-5,7-", status: 400},
		{name: "several ranges, one from the end", rang: "bytes=0-5,-7", status: 400},
		{name: "several ranges, one behind the end", rang: fmt.Sprintf("bytes=0-5,9-%d", size), status: 400},
		{name: "too many ranges", rang: "bytes=" + manyRanges(api.MaxRanges+1), status: 400},
		{name: "one range and nothing", rang: "bytes=0-0,", status: 400},
		{name: "if the same", rang: "bytes=5-9", header: http.Header{"If-Range": {tag}}, from: 5, to: 10, status: 206},
		{name: "if another", rang: "bytes=5-9", header: http.Header{"If-Range": {`"x"`}}, to: size, status: 200},
		{name: "if not the same", header: http.Header{"If-None-Match": {tag}}, status: 304},
		{name: "if match fails", header: http.Header{"If-Match": {`"x"`}}, status: 412},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := h.send(t, asLocal, "GET", "/v1/layers/"+p.id(), nil, func(r *http.Request) {
				for k, v := range test.header {
					r.Header[k] = v
				}
				if test.rang != "" {
					r.Header.Set("Range", test.rang)
				}
			})
			if a.status != test.status {
				t.Fatalf("%d %s", a.status, a.header)
			}
			if a.status >= 300 {
				return
			}
			if !bytes.Equal(a.body, p.file[test.from:test.to]) {
				t.Errorf("%d bytes, not those of %d-%d", len(a.body), test.from, test.to)
			}
			want := ""
			if test.status == 206 {
				want = fmt.Sprintf("bytes %d-%d/%d", test.from, test.to-1, size)
			}
			for k, v := range map[string]string{
				"Content-Range": want, "Etag": tag, "Content-Length": fmt.Sprint(test.to - test.from), "Content-Type": "application/octet-stream",
				"Accept-Ranges": "bytes", "Content-Encoding": "", "Last-Modified": "",
			} {
				if got := a.header.Get(k); got != v {
					t.Errorf("%s: %q, want %q", k, got, v)
				}
			}
		})
	}
	for _, test := range []struct {
		what  string
		spoil func(*testing.T, string)
	}{
		{"cut", func(t *testing.T, name string) { truncate(t, name, 1000) }},
		{"missing", remove},
	} {
		test.spoil(t, h.path(synchronizer.LayerFile(p.id())))
		if a := h.send(t, asLocal, "GET", "/v1/layers/"+p.id(), nil); a.code() != api.CodeInternal {
			t.Errorf("a layer that is %s: %v", test.what, a)
		}
	}
}

// manyRanges returns a list of n ranges of a byte.
func manyRanges(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%d-%d", 3*i, 3*i)
	}
	return strings.Join(list, ",")
}

// TestSeveralRanges: what Go's reader of such answers finds in one.
func TestSeveralRanges(t *testing.T) {
	h := newHouse(t)
	p := h.publish(t, "golden", 1, image.State{}, disk(1, 2, 3))
	size := len(p.file)
	for _, ranges := range []string{
		"0-0,5-5", "0-9,10-19", fmt.Sprintf("0-700000,800000-%d", size-1), manyRanges(api.MaxRanges),
	} {
		a := h.send(t, asLocal, "GET", "/v1/layers/"+p.id(), nil, func(r *http.Request) { r.Header.Set("Range", "bytes="+ranges) })
		kind, params, err := mime.ParseMediaType(a.header.Get("Content-Type"))
		if a.status != 206 || kind != "multipart/byteranges" || err != nil || a.header.Get("Etag") != `"`+p.id()+`"` {
			t.Fatalf("%s: %d %v %v", ranges, a.status, a.header, err)
		}
		parts := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
		for r := range strings.SplitSeq(ranges, ",") {
			part, err := parts.NextPart()
			if err != nil {
				t.Fatalf("%s: %v", ranges, err)
			}
			var from, to int
			if _, err := fmt.Sscanf(r, "%d-%d", &from, &to); err != nil {
				t.Fatal(err)
			}
			if got, want := part.Header.Get("Content-Range"), fmt.Sprintf("bytes %s/%d", r, size); got != want {
				t.Errorf("%s: part %q, want %q", ranges, got, want)
			}
			if b, err := io.ReadAll(part); err != nil || !bytes.Equal(b, p.file[from:to+1]) {
				t.Errorf("%s: %d bytes of %s, %v", ranges, len(b), r, err)
			}
		}
		if _, err := parts.NextPart(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: more parts: %v", ranges, err)
		}
	}
}

// blocked is a response that somebody does not take.
type blocked struct {
	http.ResponseWriter
	reached, goOn chan bool
}

func (b blocked) Write(p []byte) (int, error) {
	close(b.reached)
	<-b.goOn
	return 0, errors.New("gone")
}

func TestTooManyTransfers(t *testing.T) {
	h := &house{dir: filepath.Join(t.TempDir(), "data"), clock: &clock{}}
	s, err := synchronizer.Open(t.Context(), synchronizer.Options{Dir: h.dir, MaxTransfers: 1})
	if err != nil {
		t.Fatal(err)
	}
	h.Server = s
	defer h.close(t)
	p := h.publish(t, "golden", 1, image.State{}, disk(1))
	slow := blocked{&discard{}, make(chan bool), make(chan bool)}
	done := make(chan bool)
	go func() {
		req, _ := http.NewRequest(http.MethodGet, "/v1/layers/"+p.id(), nil)
		h.Local().ServeHTTP(slow, req)
		close(done)
	}()
	<-slow.reached
	a := h.send(t, asLocal, "GET", "/v1/layers/"+p.id(), nil)
	if a.status != http.StatusServiceUnavailable || a.code() != api.CodeBusy || a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), `"waiting":1`) {
		t.Errorf("one too many: %v", a)
	}
	close(slow.goOn)
	<-done
	if a := h.send(t, asLocal, "GET", "/v1/layers/"+p.id(), nil); a.status != http.StatusOK {
		t.Errorf("afterwards: %v", a)
	}
}

// discard is a response that nobody looks at.
type discard struct{ h http.Header }

func (d *discard) Header() http.Header {
	if d.h == nil {
		d.h = http.Header{}
	}
	return d.h
}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// TestCloseWaits: the folder is given away only when nobody writes to it any more.
func TestCloseWaits(t *testing.T) {
	h := newHouse(t)
	p := pack(t, image.State{}, disk(1))
	h.begin(t, p)
	r, w := io.Pipe()
	patched := make(chan answer)
	go func() { patched <- h.patch(t, p, 0, r) }()
	if _, err := w.Write(p.file[:1000]); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error)
	go func() { closed <- h.Close() }()
	for h.send(t, asLocal, "GET", "/v1/server", nil).code() != api.CodeBusy {
		select {
		case err := <-closed:
			t.Fatalf("closed with a request in flight: %v", err)
		default:
		}
	}
	if s, err := synchronizer.Open(t.Context(), synchronizer.Options{Dir: h.dir}); !errors.Is(err, durable.ErrLocked) {
		s.Close()
		t.Errorf("opened meanwhile: %v", err)
	}
	if _, err := w.Write(p.file[1000:2000]); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if a := <-patched; a.status != http.StatusOK {
		t.Errorf("the request in flight: %v", a)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	h.open(t)
	if u := h.begin(t, p); u.Offset != 2000 {
		t.Errorf("stands at %d", u.Offset)
	}
}

// serve puts a house on the network until the test ends, and returns its address.
func (h *house) serve(t *testing.T) string {
	t.Helper()
	network, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	local, err := h.ListenLocal()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- h.Serve(ctx, local, network) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return network.Addr().String()
}

func (h *house) tls(t *testing.T) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(read(t, h.path("tls.crt"))) {
		t.Fatal("no certificate")
	}
	return &tls.Config{RootCAs: pool}
}

func TestServeTLS(t *testing.T) {
	h := newHouse(t)
	addr := h.serve(t)
	for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		t.Run(name, func(t *testing.T) {
			tr := &http.Transport{TLSClientConfig: h.tls(t), ForceAttemptHTTP2: h2}
			defer tr.CloseIdleConnections()
			resp, err := (&http.Client{Transport: tr}).Get("https://" + addr + "/v1/server")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.Proto != name || resp.StatusCode != http.StatusOK {
				t.Errorf("%s %s", resp.Proto, resp.Status)
			}
		})
	}
	t.Run("old TLS", func(t *testing.T) {
		config := h.tls(t)
		config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		if c, err := tls.Dial("tcp", addr, config); err == nil {
			c.Close()
			t.Error("TLS 1.1 was accepted")
		}
	})
	t.Run("no TLS", func(t *testing.T) {
		resp, err := http.Get("http://" + addr + "/v1/server")
		if err != nil {
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s", resp.Status)
		}
	})
	t.Run("large header", func(t *testing.T) {
		tr := &http.Transport{TLSClientConfig: h.tls(t)}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequest(http.MethodGet, "https://"+addr+"/v1/server", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Large", strings.Repeat("x", 1<<20))
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return // the connection may be closed while we still write
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s", resp.Status)
		}
	})
}

// TestStandingStill: callers who send or take nothing lose their connection; those who do something keep it.
func TestStandingStill(t *testing.T) {
	h := newHouse(t)
	const stall = 500 * time.Millisecond
	h.SetStall(stall)
	// More than the system holds for a reader who does not read.
	p := h.publish(t, "golden", 1, image.State{}, disk(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14))
	h.user(t, "alice", true)
	token := h.login(t, "alice", device(1))
	addr := h.serve(t)
	dial := func(t *testing.T) net.Conn {
		t.Helper()
		d := &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
		}}
		c, err := tls.DialWithDialer(d, "tcp", addr, h.tls(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	request := func(method, path, more string) string {
		return method + " " + path + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\n" + more + "\r\n"
	}
	t.Run("body that does not come", func(t *testing.T) {
		c := dial(t)
		if _, err := io.WriteString(c, request("POST", "/v1/login", "Content-Length: 100\r\n")); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s", resp.Status)
		}
	})
	t.Run("body that nobody waits for", func(t *testing.T) {
		c := dial(t)
		if _, err := io.WriteString(c, "DELETE /v1/users/alice HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		// The answer has to wait for the body, so it may be too late for it, too.
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil && resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s", resp.Status)
		}
	})
	t.Run("upload that stands still", func(t *testing.T) {
		u := pack(t, image.State{}, disk(20))
		h.begin(t, u)
		c := dial(t)
		if _, err := io.WriteString(c, request("PATCH", "/v1/uploads/"+u.id()+"?offset=0", "Content-Length: 5000\r\n")+string(u.file[:1000])); err != nil {
			t.Fatal(err)
		}
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != http.StatusConflict {
			t.Errorf("%v %v", resp, err)
		}
		if s := h.status(t, u); s.Offset != 1000 {
			t.Errorf("stands at %d", s.Offset)
		}
	})
	t.Run("answer that nobody takes", func(t *testing.T) {
		c := dial(t)
		if _, err := io.WriteString(c, request("GET", "/v1/layers/"+p.id(), "")); err != nil {
			t.Fatal(err)
		}
		if !h.DrainsWithin(20 * time.Second) {
			t.Error("the transfer goes on")
		}
	})
	t.Run("answer that is taken slowly", func(t *testing.T) {
		c := dial(t)
		if _, err := io.WriteString(c, request("GET", "/v1/layers/"+p.id(), "")); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		tick := time.NewTicker(stall / 10)
		defer tick.Stop()
		n := int64(0)
		for time.Since(start) < 4*stall {
			<-tick.C
			k, err := io.CopyN(io.Discard, resp.Body, 200_000)
			n += k
			if err != nil {
				t.Fatalf("after %d bytes: %v", n, err)
			}
		}
		rest, err := io.Copy(io.Discard, resp.Body)
		if err != nil || n+rest != int64(len(p.file)) {
			t.Errorf("%d and %d bytes, %v", n, rest, err)
		}
	})
	t.Run("many requests on one connection", func(t *testing.T) {
		c := dial(t)
		r := bufio.NewReader(c)
		start := time.Now()
		for n := 0; time.Since(start) < 3*stall; n++ {
			method, path := "PUT", "/v1/groups/staff"
			if n == 0 {
				method, path = "GET", "/v1/layers/"+p.id()
			}
			if _, err := io.WriteString(c, request(method, path, "Range: bytes=0-9\r\n")); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("request %d, after %v: %v", n, time.Since(start), err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestLocalSocket: the path of the data folder may be longer than a socket's address.
func TestLocalSocket(t *testing.T) {
	h := &house{dir: filepath.Join(t.TempDir(), strings.Repeat("long", 40), "data"), clock: &clock{}}
	h.open(t)
	defer h.close(t)
	if len(h.dir) <= 108 {
		t.Fatal("the path is short")
	}
	// A process that died left its socket behind.
	l, err := h.ListenLocal()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	addr := h.serve(t)
	if info, err := os.Stat(h.path(synchronizer.SocketName)); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v", info, err)
	}
	c := syncclient.NewLocal(h.dir, synchronizer.SocketName)
	defer c.Close()
	if err := c.AddUser(t.Context(), api.NewUser{Name: "alice", Password: "x"}); err != nil {
		t.Error(err)
	}
	s, err := c.Server(t.Context())
	if err != nil || s.SigningKey != h.SigningKey() {
		t.Errorf("%+v, %v", s, err)
	}
	// What the socket allows, the network does not.
	u := "https://" + addr
	tr := &http.Transport{TLSClientConfig: h.tls(t)}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get(u + "/v1/users")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("users over the network: %s", resp.Status)
	}
}
