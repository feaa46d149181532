package syncclient_test

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"testing"

	"disksync/image"
)

// TestPackedManifest: a manifest comes packed, as it was; what cannot be unpacked, or becomes too long, is refused.
func TestPackedManifest(t *testing.T) {
	t.Parallel()
	good := bytes.Repeat([]byte("manifest "), 500)
	pack := func(b []byte) []byte {
		var w bytes.Buffer
		z := gzip.NewWriter(&w)
		if _, err := z.Write(b); err != nil || z.Close() != nil {
			t.Fatal(err)
		}
		return w.Bytes()
	}
	for name, c := range map[string]struct {
		answer []byte
		good   bool
	}{
		"packed":     {pack(good), true},
		"cut off":    {pack(good)[:30], false},
		"not packed": {good, false},
		"too long":   {pack(make([]byte, image.MaxEnvelopeSize+1)), false},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIdentity(t, nil, nil, nil)
			s := newServer(t, i, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Accept-Encoding") != "gzip" {
					t.Error("a packed answer is not asked for")
				}
				w.Header().Set("Content-Encoding", "gzip")
				_, _ = w.Write(c.answer)
			}))
			got, err := newClient(t, s.URL, i.fingerprint(t)).Manifest(t.Context(), "win7", 1)
			if c.good && (err != nil || !bytes.Equal(got, good)) || !c.good && !protocol.fits(err) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}
