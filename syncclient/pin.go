package syncclient

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Fingerprint is the SHA-256 of a TLS key (the SubjectPublicKeyInfo of its certificate), so that it survives the renewal of
// the certificate. Its text form is 64 lower-case hexadecimal digits.
type Fingerprint [sha256.Size]byte

// ParseFingerprint reads the text form in the ways that people pass it on: in either case, with colons, blanks or dashes
// between digits, and with "sha256:" before it.
func ParseFingerprint(s string) (Fingerprint, error) {
	var f Fingerprint
	digits := strings.ToLower(strings.TrimSpace(s))
	digits = strings.TrimPrefix(digits, "sha256:")
	digits = strings.NewReplacer(":", "", " ", "", "-", "").Replace(digits)
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(f) {
		return f, fmt.Errorf("fingerprint %q: want %d hexadecimal digits, as `synchronizer serve` prints them", s[:min(len(s), 100)], 2*len(f))
	}
	copy(f[:], b)
	return f, nil
}

// String returns the text form.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// MarshalText implements encoding.TextMarshaler.
func (f Fingerprint) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Fingerprint) UnmarshalText(text []byte) (err error) {
	*f, err = ParseFingerprint(string(text))
	return err
}

func fingerprintOf(c *x509.Certificate) Fingerprint { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// PinError says that the server at the address has another key than the one that is known.
type PinError struct{ Want, Got Fingerprint }

// Error implements error.
func (e *PinError) Error() string {
	return fmt.Sprintf("the server has another key: expected fingerprint %s, it shows %s", e.Want, e.Got)
}

// Probe connects to a server and returns the fingerprint of the key that it proves to have, for a person to confirm. Nothing
// is sent to it.
func Probe(ctx context.Context, server *url.URL) (Fingerprint, error) {
	if server.Scheme != "https" {
		return Fingerprint{}, fmt.Errorf("look at %s: want https://host:port", server.Redacted())
	}
	p := newPinned(Fingerprint{}, Line{}.orDefault().dialer().DialContext)
	defer p.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, server.String(), nil)
	if err != nil {
		return Fingerprint{}, err
	}
	resp, err := p.RoundTrip(req)
	if resp != nil {
		resp.Body.Close()
	}
	if e, ok := errors.AsType[*PinError](err); ok {
		return e.Got, nil
	}
	if err == nil {
		err = errors.New("the server has no TLS key")
	}
	return Fingerprint{}, fmt.Errorf("look at %s: %w", server.Host, err)
}

// pinned is a transport that speaks TLS with one key only. It rests on the ordinary verification of certificates, with the
// server's certificate as the only authority: at first none is known, so the handshake fails and shows the certificate; when
// its key is the right one it becomes the authority and the request is made again. The same happens after a renewal. Who has seen
// the certificate before can say so, and the first handshake does.
type pinned struct {
	want  Fingerprint
	dial  dialFunc
	shown func([]byte)

	mu    sync.Mutex
	inner *http.Transport
}

func newPinned(want Fingerprint, dial dialFunc) *pinned {
	p := &pinned{want: want, dial: dial}
	p.inner = p.transport(nil)
	return p
}

// expect makes the certificate, in DER, the one that the server is expected to show, if its key is the right one.
func (p *pinned) expect(der []byte) {
	if leaf, err := x509.ParseCertificate(der); err == nil && fingerprintOf(leaf) == p.want {
		p.inner = p.transport(leaf)
	}
}

const (
	handshakeTime = 30 * time.Second
	headerTime    = 2 * time.Minute
	idleTime      = 90 * time.Second
	maxHeader     = 64 << 10
)

func (p *pinned) transport(leaf *x509.Certificate) *http.Transport {
	// No sessions are resumed: a server whose key has changed has to be noticed with the next connection.
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool(), ServerName: "synchronizer"}
	if leaf != nil {
		config.RootCAs.AddCert(leaf)
		// The key is what counts. The names in the certificate are the server's affair, and so is its date: endpoints' clocks
		// cannot be relied upon.
		if len(leaf.DNSNames) > 0 {
			config.ServerName = leaf.DNSNames[0]
		} else if len(leaf.IPAddresses) > 0 {
			config.ServerName = leaf.IPAddresses[0].String()
		}
		config.Time = func() time.Time { return leaf.NotBefore.Add(time.Second) }
	}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: p.dial, TLSClientConfig: config, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: handshakeTime, ResponseHeaderTimeout: headerTime, IdleConnTimeout: idleTime,
		DisableCompression: true, // layers are packed, and an answer must be what was asked for byte by byte
		MaxIdleConns:       8, MaxResponseHeaderBytes: maxHeader,
	}
}

// RoundTrip implements http.RoundTripper.
func (p *pinned) RoundTrip(req *http.Request) (*http.Response, error) {
	for {
		p.mu.Lock()
		inner := p.inner
		p.mu.Unlock()
		resp, err := inner.RoundTrip(req)
		bad, ok := errors.AsType[*tls.CertificateVerificationError](err)
		if !ok || len(bad.UnverifiedCertificates) == 0 {
			return resp, err
		}
		leaf := bad.UnverifiedCertificates[0]
		if got := fingerprintOf(leaf); got != p.want {
			return nil, &PinError{Want: p.want, Got: got}
		}
		if inner.TLSClientConfig.RootCAs.Equal(poolOf(leaf)) {
			return nil, fmt.Errorf("the server's certificate has the right key but cannot be used: %w", err)
		}
		// Nothing of the request was sent, but its body may have been opened.
		if req.Body != nil && req.Body != http.NoBody {
			if req.GetBody == nil {
				return nil, err
			}
			if req.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
		p.mu.Lock()
		first := p.inner == inner
		if first {
			p.inner = p.transport(leaf)
		}
		p.mu.Unlock()
		if first && p.shown != nil {
			p.shown(leaf.Raw)
		}
		inner.CloseIdleConnections()
	}
}

func poolOf(c *x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return pool
}

// CloseIdleConnections closes what is not in use.
func (p *pinned) CloseIdleConnections() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inner.CloseIdleConnections()
}
