package synchronizer_test

import (
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"disksync/api"
	"disksync/image"
	"disksync/synchronizer"
)

// from sets the address that a request comes from.
func from(addr string) func(*http.Request) {
	return func(r *http.Request) { r.RemoteAddr = addr }
}

// tryLogin logs in from an address.
func (h *house) tryLogin(t *testing.T, user, pass, addr string) answer {
	t.Helper()
	return h.send(t, "", "POST", "/v1/login", api.Login{User: user, Password: pass, Device: device(1)}, from(addr))
}

// valid reports whether a token lets its user in.
func (h *house) valid(t *testing.T, token string) bool {
	t.Helper()
	a := h.send(t, token, "GET", "/v1/offers", nil)
	if a.status != http.StatusOK && a.code() != api.CodeUnauthorized {
		t.Fatalf("offers: %v", a)
	}
	return a.status == http.StatusOK
}

// TestTokens shows what makes a token and what ends it.
func TestTokens(t *testing.T) {
	h := newHouse(t)
	h.user(t, "alice", false)
	h.user(t, "bob", true)

	t.Run("what a login gives", func(t *testing.T) {
		tok := into[api.Token](t, h.tryLogin(t, "bob", password, "192.0.2.1:1"))
		if tok.User != "bob" || !tok.Admin || !tok.Expires.Equal(h.clock.now().Add(api.TokenLife)) {
			t.Errorf("token %+v", tok)
		}
		if len(tok.Token) < 43 || !strings.HasPrefix(tok.Token, "dsync_") {
			t.Errorf("token %q", tok.Token)
		}
	})
	t.Run("expiry", func(t *testing.T) {
		token := h.login(t, "alice", device(1))
		h.clock.advance(api.TokenLife - time.Second)
		if !h.valid(t, token) {
			t.Error("ended a second too early")
		}
		h.clock.advance(time.Second)
		if h.valid(t, token) {
			t.Error("outlived its time")
		}
	})
	t.Run("a second login of a device replaces the first", func(t *testing.T) {
		first, other := h.login(t, "alice", device(1)), h.login(t, "alice", device(2))
		second := h.login(t, "alice", device(1))
		if h.valid(t, first) || !h.valid(t, second) || !h.valid(t, other) {
			t.Errorf("valid: first %v, second %v, other device %v", h.valid(t, first), h.valid(t, second), h.valid(t, other))
		}
	})
	t.Run("two users of a device", func(t *testing.T) {
		alice, bob := h.login(t, "alice", device(1)), h.login(t, "bob", device(1))
		if !h.valid(t, alice) || !h.valid(t, bob) {
			t.Error("one login ended the other")
		}
		h.must(t, "DELETE", "/v1/devices/"+device(1).ID.String(), nil)
		if h.valid(t, alice) || h.valid(t, bob) {
			t.Error("a token outlived its device")
		}
	})
	t.Run("logout", func(t *testing.T) {
		one, two := h.login(t, "alice", device(1)), h.login(t, "alice", device(2))
		if a := h.send(t, one, "DELETE", "/v1/login", nil); a.status != http.StatusNoContent {
			t.Errorf("logout: %v", a)
		}
		if h.valid(t, one) || !h.valid(t, two) {
			t.Error("want the first login ended, and only that")
		}
		if a := h.send(t, one, "DELETE", "/v1/login", nil); a.code() != api.CodeUnauthorized {
			t.Errorf("second logout: %v", a)
		}
	})
	t.Run("password change", func(t *testing.T) {
		token := h.login(t, "alice", device(1))
		h.must(t, "PUT", "/v1/users/alice/password", api.Password{Password: "another"})
		if h.valid(t, token) {
			t.Error("a token outlived the password")
		}
		h.clock.advance(time.Minute)
		if a := h.tryLogin(t, "alice", password, "192.0.2.1:1"); a.code() != api.CodeBadLogin {
			t.Errorf("login with the old password: %v", a)
		}
		if a := h.tryLogin(t, "alice", "another", "192.0.2.1:1"); a.status != http.StatusOK {
			t.Errorf("login with the new password: %v", a)
		}
		h.must(t, "PUT", "/v1/users/alice/password", api.Password{Password: password})
	})
	t.Run("restart", func(t *testing.T) {
		token := h.login(t, "alice", device(1))
		h.restart(t)
		if !h.valid(t, token) {
			t.Error("a restart ended the login")
		}
	})
	t.Run("deletion of the user", func(t *testing.T) {
		token := h.login(t, "alice", device(1))
		h.must(t, "DELETE", "/v1/users/alice", nil)
		if h.valid(t, token) {
			t.Error("a token outlived its user")
		}
	})
	t.Run("no token is in the folder", func(t *testing.T) {
		token := h.login(t, "bob", device(3))
		if where := findIn(t, h.dir, token, strings.TrimPrefix(token, "dsync_"), password); where != "" {
			t.Errorf("%s holds a secret", where)
		}
	})
}

