package synchronizer

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"disksync/image"
	"disksync/internal/durable"
)

// Options configures a Server. Dir is required.
type Options struct {
	Dir string // the data folder; made when it is not there
	// Log gets one line a refused or failed request and more at Debug; nil: nothing is logged.
	Log *slog.Logger
	// MaxTransfers is the number of layer downloads at once before others are told to wait; 0: 50.
	MaxTransfers int
	// Now tells the time; nil: time.Now.
	Now func() time.Time
}

// Server is a Synchronizer. It is an http.Handler for the callers on the network, and safe for concurrent use.
type Server struct {
	dir       string
	fsys      durable.FS
	db        *sql.DB
	signing   ed25519.PrivateKey
	cert      tls.Certificate
	passwords *passwords
	logins    *limiter
	transfers chan struct{}
	log       *slog.Logger
	now       func() time.Time
	unlock    func() error
	network   http.Handler
	local     http.Handler

	// work counts the goroutines that verify uploads; stop ends them.
	work sync.WaitGroup
	stop context.CancelFunc
	live context.Context

	mu sync.Mutex
	// uploads has an entry for each layer that is being received or verified, or whose upload failed.
	uploads map[image.LayerID]*upload
}

// Open opens the data folder for this process alone; an error that wraps durable.ErrLocked means that another one has it.
func Open(ctx context.Context, o Options) (*Server, error) {
	fsys, err := durable.MakeDirs(o.Dir, 0o700)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	unlock, err := durable.Lock(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	s, err := open(ctx, o, fsys)
	if err != nil {
		return nil, errors.Join(err, unlock())
	}
	s.unlock = unlock
	return s, nil
}

func open(ctx context.Context, o Options, fsys durable.FS) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxTransfers <= 0 {
		o.MaxTransfers = 50
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{
		dir: o.Dir, fsys: fsys, passwords: newPasswords(), log: o.Log, now: o.Now,
		logins:    newLimiter(rate.Every(6*time.Second), 10),
		transfers: make(chan struct{}, o.MaxTransfers),
		uploads:   map[image.LayerID]*upload{},
	}
	for _, dir := range []string{layersDir, statesDir} {
		if err := durable.MakeDir(fsys, dir, 0o700); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{".", layersDir, statesDir} {
		if err := durable.RemoveTemps(fsys, dir); err != nil {
			return nil, err
		}
	}
	var err error
	if s.signing, err = loadSigningKey(fsys); err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	if s.cert, err = loadCertificate(fsys); err != nil {
		return nil, fmt.Errorf("TLS identity: %w", err)
	}
	if s.db, err = openDB(ctx, filepath.Join(o.Dir, "synchronizer.db")); err != nil {
		return nil, err
	}
	s.live, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.network = s.handler(s.byToken)
	s.local = s.handler(s.byLocalSocket)
	return s, nil
}

// Close ends the work on uploads and closes the data folder. Requests must have ended.
func (s *Server) Close() error {
	s.stop()
	s.work.Wait()
	return errors.Join(s.db.Close(), s.unlock())
}

// ServeHTTP serves callers on the network, who show a token.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.network.ServeHTTP(w, r) }

// Fingerprint returns the SHA-256 of the TLS key (the certificate's SubjectPublicKeyInfo), 64 hexadecimal digits.
func (s *Server) Fingerprint() string {
	f, err := fingerprint(s.cert)
	if err != nil {
		panic("synchronizer: internal error: own certificate: " + err.Error())
	}
	return f
}

// SigningKey returns the key that the Server's manifests are trusted for.
func (s *Server) SigningKey() image.PublicKey {
	return image.PublicKey(s.signing.Public().(ed25519.PublicKey))
}
