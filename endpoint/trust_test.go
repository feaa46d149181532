package endpoint_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync/atomic"
	"testing"

	"disksync/api"
	"disksync/endpoint"
	"disksync/image"
)

// record calls next and returns what it answered.
func record(r *http.Request, next http.Handler) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	return rec
}

// pass passes an answer on with another body.
func pass(w http.ResponseWriter, rec *httptest.ResponseRecorder, body []byte) {
	for k, v := range rec.Header() {
		if k != "Content-Length" {
			w.Header()[k] = v
		}
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(body)
}

// offers lets the Synchronizer offer something else.
func offers(t *testing.T, change func(o *api.Offer)) hook {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path != "/v1/offers" {
			next.ServeHTTP(w, r)
			return
		}
		rec := record(r, next)
		var all []api.Offer
		if err := json.Unmarshal(rec.Body.Bytes(), &all); err != nil || len(all) == 0 {
			t.Errorf("offers %s: %v", rec.Body, err)
		}
		for i := range all {
			change(&all[i])
		}
		b, err := json.Marshal(all)
		if err != nil {
			t.Error(err)
		}
		pass(w, rec, b)
	}
}

// manifests gives another manifest than the one that is asked for.
func manifests(give func(r *http.Request, next http.Handler) []byte) hook {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if path.Base(r.URL.Path) != "manifest" {
			next.ServeHTTP(w, r)
			return
		}
		r = r.Clone(r.Context())
		r.Header.Del("Accept-Encoding") // what is to be changed must not be packed
		b := give(r, next)
		pass(w, record(r, next), b)
	}
}

// at returns what is answered to a request for another path.
func at(r *http.Request, next http.Handler, p string) []byte {
	other := r.Clone(r.Context())
	other.URL.Path, other.URL.RawPath, other.RequestURI = p, "", p
	return record(other, next).Body.Bytes()
}

// TestLyingAboutVersions: what was seen once cannot be taken back, exchanged or mixed up, whoever has the line; nothing is installed
// because of it, and the truth works again afterwards.
func TestLyingAboutVersions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish("win7", disk(1, 2), disk(1, 3))
	w.publish("linux", disk(7, 8), disk(7, 9))
	w.logIn()
	key := w.signingKey()
	// resigned changes a manifest and signs it with a key.
	resigned := func(change func(m *image.Manifest), sign func(m *image.Manifest) ([]byte, error)) func(r *http.Request, next http.Handler) []byte {
		return func(r *http.Request, next http.Handler) []byte {
			v, err := image.VerifyManifest(record(r, next).Body.Bytes(), w.e.Registered().SigningKey)
			if err != nil {
				t.Error(err)
				return nil
			}
			m := *v.Manifest()
			change(&m)
			env, err := sign(&m)
			if err != nil {
				t.Error(err)
			}
			return env
		}
	}
	own := func(m *image.Manifest) ([]byte, error) { return image.SignManifest(m, key) }
	foreign := func(m *image.Manifest) ([]byte, error) {
		return image.SignManifest(m, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	}
	lies := []struct {
		name string
		hook hook
		want string
		// afterSeen: only whoever has seen the truth can tell.
		afterSeen bool
	}{
		{"signed with another key", manifests(resigned(func(*image.Manifest) {}, foreign)), "DS-UP-SIGNATURE", false},
		{"not signed at all", manifests(resigned(func(*image.Manifest) {}, func(m *image.Manifest) ([]byte, error) { return json.Marshal(m) })), "DS-UP-SIGNATURE", false},
		{"one byte changed", manifests(func(r *http.Request, next http.Handler) []byte {
			return []byte(strings.Replace(record(r, next).Body.String(), "eyJ", "eyK", 1))
		}), "DS-UP-SIGNATURE", false},
		{"a web page", manifests(func(*http.Request, http.Handler) []byte { return []byte("<html>Welcome") }), "DS-UP-SIGNATURE", false},
		{"nothing", manifests(func(*http.Request, http.Handler) []byte { return nil }), "DS-UP-SIGNATURE", false},
		{"an older version of it", manifests(func(r *http.Request, next http.Handler) []byte {
			return at(r, next, "/v1/images/win7/versions/1/manifest")
		}), "DS-UP-WRONG", false},
		{"another image", manifests(func(r *http.Request, next http.Handler) []byte {
			return at(r, next, "/v1/images/linux/versions/2/manifest")
		}), "DS-UP-WRONG", false},
		{"the newest version taken back", offers(t, func(o *api.Offer) { o.Version, o.Newest = 1, 1 }), "DS-UP-ROLLBACK", true},
		{"a version that became another", manifests(resigned(func(m *image.Manifest) { m.Note = "only the note" }, own)), "DS-UP-CHANGED", true},
		{"a version with other layers", manifests(resigned(func(m *image.Manifest) { m.Disks[0].Layers[0].Length++ }, own)), "DS-UP-CHANGED", true},
	}
	lie := func(seen bool) {
		n := 0
		for _, l := range lies {
			if l.afterSeen && !seen {
				continue
			}
			n++
			w.front.answer(l.hook)
			if got, s := w.fail(endpoint.Request{Kind: endpoint.Download, Image: "win7"}); got != l.want {
				t.Errorf("%s: %s, want %s: %v", l.name, got, l.want, s.Problem)
			} else if s.Problem.Safe == "" || s.Problem.Next == "" {
				t.Errorf("%s: %+v", l.name, s.Problem)
			}
			if _, err := w.e.Plan(t.Context(), endpoint.Request{Kind: endpoint.Download, Image: "win7"}); code(t, err) != l.want {
				t.Errorf("%s, when planning: %v", l.name, err)
			}
			w.nothingInstalled()
		}
		w.front.honest()
		if n < 5 {
			t.Errorf("only %d lies", n)
		}
	}
	lie(false)
	if _, err := w.e.Plan(t.Context(), endpoint.Request{Kind: endpoint.Download, Image: "win7"}); err != nil {
		t.Fatalf("the truth after the lies: %v", err)
	}
	lie(true)
	w.restart() // what was seen is remembered
	lie(true)
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.holds("win7", disk(1, 3))
}

