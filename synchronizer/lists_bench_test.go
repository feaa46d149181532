package synchronizer_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"disksync/api"
	"disksync/image"
	"disksync/synchronizer"
)

// The catalog of a Synchronizer that has run for long: lines of backups whose points are reached over up to 64 layers. There are no files
// of layers, as lists need none. DISKSYNC_BENCH_LINES and DISKSYNC_BENCH_POINTS say how much of it there is; without them it is what is made
// in a second.

func benchSize(b *testing.B, key string, otherwise int) int {
	b.Helper()
	s := os.Getenv(key)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		b.Fatalf("%s: %q is no number of things", key, s)
	}
	return n
}

// oldVersion is the version of the catalog that the benchmarks begin with: the last one whose lists opened manifests.
const oldVersion = 5

// oldHouse fills a catalog of oldVersion: alice has so many lines with so many points each, and a device that polls. It returns the
// folder, and the token of the device.
func oldHouse(tb testing.TB, lines, points int) (dir, token string) {
	tb.Helper()
	dir = tb.TempDir()
	ctx := context.Background()
	o := synchronizer.Options{Dir: dir}
	s, err := synchronizer.Open(ctx, o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
	for _, end := range []string{"", "-wal", "-shm"} {
		if err := os.RemoveAll(dir + "/synchronizer.db" + end); err != nil {
			tb.Fatal(err)
		}
	}
	db, err := synchronizer.OldCatalog(ctx, dir+"/synchronizer.db", oldVersion)
	if err != nil {
		tb.Fatal(err)
	}
	token = "dsync_" + fmt.Sprintf("%043d", 1)
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		tb.Fatal(err)
	}
	f := &filler{TB: tb, s: s, tx: tx}
	f.fill(lines, points, token)
	if err := tx.Commit(); err != nil {
		tb.Fatal(err)
	}
	if err := db.Close(); err != nil {
		tb.Fatal(err)
	}
	return dir, token
}

// filler writes the rows of a catalog of oldVersion.
type filler struct {
	testing.TB
	s    *synchronizer.Server // which signs
	tx   *sql.Tx
	made map[string]*sql.Stmt
}

const benchStamp = "2026-03-01T12:00:00.000Z"

func (f *filler) exec(query string, args ...any) {
	f.Helper()
	if f.made == nil {
		f.made = map[string]*sql.Stmt{}
	}
	st := f.made[query]
	if st == nil {
		var err error
		if st, err = f.tx.PrepareContext(context.Background(), query); err != nil {
			f.Fatal(err)
		}
		f.made[query] = st
	}
	if _, err := st.ExecContext(context.Background(), args...); err != nil {
		f.Fatalf("%s: %v", query, err)
	}
}

