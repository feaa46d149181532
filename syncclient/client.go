package syncclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"disksync/agefile"
	"disksync/api"
	"disksync/internal/limit"
)

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Options describes the server and the line to it.
type Options struct {
	// URL is the server's address, https://host:port.
	URL *url.URL
	// Fingerprint is that of the server's key.
	Fingerprint Fingerprint
	// Token is what a login gave; empty before.
	Token string
	// Line says when the line counts as interrupted. The zero value is the original's: 10 s to connect, less than 1 KiB/s for 5
	// s.
	Line Line
	// Limit is how much of the line may be taken; empty: all of it.
	Limit limit.Chain
	// Certificate is what the server showed an earlier Client, in DER: with it, the first handshake is not in vain. It is trusted
	// for nothing; one that has another key than Fingerprint says, or that the server no longer uses, does no harm.
	Certificate []byte
	// Shown is called, from any goroutine, when the server shows another certificate with the right key; nil: nobody wants to know.
	Shown func(certificate []byte)
	// Keys open sealed layers of backups.
	Keys []agefile.Identity
}

// Line says when a line counts as interrupted.
type Line struct {
	ConnectTime  time.Duration // for a connection
	LowSpeed     int64         // bytes a second …
	LowSpeedTime time.Duration // … that may not be reached for so long
}

func (l Line) orDefault() Line {
	if l.ConnectTime <= 0 {
		l.ConnectTime = 10 * time.Second
	}
	if l.LowSpeed <= 0 {
		l.LowSpeed = 1024
	}
	if l.LowSpeedTime <= 0 {
		l.LowSpeedTime = 5 * time.Second
	}
	return l
}

// dialer makes connections that fail when what was sent is not acknowledged, or cannot be sent, for a few times LowSpeedTime: on a
// lossy line one packet may need several attempts. Reads are watched where an answer is read; this watches writes.
func (l Line) dialer() *net.Dialer {
	patience := int(4 * l.LowSpeedTime / time.Millisecond)
	return &net.Dialer{Timeout: l.ConnectTime, Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		controlErr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, patience)
		})
		return errors.Join(err, controlErr)
	}}
}

// Client speaks to one Synchronizer. It is safe for concurrent use.
type Client struct {
	base  *url.URL
	http  *http.Client
	token string
	line  Line
	meter *meter

	keys   []agefile.Identity
	sealed *sealedFiles
}

// New returns a Client. Nothing is sent before the first call.
func New(o Options) (*Client, error) {
	if o.URL == nil || o.URL.Scheme != "https" || o.URL.Host == "" {
		return nil, fmt.Errorf("address %v: want https://host:port", o.URL)
	}
	return newOver(o, o.Line.orDefault().dialer().DialContext), nil
}

// newOver returns a Client whose connections dial makes.
func newOver(o Options, dial dialFunc) *Client {
	c := &Client{
		base: o.URL, token: o.Token, line: o.Line.orDefault(), meter: &meter{limit: o.Limit}, keys: o.Keys, sealed: newSealedFiles(),
	}
	p := newPinned(o.Fingerprint, c.meter.measured(dial))
	p.shown = o.Shown
	p.expect(o.Certificate)
	c.http = newHTTP(p)
	return c
}

// NewLocal returns a Client that speaks, as an administrator, to the process that serves the data folder dir.
func NewLocal(dir, socket string) *Client {
	c := &Client{base: &url.URL{Scheme: "http", Host: "local"}, line: Line{}.orDefault(), meter: new(meter), sealed: newSealedFiles()}
	c.http = newHTTP(&http.Transport{
		DialContext: c.meter.measured(func(ctx context.Context, _, _ string) (net.Conn, error) {
			// A socket's address has room for 108 bytes; the path through the open folder is short.
			fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			defer unix.Close(fd)
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(fmt.Sprintf("/proc/self/fd/%d", fd), socket))
		}),
		DisableCompression: true, IdleConnTimeout: idleTime,
	})
	return c
}

