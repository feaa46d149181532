package endpoint_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"disksync/endpoint"
	"disksync/internal/testkit/lab"
	"disksync/syncclient"
)

// stranger makes another TLS identity.
func stranger(t *testing.T) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestRegister: the first contact shows the key, what was confirmed is pinned, and a second registration changes nothing.
func TestRegister(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f, err := w.e.Probe(t.Context(), w.front.URL)
	if err != nil || f != w.lab.Fingerprint {
		t.Fatalf("the server shows %s, its key has %s: %v", f, w.lab.Fingerprint, err)
	}
	if w.e.Registered() != nil {
		t.Error("asking registers already")
	}
	wrong := f
	wrong[5]++
	if _, err := w.e.Register(t.Context(), w.front.URL, wrong, false); code(t, err) != "DS-TLS-PIN" {
		t.Error(err)
	} else if !strings.Contains(err.Error(), f.String()) || !strings.Contains(err.Error(), wrong.String()) {
		t.Errorf("the error does not show both fingerprints: %v", err)
	}
	if w.e.Registered() != nil {
		t.Error("registered with a server of another key")
	}
	if err := w.e.Login(t.Context(), "alice", lab.Password); code(t, err) != "DS-NOT-REGISTERED" {
		t.Error(err)
	}
	r, err := w.e.Register(t.Context(), w.front.URL, f, false)
	if err != nil {
		t.Fatal(err)
	}
	if r.Fingerprint != f || r.URL != w.front.URL || r.Device.IsZero() || len(r.OldKeys) != 0 || !bytes.Equal(r.SigningKey[:], w.signingKey()[32:]) {
		t.Errorf("%+v", r)
	}
	w.restart()
	if diff := cmp.Diff(r, w.e.Registered()); diff != "" {
		t.Errorf("after a restart: %s", diff)
	}
	again, err := w.e.Register(t.Context(), w.front.URL, f, false)
	if err != nil || again.Device != r.Device || len(again.OldKeys) != 0 {
		t.Errorf("registered again: %+v, %v", again, err)
	}
}

// TestAddresses: what is no address of a Synchronizer is refused before anything is sent, and one where nobody answers is told apart.
func TestAddresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, address := range []string{
		"", "server", "server:443", "http://server", "https://", "https://user:secret@server", "https://server/?x", "https://server/#x", "file:///etc/passwd", "https://[",
	} {
		if _, err := w.e.Probe(t.Context(), address); code(t, err) != "DS-USAGE" {
			t.Errorf("%q: %v", address, err)
		}
		if _, err := w.e.Register(t.Context(), address, w.lab.Fingerprint, false); code(t, err) != "DS-USAGE" {
			t.Errorf("%q: %v", address, err)
		}
	}
	nobody := httptest.NewTLSServer(http.NotFoundHandler())
	address := nobody.URL
	nobody.Close()
	if _, err := w.e.Probe(t.Context(), address); code(t, err) != "DS-NET" {
		t.Error(err)
	}
	if _, err := w.e.Register(t.Context(), address, w.lab.Fingerprint, false); code(t, err) != "DS-NET" {
		t.Error(err)
	}
	w.front.answer(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) {
		rw.Header().Set("Content-Type", "text/html")
		_, _ = rw.Write([]byte("<html>Welcome to the hotel's network"))
	})
	if _, err := w.e.Register(t.Context(), w.front.URL, w.lab.Fingerprint, false); code(t, err) != "DS-NET-PROTOCOL" {
		t.Error(err)
	}
	if w.e.Registered() != nil {
		t.Error("registered with a web page")
	}
}

// TestAnotherSynchronizer: everything that is trusted changes, so it is done only when it is said in so many words; what was
// installed under the old one can still be checked.
func TestAnotherSynchronizer(t *testing.T) {
	t.Parallel()
	w := ready(t, disk(1, 2))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	old := *w.e.Registered()
	second := lab.Start(t)
	if _, err := w.e.Register(t.Context(), second.URL, second.Fingerprint, false); code(t, err) != "DS-TLS-PIN" {
		t.Error(err)
	}
	if diff := cmp.Diff(&old, w.e.Registered()); diff != "" || w.e.User() != "alice" {
		t.Errorf("refused, and changed all the same: %s", diff)
	}
	r, err := w.e.Register(t.Context(), second.URL, second.Fingerprint, true)
	if err != nil {
		t.Fatal(err)
	}
	if r.Device != old.Device || len(r.OldKeys) != 1 || r.OldKeys[0] != old.SigningKey || r.SigningKey == old.SigningKey {
		t.Errorf("%+v", r)
	}
	if w.e.User() != "" {
		t.Error("a token of the old Synchronizer is kept for the new one")
	}
	w.restart()
	if w.e.User() != "" {
		t.Error("the old token comes back")
	}
	w.run(endpoint.Request{Kind: endpoint.Verify, VM: "win7"})
}

