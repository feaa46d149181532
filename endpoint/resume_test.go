package endpoint_test

import (
	"net/http"
	"strings"
	"testing"

	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/testkit"
)

// TestResumeTriesAtOnce: an operation that waits for the line tries each time that somebody resumes it, or asks for the same again, be it
// that it has just begun, downloads, or sends. By themselves so many attempts would take minutes.
func TestResumeTriesAtOnce(t *testing.T) {
	const attempts = 11
	w := ready(t, disk(1, 2, 3))
	w.close()
	var err error
	if w.e, err = endpoint.Open(t.Context(), endpoint.Options{Dir: w.dir, Finder: w.finder, Reader: w.reader}); err != nil {
		t.Fatal(err)
	}
	download := endpoint.Request{Kind: endpoint.Download, Image: "win7"}
	backup := endpoint.Request{Kind: endpoint.Backup, VM: "win7"}
	for _, c := range []struct {
		what string // the part of a path from which on the line is down
		r    endpoint.Request
	}{{"/v1/", download}, {"/layers/", download}, {"/v1/", backup}, {"/uploads/", backup}} {
		if c.r.Kind == endpoint.Backup {
			w.writes("win7", image.System, 700, []byte("before "+c.what))
		}
		tried := make(chan struct{}, 1000)
		w.front.answer(func(rw http.ResponseWriter, req *http.Request, next http.Handler) {
			if strings.Contains(req.URL.Path, c.what) {
				tried <- struct{}{}
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(rw, req)
		})
		o := w.start(c.r)
		for i := range attempts {
			testkit.Until(t, "another attempt at "+c.what, func() bool { return len(tried) > 0 })
			for len(tried) > 0 {
				<-tried
			}
			if i%2 == 0 {
				err = o.Resume()
			} else {
				_, err = w.e.Start(c.r)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		w.front.honest()
		if err := o.Resume(); err != nil {
			t.Fatal(err)
		}
		if s := w.wait(o); s.Outcome() != nil {
			t.Fatalf("%s: %v", c.what, s.Outcome())
		}
		if c.what == "/v1/" && c.r.Kind == endpoint.Download {
			if err := w.e.Remove("win7"); err != nil {
				t.Fatal(err)
			}
		}
	}
}
