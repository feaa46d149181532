package endpoint_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"disksync/deploy"
	"disksync/endpoint"
	"disksync/media"
)

// sealedStick writes an encrypted medium with a version of win7.
func (w *world) sealedStick(o media.Options) string {
	w.Helper()
	o.Dir, o.Want, o.Encrypt = filepath.Join(w.TempDir(), "stick"), []media.Want{{Image: "win7"}}, true
	res, err := media.Write(w.Context(), w.lab.Admin, o)
	if err != nil {
		w.Fatal(err)
	}
	for _, f := range res.Files {
		if !f.Sealed || strings.Contains(f.Path[len(o.Dir):], "win7") {
			w.Errorf("file %+v", f)
		}
	}
	return o.Dir
}

// found returns what the endpoint says of a medium.
func (w *world) found(dir string) string {
	w.Helper()
	rep, err := w.e.Media(w.Context(), []string{dir}, "")
	if err != nil || len(rep.Media) != 1 {
		w.Fatalf("%+v, %v", rep, err)
	}
	return rep.Media[0].Found
}

// TestEncryptedMedium deploys from encrypted media: whole ones, in parts, damaged ones, without a line to ask for the key, and with a key
// that is not theirs.
func TestEncryptedMedium(t *testing.T) {
	t.Parallel()
	want := disk(1, 2, 3, 4)
	w := ready(t, want)
	stick, parts := w.sealedStick(media.Options{}), w.sealedStick(media.Options{PartSize: 50_000})
	if got := w.found(stick); got != "1 encrypted file, no key here" {
		t.Errorf("before the key is here: %s", got)
	}
	download := func(dir string) *endpoint.Receipt {
		t.Helper()
		rc := w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7", Media: []string{dir}})
		w.holds("win7", want)
		if err := w.e.Remove("win7"); err != nil {
			t.Fatal(err)
		}
		return rc
	}
	for _, dir := range []string{stick, parts} {
		if rc := download(dir); rc.Bytes[deploy.Network] != 0 || rc.Bytes[deploy.USB] == 0 {
			t.Errorf("%s: bytes %v, notes %q", w.found(dir), rc.Bytes, rc.Notes)
		}
	}
	if got := w.found(parts); got != "2 parts of layers" {
		t.Errorf("with the key: %s", got)
	}
	file := filepath.Join(w.dir, "mediakeys.json")
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the keys: %v, %v", st, err)
	}

	t.Run("the key is not asked for again", func(t *testing.T) {
		w.restart()
		asked := 0
		w.front.answer(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/keys") {
				asked++
			}
			next.ServeHTTP(rw, r)
		})
		defer w.front.honest()
		if rc := download(stick); rc.Bytes[deploy.Network] != 0 || asked != 0 {
			t.Errorf("bytes %v, asked %d times", rc.Bytes, asked)
		}
	})
	t.Run("flipped bits", func(t *testing.T) {
		bad := w.sealedStick(media.Options{})
		entries, err := os.ReadDir(bad)
		if err != nil || len(entries) != 1 {
			t.Fatal(entries, err)
		}
		name := filepath.Join(bad, entries[0].Name())
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)-100] ^= 1 // of the last block
		w.write(name, b)
		rc := download(bad)
		if n := rc.Bytes[deploy.Network]; n == 0 || n > 25_000 || rc.Bytes[deploy.USB] < 50_000 {
			t.Errorf("bytes %v", rc.Bytes)
		}
		b[200] ^= 1 // of the index
		w.write(name, b)
		if rc := download(bad); rc.Bytes[deploy.USB] != 0 {
			t.Errorf("with a bad index: bytes %v", rc.Bytes)
		}
	})
	t.Run("a key that is not here", func(t *testing.T) {
		other := w.sealedStick(media.Options{NewKey: true})
		w.front.answer(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/keys") {
				rw.Header().Set("Content-Type", "application/json")
				_, _ = rw.Write([]byte(`[{"id":"0000000000000000","key":"` + strings.Repeat("A", 43) + `="}]`))
				return
			}
			next.ServeHTTP(rw, r)
		})
		rc := download(other)
		if rc.Bytes[deploy.USB] != 0 || !slices.ContainsFunc(rc.Notes, func(s string) bool { return strings.Contains(s, "is encrypted, no key here") }) {
			t.Errorf("bytes %v, notes %q", rc.Bytes, rc.Notes)
		}
		w.front.honest()
		if rc := download(other); rc.Bytes[deploy.Network] != 0 {
			t.Errorf("with the new key: bytes %v, notes %q", rc.Bytes, rc.Notes)
		}
		// What was written with the key before stays of use.
		if rc := download(stick); rc.Bytes[deploy.Network] != 0 {
			t.Errorf("an older medium: bytes %v, notes %q", rc.Bytes, rc.Notes)
		}
	})
	t.Run("logged out", func(t *testing.T) {
		if err := w.e.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("the keys are still there: %v", err)
		}
		if got := w.found(stick); got != "1 encrypted file, no key here" {
			t.Errorf("%s", got)
		}
	})
}

// TestEncryptedMediumOfOthers: a user to whom another image is assigned cannot open the medium.
func TestEncryptedMediumOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.version("win7", disk(1, 2)) // nobody has it
	stick := w.sealedStick(media.Options{})
	w.publish("mine", disk(1, 2)) // the same blocks
	w.lab.Assign(t, "mine", "alice", 0)
	w.logIn()
	rc := w.run(endpoint.Request{Kind: endpoint.Download, Image: "mine", Media: []string{stick}})
	if rc.Bytes[deploy.USB] != 0 {
		t.Errorf("bytes %v", rc.Bytes)
	}
	w.holds("mine", disk(1, 2))
	if got := w.found(stick); got != "1 encrypted file, no key here" {
		t.Errorf("%s", got)
	}
}
