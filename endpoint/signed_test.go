package endpoint_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/problem"
)

// TestSignedLayersThatDoNotFit: a layer that the signed manifest names, and that does not lead where it says or that only a newer program
// reads, is told apart from damage on the way, and nothing of it is installed.
func TestSignedLayersThatDoNotFit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(index []byte)
		code   string
		exit   problem.Exit
		next   string
	}{
		{"it leads elsewhere", func(index []byte) { index[48] ^= 1 }, "DS-UNTRUSTED-LAYER", problem.Untrusted, "tell the administrator"},
		{"of a newer format", func(index []byte) { binary.BigEndian.PutUint32(index[8:], 99) }, "DS-NEWER", problem.Failure, "install the present release"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := ready(t, disk(1, 2))
			key := w.signingKey()
			var file []byte // the layer's, changed
			honest := manifests(func(r *http.Request, next http.Handler) []byte {
				v, err := image.VerifyManifest(record(r, next).Body.Bytes(), w.e.Registered().SigningKey)
				if err != nil {
					t.Error(err)
					return nil
				}
				m := *v.Manifest()
				ref := &m.Disks[0].Layers[0]
				file, err = os.ReadFile(filepath.Join(w.lab.Dir, "layers", ref.ID.String()+".dsl"))
				if err != nil {
					t.Error(err)
					return nil
				}
				index := file[ref.IndexOffset:][:ref.IndexLength]
				c.change(index)
				ref.ID = sha256.Sum256(index)
				env, err := image.SignManifest(&m, key)
				if err != nil {
					t.Error(err)
				}
				return env
			})
			w.front.answer(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				if strings.HasPrefix(r.URL.Path, "/v1/layers/") {
					rw.Header().Set("Content-Type", "application/octet-stream")
					rw.Header().Set("ETag", `"`+filepath.Base(r.URL.Path)+`"`)
					http.ServeContent(rw, r, "", time.Time{}, bytes.NewReader(file))
					return
				}
				honest(rw, r, next)
			})
			got, s := w.fail(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
			if got != c.code || s.Problem.Exit != c.exit || !strings.Contains(s.Problem.Next, c.next) || s.Problem.Safe == "" {
				t.Errorf("%s, want %s: %+v", got, c.code, s.Problem)
			}
			w.nothingInstalled()
		})
	}
}
