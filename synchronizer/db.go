package synchronizer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"disksync/internal/durable"
)

// migrations bring the catalog from each version to the next; the version is SQLite's user_version. What is released here
// is never changed, only added to.
var migrations = []string{`
CREATE TABLE images (
	id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, mode TEXT NOT NULL, created TEXT NOT NULL);
CREATE TABLE versions (
	image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE, version INTEGER NOT NULL, manifest BLOB NOT NULL,
	PRIMARY KEY (image, version));
-- The layers that lead to a version: who may have the version may have these.
CREATE TABLE version_layers (
	image TEXT NOT NULL, version INTEGER NOT NULL, layer TEXT NOT NULL REFERENCES layers(id),
	PRIMARY KEY (image, version, layer),
	FOREIGN KEY (image, version) REFERENCES versions(image, version) ON DELETE CASCADE);
CREATE INDEX version_layers_layer ON version_layers(layer);
CREATE TABLE layers (
	id TEXT PRIMARY KEY, from_state TEXT NOT NULL, to_state TEXT NOT NULL, size INTEGER NOT NULL, blocks INTEGER NOT NULL,
	length INTEGER NOT NULL, index_offset INTEGER NOT NULL, index_length INTEGER NOT NULL, stored TEXT NOT NULL);
CREATE TABLE users (
	name TEXT PRIMARY KEY, password TEXT NOT NULL, admin INTEGER NOT NULL, created TEXT NOT NULL);
CREATE TABLE groups (name TEXT PRIMARY KEY);
CREATE TABLE members (
	grp TEXT NOT NULL REFERENCES groups(name) ON DELETE CASCADE,
	user TEXT NOT NULL REFERENCES users(name) ON DELETE CASCADE, PRIMARY KEY (grp, user));
CREATE TABLE assignments (
	image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
	kind TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (image, kind, name));
-- A laptop that several people log in from is one device for each of them.
CREATE TABLE devices (
	id TEXT NOT NULL, user TEXT NOT NULL REFERENCES users(name) ON DELETE CASCADE, name TEXT NOT NULL,
	created TEXT NOT NULL, last_seen TEXT NOT NULL, PRIMARY KEY (id, user));
-- Tokens are kept as their SHA-256: reading the catalog gives nobody a login.
CREATE TABLE tokens (
	hash BLOB PRIMARY KEY, device TEXT NOT NULL, user TEXT NOT NULL, expires INTEGER NOT NULL,
	FOREIGN KEY (device, user) REFERENCES devices(id, user) ON DELETE CASCADE);
CREATE TABLE audit (
	id INTEGER PRIMARY KEY, at TEXT NOT NULL, who TEXT NOT NULL, origin TEXT NOT NULL, what TEXT NOT NULL,
	outcome TEXT NOT NULL);
`, `
-- Layers besides those of the manifests, from nothing or a version of the image to another version: who may have a version with the
-- state that one leads to may have it. own: the policy made it, and may remove it.
CREATE TABLE edges (
	image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE, layer TEXT NOT NULL REFERENCES layers(id),
	own INTEGER NOT NULL, entered TEXT NOT NULL, PRIMARY KEY (image, layer));
CREATE INDEX edges_layer ON edges(layer);
CREATE INDEX layers_to_state ON layers(to_state);
-- The versions that were written to media.
CREATE TABLE media (
	image TEXT NOT NULL, version INTEGER NOT NULL, written TEXT NOT NULL, PRIMARY KEY (image, version),
	FOREIGN KEY (image, version) REFERENCES versions(image, version) ON DELETE CASCADE);
-- JSON; empty: the default.
ALTER TABLE images ADD COLUMN policy TEXT NOT NULL DEFAULT '';
`, `
-- The keys that media with an image are sealed with.
CREATE TABLE media_keys (
	image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE, id TEXT NOT NULL, key BLOB NOT NULL, made TEXT NOT NULL,
	PRIMARY KEY (image, id));
`, `
-- Lines of backups. What they say of device and image are words: a line outlives both. known: its user had the image when it began, so
-- that the image's policy and layers are for it; else image_id is what somebody said.
CREATE TABLE lines (
	id TEXT PRIMARY KEY, user TEXT NOT NULL REFERENCES users(name) ON DELETE CASCADE, vm TEXT NOT NULL, name TEXT NOT NULL,
	device TEXT NOT NULL, device_name TEXT NOT NULL, image TEXT NOT NULL, image_id TEXT NOT NULL, mode TEXT NOT NULL,
	newest INTEGER NOT NULL, known INTEGER NOT NULL, created TEXT NOT NULL, UNIQUE (user, vm));
-- request: what the point was made from, so that asking for the same again is answered in the same way.
CREATE TABLE points (
	line TEXT NOT NULL REFERENCES lines(id) ON DELETE CASCADE, point INTEGER NOT NULL, manifest BLOB NOT NULL, request BLOB NOT NULL,
	created TEXT NOT NULL, PRIMARY KEY (line, point));
-- The layers that lead to a point. own: it came with a backup, or was made of such layers; the others are an image's.
CREATE TABLE point_layers (
	line TEXT NOT NULL, point INTEGER NOT NULL, layer TEXT NOT NULL REFERENCES layers(id), own INTEGER NOT NULL,
	PRIMARY KEY (line, point, layer), FOREIGN KEY (line, point) REFERENCES points(line, point) ON DELETE CASCADE);
CREATE INDEX point_layers_layer ON point_layers(layer);
-- Layers of users that no point has: on their way, stored and to be sealed, or taken out of a point's path; for a day.
-- state: uploading, naming or stored. line: whose points had it; empty for others.
CREATE TABLE user_layers (
	user TEXT NOT NULL REFERENCES users(name) ON DELETE CASCADE, layer TEXT NOT NULL, state TEXT NOT NULL, length INTEGER NOT NULL,
	touched TEXT NOT NULL, line TEXT NOT NULL DEFAULT '', PRIMARY KEY (user, layer));
CREATE INDEX user_layers_layer ON user_layers(layer);
-- Which versions' manifests users got: a VM may be backed up that runs what its user may not have any more.
CREATE TABLE had (
	user TEXT NOT NULL REFERENCES users(name) ON DELETE CASCADE, image TEXT NOT NULL, version INTEGER NOT NULL,
	PRIMARY KEY (user, image, version), FOREIGN KEY (image, version) REFERENCES versions(image, version) ON DELETE CASCADE);
-- When layers were last read back: tried at all, good at (empty: never), and what was wrong the last time.
CREATE TABLE checks (
	layer TEXT PRIMARY KEY REFERENCES layers(id) ON DELETE CASCADE, tried TEXT NOT NULL, good TEXT NOT NULL, damaged TEXT NOT NULL);
`, `
-- The recipients of a layer in an age file, with spaces between; empty: a layer file. Of the former id is the SHA-256 of the file, and
-- what states and size say is what its user says: nothing but that user's points may be based on it.
ALTER TABLE layers ADD COLUMN sealed TEXT NOT NULL DEFAULT '';
`, `
-- What lists show of versions and points, in JSON: taken from the manifests, which count. Where a row is missing the manifest is opened.
CREATE TABLE version_infos (
	image TEXT NOT NULL, version INTEGER NOT NULL, info TEXT NOT NULL, PRIMARY KEY (image, version),
	FOREIGN KEY (image, version) REFERENCES versions(image, version) ON DELETE CASCADE) WITHOUT ROWID;
CREATE TABLE point_infos (
	line TEXT NOT NULL, point INTEGER NOT NULL, created TEXT NOT NULL, info TEXT NOT NULL, PRIMARY KEY (line, point),
	FOREIGN KEY (line, point) REFERENCES points(line, point) ON DELETE CASCADE) WITHOUT ROWID;
CREATE TRIGGER version_rewritten AFTER UPDATE OF manifest ON versions BEGIN
	DELETE FROM version_infos WHERE image = OLD.image AND version = OLD.version; END;
CREATE TRIGGER point_rewritten AFTER UPDATE OF manifest ON points BEGIN
	DELETE FROM point_infos WHERE line = OLD.line AND point = OLD.point; END;
-- point_layers by line: how many points have a layer, and of how many it is the line's own. What may be deleted is not decided by it.
CREATE TABLE line_layers (
	line TEXT NOT NULL REFERENCES lines(id) ON DELETE CASCADE, layer TEXT NOT NULL, points INTEGER NOT NULL, own INTEGER NOT NULL,
	PRIMARY KEY (line, layer)) WITHOUT ROWID;
CREATE INDEX line_layers_layer ON line_layers(layer);
-- INSERT OR REPLACE would not fire the second: nothing may replace rows of point_layers, or update them.
CREATE TRIGGER point_layer_entered AFTER INSERT ON point_layers BEGIN
	INSERT INTO line_layers (line, layer, points, own) VALUES (NEW.line, NEW.layer, 1, NEW.own)
		ON CONFLICT (line, layer) DO UPDATE SET points = points + 1, own = own + excluded.own; END;
CREATE TRIGGER point_layer_gone AFTER DELETE ON point_layers BEGIN
	UPDATE line_layers SET points = points - 1, own = own - OLD.own WHERE line = OLD.line AND layer = OLD.layer;
	DELETE FROM line_layers WHERE line = OLD.line AND layer = OLD.layer AND points = 0; END;
CREATE INDEX checks_damaged ON checks(layer) WHERE damaged <> '';
CREATE INDEX checks_tried ON checks(tried);
-- A line is tidied up when something changed that may make it untidy: tidied is what changes was then. again: when points will have
-- grown old enough to go; empty: that is not to be expected.
ALTER TABLE lines ADD COLUMN changes INTEGER NOT NULL DEFAULT 1;
ALTER TABLE lines ADD COLUMN tidied INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lines ADD COLUMN again TEXT NOT NULL DEFAULT '';
-- When all its manifests were last opened. Those that are there are being opened now, to be described.
ALTER TABLE lines ADD COLUMN opened TEXT NOT NULL DEFAULT '';
UPDATE lines SET opened = strftime('%Y-%m-%dT%H:%M:%fZ', 'now');
CREATE TRIGGER point_entered AFTER INSERT ON points BEGIN
	UPDATE lines SET changes = changes + 1 WHERE id = NEW.line; END;
CREATE TRIGGER point_gone AFTER DELETE ON points BEGIN
	UPDATE lines SET changes = changes + 1 WHERE id = OLD.line; END;
CREATE TRIGGER policy_changed AFTER UPDATE OF policy ON images BEGIN
	UPDATE lines SET changes = changes + 1 WHERE image_id = NEW.id; END;
CREATE TRIGGER verdict_entered AFTER INSERT ON checks WHEN NEW.damaged <> '' BEGIN
	UPDATE lines SET changes = changes + 1 WHERE id IN (SELECT line FROM line_layers WHERE layer = NEW.layer); END;
CREATE TRIGGER verdict_changed AFTER UPDATE OF damaged ON checks WHEN (OLD.damaged = '') <> (NEW.damaged = '') BEGIN
	UPDATE lines SET changes = changes + 1 WHERE id IN (SELECT line FROM line_layers WHERE layer = NEW.layer); END;
`}