// TestPasswordsAreExpensive uses argon2 as it is, unlike the other tests.
func TestPasswordsAreExpensive(t *testing.T) {
	s, err := synchronizer.Open(t.Context(), synchronizer.Options{Dir: filepath.Join(t.TempDir(), "data")})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{Server: s, clock: &clock{}}
	defer h.close(t)
	h.user(t, "alice", false)
	var hash string
	if err := h.Query(t.Context(), &hash, "SELECT password FROM users"); err != nil {
		t.Fatal(err)
	}
	// RFC 9106, section 4, the second recommended option: t=3, p=4, m=2^16 KiB, 128 bits of salt, 256 bits of tag.
	if !regexp.MustCompile(`^\$argon2id\$v=19\$m=65536,t=3,p=4\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$`).MatchString(hash) {
		t.Errorf("stored as %s", hash)
	}
	if a := h.tryLogin(t, "alice", password, "192.0.2.1:1"); a.status != http.StatusOK {
		t.Errorf("login: %v", a)
	}
	// The parameters are those of the stored hash, so that they can be raised one day.
	if err := h.Exec(t.Context(), "UPDATE users SET password = replace(password, 't=3', 't=2')"); err != nil {
		t.Fatal(err)
	}
	if a := h.tryLogin(t, "alice", password, "192.0.2.1:1"); a.code() != api.CodeBadLogin {
		t.Errorf("login with other parameters: %v", a)
	}
}

// TestPasswordChangeDuringLogin: whoever is being checked while the password changes knew only the old one.
func TestPasswordChangeDuringLogin(t *testing.T) {
	h := newHouse(t)
	h.user(t, "alice", false)
	checking, goOn := make(chan bool), make(chan bool)
	var held atomic.Bool
	h.BeforeDerivation(func() {
		if held.CompareAndSwap(false, true) {
			close(checking)
			<-goOn
		}
	})
	got := make(chan answer)
	go func() { got <- h.tryLogin(t, "alice", password, "192.0.2.1:1") }()
	<-checking
	h.must(t, "PUT", "/v1/users/alice/password", api.Password{Password: "another"})
	close(goOn)
	if a := <-got; a.code() != api.CodeBadLogin {
		t.Errorf("the login that was under way: %v", a)
	}
}

// countDerivations returns a function that tells how often argon2 was run since.
func (h *house) countDerivations() func() int64 {
	n := new(atomic.Int64)
	h.BeforeDerivation(func() { n.Add(1) })
	return n.Load
}

// TestUnknownUser: refusing somebody who is not there does and says what refusing a wrong password does.
func TestUnknownUser(t *testing.T) {
	h := newHouse(t)
	h.user(t, "alice", false)
	count := h.countDerivations()
	var answers []answer
	for i, user := range []string{"alice", "nobody"} {
		answers = append(answers, h.tryLogin(t, user, "wrong", "192.0.2.1:1"))
		if got := count(); got != int64(i+1) {
			t.Errorf("after %s the password was derived %d times", user, got)
		}
	}
	if a, b := answers[0], answers[1]; a.status != b.status || string(a.body) != string(b.body) || a.code() != api.CodeBadLogin {
		t.Errorf("a wrong password gives %v, an unknown user %v", a, b)
	}
	if a := h.tryLogin(t, "nobody", "", "192.0.2.1:1"); a.code() != api.CodeBadLogin {
		t.Errorf("unknown user with an empty password: %v", a)
	}
}

