package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"disksync/api"
	"disksync/config"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/limit"
	"disksync/internal/problem"
	"disksync/syncclient"
)

const (
	registrationFile = "registration.json"
	loginFile        = "login.json"
	// certificateFile has what the Synchronizer showed last, in DER: a hint that saves a handshake, trusted for nothing.
	certificateFile = "certificate.der"
	maxCertificate  = 64 << 10
)

// Registration is what this endpoint knows of its Synchronizer.
type Registration struct {
	URL         string                 `json:"url"`
	Fingerprint syncclient.Fingerprint `json:"fingerprint"` // of its TLS key
	SigningKey  image.PublicKey        `json:"signing_key"`
	// OldKeys signed manifests of versions that are installed, under earlier registrations.
	OldKeys []image.PublicKey `json:"old_keys,omitempty"`
	Device  image.UUID        `json:"device"` // this endpoint
	Since   time.Time         `json:"since"`
}

// Login is who uses this endpoint.
type Login struct {
	User    string    `json:"user"`
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// String keeps the token out of logs.
func (l Login) String() string { return l.User }

// parseURL reads an address of a Synchronizer.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err == nil && (u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "") {
		err = errors.New("want https://host:port")
	}
	if err != nil {
		return nil, problem.New("DS-USAGE", problem.Usage, err, fmt.Sprintf("%q is not the address of a Synchronizer", s), "",
			"give it as https://HOST:PORT")
	}
	return u, nil
}

// Probe returns the fingerprint of the key that the server at the address proves to have. Nothing is sent to it.
func (e *Engine) Probe(ctx context.Context, address string) (syncclient.Fingerprint, error) {
	u, err := parseURL(address)
	if err != nil {
		return syncclient.Fingerprint{}, err
	}
	f, err := syncclient.Probe(ctx, u)
	if err != nil {
		return f, problem.New("DS-NET", problem.Unreachable, err, "cannot reach a Synchronizer at "+address, "nothing was changed",
			"check the address and the network")
	}
	return f, nil
}

// Register makes the server at the address this endpoint's Synchronizer. Its TLS key must have the fingerprint, which the user
// or IT has confirmed. Another Synchronizer than the present one needs replace, because everything that is trusted changes.
func (e *Engine) Register(ctx context.Context, address string, f syncclient.Fingerprint, replace bool) (*Registration, error) {
	u, err := parseURL(address)
	if err != nil {
		return nil, err
	}
	c, err := syncclient.New(syncclient.Options{URL: u, Fingerprint: f, Line: e.line(), Shown: e.keepCertificate})
	if err != nil {
		return nil, problem.New("DS-USAGE", problem.Usage, err, "cannot register", "", "give the fingerprint that the administrator knows")
	}
	defer c.Close()
	s, err := c.Server(ctx)
	if err != nil {
		return nil, syncclient.Explain(err, "cannot register with "+address, "nothing was changed")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	r := &Registration{URL: address, Fingerprint: f, SigningKey: s.SigningKey, Device: deploy.NewUUID(), Since: e.now().UTC()}
	if old := e.registration; old != nil {
		r.Device, r.OldKeys = old.Device, old.OldKeys
		if old.Fingerprint != f || old.SigningKey != s.SigningKey {
			if !replace {
				return nil, otherServer(old, f)
			}
			r.OldKeys = append(r.OldKeys, old.SigningKey)
			if err := e.forgetLogin(); err != nil {
				return nil, err
			}
		}
	}
	if err := writeJSON(e.fsys, registrationFile, r); err != nil {
		return nil, err
	}
	e.registration = r
	e.log.Info("registered", "url", address, "fingerprint", f.String())
	return r, nil
}

func otherServer(old *Registration, f syncclient.Fingerprint) error {
	return problem.New("DS-TLS-PIN", problem.Untrusted, nil,
		fmt.Sprintf("this endpoint is registered with another Synchronizer: %s with fingerprint %s, this one has %s", old.URL, old.Fingerprint, f),
		"the registration is as it was", "when the administrator confirms the new fingerprint, register again with --replace")
}

// forgetLogin is called with mu held.
func (e *Engine) forgetLogin() error {
	e.login = nil
	return errors.Join(e.forgetKeys(), durable.Remove(e.fsys, loginFile))
}

// Registered returns the registration, nil when there is none.
func (e *Engine) Registered() *Registration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.registration
}

