package syncclient_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"disksync/api"
	"disksync/image"
	"disksync/internal/netchaos"
	"disksync/syncclient"
)

func TestParseFingerprint(t *testing.T) {
	const want = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	colons := strings.Join(strings.SplitAfter(strings.ToUpper(want), ""), "")
	var pairs []string
	for i := 0; i < len(colons); i += 2 {
		pairs = append(pairs, colons[i:i+2])
	}
	for _, s := range []string{
		want, strings.ToUpper(want), " " + want + "\n", "sha256:" + want, "SHA256:" + want, strings.Join(pairs, ":"), strings.Join(pairs, " "),
		strings.Join(pairs, "-"),
	} {
		f, err := syncclient.ParseFingerprint(s)
		if err != nil || f.String() != want {
			t.Errorf("%q: %v, %v", s, f, err)
		}
	}
	for _, s := range []string{"", "sha256:", want[:62], want + "00", "sha1:" + want, want[:63] + "g", strings.Repeat("ü", 64), "md5:" + want[:32]} {
		if f, err := syncclient.ParseFingerprint(s); err == nil {
			t.Errorf("%q was read as %v", s, f)
		}
	}
	var f, g syncclient.Fingerprint
	f[3] = 7
	b, err := json.Marshal(f)
	if err != nil || json.Unmarshal(b, &g) != nil || f != g {
		t.Errorf("%v, %s, %v, %v", f, b, g, err)
	}
	if json.Unmarshal([]byte(`"x"`), &g) == nil {
		t.Error("read nonsense")
	}
}

// identity is a TLS key with a certificate.
type identity struct {
	key  *ecdsa.PrivateKey
	cert tls.Certificate
}

func (i *identity) fingerprint(t *testing.T) syncclient.Fingerprint {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&i.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(der)
}

// newIdentity makes a key, or takes one, and a certificate that edit has changed. issuer signs it; nil: itself.
func newIdentity(t *testing.T, key *ecdsa.PrivateKey, issuer *identity, edit func(*x509.Certificate)) *identity {
	t.Helper()
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"server.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	if edit != nil {
		edit(c)
	}
	parent, signer := c, key
	if issuer != nil {
		var err error
		if parent, err = x509.ParseCertificate(issuer.cert.Certificate[0]); err != nil {
			t.Fatal(err)
		}
		signer = issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return &identity{key, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
}

// server is a TLS server whose identity can be changed. It counts the requests that reach it.
type server struct {
	*httptest.Server
	identity atomic.Pointer[identity]
	http1    atomic.Bool // it speaks nothing newer
	requests atomic.Int64
}

func newServer(t *testing.T, i *identity, h http.Handler) *server {
	t.Helper()
	s := &server{}
	s.identity.Store(i)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		h.ServeHTTP(w, r)
	}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		protos := []string{"h2", "http/1.1"}
		if s.http1.Load() {
			protos = protos[1:]
		}
		return &tls.Config{Certificates: []tls.Certificate{s.identity.Load().cert}, NextProtos: protos}, nil
	}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func parse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// The Lines of tests: on the patient one nothing is interrupted only because the machine is busy, on the impatient one what would
// count as interrupted after seconds does so after moments.
var (
	patient   = syncclient.Line{ConnectTime: time.Minute, LowSpeed: 1, LowSpeedTime: time.Minute}
	impatient = syncclient.Line{ConnectTime: time.Minute, LowSpeed: 1024, LowSpeedTime: 100 * time.Millisecond}
)

func newClient(t *testing.T, address string, f syncclient.Fingerprint) *syncclient.Client {
	t.Helper()
	c, err := syncclient.New(syncclient.Options{URL: parse(t, address), Fingerprint: f, Token: "secret", Line: patient})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// hello answers as a Synchronizer does to those who ask who it is, and to logins.
var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == "/v1/login" {
		var in api.Login
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(api.Token{Token: "for " + in.User})
		return
	}
	_ = json.NewEncoder(w).Encode(api.Server{Name: "test", SigningKey: image.PublicKey{1}})
})

