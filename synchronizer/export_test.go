package synchronizer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"

	"disksync/image"
	"disksync/internal/durable"
)

// Permission is permission, for tests.
type Permission = permission

// The permissions.
const (
	Anybody  = anybody
	Member   = member
	Operator = operator
)

// Route is an entry of the route table.
type Route struct {
	Pattern string
	Need    Permission
	Audit   string
}

// Limits of backups.
const (
	MaxUserUploads = maxUserUploads
	UserReserve    = userReserve
	UserLayerLife  = userLayerLife
	MaxOwnLayers   = maxOwnLayers
	CheckEvery     = checkEvery
)

// SetLongest sets how many layers of its own a point may be reached over. It is not safe while requests run.
func (s *Server) SetLongest(n int) { s.longest = n }

// SetListed sets how many points or lines a list of backups may have, and lines a page of it. It is not safe while requests run.
func (s *Server) SetListed(listed, page int) { s.listed, s.page = listed, page }

// SeenEvery is seenEvery, for tests.
const SeenEvery = seenEvery

// KeepHouse has done what an hour's tick does.
func (s *Server) KeepHouse() { s.keepHouse() }

// Routes returns the route table.
func Routes() []Route {
	var out []Route
	for _, r := range routes {
		out = append(out, Route{r.pattern, r.need, r.audit})
	}
	return out
}

// OpenOn is Open with the files other than the catalog in fsys, and without a lock.
func OpenOn(ctx context.Context, o Options, fsys durable.FS) (*Server, error) {
	s, err := open(ctx, o, fsys)
	if err != nil {
		return nil, err
	}
	s.unlock = func() error { return nil }
	return s, nil
}

// Reboot has the Server go on with the files of fsys and no memory of uploads, as a new process would. It is not safe while
// requests run.
func (s *Server) Reboot(fsys durable.FS) error {
	s.work.Wait()
	s.fsys, s.uploads = fsys, map[uploadKey]*upload{}
	return prepare(fsys)
}

// Local returns the handler of the local socket.
func (s *Server) Local() http.Handler { return s.local }

// SetStall sets the time that a caller may stand still. It is not safe while requests run.
func (s *Server) SetStall(d time.Duration) { s.stall = d }

// CheapPasswords has argon2 take hardly any time and memory, whatever the parameters say.
func (s *Server) CheapPasswords() {
	s.passwords.derive = func(password, salt []byte, _, _ uint32, _ uint8, keyLen uint32) []byte {
		return argon2.IDKey(password, salt, 1, 64, 1, keyLen)
	}
}

// BeforeDerivation has f called before each run of argon2. It is not safe while requests run.
func (s *Server) BeforeDerivation(f func()) {
	derive := s.passwords.derive
	s.passwords.derive = func(password, salt []byte, time, memory uint32, threads uint8, keyLen uint32) []byte {
		f()
		return derive(password, salt, time, memory, threads, keyLen)
	}
}

// WaitVerified waits until no upload is being verified.
func (s *Server) WaitVerified() { s.work.Wait() }

// DrainsWithin reports whether all transfers end in that time.
func (s *Server) DrainsWithin(d time.Duration) bool {
	ended := time.After(d)
	for range cap(s.transfers) {
		select {
		case s.transfers <- struct{}{}:
		case <-ended:
			return false
		}
	}
	for range cap(s.transfers) {
		<-s.transfers
	}
	return true
}

// Exec runs a statement on the catalog.
func (s *Server) Exec(ctx context.Context, query string, args ...any) error {
	_, err := s.db.ExecContext(ctx, query, args...)
	return err
}

// Query runs a query of one value.
func (s *Server) Query(ctx context.Context, v any, query string, args ...any) error {
	return s.db.QueryRowContext(ctx, query, args...).Scan(v)
}

// Statuses maps codes to HTTP.
var Statuses = statuses

// Names of files in the data folder.
var (
	LayerFile = layerFile
	StateFile = stateFile
)

// UploadFile returns the name of the file of an upload; user is empty for an administrator's.
func UploadFile(id image.LayerID, user ...string) string {
	return uploadKey{strings.Join(user, ""), id}.file()
}

// UsefulLayers is usefulLayers, for tests.
var UsefulLayers = usefulLayers

// Aged is aged, for tests.
type Aged = aged

// NewAged makes one.
func NewAged(point image.Version, created time.Time, damaged bool) Aged {
	return aged{point, created, damaged}
}

// Kept is kept, for tests.
var Kept = kept

// Sign signs a manifest as the Server does.
func (s *Server) Sign(m *image.Manifest) ([]byte, error) { return image.SignManifest(m, s.signing) }

// OldCatalog makes an empty catalog of an earlier version in a file.
func OldCatalog(ctx context.Context, name string, version int) (*sql.DB, error) {
	db, err := sql.Open("sqlite", "file:"+name+"?_pragma=foreign_keys(ON)&_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)")
	if err != nil {
		return nil, err
	}
	for _, m := range append(slices.Clone(migrations[:version]), fmt.Sprintf("PRAGMA user_version = %d", version)) {
		if _, err := db.ExecContext(ctx, m); err != nil {
			return nil, errors.Join(err, db.Close())
		}
	}
	return db, nil
}