// fills are what else is to be done for the migration to a version of the catalog, in the same transaction.
var fills = map[int]func(ctx context.Context, tx *sql.Tx) error{6: fillLineLayers}

// fillLineLayers makes line_layers of point_layers, line by line: all at once would be sorted on disk.
func fillLineLayers(ctx context.Context, tx *sql.Tx) error {
	lines, err := column(ctx, tx, "SELECT id FROM lines")
	if err != nil {
		return err
	}
	for _, l := range lines {
		_, err := tx.ExecContext(ctx, `INSERT INTO line_layers (line, layer, points, own)
			SELECT line, layer, COUNT(*), SUM(own) FROM point_layers WHERE line = ? GROUP BY layer`, l)
		if err != nil {
			return err
		}
	}
	return nil
}

// dbFile is the catalog's name in the data folder.
const dbFile = "synchronizer.db"

// protectDB sees to it that only the owner can read the catalog, which has the hashes of passwords, whatever the folder allows.
// SQLite gives the files beside it the same permissions.
func protectDB(fsys durable.FS, first bool) error {
	if !first {
		return fsys.Chmod(dbFile, 0o600)
	}
	f, err := fsys.Create(dbFile, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// openDB opens the catalog in the file name and brings it up to date.
func openDB(ctx context.Context, name string, log *slog.Logger) (*sql.DB, error) {
	q := url.Values{"_pragma": {
		"busy_timeout(20000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)", "trusted_schema(OFF)",
	}, "_txlock": {"immediate"}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: name}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, db, log); err != nil {
		db.Close()
		return nil, fmt.Errorf("catalog %s: %w", name, err)
	}
	return db, nil
}

func migrate(ctx context.Context, db *sql.DB, log *slog.Logger) error {
	return inTx(ctx, db, func(tx *sql.Tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		if version > len(migrations) {
			return fmt.Errorf("made by a newer program (catalog version %d, this program knows %d); nothing was changed",
				version, len(migrations))
		}
		if version > 0 && version < len(migrations) {
			log.Info("the catalog is brought up to date, which may take minutes", "from", version, "to", len(migrations))
		}
		for ; version < len(migrations); version++ {
			if _, err := tx.ExecContext(ctx, migrations[version]); err != nil {
				return fmt.Errorf("upgrade from catalog version %d: %w", version, err)
			}
			if fill := fills[version+1]; fill != nil {
				if err := fill(ctx, tx); err != nil {
					return fmt.Errorf("upgrade from catalog version %d: %w", version, err)
				}
			}
		}
		_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version))
		return err
	})
}

// inTx runs do in a transaction, which is committed when do returns nil.
func inTx(ctx context.Context, db *sql.DB, do func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		return errors.Join(err, ignoreDone(tx.Rollback()))
	}
	return tx.Commit()
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// ignoreNone returns nil when a query found nothing.
func ignoreNone(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return err
}

// querier is a database or a transaction.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// collect runs a query and scans each row into a T.
func collect[T any](ctx context.Context, q querier, scan func(row *sql.Rows, v *T) error, query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []T{}
	for rows.Next() {
		var v T
		if err := scan(rows, &v); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// column collects a query of one text column.
func column(ctx context.Context, q querier, query string, args ...any) ([]string, error) {
	return collect(ctx, q, func(r *sql.Rows, s *string) error { return r.Scan(s) }, query, args...)
}