// User returns the name of the user who is logged in, "" when nobody is.
func (e *Engine) User() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.login == nil {
		return ""
	}
	return e.login.User
}

// line returns when the line counts as interrupted, as the settings say.
func (e *Engine) line() syncclient.Line {
	s := e.config.Current()
	return syncclient.Line{
		ConnectTime:  time.Duration(s.Int(config.ConnectTimeout)) * time.Second,
		LowSpeed:     s.Int(config.LowSpeedLimit),
		LowSpeedTime: time.Duration(s.Int(config.LowSpeedTime)) * time.Second,
	}
}

// knownCertificate returns what the Synchronizer showed last, if it is there.
func (e *Engine) knownCertificate() []byte {
	b, err := durable.ReadFile(e.fsys, certificateFile, maxCertificate)
	if err != nil {
		return nil
	}
	return b
}

// keepCertificate keeps what the Synchronizer shows for the next time.
func (e *Engine) keepCertificate(der []byte) {
	if len(der) > maxCertificate {
		return
	}
	if err := durable.WriteFile(e.fsys, certificateFile, der, 0o600); err != nil {
		e.log.Debug("the Synchronizer's certificate is not kept", "error", err)
	}
}

// connect returns a client of the Synchronizer, with the user's token when needLogin is set.
func (e *Engine) connect(needLogin bool) (*syncclient.Client, *Registration, error) {
	return e.connectWithin(nil, needLogin)
}

// connectWithin is connect for who is held to limits.
func (e *Engine) connectWithin(limits limit.Chain, needLogin bool) (*syncclient.Client, *Registration, error) {
	e.mu.Lock()
	r, l := e.registration, e.login
	e.mu.Unlock()
	if r == nil {
		return nil, nil, problem.New("DS-NOT-REGISTERED", problem.NeedsLogin, nil, "this endpoint is not registered with a Synchronizer",
			"", "disksyncmgr register https://HOST:PORT")
	}
	o := syncclient.Options{Fingerprint: r.Fingerprint, Line: e.line(), Certificate: e.knownCertificate(), Shown: e.keepCertificate, Limit: limits}
	o.Keys = e.openingKeys()
	var err error
	if o.URL, err = parseURL(r.URL); err != nil {
		return nil, nil, err
	}
	if needLogin {
		if l == nil {
			return nil, nil, problem.New("DS-LOGIN-NEEDED", problem.NeedsLogin, nil, "nobody is logged in", "", "disksyncmgr login USER")
		}
		o.Token = l.Token
	}
	c, err := syncclient.New(o)
	return c, r, err
}

// Login logs a user in and keeps the token, not the password.
func (e *Engine) Login(ctx context.Context, user, password string) error {
	c, r, err := e.connect(false)
	if err != nil {
		return err
	}
	defer c.Close()
	host, err := os.Hostname()
	if err != nil || len(host) > api.MaxName {
		host = "endpoint"
	}
	t, err := c.Login(ctx, api.Login{User: user, Password: password, Device: api.Device{ID: r.Device, Name: host}})
	if err != nil {
		return syncclient.Explain(err, "not logged in", "nothing was changed")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.login != nil && e.login.User != t.User {
		if err := e.forgetKeys(); err != nil { // they are the other user's
			return err
		}
	}
	l := &Login{User: t.User, Token: t.Token, Expires: t.Expires}
	if err := writeJSON(e.fsys, loginFile, l); err != nil {
		return err
	}
	e.login = l
	e.log.Info("logged in", "user", user)
	return nil
}

// Logout forgets the token, and ends its validity when the Synchronizer can be reached.
func (e *Engine) Logout(ctx context.Context) error {
	c, _, err := e.connect(true)
	if err != nil {
		return err
	}
	defer c.Close()
	told := c.Logout(ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.forgetLogin(); err != nil {
		return err
	}
	if told != nil && syncclient.Code(told) != api.CodeUnauthorized {
		return syncclient.Explain(told, "logged out here, but the Synchronizer could not be told", "the token is forgotten")
	}
	return nil
}

// Offers returns the images that are meant for the user.
func (e *Engine) Offers(ctx context.Context) ([]api.Offer, error) {
	c, _, err := e.connect(true)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	offers, err := c.Offers(ctx)
	if err != nil {
		return nil, syncclient.Explain(err, "cannot ask what is assigned to you", "nothing was changed")
	}
	return offers, nil
}
