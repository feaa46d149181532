package syncclient_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"disksync/api"
	"disksync/image"
	"disksync/internal/testkit/lab"
	"disksync/layer"
	"disksync/syncclient"
)

// packed is a layer and its file.
type packed struct {
	ref   image.LayerRef
	index *layer.Index
	file  []byte
}

type memDisk []byte

func (d memDisk) Size() int64 { return int64(len(d)) }

func (d memDisk) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(d).ReadAt(p, off) }

func pack(t testing.TB, disk []byte) packed {
	t.Helper()
	var b bytes.Buffer
	res, err := layer.Encode(context.Background(), &b, image.State{}, memDisk(disk), layer.EncodeOptions{Level: 1})
	if err != nil {
		t.Fatal(err)
	}
	return packed{res.Index.Ref(), res.Index, b.Bytes()}
}

// piece is a request for a range of a layer, as an honest server understands it.
type piece struct {
	p        packed
	from, to int
}

func (p piece) bytes() []byte { return p.p.file[p.from:p.to] }

// honest writes the header of an honest answer.
func (p piece) honest(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("ETag", `"`+p.p.ref.ID.String()+`"`)
	h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", p.from, p.to-1, len(p.p.file)))
	h.Set("Content-Length", strconv.Itoa(p.to-p.from))
}

// answerer is how a server answers a request for a range.
type answerer func(w http.ResponseWriter, r *http.Request, want piece)

// rangeServer serves a layer as answer does.
func rangeServer(t *testing.T, p packed, http2 bool, answer answerer) *syncclient.Client {
	t.Helper()
	i := newIdentity(t, nil, nil, nil)
	s := newServer(t, i, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want := piece{p: p}
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &want.from, &want.to); err != nil {
			t.Errorf("range %q", r.Header.Get("Range"))
		}
		want.to++
		if r.URL.Path != "/v1/layers/"+p.ref.ID.String() || r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("Accept-Encoding") != "" {
			t.Errorf("request %s %v", r.URL, r.Header)
		}
		answer(w, r, want)
	}))
	s.http1.Store(!http2)
	return newClient(t, s.URL, i.fingerprint(t))
}

type verdict int

const (
	protocol verdict = iota // something answered in the Synchronizer's place
	line                    // the line failed
	stalled                 // it stands still
	answered                // an error of the Synchronizer
)

// client returns c as it is best to see the verdict: where a standstill is not the point, a busy machine must not look like one.
func (v verdict) client(c *syncclient.Client) *syncclient.Client {
	if v == stalled {
		return c.WithLine(impatient)
	}
	return c
}

func (v verdict) fits(err error) bool {
	switch v {
	case protocol:
		_, ok := errors.AsType[*syncclient.ProtocolError](err)
		return ok
	case line:
		_, ok := errors.AsType[*syncclient.LineError](err)
		return ok
	case stalled:
		return errors.Is(err, syncclient.ErrStalled)
	}
	return syncclient.Code(err) != ""
}

