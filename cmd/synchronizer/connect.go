package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"disksync/api"
	"disksync/image"
	"disksync/internal/cli"
	"disksync/internal/durable"
	"disksync/internal/limit"
	"disksync/internal/problem"
	"disksync/syncclient"
	"disksync/synchronizer"
)

const defaultData = "/var/lib/synchronizer"

// options are the flags that all commands share.
type options struct {
	data, server, fingerprint string
	limit                     string // of commands that move much
}

// addLimit adds the flag of commands that move much.
func (o *options) addLimit(c *cobra.Command) {
	c.Flags().StringVar(&o.limit, "limit", "", "over the network, take at most this `limit` of the line: 500K, 10M, 60%, 1M@Mon-Fri/8-18")
}

// limits reads that flag.
func (o *options) limits() (limit.Chain, error) {
	s, err := limit.Parse(o.limit)
	if err != nil {
		return nil, cli.UsageError("%v", err)
	}
	if o.limit == "" {
		return nil, nil
	}
	return limit.Chain{limit.New("--limit is off", s)}, nil
}

// dataDir returns the data folder, and whether somebody named it.
func (o *options) dataDir() (dir string, named bool) {
	if o.data != "" {
		return o.data, true
	}
	if d := os.Getenv("SYNCHRONIZER_DATA"); d != "" {
		return d, true
	}
	return defaultData, false
}

// with runs do with a client: over the network after a login, else through the socket in the data folder.
func (o *options) with(ctx context.Context, do func(c *syncclient.Client) error) error {
	dir, named := o.dataDir()
	limits, err := o.limits()
	if err != nil {
		return err
	}
	if named && o.server != "" {
		return cli.UsageError("--data and --server name two Synchronizers; give one")
	}
	if !named { // a login that cannot be read is in nobody's way who works in a folder
		l, err := loadLogin()
		switch {
		case err != nil:
			return err
		case o.server != "" || l != nil:
			return o.overNetwork(l, limits, do)
		}
	}
	return explain(o.overSocket(ctx, dir, do))
}

func explain(err error) error {
	return syncclient.Explain(err, "not done", "nothing that was there is lost")
}

func (o *options) overNetwork(l *login, limits limit.Chain, do func(c *syncclient.Client) error) error {
	if l == nil || o.server != "" && l.URL != o.server {
		return problem.New("DS-LOGIN-NEEDED", problem.NeedsLogin, nil, "not logged in to "+o.server, "",
			"synchronizer --server URL --fingerprint FP login NAME")
	}
	c, err := l.client(limits)
	if err != nil {
		return err
	}
	defer c.Close()
	return explain(do(c))
}

// overSocket uses the process that serves the data folder. When there is none, this process serves it while do runs.
func (o *options) overSocket(ctx context.Context, dir string, do func(c *syncclient.Client) error) error {
	if _, err := os.Stat(filepath.Join(dir, "synchronizer.db")); errors.Is(err, fs.ErrNotExist) {
		return problem.New("DS-NO-DATA", problem.NotFound, nil, "there is no data folder of a Synchronizer at "+dir, "",
			"name it with --data, or make it with `synchronizer serve --data "+dir+"`")
	}
	s, err := openData(ctx, synchronizer.Options{Dir: dir})
	if errors.Is(err, durable.ErrLocked) {
		c := syncclient.NewLocal(dir, synchronizer.SocketName)
		defer c.Close()
		return do(c)
	}
	if err != nil {
		return err
	}
	l, err := s.ListenLocal()
	if err != nil {
		return errors.Join(err, s.Close())
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(serving, l, nil) }()
	c := syncclient.NewLocal(dir, synchronizer.SocketName)
	err = do(c)
	c.Close()
	stop()
	return errors.Join(err, <-ended, s.Close())
}

// login is what "login" stores for later commands.
type login struct {
	URL         string                 `json:"url"`
	Fingerprint syncclient.Fingerprint `json:"fingerprint"`
	Device      image.UUID             `json:"device"`
	User        string                 `json:"user"`
	Token       string                 `json:"token"`
}

const maxLoginFile = 64 << 10

func loginFolder() string {
	if d := os.Getenv("XDG_STATE_HOME"); d != "" {
		return filepath.Join(d, "synchronizer")
	}
	return filepath.Join(os.Getenv("HOME"), ".local", "state", "synchronizer")
}

const loginFile = "login.json"

// loadLogin returns nil when nobody is logged in.
func loadLogin() (*login, error) {
	fsys, err := durable.Dir(loginFolder())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := durable.ReadFile(fsys, loginFile, maxLoginFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l := new(login)
	if err := json.Unmarshal(b, l); err != nil {
		return nil, fmt.Errorf("%s is damaged (remove it and log in again): %w", filepath.Join(loginFolder(), loginFile), err)
	}
	return l, nil
}

func (l *login) client(limits limit.Chain) (*syncclient.Client, error) {
	u, err := url.Parse(l.URL)
	if err != nil {
		return nil, cli.UsageError("%v", err)
	}
	return syncclient.New(syncclient.Options{URL: u, Fingerprint: l.Fingerprint, Token: l.Token, Limit: limits})
}

// logIn gets a token and stores it.
func (o *options) logIn(ctx context.Context, user, password string) error {
	fp, err := syncclient.ParseFingerprint(o.fingerprint)
	if err != nil {
		return cli.UsageError("%v", err)
	}
	var random [16]byte
	rand.Read(random[:])
	l := &login{URL: o.server, Fingerprint: fp, User: user, Device: image.RandomUUID(random)}
	c, err := l.client(nil)
	if err != nil {
		return cli.UsageError("%v", err)
	}
	defer c.Close()
	host, _ := os.Hostname()
	t, err := c.Login(ctx, api.Login{User: user, Password: password, Device: api.Device{ID: l.Device, Name: "administration at " + host}})
	if err != nil {
		return explain(err)
	}
	l.Token = t.Token
	fsys, err := durable.MakeDirs(loginFolder(), 0o700)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(fsys, loginFile, b, 0o600)
}

// logOut ends the stored login, on the server too when it can be reached.
func logOut(ctx context.Context) error {
	l, err := loadLogin()
	if err != nil || l == nil {
		return err
	}
	c, err := l.client(nil)
	if err == nil {
		defer c.Close()
		err = c.Logout(ctx)
	}
	fsys, openErr := durable.Dir(loginFolder())
	if openErr != nil {
		return openErr
	}
	if removeErr := durable.Remove(fsys, loginFile); removeErr != nil {
		return removeErr
	}
	if err != nil && syncclient.Code(err) != api.CodeUnauthorized {
		return syncclient.Explain(err, "the login is forgotten here, but the Synchronizer was not told", "")
	}
	return nil
}