// TestChangedKey: a server with another key in the Synchronizer's place is a hard stop, wherever it happens, and nothing is sent to it.
func TestChangedKey(t *testing.T) {
	t.Parallel()
	w := ready(t, disk(1, 2))
	w.front.identity.Store(stranger(t))
	var asked atomic.Int64
	w.front.answer(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		asked.Add(1)
		next.ServeHTTP(rw, r)
	})
	var other syncclient.Fingerprint
	other, err := w.e.Probe(t.Context(), w.front.URL)
	if err != nil || other == w.lab.Fingerprint {
		t.Fatalf("the key did not change: %v", err)
	}
	_, offers := w.e.Offers(t.Context())
	_, plan := w.e.Plan(t.Context(), endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	download, status := w.fail(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	for what, err := range map[string]error{
		"offers": offers, "plan": plan, "login": w.e.Login(t.Context(), "alice", lab.Password), "logout": w.e.Logout(t.Context()), "download": status.Problem,
	} {
		if code(t, err) != "DS-TLS-PIN" {
			t.Errorf("%s: %v", what, err)
			continue
		}
		for _, f := range []syncclient.Fingerprint{other, w.lab.Fingerprint} {
			if !strings.Contains(err.Error(), f.String()) {
				t.Errorf("%s: the error does not show %s: %v", what, f, err)
			}
		}
	}
	if download != "DS-TLS-PIN" || asked.Load() != 0 {
		t.Errorf("the download ended with %s, %d requests reached the stranger", download, asked.Load())
	}
	w.nothingInstalled()
	// With the right key again everything is as it was; the logout above was here.
	w.front.identity.Store(&w.front.own)
	w.front.honest()
	w.logIn()
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.holds("win7", disk(1, 2))
}

// TestLogin: the token is kept, the password nowhere; a login that was refused, ended or withdrawn says what to do.
func TestLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.e.Register(t.Context(), w.front.URL, w.lab.Fingerprint, false); err != nil {
		t.Fatal(err)
	}
	if _, err := w.e.Offers(t.Context()); code(t, err) != "DS-LOGIN-NEEDED" {
		t.Error(err)
	}
	wrong := w.e.Login(t.Context(), "alice", "wrong horse")
	unknown := w.e.Login(t.Context(), "nobody", lab.Password)
	if code(t, wrong) != "DS-LOGIN-REFUSED" || code(t, unknown) != "DS-LOGIN-REFUSED" || wrong.Error() != unknown.Error() {
		t.Errorf("%v, %v", wrong, unknown)
	}
	if w.e.User() != "" {
		t.Errorf("%s is logged in", w.e.User())
	}
	w.logIn()
	w.restart()
	if w.e.User() != "alice" {
		t.Errorf("after a restart %q is logged in", w.e.User())
	}
	if _, err := w.e.Offers(t.Context()); err != nil {
		t.Error(err)
	}
	seen := 0
	err := filepath.WalkDir(w.dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		seen++
		b, err := os.ReadFile(file)
		if bytes.Contains(b, []byte(lab.Password)) {
			t.Errorf("the password is in %s", file)
		}
		if st, statErr := d.Info(); d.Name() == "login.json" && (statErr != nil || st.Mode().Perm() != 0o600) {
			t.Errorf("the token may be read by others: %v %v", st.Mode(), statErr)
		}
		return err
	})
	if err != nil || seen < 2 {
		t.Errorf("%d files: %v", seen, err)
	}

	// The administrator withdraws the device: the session has ended, what is installed stays.
	if err := w.lab.Admin.DeleteDevice(t.Context(), w.e.Registered().Device); err != nil {
		t.Fatal(err)
	}
	if _, err := w.e.Offers(t.Context()); code(t, err) != "DS-LOGIN-NEEDED" {
		t.Error(err)
	}
	if got, _ := w.fail(endpoint.Request{Kind: endpoint.Download, Image: "win7"}); got != "DS-LOGIN-NEEDED" {
		t.Errorf("a download with a session that has ended: %s", got)
	}
	w.logIn()
	token := w.token()
	if err := w.e.Logout(t.Context()); err != nil {
		t.Error(err)
	}
	if w.e.User() != "" || len(w.files(".", "login.json")) != 0 {
		t.Error("logged out, and the token is there still")
	}
	if _, err := w.lab.Client(t, token).Offers(t.Context()); syncclient.Code(err) != "login-required" {
		t.Errorf("the token works after the logout: %v", err)
	}
	if err := w.e.Logout(t.Context()); code(t, err) != "DS-LOGIN-NEEDED" {
		t.Error(err)
	}
}

func (w *world) token() string {
	w.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, "login.json"))
	if err != nil {
		w.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), `"token": "`)
	token, _, ok := strings.Cut(after, `"`)
	if !ok || token == "" {
		w.Fatalf("no token in %s", b)
	}
	return token
}

// TestLogoutWithoutLine: the token is forgotten even when the Synchronizer cannot be told, and the user hears of it.
func TestLogoutWithoutLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.logIn()
	w.front.Close()
	if err := w.e.Logout(t.Context()); code(t, err) != "DS-NET" {
		t.Error(err)
	}
	if w.e.User() != "" || len(w.files(".", "login.json")) != 0 {
		t.Error("the token is there still")
	}
}