// TestLiars has servers answer in all the ways that a Synchronizer does not. None of it may pass for the layer.
func TestLiars(t *testing.T) {
	good, other := pack(t, lab.Disk(1, 2)), pack(t, lab.Disk(3, 4))
	elsewhere := atomic.Int64{}
	stranger := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer stranger.Close()
	tests := []struct {
		name   string
		want   verdict
		http1  bool // needs the connection itself
		answer answerer
	}{
		{"the whole file", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			w.Header().Set("ETag", `"`+want.p.ref.ID.String()+`"`)
			_, _ = w.Write(want.p.file)
		}},
		{"200 with the right bytes", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			_, _ = w.Write(want.bytes())
		}},
		{"no Content-Range", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.Header().Del("Content-Range")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(want.bytes())
		}},
		{"another range", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.from, want.to = want.from-1, want.to-1
			want.honest(w)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(want.bytes())
		}},
		{"another unit", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.Header().Set("Content-Range", "sectors"+strings.TrimPrefix(w.Header().Get("Content-Range"), "bytes"))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(want.bytes())
		}},
		{"unknown total length", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/*", want.from, want.to-1))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(want.bytes())
		}},
		{"wrong total length", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", want.from, want.to-1, len(want.p.file)+1))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(want.bytes())
		}},
		{"several ranges", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.Header().Set("Content-Type", "multipart/byteranges; boundary=x")
			w.Header().Del("Content-Range")
			w.Header().Del("Content-Length")
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprintf(w, "--x\r\nContent-Range: bytes %d-%d/%d\r\n\r\n%s\r\n--x--\r\n", want.from, want.to-1, len(want.p.file), want.bytes())
		}},
		{"no ETag", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.Header().Del("ETag")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(want.bytes())
		}},
		{"another ETag", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.Header().Set("ETag", `"`+other.ref.ID.String()+`"`)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(want.bytes())
		}},
		{"weak ETag", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.Header().Set("ETag", `W/"`+want.p.ref.ID.String()+`"`)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(want.bytes())
		}},
		{"gzip", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Del("Content-Length")
			w.WriteHeader(http.StatusPartialContent)
			z := gzip.NewWriter(w)
			_, _ = z.Write(want.bytes())
			_ = z.Close()
		}},
		{"fewer bytes than it says", line, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(want.bytes()[:10])
		}},
		{"fewer bytes, and it says so", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.Header().Set("Content-Length", "10")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(want.bytes()[:10])
		}},
		{"fewer bytes in chunks", line, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.Header().Del("Content-Length")
			w.WriteHeader(http.StatusPartialContent)
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(want.bytes()[:10])
		}},
		{"more bytes, and it says so", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.Header().Set("Content-Length", strconv.Itoa(want.to-want.from+1))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(append(bytes.Clone(want.bytes()), 0))
		}},
		{"more bytes in chunks", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.Header().Del("Content-Length")
			w.WriteHeader(http.StatusPartialContent)
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(append(bytes.Clone(want.bytes()), 0))
		}},
		{"bytes without end", protocol, false, func(w http.ResponseWriter, r *http.Request, want piece) {
			want.honest(w)
			w.Header().Del("Content-Length")
			w.WriteHeader(http.StatusPartialContent)
			for r.Context().Err() == nil {
				if _, err := w.Write(want.bytes()); err != nil {
					return
				}
			}
		}},
		{"another layer's bytes", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(other.file[len(other.file)-len(want.bytes()):])
		}},
		{"one wrong bit", protocol, false, func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.WriteHeader(http.StatusPartialContent)
			b := bytes.Clone(want.bytes())
			b[len(b)/2] ^= 8
			_, _ = w.Write(b)
		}},
		{"login page", protocol, false, func(w http.ResponseWriter, _ *http.Request, _ piece) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>Welcome to the hotel's network")
		}},
		{"login page as an error", protocol, false, func(w http.ResponseWriter, _ *http.Request, _ piece) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "<html>Welcome to the hotel's network")
		}},
		{"error in place of a success", protocol, false, func(w http.ResponseWriter, _ *http.Request, _ piece) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"code":"not-found","message":"x"}`)
		}},
		{"error without a code", protocol, false, func(w http.ResponseWriter, _ *http.Request, _ piece) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"error":"x"}`)
		}},
		{"an honest error", answered, false, func(w http.ResponseWriter, _ *http.Request, _ piece) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"code":"not-found","message":"there is no layer"}`)
		}},
		{"error without end", protocol, false, func(w http.ResponseWriter, r *http.Request, _ piece) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"code":"not-found","message":"`)
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat("x", 64<<10)); err != nil {
					return
				}
			}
		}},
		{"error that does not come", stalled, false, func(w http.ResponseWriter, r *http.Request, _ piece) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}},
		{"redirect to another host", protocol, false, func(w http.ResponseWriter, r *http.Request, _ piece) {
			http.Redirect(w, r, stranger.URL, http.StatusFound)
		}},
		{"redirect to itself", protocol, false, func(w http.ResponseWriter, r *http.Request, _ piece) {
			http.Redirect(w, r, r.URL.String(), http.StatusTemporaryRedirect)
		}},
		{"nothing at all", line, true, func(w http.ResponseWriter, _ *http.Request, _ piece) {
			c, _, _ := w.(http.Hijacker).Hijack()
			c.Close()
		}},
		{"not HTTP", line, true, func(w http.ResponseWriter, _ *http.Request, _ piece) {
			c, _, _ := w.(http.Hijacker).Hijack()
			_, _ = io.WriteString(c, "220 mail.example ESMTP\r\n")
			c.Close()
		}},
		{"header without end", line, true, func(w http.ResponseWriter, _ *http.Request, _ piece) {
			c, _, _ := w.(http.Hijacker).Hijack()
			defer c.Close()
			_, _ = io.WriteString(c, "HTTP/1.1 206 Partial Content\r\n")
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(c, "X-%d: %s\r\n", i, strings.Repeat("x", 4000)); err != nil {
					return
				}
			}
		}},
		{"body that stops", stalled, false, func(w http.ResponseWriter, r *http.Request, want piece) {
			want.honest(w)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(want.bytes()[:10])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}},
	}
	for _, test := range tests {
		for _, http2 := range []bool{false, true} {
			if test.http1 && http2 {
				continue
			}
			t.Run(fmt.Sprintf("%s/HTTP2=%v", test.name, http2), func(t *testing.T) {
				c := test.want.client(rangeServer(t, good, http2, test.answer))
				x, err := c.Index(t.Context(), good.ref)
				if err == nil || !test.want.fits(err) {
					t.Fatalf("%v, %v", x, err)
				}
				if want := test.want != answered; syncclient.Temporary(err) != want {
					t.Errorf("trying again helps: %v, want %v: %v", !want, want, err)
				}
				if interrupted := test.want == line || test.want == stalled; syncclient.Interrupted(err) != interrupted {
					t.Errorf("interrupted: %v, want %v: %v", !interrupted, interrupted, err)
				}
				if n := c.Bytes(); n > 10<<20 {
					t.Errorf("%d bytes were taken before that was noticed", n)
				}
			})
		}
	}
	if elsewhere.Load() > 0 {
		t.Error("somebody else was asked")
	}
}

// TestHonest shows that the same checks let the truth pass, in all the forms it may have.
func TestHonest(t *testing.T) {
	good := pack(t, lab.Disk(1, 2))
	for name, answer := range map[string]answerer{
		"with a length": func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(want.bytes())
		},
		"in chunks": func(w http.ResponseWriter, _ *http.Request, want piece) {
			want.honest(w)
			w.Header().Del("Content-Length")
			w.WriteHeader(http.StatusPartialContent)
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(want.bytes())
		},
		"through a web server": func(w http.ResponseWriter, r *http.Request, want piece) {
			w.Header().Set("ETag", `"`+want.p.ref.ID.String()+`"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(want.p.file))
		},
	} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/HTTP2=%v", name, http2), func(t *testing.T) {
				c := rangeServer(t, good, http2, answer)
				x, err := c.Index(t.Context(), good.ref)
				if err != nil || x.ID() != good.ref.ID {
					t.Fatal(err)
				}
				for _, r := range [][2]int64{{0, 1}, {0, good.ref.Length}, {good.ref.Length - 1, 1}, {100, 5000}} {
					body, err := c.Range(t.Context(), good.ref, r[0], r[1])
					if err != nil {
						t.Fatal(err)
					}
					b, err := io.ReadAll(body)
					body.Close()
					if err != nil || !bytes.Equal(b, good.file[r[0]:r[0]+r[1]]) {
						t.Errorf("%d bytes of %v, %v", len(b), r, err)
					}
				}
			})
		}
	}
}

// TestRangeRefuses: what is not in the file is not asked for.
func TestRangeRefuses(t *testing.T) {
	good := pack(t, lab.Disk(1))
	c := rangeServer(t, good, true, func(http.ResponseWriter, *http.Request, piece) { t.Error("asked all the same") })
	for _, r := range [][2]int64{{-1, 1}, {0, 0}, {0, -1}, {0, good.ref.Length + 1}, {good.ref.Length, 1}, {1, 1<<63 - 1}} {
		if _, err := c.Range(t.Context(), good.ref, r[0], r[1]); err == nil || syncclient.Temporary(err) {
			t.Errorf("range %v: %v", r, err)
		}
	}
	ref := good.ref
	ref.IndexLength = layer.MaxIndexSize + 1
	if _, err := c.Index(t.Context(), ref); err == nil {
		t.Error("a huge index was asked for")
	}
}

// TestAnswers: an answer to a question of the control plane is JSON of a bounded size, or an error.
func TestAnswers(t *testing.T) {
	tests := []struct {
		name   string
		want   verdict
		answer http.HandlerFunc
	}{
		{"login page", protocol, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>")
		}},
		{"no content", protocol, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }},
		{"cut JSON", protocol, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"name":"x`)
		}},
		{"JSON of another kind", protocol, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `["a"]`)
		}},
		{"no signing key", protocol, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"name":"x"}`)
		}},
		{"JSON without end", protocol, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 64<<10)); err != nil {
					return
				}
			}
		}},
		{"answer that stops", stalled, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"name":`)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}},
		{"redirect", protocol, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/v1/offers", http.StatusFound) }},
		{"error", answered, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `{"code":"internal-error","message":"x"}`)
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			i := newIdentity(t, nil, nil, nil)
			c := test.want.client(newClient(t, newServer(t, i, test.answer).URL, i.fingerprint(t)))
			if s, err := c.Server(t.Context()); !test.want.fits(err) {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
	t.Run("manifest without end", func(t *testing.T) {
		i := newIdentity(t, nil, nil, nil)
		c := newClient(t, newServer(t, i, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 64<<10)); err != nil {
					return
				}
			}
		})).URL, i.fingerprint(t))
		if _, err := c.Manifest(t.Context(), "golden", 1); !protocol.fits(err) {
			t.Error(err)
		}
	})
	t.Run("another state", func(t *testing.T) {
		i := newIdentity(t, nil, nil, nil)
		b, err := image.State{Size: 512, Blocks: make([]image.Digest, 1)}.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, newServer(t, i, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) })).URL, i.fingerprint(t))
		if _, err := c.State(t.Context(), image.StateID{1}); !errors.Is(err, image.ErrState) {
			t.Error(err)
		}
	})
	t.Run("busy", func(t *testing.T) {
		for after, want := range map[string]time.Duration{"7": 7 * time.Second, "86400": 10 * time.Minute} {
			i := newIdentity(t, nil, nil, nil)
			c := newClient(t, newServer(t, i, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Retry-After", after)
				w.WriteHeader(http.StatusServiceUnavailable)
				_, _ = io.WriteString(w, `{"code":"busy","message":"too many","waiting":3}`)
			})).URL, i.fingerprint(t))
			_, err := c.Offers(t.Context())
			busy, ok := errors.AsType[*syncclient.BusyError](err)
			if !ok || busy.RetryAfter != want || busy.Err.Waiting != 3 || syncclient.Code(err) != api.CodeBusy {
				t.Errorf("%v", err)
			}
		}
	})
}
