package synchronizer

import (
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"disksync/api"
	"disksync/internal/release"
)

// tokenPrefix makes a leaked token easy to search for.
const tokenPrefix = "dsync_"

// byLocalSocket is the rule of the unix socket: whoever can open it is an administrator.
func (s *Server) byLocalSocket(*http.Request) (caller, error) {
	return caller{name: "local", admin: true}, nil
}

// byToken is the rule of the network.
func (s *Server) byToken(r *http.Request) (caller, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return caller{}, &api.Error{Code: api.CodeUnauthorized, Message: "log in first"}
	}
	// The database compares hashes, so that the time it takes tells nothing about a token.
	hash := sha256.Sum256([]byte(token))
	c := caller{token: hash[:]}
	var expires int64
	err := s.db.QueryRowContext(r.Context(), `SELECT u.name, u.admin, t.device, t.expires FROM tokens t
		JOIN users u ON u.name = t.user WHERE t.hash = ?`, hash[:]).Scan(&c.name, &c.admin, &c.device, &expires)
	if errors.Is(err, sql.ErrNoRows) || err == nil && expires <= s.now().Unix() {
		return caller{}, &api.Error{Code: api.CodeUnauthorized, Message: "the login has ended; log in again"}
	}
	if err != nil {
		return caller{}, fmt.Errorf("look up token: %w", err)
	}
	return c, nil
}

func (s *Server) getServer(c *call) error {
	return c.reply(api.Server{
		Name: "Synchronizer", Release: release.Version, SigningKey: s.SigningKey(), Time: s.now().UTC(),
	})
}

func (s *Server) postLogin(c *call) error {
	var in api.Login
	if err := c.decode(&in); err != nil {
		return err
	}
	if api.CheckAccount(in.User) != nil {
		return badLogin() // nobody can have that name, so it gives nothing away
	}
	if in.Device.ID.IsZero() || len(in.Password) > api.MaxPassword {
		return invalid("a login needs a device, and a password of at most %d bytes", api.MaxPassword)
	}
	if err := api.CheckDeviceName(in.Device.Name); err != nil {
		return invalid("%v", err)
	}
	// The address comes first, so that one address cannot use up what somebody else's name may do.
	if now := s.now(); !s.logins.allow("host "+network(c.RemoteAddr), now) || !s.logins.allow("user "+in.User, now) {
		return &api.Error{Code: api.CodeBusy, Message: "too many logins; wait a minute"}
	}
	c.subject = in.User
	hash, admin := nobody, false
	err := s.db.QueryRowContext(c.Context(), "SELECT password, admin FROM users WHERE name = ?", in.User).Scan(&hash, &admin)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("look up user: %w", err)
	}
	known := err == nil
	ok, err := s.passwords.check(c.Context(), hash, in.Password)
	if err != nil {
		return fmt.Errorf("check password: %w", err)
	}
	if !ok || !known {
		return badLogin()
	}
	token, err := s.newToken(c, in, hash)
	if err != nil {
		return err
	}
	c.who.name, token.Admin = in.User, admin
	return c.reply(token)
}

func badLogin() error {
	return &api.Error{Code: api.CodeBadLogin, Message: "user and password do not fit"}
}

// network returns what one caller is likely to have to himself: an IPv4 address, or the first half of an IPv6 address.
func network(remote string) string {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	ip := a.Addr().Unmap().WithZone("")
	if ip.Is6() {
		return netip.PrefixFrom(ip, 64).Masked().String()
	}
	return ip.String()
}

// newToken registers the device and gives its user a token there, in place of an earlier one. password is the hash that was
// checked: when it has changed meanwhile, the login is one of those that the change was to end.
func (s *Server) newToken(c *call, in api.Login, password string) (api.Token, error) {
	var raw [32]byte
	rand.Read(raw[:])
	token := api.Token{
		Token: tokenPrefix + base64.RawURLEncoding.EncodeToString(raw[:]), User: in.User,
		Expires: s.now().Add(api.TokenLife).UTC(),
	}
	hash := sha256.Sum256([]byte(token.Token))
	now := stamp(s.now())
	err := inTx(c.Context(), s.db, func(tx *sql.Tx) error {
		same, err := column(c.Context(), tx, "SELECT name FROM users WHERE name = ? AND password = ?", in.User, password)
		if err != nil {
			return err
		}
		if len(same) == 0 {
			return badLogin()
		}
		_, err = tx.ExecContext(c.Context(), `INSERT INTO devices (id, name, user, created, last_seen) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (id, user) DO UPDATE SET name = excluded.name, last_seen = excluded.last_seen`,
			in.Device.ID.String(), in.Device.Name, in.User, now, now)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(c.Context(), "DELETE FROM tokens WHERE device = ? AND user = ?", in.Device.ID.String(), in.User)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(c.Context(), "INSERT INTO tokens (hash, user, device, expires) VALUES (?, ?, ?, ?)",
			hash[:], in.User, in.Device.ID.String(), token.Expires.Unix())
		return err
	})
	if err != nil {
		return api.Token{}, fmt.Errorf("store token: %w", err)
	}
	return token, nil
}

func (s *Server) deleteLogin(c *call) error {
	if _, err := s.db.ExecContext(c.Context(), "DELETE FROM tokens WHERE hash = ?", c.who.token); err != nil {
		return fmt.Errorf("delete token: %w", err)
	}
	return nil
}