// TestPinned: the version that the administrator means for the user is the one that comes, though a newer one is there.
func TestPinned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish("win7", disk(1, 2), disk(1, 3), disk(1, 4))
	pin := func(v image.Version) {
		t.Helper()
		w.lab.Assign(t, "win7", "alice", v)
	}
	pin(2)
	w.logIn()
	offered, err := w.e.Offers(t.Context())
	if err != nil || len(offered) != 1 || offered[0].Version != 2 || !offered[0].Pinned || offered[0].Newest != 3 {
		t.Fatalf("%+v, %v", offered, err)
	}
	if rc := w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"}); rc.Version != 2 {
		t.Errorf("downloaded version %d", rc.Version)
	}
	w.holds("win7", disk(1, 3))
	if rc := w.run(endpoint.Request{Kind: endpoint.Update, VM: "win7"}); rc.Nothing == "" || rc.Version != 2 {
		t.Errorf("updated beyond the version that is meant for the user: %+v", rc)
	}
	// A version that is withdrawn does not make the endpoint go back by itself.
	pin(1)
	if rc := w.run(endpoint.Request{Kind: endpoint.Update, VM: "win7"}); rc.Nothing == "" || rc.Version != 2 || len(rc.Notes) == 0 {
		t.Errorf("went back without being asked: %+v", rc)
	}
	if rc := w.run(endpoint.Request{Kind: endpoint.Update, VM: "win7", Version: 1}); rc.Version != 1 || rc.Previous != 2 {
		t.Errorf("%+v", rc)
	}
	w.holds("win7", disk(1, 2))
	pin(3)
	if rc := w.run(endpoint.Request{Kind: endpoint.Update, VM: "win7"}); rc.Version != 3 || rc.Previous != 1 {
		t.Errorf("%+v", rc)
	}
	w.holds("win7", disk(1, 4))
}