func newHTTP(rt http.RoundTripper) *http.Client {
	return &http.Client{
		Transport: rt,
		// Somebody who could redirect us could send us anywhere. A Synchronizer never does, so it is a wrong answer like others.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// WithToken returns a Client that shares the connections and shows another token.
func (c *Client) WithToken(token string) *Client {
	other := *c
	other.token = token
	return &other
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Bytes returns how many bytes went over the line in both directions so far, with everything that TLS and HTTP add.
func (c *Client) Bytes() int64 { return c.meter.bytes.Load() }

// request makes a request of the API; elems are the elements of the path behind the version, unescaped.
func (c *Client) request(ctx context.Context, method string, query url.Values, body content, elems ...string) (*http.Request, error) {
	escaped := make([]string, 0, len(elems)+1)
	for _, e := range append([]string{api.Version}, elems...) {
		// These would be cleaned away, and what is left is the path of something else.
		if e == "" || e == "." || e == ".." {
			return nil, &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("nothing can be called %q", e)}
		}
		escaped = append(escaped, url.PathEscape(e))
	}
	u := c.base.JoinPath(escaped...)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.GetBody = func() (io.ReadCloser, error) {
			return io.NopCloser(pieces{io.NewSectionReader(body, 0, body.Size()), c.meter.limit, ctx.Done()}), nil
		}
		req.Body, _ = req.GetBody()
		req.ContentLength = body.Size()
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// content is what a request sends. It may be read more than once, and still when the answer is there.
type content interface {
	io.ReaderAt
	Size() int64 // bytes
}

// pieces gives what is to be sent in pieces of 16 KiB. With HTTP/2 each becomes a frame of its own, and of a frame the other side
// has nothing before it has all: in one of half a MiB, which would be the rule, a bad line may never bring any. Where there is a limit
// it waits until the pieces before are paid for.
type pieces struct {
	r     io.Reader
	limit limit.Chain
	done  <-chan struct{}
}

// Read implements io.Reader.
func (p pieces) Read(b []byte) (int, error) {
	p.limit.Take(limit.Up, 0, p.done)
	return p.r.Read(b[:min(len(b), 16<<10, p.limit.Piece(limit.Up))])
}

// do sends a request and returns an answer with one of the wanted statuses; anything else becomes an error. The caller closes
// the body.
func (c *Client) do(req *http.Request, want ...int) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		// The URL says nothing that the caller does not say better.
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return nil, lineError(req.Context(), err)
	}
	for _, status := range want {
		if resp.StatusCode == status {
			return resp, nil
		}
	}
	defer resp.Body.Close()
	return nil, c.answerError(resp)
}

// answerError makes an error of an answer that is not the success that was asked for.
func (c *Client) answerError(resp *http.Response) error {
	odd := &ProtocolError{fmt.Sprintf("status %d %s with %s", resp.StatusCode, http.StatusText(resp.StatusCode), kindOf(resp))}
	if resp.StatusCode < http.StatusBadRequest || !isJSON(resp) {
		return odd
	}
	b, err := c.readAll(resp, api.MaxJSON)
	if err != nil {
		return err
	}
	e := new(api.Error)
	if json.Unmarshal(b, e) != nil || e.Code == "" {
		return odd
	}
	after, err := time.ParseDuration(resp.Header.Get("Retry-After") + "s")
	if e.Code == api.CodeBusy && err == nil && after >= 0 {
		return &BusyError{Err: e, RetryAfter: min(after, maxRetryAfter)}
	}
	return e
}

func isJSON(resp *http.Response) bool {
	return strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json")
}

func kindOf(resp *http.Response) string {
	if t := resp.Header.Get("Content-Type"); t != "" {
		return "content of type " + t[:min(len(t), 60)]
	}
	return "content of no type"
}

// call sends in, when it is not nil, as JSON and reads the answer into out, when it is not nil.
func (c *Client) call(ctx context.Context, method string, in, out any, elems ...string) error {
	var body content
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	return c.callRaw(ctx, method, nil, body, out, elems...)
}

func (c *Client) callRaw(ctx context.Context, method string, query url.Values, body content, out any, elems ...string) error {
	req, err := c.request(ctx, method, query, body, elems...)
	if err != nil {
		return err
	}
	return c.callLong(req, api.MaxJSON, out)
}

// callLong sends a request and reads an answer of at most limit bytes into out, when it is not nil.
func (c *Client) callLong(req *http.Request, limit int64, out any) error {
	resp, err := c.do(req, http.StatusOK, http.StatusNoContent)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	b, err := c.readAll(resp, limit)
	if err != nil {
		return err
	}
	if !isJSON(resp) {
		return &ProtocolError{kindOf(resp) + " in place of an answer"}
	}
	if err := json.Unmarshal(b, out); err != nil {
		return &ProtocolError{"an answer that cannot be read: " + err.Error()}
	}
	return nil
}

// watch returns a body that ends when the line stands still.
func (c *Client) watch(body io.ReadCloser) *watched {
	return newWatched(body, c.line, c.Bytes, c.meter.held.total)
}

// readAll reads a whole body of at most limit bytes.
func (c *Client) readAll(resp *http.Response, limit int64) ([]byte, error) {
	r := c.watch(resp.Body)
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, lineError(resp.Request.Context(), err)
	}
	if int64(len(b)) > limit {
		return nil, &ProtocolError{fmt.Sprintf("an answer of more than %d bytes", limit)}
	}
	return b, nil
}