// TestPin: the key is what counts, and nothing else.
func TestPin(t *testing.T) {
	mine := newIdentity(t, nil, nil, nil)
	authority := newIdentity(t, nil, nil, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
	})
	tests := map[string]*identity{
		"as it is":            mine,
		"other names":         newIdentity(t, mine.key, nil, func(c *x509.Certificate) { c.DNSNames = []string{"*.other.example"} }),
		"an address":          newIdentity(t, mine.key, nil, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, []net.IP{net.IPv4(192, 0, 2, 1)} }),
		"of long ago":         newIdentity(t, mine.key, nil, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Unix(1e9, 0), time.Unix(1e9+1000, 0) }),
		"not valid yet":       newIdentity(t, mine.key, nil, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Unix(4e9, 0), time.Unix(4e9+1000, 0) }),
		"signed by authority": newIdentity(t, mine.key, authority, nil),
		"for all uses":        newIdentity(t, mine.key, nil, func(c *x509.Certificate) { c.ExtKeyUsage = nil }),
	}
	for name, i := range tests {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, i, hello)
			if _, err := newClient(t, s.URL, mine.fingerprint(t)).Server(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("another key", func(t *testing.T) {
		other := newIdentity(t, nil, nil, nil)
		s := newServer(t, other, hello)
		_, err := newClient(t, s.URL, mine.fingerprint(t)).Login(t.Context(), api.Login{User: "alice", Password: "secret"})
		pin, ok := errors.AsType[*syncclient.PinError](err)
		if !ok || pin.Want != mine.fingerprint(t) || pin.Got != other.fingerprint(t) {
			t.Fatalf("%v", err)
		}
		for _, f := range []string{pin.Want.String(), pin.Got.String()} {
			if !strings.Contains(err.Error(), f) {
				t.Errorf("%v does not name %s", err, f)
			}
		}
		if syncclient.Temporary(err) || syncclient.Interrupted(err) {
			t.Error("trying again was said to help")
		}
		if n := s.requests.Load(); n > 0 {
			t.Errorf("%d requests were sent to a stranger", n)
		}
	})
	t.Run("another key with the authority's blessing", func(t *testing.T) {
		s := newServer(t, newIdentity(t, nil, mine, nil), hello) // signed by the very key that is known
		if _, err := newClient(t, s.URL, mine.fingerprint(t)).Server(t.Context()); !isPin(err) || s.requests.Load() > 0 {
			t.Errorf("%v, %d requests", err, s.requests.Load())
		}
	})
	t.Run("a certificate without the key", func(t *testing.T) {
		// The certificate is public; only who has its key can speak for it.
		forged := &identity{mine.key, tls.Certificate{Certificate: mine.cert.Certificate, PrivateKey: authority.key}}
		s := newServer(t, forged, hello)
		if _, err := newClient(t, s.URL, mine.fingerprint(t)).Server(t.Context()); err == nil || s.requests.Load() > 0 {
			t.Errorf("%v, %d requests", err, s.requests.Load())
		}
	})
	t.Run("a certificate of no use", func(t *testing.T) {
		s := newServer(t, newIdentity(t, mine.key, nil, func(c *x509.Certificate) { c.DNSNames = nil }), hello)
		if _, err := newClient(t, s.URL, mine.fingerprint(t)).Server(t.Context()); err == nil || !strings.Contains(err.Error(), "right key") {
			t.Errorf("%v", err)
		}
	})
}

func isPin(err error) bool {
	_, ok := errors.AsType[*syncclient.PinError](err)
	return ok
}

// TestPinRenewal: the certificate changes while clients are at work, then the key.
func TestPinRenewal(t *testing.T) {
	first := newIdentity(t, nil, nil, nil)
	s := newServer(t, first, hello)
	c := newClient(t, s.URL, first.fingerprint(t))
	// The first request ever may have a body, and there may be many at once.
	var calls sync.WaitGroup
	for range 16 {
		calls.Go(func() {
			tok, err := c.Login(t.Context(), api.Login{User: "alice"})
			if err != nil || tok.Token != "for alice" {
				t.Errorf("%+v, %v", tok, err)
			}
		})
	}
	calls.Wait()
	s.identity.Store(newIdentity(t, first.key, nil, func(c *x509.Certificate) { c.DNSNames = []string{"renewed.example"} }))
	c.Close() // only new connections see it
	if _, err := c.Login(t.Context(), api.Login{User: "bob"}); err != nil {
		t.Errorf("renewed certificate: %v", err)
	}
	s.identity.Store(newIdentity(t, nil, nil, nil))
	c.Close()
	before := s.requests.Load()
	if _, err := c.Login(t.Context(), api.Login{User: "bob"}); !isPin(err) || s.requests.Load() != before {
		t.Errorf("new key: %v", err)
	}
}