// TestLyingAboutLayers: bytes that are not the layer's end in a clear error; nothing is installed, and an honest Synchronizer is
// gone on with afterwards.
func TestLyingAboutLayers(t *testing.T) {
	t.Parallel()
	w := ready(t, disk(1, 2, 0, 4))
	other := disk(5, 6)
	w.publish("other", other)
	other1, err := w.lab.Admin.Image(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	otherLayer := "/v1/layers/" + other1.Versions[0].Disks[0].Layer.String()
	for _, c := range []struct {
		name string
		lie  func(w http.ResponseWriter, rec *httptest.ResponseRecorder, r *http.Request)
		want string
	}{
		{"a login page", func(w http.ResponseWriter, _ *httptest.ResponseRecorder, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>Welcome to the hotel's network")
		}, "DS-NET-PROTOCOL"},
		{"a short body", func(w http.ResponseWriter, rec *httptest.ResponseRecorder, _ *http.Request) {
			b := rec.Body.Bytes()
			w.Header().Set("Content-Length", rec.Header().Get("Content-Length"))
			pass(w, rec, b[:len(b)/2])
		}, "DS-NET"},
		{"one bit of it changed", func(w http.ResponseWriter, rec *httptest.ResponseRecorder, _ *http.Request) {
			b := rec.Body.Bytes()
			b[len(b)/2] ^= 4
			pass(w, rec, b)
		}, "DS-NET-PROTOCOL"}, // of the index already
		{"frames changed, the index not", changeFrames(func(b []byte) {
			for i := range b {
				b[i] ^= 0x55
			}
		}), "DS-SERVER-DAMAGED"},
		{"zeros for frames", changeFrames(func(b []byte) { clear(b) }), "DS-SERVER-DAMAGED"},
		{"more than was asked for", func(w http.ResponseWriter, rec *httptest.ResponseRecorder, _ *http.Request) {
			pass(w, rec, append(rec.Body.Bytes(), 0))
		}, "DS-NET-PROTOCOL"},
		{"data without end", func(w http.ResponseWriter, rec *httptest.ResponseRecorder, r *http.Request) {
			pass(w, rec, rec.Body.Bytes())
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, "DS-NET-PROTOCOL"},
		{"another range", func(w http.ResponseWriter, rec *httptest.ResponseRecorder, _ *http.Request) {
			rec.Header().Set("Content-Range", strings.Replace(rec.Header().Get("Content-Range"), "bytes ", "bytes 1", 1))
			pass(w, rec, rec.Body.Bytes())
		}, "DS-NET-PROTOCOL"},
		{"a file that changed", func(w http.ResponseWriter, rec *httptest.ResponseRecorder, _ *http.Request) {
			rec.Header().Set("ETag", `"another"`)
			pass(w, rec, rec.Body.Bytes())
		}, "DS-NET-PROTOCOL"},
		{"the whole file for a range", func(w http.ResponseWriter, rec *httptest.ResponseRecorder, _ *http.Request) {
			rec.Code = http.StatusOK
			rec.Header().Del("Content-Range")
			pass(w, rec, rec.Body.Bytes())
		}, "DS-NET-PROTOCOL"},
		{"it is not there", func(w http.ResponseWriter, rec *httptest.ResponseRecorder, _ *http.Request) {
			rec.Code = http.StatusNotFound
			rec.Header().Set("Content-Type", "application/json")
			pass(w, rec, []byte(`{"code":"not-found","message":"there is no such layer"}`))
		}, "DS-NOT-FOUND"},
		{"access is denied", func(w http.ResponseWriter, rec *httptest.ResponseRecorder, _ *http.Request) {
			rec.Code = http.StatusForbidden
			rec.Header().Set("Content-Type", "application/json")
			pass(w, rec, []byte(`{"code":"access-denied","message":"not for you"}`))
		}, "DS-ACCESS-DENIED"},
		{"it has failed", func(w http.ResponseWriter, rec *httptest.ResponseRecorder, _ *http.Request) {
			rec.Code = http.StatusInternalServerError
			rec.Header().Set("Content-Type", "application/json")
			pass(w, rec, []byte(`{"code":"internal-error","message":"something broke"}`))
		}, "DS-SERVER-FAILED"},
		{"another layer in its place", func(w http.ResponseWriter, rec *httptest.ResponseRecorder, r *http.Request) {
			pass(w, rec, at(r, w.(interface{ next() http.Handler }).next(), otherLayer))
		}, "DS-NET-PROTOCOL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := w.in(t)
			var told atomic.Int64
			w.front.answer(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				if !strings.HasPrefix(r.URL.Path, "/v1/layers/") {
					next.ServeHTTP(rw, r)
					return
				}
				told.Add(1)
				c.lie(withNext{rw, next}, record(r, next), r)
			})
			defer w.front.honest()
			got, s := w.fail(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
			if got != c.want || told.Load() == 0 {
				t.Errorf("%s after %d lies, want %s: %v", got, told.Load(), c.want, s.Problem)
			}
			if s.Problem.Safe == "" {
				t.Errorf("nobody says what is safe: %+v", s.Problem)
			}
			w.nothingInstalled()
		})
	}
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.holds("win7", disk(1, 2, 0, 4))
}

// withNext hands the honest server to a lie.
type withNext struct {
	http.ResponseWriter
	handler http.Handler
}

func (w withNext) next() http.Handler { return w.handler }

// changeFrames changes what is no index, and what says which frames those are stays as it is.
func changeFrames(change func(b []byte)) func(http.ResponseWriter, *httptest.ResponseRecorder, *http.Request) {
	return func(w http.ResponseWriter, rec *httptest.ResponseRecorder, _ *http.Request) {
		for _, b := range ranges(rec) {
			if !strings.HasPrefix(string(b), "DSLINDEX") {
				change(b)
			}
		}
		pass(w, rec, rec.Body.Bytes())
	}
}

// ranges returns the parts of an answer's body that are of the file: all of it, or what is between the lines of a multipart one.
func ranges(rec *httptest.ResponseRecorder) [][]byte {
	b := rec.Body.Bytes()
	kind, params, err := mime.ParseMediaType(rec.Header().Get("Content-Type"))
	if err != nil || kind != "multipart/byteranges" {
		return [][]byte{b}
	}
	var all [][]byte
	boundary := []byte("--" + params["boundary"])
	_, b, more := bytes.Cut(b, boundary)
	for more {
		_, part, found := bytes.Cut(b, []byte("\r\n\r\n")) // none behind the last boundary
		if !found {
			break
		}
		part, b, more = bytes.Cut(part, append([]byte("\r\n"), boundary...))
		all = append(all, part)
	}
	return all
}