// TestLoginLimits uses a clock that stands still: a budget does not come back by itself.
func TestLoginLimits(t *testing.T) {
	h := newHouse(t)
	h.user(t, "alice", false)
	count := h.countDerivations()
	refusedAfter := func(t *testing.T, login func(i int) answer) int {
		t.Helper()
		for i := range 30 {
			if a := login(i); a.code() == api.CodeBusy {
				if a.header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
				return i
			}
		}
		return -1
	}
	t.Run("by address", func(t *testing.T) {
		// Names that nobody has take up no time here, and the address comes first.
		n := refusedAfter(t, func(i int) answer { return h.tryLogin(t, "nobody"+string(rune('a'+i)), "x", "192.0.2.1:1000") })
		if n != 10 {
			t.Errorf("refused after %d logins", n)
		}
		before := count()
		if a := h.tryLogin(t, "alice", password, "192.0.2.1:2000"); a.code() != api.CodeBusy || count() != before {
			t.Errorf("another port of the address: %v", a)
		}
		if a := h.tryLogin(t, "alice", password, "192.0.2.2:1000"); a.status != http.StatusOK {
			t.Errorf("another address: %v", a)
		}
	})
	t.Run("by network of IPv6", func(t *testing.T) {
		n := refusedAfter(t, func(i int) answer {
			return h.tryLogin(t, "nobody", "x", "[2001:db8:1:2::"+string(rune('1'+i%9))+"]:1000")
		})
		if n < 1 || n > 10 {
			t.Errorf("refused after %d logins", n)
		}
	})
	t.Run("an address that is refused does not use up a name", func(t *testing.T) {
		for range 20 {
			h.tryLogin(t, "alice", "wrong", "192.0.2.1:1000") // over its limit since the first part
		}
		if a := h.tryLogin(t, "alice", password, "192.0.2.3:1000"); a.status != http.StatusOK {
			t.Errorf("alice from her own address: %v", a)
		}
	})
	t.Run("by name", func(t *testing.T) {
		n := refusedAfter(t, func(i int) answer {
			return h.tryLogin(t, "alice", "wrong", "198.51.100."+string(rune('1'+i%9))+":1000")
		})
		if n < 1 || n > 10 {
			t.Errorf("refused after %d logins", n)
		}
		h.clock.advance(6 * time.Second)
		if a := h.tryLogin(t, "alice", password, "203.0.113.1:1000"); a.status != http.StatusOK {
			t.Errorf("six seconds later: %v", a)
		}
	})
}

// TestAudit shows what is in the audit log, and that strangers cannot fill it.
func TestAudit(t *testing.T) {
	h := newHouse(t)
	h.user(t, "alice", false)
	alice := h.login(t, "alice", device(1))
	h.publish(t, "golden", 1, image.State{}, disk(1))
	h.assign(t, "golden", "user:alice", 1)
	h.tryLogin(t, "alice", "wrong", "192.0.2.7:1")
	h.send(t, alice, "DELETE", "/v1/images/golden", nil)
	h.send(t, "", "DELETE", "/v1/images/golden", nil)
	h.send(t, "dsync_x", "DELETE", "/v1/images/golden", nil)
	h.send(t, "", "POST", "/v1/login", "{}")
	h.send(t, "", "POST", "/v1/login", api.Login{User: strings.Repeat("x", 1000), Password: "x", Device: device(1)})
	h.must(t, "DELETE", "/v1/assignments", map[string]string{"image": "golden", "to": "user:alice"})
	h.send(t, alice, "DELETE", "/v1/login", nil)

	want := []string{
		"alice|192.0.2.1:1234|logout|ok",
		"local|192.0.2.1:1234|unassign golden to user:alice|ok",
		"alice|192.0.2.1:1234|delete image|access-denied",
		"|192.0.2.7:1|login alice|login-refused",
		"local|192.0.2.1:1234|assign golden to user:alice|ok",
		"local|192.0.2.1:1234|publish golden version 1|ok",
		"alice|192.0.2.1:1234|login alice|ok",
		"local|192.0.2.1:1234|add user alice|ok",
	}
	var got []string
	for _, e := range into[[]api.AuditEntry](t, h.must(t, "GET", "/v1/audit", nil)) {
		got = append(got, strings.Join([]string{e.Who, e.From, e.What, e.Outcome}, "|"))
		if e.At.IsZero() || e.At.After(h.clock.now()) {
			t.Errorf("%s at %v", e.What, e.At)
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
