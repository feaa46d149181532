package synchronizer

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"disksync/api"
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
	verifying chan struct{} // uploads of users that are being verified
	log       *slog.Logger
	now       func() time.Time
	stall     time.Duration // that a caller may stand still
	longest   int           // path of layers of its own that a point may have
	listed    int           // points or lines that a list of backups may have
	page      int           // lines in a page of such a list
	unlock    func() error
	network   http.Handler
	local     http.Handler

	// gate is held for reading by each request, and taken for good by Close: nobody may write to the folder once it is
	// unlocked.
	gate sync.RWMutex

	// work counts the goroutines that verify uploads; stop ends them.
	work sync.WaitGroup
	stop context.CancelFunc
	live context.Context
	// ticking counts the goroutine that calls keepHouse from time to time.
	ticking sync.WaitGroup

	// names is held while the files in the layers folder and what the catalog says about them change together. It is taken
	// before mu.
	names sync.Mutex

	mu sync.Mutex
	// uploads has an entry for each layer that is being received or verified, or whose upload failed.
	uploads map[uploadKey]*upload
	// squashes are those that wait or run, and the last ones that ended; oldest first.
	squashes  []*squash
	squashing bool // somebody works on them
	chores    chores
	// imagesOpened belongs to who works on the chores.
	imagesOpened time.Time
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
		dir: o.Dir, fsys: fsys, passwords: newPasswords(), log: o.Log, now: o.Now, stall: stallTime, longest: maxOwnLayers, listed: api.MaxListed, page: api.PageLines,
		logins:    newLimiter(rate.Every(6*time.Second), 10),
		transfers: make(chan struct{}, o.MaxTransfers),
		verifying: make(chan struct{}, maxVerifying),
		uploads:   map[uploadKey]*upload{},
	}
	if err := prepare(fsys); err != nil {
		return nil, err
	}
	_, err := fsys.Stat(dbFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	first := err != nil
	if s.signing, err = loadSigningKey(fsys, first); err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	if s.cert, err = loadCertificate(fsys, first); err != nil {
		return nil, fmt.Errorf("TLS identity: %w", err)
	}
	if err := protectDB(fsys, first); err != nil {
		return nil, err
	}
	if s.db, err = openDB(ctx, filepath.Join(o.Dir, dbFile), s.log); err != nil {
		return nil, err
	}
	s.live, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.network = s.handler(s.byToken)
	s.local = s.handler(s.byLocalSocket)
	// What a policy asked for may have been cut off.
	if err := s.considerAll(ctx); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	s.addChore(func(c *chores) { c.house, c.infos = true, true })
	s.ticking.Go(s.keepTime)
	return s, nil
}

// prepare makes the folders and removes what an earlier process did not finish.
func prepare(fsys durable.FS) error {
	for _, dir := range []string{layersDir, statesDir} {
		if err := durable.MakeDir(fsys, dir, 0o700); err != nil {
			return err
		}
	}
	for _, dir := range []string{".", layersDir, statesDir} {
		if err := durable.RemoveTemps(fsys, dir); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the work on uploads, waits for requests that still run, and closes the data folder.
func (s *Server) Close() error {
	s.stop()
	s.ticking.Wait()
	s.gate.Lock()
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
