package syncclient_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"disksync/api"
	"disksync/image"
	"disksync/internal/netchaos"
	"disksync/internal/testkit/lab"
	"disksync/syncclient"
)

// serveFile answers requests for ranges as a Synchronizer does.
func serveFile(p packed) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"`+p.ref.ID.String()+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(p.file))
	}
}

// throughChaos returns a client of a server with the handler at the other end of a bad line.
func throughChaos(t *testing.T, h http.Handler) (*syncclient.Client, *netchaos.Proxy) {
	t.Helper()
	i := newIdentity(t, nil, nil, nil)
	p := netchaos.Start(t, newServer(t, i, h).Listener.Addr().String())
	return newClient(t, "https://"+p.Addr(), i.fingerprint(t)), p
}

func readRange(ctx context.Context, c *syncclient.Client, ref image.LayerRef, offset, length int64) ([]byte, error) {
	body, err := c.Range(ctx, ref, offset, length)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// TestBadLines cuts, stalls and damages the line in the middle of a layer. What was read until then is right, and there is an
// error that says what happened.
func TestBadLines(t *testing.T) {
	p := pack(t, lab.Disk(1, 2))
	tests := []struct {
		name   string
		toxics netchaos.Toxics
		want   verdict
	}{
		{"cut", netchaos.Toxics{Down: netchaos.Toxic{CutAfter: 500_000}}, line},
		{"reset", netchaos.Toxics{Down: netchaos.Toxic{ResetAfter: 500_000}}, line},
		{"stall", netchaos.Toxics{Down: netchaos.Toxic{StallAfter: 500_000}}, stalled},
		{"bit flip", netchaos.Toxics{Down: netchaos.Toxic{FlipAt: 500_000}}, line}, // TLS notices
		{"refused", netchaos.Toxics{Refuse: true}, line},
		{"cut in the handshake", netchaos.Toxics{Down: netchaos.Toxic{CutAfter: 100}}, line},
		{"flip in the handshake", netchaos.Toxics{Down: netchaos.Toxic{FlipAt: 50}}, line},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, chaos := throughChaos(t, serveFile(p))
			chaos.Set(test.toxics)
			got, err := readRange(t.Context(), test.want.client(c), p.ref, 0, p.ref.Length)
			if !test.want.fits(err) {
				t.Fatalf("%v", err)
			}
			if !syncclient.Temporary(err) || !syncclient.Interrupted(err) {
				t.Errorf("%v is not taken for an interruption", err)
			}
			if len(got) == len(p.file) || !bytes.Equal(got, p.file[:len(got)]) {
				t.Errorf("%d bytes arrived, or wrong ones", len(got))
			}
			// A good line later is all that is needed.
			chaos.Set(netchaos.Toxics{})
			if got, err := readRange(t.Context(), c, p.ref, 0, p.ref.Length); err != nil || !bytes.Equal(got, p.file) {
				t.Errorf("afterwards: %d bytes, %v", len(got), err)
			}
		})
	}
}

