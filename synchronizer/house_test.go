package synchronizer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"disksync/api"
	"disksync/image"
	"disksync/internal/testkit/lab"
	"disksync/layer"
	"disksync/synchronizer"
)

const password = "open sesame"

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// house is a Synchronizer that is called without a network.
type house struct {
	*synchronizer.Server
	dir   string
	clock *clock
}

// newHouse opens a Synchronizer in a new folder. It lives as long as the test.
func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{dir: filepath.Join(t.TempDir(), "data"), clock: &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}}
	h.open(t)
	t.Cleanup(func() { h.close(t) })
	return h
}

func (h *house) open(t *testing.T) {
	t.Helper()
	s, err := synchronizer.Open(context.Background(), synchronizer.Options{Dir: h.dir, Now: h.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	s.CheapPasswords()
	h.Server = s
}

func (h *house) close(t *testing.T) {
	t.Helper()
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

// restart ends the Synchronizer and opens its folder again, as another process does.
func (h *house) restart(t *testing.T) {
	t.Helper()
	h.close(t)
	h.open(t)
}

func (h *house) path(name string) string { return filepath.Join(h.dir, filepath.FromSlash(name)) }

// answer is what a request was answered with.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// code returns the answer's error code, "" for a success.
func (a answer) code() api.Code {
	var e api.Error
	if a.status < 400 || json.Unmarshal(a.body, &e) != nil {
		return ""
	}
	return e.Code
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, clip(a.body)) }

func clip(b []byte) string { return string(b[:min(len(b), 200)]) }

// into decodes a success.
func into[T any](t *testing.T, a answer) T {
	t.Helper()
	var v T
	if a.status != http.StatusOK {
		t.Fatalf("answer %v", a)
	}
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("%v: %v", a, err)
	}
	return v
}

// asLocal in place of a token sends a request through the local socket's handler.
const asLocal = "local"

// send sends a request. body is nil, a string, bytes, a reader, or something to be sent as JSON.
func (h *house) send(t testing.TB, token, method, path string, body any, edit ...func(*http.Request)) answer {
	t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	case io.Reader:
		r = b
	default:
		j, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(j)
	}
	req := httptest.NewRequestWithContext(t.Context(), method, path, r)
	var to http.Handler = h.Server
	switch token {
	case "":
	case asLocal:
		to = h.Local()
	default:
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for _, e := range edit {
		e(req)
	}
	rec := httptest.NewRecorder()
	to.ServeHTTP(rec, req)
	return answer{rec.Code, rec.Header(), rec.Body.Bytes()}
}

// must sends a request as the local administrator that has to succeed.
func (h *house) must(t *testing.T, method, path string, body any) answer {
	t.Helper()
	a := h.send(t, asLocal, method, path, body)
	if a.status >= 300 {
		t.Fatalf("%s %s: %v", method, path, a)
	}
	return a
}

// user makes a user.
func (h *house) user(t *testing.T, name string, admin bool) {
	t.Helper()
	h.must(t, "POST", "/v1/users", api.NewUser{Name: name, Password: password, Admin: admin})
}

func device(n byte) api.Device {
	return api.Device{ID: image.RandomUUID([16]byte{0: n}), Name: fmt.Sprintf("laptop %d", n)}
}

// login logs in and returns the token. It comes from an address and at a time of its own, so that no limit is met.
func (h *house) login(t *testing.T, name string, d api.Device) string {
	t.Helper()
	h.clock.advance(time.Minute)
	tok := into[api.Token](t, h.send(t, "", "POST", "/v1/login", api.Login{User: name, Password: password, Device: d}))
	return tok.Token
}

// packed is a layer and its file.
type packed struct {
	layer.Result
	name image.LayerID
	file []byte
}

func (p packed) id() string { return p.name.String() }

// pack makes the layer that leads from a state to a disk.
func pack(t *testing.T, from image.State, disk []byte) packed {
	t.Helper()
	var b bytes.Buffer
	res, err := layer.Encode(t.Context(), &b, from, memDisk(disk), layer.EncodeOptions{Level: 1})
	if err != nil {
		t.Fatal(err)
	}
	return packed{res, res.Index.ID(), b.Bytes()}
}

type memDisk []byte

func (d memDisk) Size() int64 { return int64(len(d)) }

func (d memDisk) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(d).ReadAt(p, off) }

// upload brings a layer to the Synchronizer, in one piece, and waits until it is verified. It returns how that ended.
func (h *house) upload(t *testing.T, p packed) api.Upload {
	t.Helper()
	u := into[api.Upload](t, h.must(t, "POST", fmt.Sprintf("/v1/uploads/%s?length=%d", p.id(), len(p.file)), nil))
	if u.State == api.Uploading {
		h.must(t, "PATCH", fmt.Sprintf("/v1/uploads/%s?offset=%d", p.id(), u.Offset), p.file[u.Offset:])
	}
	h.WaitVerified()
	return into[api.Upload](t, h.must(t, "GET", "/v1/uploads/"+p.id(), nil))
}

// store is upload of a good layer.
func (h *house) store(t *testing.T, p packed) {
	t.Helper()
	if u := h.upload(t, p); u.State != api.Stored {
		t.Fatalf("upload ended as %+v", u)
	}
}

// publish makes a disk the system disk of the next version of an image, with a layer from the state from.
func (h *house) publish(t *testing.T, name string, v image.Version, from image.State, disk []byte) packed {
	t.Helper()
	p := pack(t, from, disk)
	h.store(t, p)
	h.must(t, "POST", "/v1/images/"+name+"/versions", seal(v, p))
	return p
}

// seal asks for a version whose system disk a layer leads to.
func seal(v image.Version, p packed) api.Seal {
	return api.Seal{Version: v, Disks: []api.SealDisk{{Role: image.System, Layer: p.name}}}
}

// assign gives an image to somebody, "user:NAME" or "group:NAME".
func (h *house) assign(t *testing.T, name, to string, v image.Version) {
	t.Helper()
	h.must(t, "PUT", "/v1/assignments", map[string]any{"image": name, "to": to, "version": v})
}

// disk returns a small disk.
func disk(seeds ...uint64) []byte { return lab.Disk(seeds...) }