func (f *filler) layer(from, to image.StateID, n ...int) image.LayerRef {
	f.Helper()
	l := image.LayerRef{ID: image.LayerID(sha256.Sum256(fmt.Append(nil, "layer", n))), From: from, To: to, Length: 1 << 20, IndexOffset: 1 << 19, IndexLength: 1000}
	f.exec(`INSERT INTO layers (id, from_state, to_state, size, blocks, length, index_offset, index_length, stored) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		l.ID.String(), from.String(), to.String(), 1<<30, 100+len(n), l.Length, l.IndexOffset, l.IndexLength, benchStamp)
	now := time.Now().UTC().Format("2006-01-02T15:04:05.000Z")
	f.exec("INSERT INTO checks (layer, tried, good, damaged) VALUES (?, ?, ?, '')", l.ID.String(), now, now)
	return l
}

func benchState(n ...int) image.StateID {
	return image.StateID(sha256.Sum256(fmt.Append(nil, "state", n)))
}

func (f *filler) fill(lines, points int, token string) {
	f.Helper()
	golden := image.RandomUUID([16]byte{0: 1})
	hash := sha256.Sum256([]byte(token))
	f.exec("INSERT INTO users (name, password, admin, created) VALUES ('alice', '', 0, ?)", benchStamp)
	d := device(1)
	f.exec("INSERT INTO devices (id, user, name, created, last_seen) VALUES (?, 'alice', ?, ?, ?)", d.ID.String(), d.Name, benchStamp, benchStamp)
	f.exec("INSERT INTO tokens (hash, device, user, expires) VALUES (?, ?, 'alice', ?)", hash[:], d.ID.String(), time.Now().Add(time.Hour*99).Unix())
	f.exec("INSERT INTO images (id, name, mode, created) VALUES (?, 'golden', 'static', ?)", golden.String(), benchStamp)
	f.exec("INSERT INTO assignments (image, kind, name, version) VALUES (?, 'user', 'alice', 0)", golden.String())
	full := f.layer(image.StateID{}, benchState(), 0)
	created, err := time.Parse(time.RFC3339Nano, "2026-03-01T12:00:00.123456789Z")
	if err != nil {
		f.Fatal(err)
	}
	m := image.Manifest{Format: 1, ImageID: golden, Image: "golden", Version: 1, Created: created, Mode: image.Static,
		Disks: []image.Disk{{Role: image.System, Size: 1 << 30, State: full.To, Layers: []image.LayerRef{full}}}}
	f.exec("INSERT INTO versions (image, version, manifest) VALUES (?, 1, ?)", golden.String(), f.sign(&m))
	f.exec("INSERT INTO version_layers (image, version, layer) VALUES (?, 1, ?)", golden.String(), full.ID.String())
	for l := range lines {
		m.ImageID = image.RandomUUID([16]byte{0: 2, 1: byte(l >> 8), 2: byte(l)})
		vm := image.RandomUUID([16]byte{0: 3, 1: byte(l >> 8), 2: byte(l)})
		f.exec(`INSERT INTO lines (id, user, vm, name, device, device_name, image, image_id, mode, newest, known, created)
			VALUES (?, 'alice', ?, ?, ?, ?, 'golden', ?, 'static', ?, 1, ?)`,
			m.ImageID.String(), vm.String(), fmt.Sprintf("vm%d", l), d.ID.String(), d.Name, golden.String(), points, benchStamp)
		m.Point = &image.Point{VM: vm, Name: fmt.Sprintf("vm%d", l), ImageID: golden, Version: 1, Consistency: image.CrashConsistent}
		f.line(m, full, l, points)
	}
}

func (f *filler) sign(m *image.Manifest) []byte {
	f.Helper()
	env, err := f.s.Sign(m)
	if err != nil {
		f.Fatal(err)
	}
	return env
}

// line writes the points of a line, which m is the likeness of. Each 64th starts from the image again.
func (f *filler) line(m image.Manifest, full image.LayerRef, l, points int) {
	f.Helper()
	path := []image.LayerRef{full}
	at := full.To
	for n := 1; n <= points; n++ {
		to := benchState(l, n)
		if n%64 == 0 {
			at, path = full.To, path[:1:1]
		}
		path = append(path, f.layer(at, to, l, n))
		at = to
		m.Version, m.Created = image.Version(n), m.Created.Add(time.Hour)
		m.Disks = []image.Disk{{Role: image.System, Size: 1 << 30, State: to, Layers: slices.Clone(path)}}
		f.exec("INSERT INTO points (line, point, manifest, request, created) VALUES (?, ?, ?, ?, ?)", m.ImageID.String(), n, f.sign(&m), "{}",
			m.Created.Format("2006-01-02T15:04:05.000Z"))
		for i, l := range path {
			f.exec("INSERT INTO point_layers (line, point, layer, own) VALUES (?, ?, ?, ?)", m.ImageID.String(), n, l.ID.String(), i > 0)
		}
	}
}

// benchHouse opens such a catalog, and waits until nothing goes on behind it.
func benchHouse(b *testing.B) (*house, string) {
	b.Helper()
	lines, points := benchSize(b, "DISKSYNC_BENCH_LINES", 4), benchSize(b, "DISKSYNC_BENCH_POINTS", 250)
	dir, token := oldHouse(b, lines, points)
	h := &house{dir: dir}
	began := time.Now()
	s, err := synchronizer.Open(context.Background(), synchronizer.Options{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	opened := time.Since(began)
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	s.WaitVerified()
	b.Logf("opened in %v, at rest after %v", opened, time.Since(began))
	h.Server = s
	return h, token
}

// BenchmarkLists asks for what endpoints and their users ask for.
func BenchmarkLists(b *testing.B) {
	h, token := benchHouse(b)
	for _, path := range []string{"/v1/backups", "/v1/backups?points=newest", "/v1/offers"} {
		b.Run(path[len("/v1/"):], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if a := h.send(b, token, "GET", path, nil); a.status != http.StatusOK && a.code() != api.CodeTooLarge {
					b.Fatal(a)
				}
			}
		})
	}
	var lines []api.BackupLine
	if err := json.Unmarshal(h.send(b, token, "GET", "/v1/backups?points=newest", nil).body, &lines); err != nil {
		b.Fatal(err)
	}
	line := "/v1/backups/" + lines[0].ID.String()
	b.Run("backups of one VM", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if a := h.send(b, token, "GET", line, nil); a.status != http.StatusOK {
				b.Fatal(a)
			}
		}
	})
	b.Run("an hour's tidying", func(b *testing.B) {
		for b.Loop() {
			h.KeepHouse()
			h.WaitVerified()
		}
	})
}