// TestExpectedCertificate: a certificate that was seen before saves a connection, and any other costs nothing but that.
func TestExpectedCertificate(t *testing.T) {
	now := newIdentity(t, nil, nil, nil)
	renewed := newIdentity(t, now.key, nil, func(c *x509.Certificate) { c.DNSNames = []string{"before.example"} })
	other := newIdentity(t, nil, nil, nil)
	for _, test := range []struct {
		name    string
		hint    []byte
		conns   int
		changed bool // the client is told what the server shows
	}{
		{"none", nil, 2, true},
		{"the present one", now.cert.Certificate[0], 1, false},
		{"one before", renewed.cert.Certificate[0], 2, true},
		{"of another key", other.cert.Certificate[0], 2, true},
		{"nonsense", []byte("nonsense"), 2, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t, now, hello)
			line := netchaos.Start(t, s.Listener.Addr().String())
			var shown []byte
			c, err := syncclient.New(syncclient.Options{
				URL: parse(t, "https://"+line.Addr()), Fingerprint: now.fingerprint(t), Certificate: test.hint, Shown: func(der []byte) { shown = der },
			})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Server(t.Context()); err != nil {
				t.Fatal(err)
			}
			if line.Conns() != test.conns {
				t.Errorf("%d connections, want %d", line.Conns(), test.conns)
			}
			if (shown != nil) != test.changed || shown != nil && !bytes.Equal(shown, now.cert.Certificate[0]) {
				t.Errorf("%d bytes of a certificate were shown", len(shown))
			}
		})
	}
	t.Run("of a stranger", func(t *testing.T) {
		s := newServer(t, other, hello)
		c, err := syncclient.New(syncclient.Options{
			URL: parse(t, s.URL), Fingerprint: now.fingerprint(t), Certificate: other.cert.Certificate[0], Shown: func([]byte) { t.Error("it was taken") },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Server(t.Context()); !isPin(err) || s.requests.Load() > 0 {
			t.Errorf("%v, %d requests", err, s.requests.Load())
		}
	})
}

// TestProbe: a stranger learns nothing from being looked at.
func TestProbe(t *testing.T) {
	i := newIdentity(t, nil, nil, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan []byte, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{i.cert}, NextProtos: []string{"h2", "http/1.1"}}))
		got <- b
	}()
	f, err := syncclient.Probe(t.Context(), parse(t, "https://"+l.Addr().String()+"/secret"))
	if err != nil || f != i.fingerprint(t) {
		t.Errorf("%v, %v, want %v", f, err, i.fingerprint(t))
	}
	if b := <-got; len(b) > 0 {
		t.Errorf("it was sent %q", b)
	}
}

func TestProbeRefuses(t *testing.T) {
	plain := httptest.NewServer(hello)
	defer plain.Close()
	requests := atomic.Int64{}
	counting := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
	defer counting.Close()
	gone := httptest.NewServer(hello)
	gone.Close()
	for name, address := range map[string]string{
		"no TLS":       strings.Replace(plain.URL, "http:", "https:", 1),
		"plain scheme": counting.URL,
		"nobody":       strings.Replace(gone.URL, "http:", "https:", 1),
	} {
		t.Run(name, func(t *testing.T) {
			if f, err := syncclient.Probe(t.Context(), parse(t, address)); err == nil {
				t.Errorf("found %v", f)
			}
		})
	}
	if requests.Load() > 0 {
		t.Error("a request was sent in the clear")
	}
}

func TestNewRefuses(t *testing.T) {
	for _, address := range []string{"http://a:1", "a:1", "https:///x", ""} {
		if _, err := syncclient.New(syncclient.Options{URL: parse(t, address)}); err == nil {
			t.Errorf("%q was accepted", address)
		}
	}
	if _, err := syncclient.New(syncclient.Options{}); err == nil {
		t.Error("no address was accepted")
	}
}
