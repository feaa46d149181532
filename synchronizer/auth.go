package synchronizer

import (
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
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
	c.subject = in.User[:min(len(in.User), api.MaxName)]
	if in.Device.ID.IsZero() || len(in.Device.Name) > api.MaxName || len(in.Password) > api.MaxPassword {
		return invalid("a login needs a device, and a password of at most %d bytes", api.MaxPassword)
	}
	host, _, _ := net.SplitHostPort(c.RemoteAddr)
	if !s.logins.allow("user "+in.User) || !s.logins.allow("host "+host) {
		return &api.Error{Code: api.CodeBusy, Message: "too many logins; wait a minute"}
	}
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
		return &api.Error{Code: api.CodeBadLogin, Message: "user and password do not fit"}
	}
	token, err := s.newToken(c, in)
	if err != nil {
		return err
	}
	token.Admin = admin
	return c.reply(token)
}

// newToken registers the device and gives its user a token there, in place of an earlier one.
func (s *Server) newToken(c *call, in api.Login) (api.Token, error) {
	var raw [32]byte
	rand.Read(raw[:])
	token := api.Token{
		Token: tokenPrefix + base64.RawURLEncoding.EncodeToString(raw[:]), User: in.User,
		Expires: s.now().Add(api.TokenLife).UTC(),
	}
	hash := sha256.Sum256([]byte(token.Token))
	now := stamp(s.now())
	err := inTx(c.Context(), s.db, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(c.Context(), `INSERT INTO devices (id, name, user, created, last_seen) VALUES (?, ?, ?, ?, ?)
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