// TestCancel: what the caller ended is not the line's fault.
func TestCancel(t *testing.T) {
	p := pack(t, lab.Disk(1, 2))
	c, chaos := throughChaos(t, serveFile(p))
	if _, err := c.Range(t.Context(), p.ref, 0, 1); err != nil {
		t.Fatal(err)
	}
	chaos.Set(netchaos.Toxics{Down: netchaos.Toxic{StallAfter: 100_000}})
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	body, err := c.Range(ctx, p.ref, 0, p.ref.Length)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.ReadFull(body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel(cause)
	_, err = io.Copy(io.Discard, body)
	if !errors.Is(err, cause) || syncclient.Temporary(err) {
		t.Errorf("%v", err)
	}
	if _, err := c.Range(ctx, p.ref, 0, 1); !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
}

// TestConnections: many ranges share a connection, and what went over it is counted.
func TestConnections(t *testing.T) {
	p := pack(t, lab.Disk(1))
	for _, http2 := range []bool{false, true} {
		i := newIdentity(t, nil, nil, nil)
		s := newServer(t, i, serveFile(p))
		s.http1.Store(!http2)
		chaos := netchaos.Start(t, s.Listener.Addr().String())
		c := newClient(t, "https://"+chaos.Addr(), i.fingerprint(t))
		for at := range int64(20) {
			if got, err := readRange(t.Context(), c.WithToken("other"), p.ref, at*1000, 1000); err != nil || !bytes.Equal(got, p.file[at*1000:][:1000]) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
		}
		// The first connection shows the certificate, the second trusts it.
		if n := chaos.Conns(); n > 2 {
			t.Errorf("HTTP2=%v: %d connections", http2, n)
		}
		// The last words of a connection, such as an acknowledgement that nobody waits for, may still be on their way.
		const onTheWay = 4096
		down, up := chaos.Carried()
		if n := c.Bytes(); n < 20_000 || n > down+up+onTheWay || n < down+up-onTheWay {
			t.Errorf("HTTP2=%v: counted %d bytes, the line carried %d and %d", http2, n, down, up)
		}
	}
}

// TestReaderAt reads a layer at random over a line that is cut all the time.
func TestReaderAt(t *testing.T) {
	p := pack(t, lab.Disk(1, 2))
	c, chaos := throughChaos(t, serveFile(p))
	at := c.ReaderAt(t.Context(), p.ref)
	b := make([]byte, 1000)
	if n, err := at.ReadAt(b, 5000); n != 1000 || err != nil || !bytes.Equal(b, p.file[5000:6000]) {
		t.Errorf("%d, %v", n, err)
	}
	chaos.Set(netchaos.Toxics{Down: netchaos.Toxic{CutAfter: 700_000}})
	b = make([]byte, len(p.file)+10)
	if n, err := at.ReadAt(b, 0); n != len(p.file) || !errors.Is(err, io.EOF) || !bytes.Equal(b[:n], p.file) {
		t.Errorf("%d, %v", n, err)
	}
	if chaos.Conns() < 3 {
		t.Errorf("the line was never cut: %d connections", chaos.Conns())
	}
	for off, want := range map[int64]error{p.ref.Length: io.EOF, p.ref.Length + 1: io.EOF} {
		if n, err := at.ReadAt(b, off); n != 0 || !errors.Is(err, want) {
			t.Errorf("at %d: %d, %v", off, n, err)
		}
	}
	if n, err := at.ReadAt(nil, 0); n != 0 || err != nil {
		t.Errorf("nothing: %d, %v", n, err)
	}
	if _, err := at.ReadAt(b[:1], -1); err == nil {
		t.Error("read before the start")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.ReaderAt(ctx, p.ref).ReadAt(b[:1], 0); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestPaths: names go into paths as they are, or not at all.
func TestPaths(t *testing.T) {
	got := make(chan string, 1)
	c, _ := throughChaos(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Method + " " + r.URL.EscapedPath()
		w.WriteHeader(http.StatusNoContent)
	}))
	for name, want := range map[string]string{
		"alice":          "DELETE /v1/groups/staff/members/alice",
		"a/b":            "DELETE /v1/groups/staff/members/a%2Fb",
		"../x":           "DELETE /v1/groups/staff/members/..%2Fx",
		"%2e%2e":         "DELETE /v1/groups/staff/members/%252e%252e",
		"zoë?a=b#c d":    "DELETE /v1/groups/staff/members/zo%C3%AB%3Fa=b%23c%20d",
		"alice@home.org": "DELETE /v1/groups/staff/members/alice@home.org",
	} {
		if err := c.RemoveMember(t.Context(), "staff", name); err != nil {
			t.Errorf("%q: %v", name, err)
		} else if path := <-got; path != want {
			t.Errorf("%q: %s, want %s", name, path, want)
		}
	}
	for _, name := range []string{"", ".", ".."} {
		if err := c.RemoveMember(t.Context(), "staff", name); syncclient.Code(err) != api.CodeInvalid {
			t.Errorf("%q: %v", name, err)
		}
	}
	select {
	case path := <-got:
		t.Errorf("%s was sent", path)
	default:
	}
}
