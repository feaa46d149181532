package syncclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"disksync/api"
	"disksync/image"
	"disksync/internal/netchaos"
	"disksync/internal/testkit/lab"
	"disksync/syncclient"
	"disksync/synchronizer"
)

// backEnd is a real Synchronizer behind a bad line, which can be started anew.
type backEnd struct {
	dir   string
	chaos *netchaos.Proxy
	c     *syncclient.Client // an administrator, at the other end of the line

	mu      sync.RWMutex
	s       *synchronizer.Server
	stop    context.CancelFunc
	served  chan error
	offsets []int64 // where the bytes that arrived were to go
}

func newBackEnd(t *testing.T) *backEnd {
	t.Helper()
	b := &backEnd{dir: filepath.Join(t.TempDir(), "data")}
	b.open(t)
	t.Cleanup(func() { b.close(t) })
	i := newIdentity(t, nil, nil, nil)
	s := newServer(t, i, http.HandlerFunc(b.serve))
	b.chaos = netchaos.Start(t, s.Listener.Addr().String())
	admin := syncclient.NewLocal(b.dir, synchronizer.SocketName)
	defer admin.Close()
	if err := admin.AddUser(t.Context(), api.NewUser{Name: "boss", Password: "secret", Admin: true}); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, "https://"+b.chaos.Addr(), i.fingerprint(t))
	tok, err := c.Login(t.Context(), api.Login{User: "boss", Password: "secret", Device: api.Device{ID: image.UUID{1}, Name: "test"}})
	if err != nil {
		t.Fatal(err)
	}
	b.c = c.WithToken(tok.Token)
	return b
}

func (b *backEnd) serve(w http.ResponseWriter, r *http.Request) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if r.Method == http.MethodPatch {
		offset, _ := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
		b.offsets = append(b.offsets, offset) // the client sends one at a time
	}
	b.s.ServeHTTP(w, r)
}

func (b *backEnd) open(t *testing.T) {
	t.Helper()
	s, err := synchronizer.Open(context.Background(), synchronizer.Options{Dir: b.dir})
	if err != nil {
		t.Fatal(err)
	}
	local, err := s.ListenLocal()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	b.s, b.stop, b.served = s, stop, make(chan error, 1)
	go func() { b.served <- s.Serve(ctx, local, nil) }()
}

func (b *backEnd) close(t *testing.T) {
	t.Helper()
	b.stop()
	if err := errors.Join(<-b.served, b.s.Close()); err != nil {
		t.Error(err)
	}
}

// restart ends the Synchronizer and starts it anew, as another process would be.
func (b *backEnd) restart(t *testing.T) {
	t.Helper()
	b.chaos.Cut() // requests that run end with their connections
	b.mu.Lock()
	defer b.mu.Unlock()
	b.close(t)
	b.open(t)
}

// received returns how much of a layer is in the data folder.
func (b *backEnd) received(t *testing.T, p packed) int64 {
	t.Helper()
	st, err := os.Stat(filepath.Join(b.dir, "layers", p.ref.ID.String()+".part"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// uploaded returns the layer's file as the Synchronizer gives it away.
func (b *backEnd) uploaded(t *testing.T, p packed) []byte {
	t.Helper()
	got, err := readRange(t.Context(), b.c, p.ref, 0, p.ref.Length)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestUpload uploads to a real Synchronizer, through everything that can come between.
func TestUpload(t *testing.T) {
	b := newBackEnd(t)
	for name, test := range map[string]func(*testing.T, *backEnd){
		"over a bad line":            uploadOverABadLine,
		"goes on in another process": uploadInAnotherProcess,
		"restarted while verifying":  uploadRestartedWhileVerifying,
		"wrong data":                 uploadOfWrongData,
	} {
		t.Run(name, func(t *testing.T) {
			b.chaos.Set(netchaos.Toxics{})
			b.chaos.Cut() // what is wrong with the line is counted from the start of each connection
			test(t, b)
		})
	}
}

// uploadOverABadLine cuts the line at random points until the layer is there. Each time the upload goes on from what the
// Synchronizer has, be it the same process or the next.
func uploadOverABadLine(t *testing.T, b *backEnd) {
	b.offsets = nil
	r := rand.New(rand.NewPCG(7, 8))
	for name, restart := range map[string]bool{"same process": false, "started anew": true} {
		t.Run(name, func(t *testing.T) {
			b.offsets = nil
			p := pack(t, lab.Disk(r.Uint64()))
			cut := func() {
				b.chaos.Set(netchaos.Toxics{Up: netchaos.Toxic{CutAfter: p.ref.Length/5 + r.Int64N(p.ref.Length/8)}})
			}
			cut()
			conns, last, restarts := b.chaos.Conns(), int64(-1), 0
			at := cuttingReader{Reader: bytes.NewReader(p.file), before: func(off int64) {
				if off == last {
					return
				}
				if last = off; off > 0 && restart && restarts < 2 {
					restarts++
					b.restart(t)
				}
				cut()
			}}
			if err := b.c.Upload(t.Context(), p.ref.ID, &at, p.ref.Length, nil); err != nil {
				t.Fatal(err)
			}
			b.chaos.Set(netchaos.Toxics{})
			if !bytes.Equal(b.uploaded(t, p), p.file) {
				t.Error("stored something else")
			}
			if restart && restarts != 2 {
				t.Errorf("%d restarts", restarts)
			}
			if n := b.chaos.Conns() - conns; n < 3 {
				t.Errorf("the line was hardly cut: %d connections", n)
			}
			moved := 0
			for i, off := range b.offsets[1:] {
				if off < b.offsets[i] {
					t.Errorf("sent from %d after it had sent from %d", off, b.offsets[i])
				}
				if off > b.offsets[i] {
					moved++
				}
			}
			if moved < 2 {
				t.Errorf("it never went on from anywhere: %d", b.offsets)
			}
		})
	}
}

// cuttingReader calls before with where the next bytes are read that are to be sent.
type cuttingReader struct {
	*bytes.Reader
	before func(off int64)
}

func (r *cuttingReader) ReadAt(p []byte, off int64) (int, error) {
	r.before(off)
	return r.Reader.ReadAt(p, off)
}

// uploadInAnotherProcess: what one run sent before it was ended is not sent again by the next.
func uploadInAnotherProcess(t *testing.T, b *backEnd) {
	b.offsets = nil
	p := pack(t, lab.Disk(11, 12, 13))
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	half := p.ref.Length / 2
	b.chaos.Set(netchaos.Toxics{Up: netchaos.Toxic{StallAfter: half}})
	ended := make(chan error)
	go func() { ended <- b.c.Upload(ctx, p.ref.ID, bytes.NewReader(p.file), p.ref.Length, nil) }()
	// What is still under way when the run ends is lost, so a good part has to be there before.
	for b.received(t, p) < half/2 {
		<-time.After(time.Millisecond)
	}
	cancel(enough)
	if err := <-ended; !errors.Is(err, enough) || syncclient.Temporary(err) {
		t.Fatalf("%v", err)
	}
	b.restart(t)
	b.chaos.Set(netchaos.Toxics{})
	b.offsets = nil
	var seen []syncclient.UploadProgress
	err := b.c.Upload(t.Context(), p.ref.ID, bytes.NewReader(p.file), p.ref.Length, func(u syncclient.UploadProgress) { seen = append(seen, u) })
	if err != nil {
		t.Fatal(err)
	}
	if len(b.offsets) != 1 || b.offsets[0] < half/2 || b.offsets[0] > half {
		t.Errorf("went on from %d, about %d had been sent", b.offsets, half)
	}
	if end := seen[len(seen)-1]; end.State != api.Stored || end.Done != p.ref.Length || end.Total != p.ref.Length {
		t.Errorf("ended as %+v", end)
	}
	if !bytes.Equal(b.uploaded(t, p), p.file) {
		t.Error("stored something else")
	}
	// Once more there is nothing to do.
	b.offsets = nil
	if err := b.c.Upload(t.Context(), p.ref.ID, bytes.NewReader(nil), p.ref.Length, nil); err != nil || len(b.offsets) > 0 {
		t.Errorf("again: %v, sent from %d", err, b.offsets)
	}
}

// uploadRestartedWhileVerifying: the next process verifies what the last one received.
func uploadRestartedWhileVerifying(t *testing.T, b *backEnd) {
	b.offsets = nil
	p := pack(t, lab.Disk(21, 22))
	restarts := 0
	err := b.c.Upload(t.Context(), p.ref.ID, bytes.NewReader(p.file), p.ref.Length, func(u syncclient.UploadProgress) {
		if u.State == api.Verifying && restarts == 0 {
			restarts++
			b.restart(t)
		}
	})
	if err != nil || restarts != 1 {
		t.Fatalf("%v, %d restarts", err, restarts)
	}
	if len(b.offsets) != 1 {
		t.Errorf("sent from %d", b.offsets)
	}
	if !bytes.Equal(b.uploaded(t, p), p.file) {
		t.Error("stored something else")
	}
}

// uploadOfWrongData: what is not the layer is refused, and not in the way of the layer.
func uploadOfWrongData(t *testing.T, b *backEnd) {
	b.offsets = nil
	p := pack(t, lab.Disk(31))
	wrong := bytes.Clone(p.file)
	wrong[len(wrong)/3] ^= 4
	for range 2 { // a run begins anew what an earlier one failed with, and fails itself
		err := b.c.Upload(t.Context(), p.ref.ID, bytes.NewReader(wrong), p.ref.Length, nil)
		if !errors.Is(err, syncclient.ErrUploadDamaged) || syncclient.Code(err) != api.CodeDamaged || syncclient.Temporary(err) {
			t.Fatalf("%v", err)
		}
	}
	if _, err := readRange(t.Context(), b.c, p.ref, 0, 10); syncclient.Code(err) != api.CodeNotFound {
		t.Errorf("what was refused can be had: %v", err)
	}
	broken := errors.New("the disk is broken")
	at := brokenReader{broken}
	if err := b.c.Upload(t.Context(), p.ref.ID, at, p.ref.Length, nil); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if err := b.c.Upload(t.Context(), p.ref.ID, bytes.NewReader(p.file), p.ref.Length+1, nil); syncclient.Code(err) != api.CodeConflict {
		t.Errorf("another length: %v", err)
	}
	if err := b.c.Upload(t.Context(), p.ref.ID, bytes.NewReader(p.file), p.ref.Length, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.uploaded(t, p), p.file) {
		t.Error("stored something else")
	}
}

type brokenReader struct{ err error }

func (r brokenReader) ReadAt([]byte, int64) (int, error) { return 0, r.err }

// depot receives one upload as a Synchronizer does, but for what wrong answers in its place.
type depot struct {
	length int
	verify int // how often it says that it is still verifying
	// wrong answers the nth request, from 1, and reports whether it did.
	wrong func(w http.ResponseWriter, r *http.Request, n int) bool
	keep  int // at most that many bytes of one request arrive; 0: all

	requests int64
	got      []byte
	begun    bool
	done     int64
}

func (d *depot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if d.requests++; d.wrong != nil && d.wrong(w, r, int(d.requests)) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	u := api.Upload{Length: int64(d.length), State: api.Uploading}
	switch {
	case r.Method == http.MethodPost:
		d.begun = true
	case !d.begun:
		refuse(w, http.StatusNotFound, api.CodeNotFound)
		return
	case r.Method == http.MethodPatch && r.URL.Query().Get("offset") != strconv.Itoa(len(d.got)):
		refuse(w, http.StatusConflict, api.CodeConflict)
		return
	case r.Method == http.MethodPatch:
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if d.keep > 0 && len(b) > d.keep {
			d.got = append(d.got, b[:d.keep]...)
			panic(http.ErrAbortHandler) // the line is cut
		}
		d.got = append(d.got, b...)
	case len(d.got) == d.length && d.done < int64(d.verify):
		d.done++
	}
	u.Offset, u.Done = int64(len(d.got)), d.done
	if len(d.got) == d.length {
		if u.State = api.Verifying; d.done == int64(d.verify) {
			u.State = api.Stored
		}
	}
	_ = json.NewEncoder(w).Encode(u)
}

func refuse(w http.ResponseWriter, status int, code api.Code) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"code":%q,"message":"x"}`, code)
}

// TestRetries: temporary failures are met with patience, longer each time, as long as there is progress now and then; others not
// at all.
func TestRetries(t *testing.T) {
	fail := func(when func(n int) bool, status int, code api.Code) func(http.ResponseWriter, *http.Request, int) bool {
		return func(w http.ResponseWriter, _ *http.Request, n int) bool {
			if !when(n) {
				return false
			}
			if code == api.CodeBusy {
				w.Header().Set("Retry-After", "300")
			}
			refuse(w, status, code)
			return true
		}
	}
	always := func(int) bool { return true }
	mostly := func(n int) bool { return n > 3 && n%8 != 0 } // not before all has arrived
	tests := []struct {
		name     string
		depot    depot
		want     api.Code // "": it succeeds, unless there is an error
		verdict  verdict
		requests int64 // 0: not compared
		// What the pauses add up to is between these.
		least, most time.Duration
	}{
		{name: "all is well", depot: depot{verify: 3}, requests: 6, most: 2 * time.Second},
		{name: "always an internal error", depot: depot{wrong: fail(always, 500, api.CodeInternal)}, want: api.CodeInternal, verdict: answered,
			requests: 9, least: 60 * time.Second, most: 130 * time.Second},
		{name: "always busy", depot: depot{wrong: fail(always, 503, api.CodeBusy)}, want: api.CodeBusy, verdict: answered,
			requests: 9, least: 8 * 300 * time.Second, most: 9 * 300 * time.Second},
		{name: "busy twice", depot: depot{wrong: fail(func(n int) bool { return n <= 2 }, 503, api.CodeBusy)},
			least: 600 * time.Second, most: 610 * time.Second},
		{name: "always a login page", verdict: protocol, depot: depot{wrong: func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			_, _ = io.WriteString(w, "<html>")
			return true
		}}, want: "any", requests: 9, least: 60 * time.Second, most: 130 * time.Second},
		{name: "always cut", verdict: line, depot: depot{wrong: func(http.ResponseWriter, *http.Request, int) bool {
			panic(http.ErrAbortHandler)
		}}, want: "any", least: 60 * time.Second, most: 130 * time.Second},
		{name: "not an administrator", depot: depot{wrong: fail(always, 403, api.CodeForbidden)}, want: api.CodeForbidden, verdict: answered, requests: 1},
		{name: "logged out", depot: depot{wrong: fail(always, 401, api.CodeUnauthorized)}, want: api.CodeUnauthorized, verdict: answered, requests: 1},
		{name: "a full disk", depot: depot{wrong: fail(always, 507, api.CodeNoSpace)}, want: api.CodeNoSpace, verdict: answered, requests: 1},
		{name: "more failures than patience, with progress between them", depot: depot{keep: 1000}, most: time.Hour},
		{name: "the same while it is verified", depot: depot{verify: 30, wrong: fail(mostly, 500, api.CodeInternal)}, least: 10 * time.Minute, most: 2 * time.Hour},
		{name: "one answer lost", depot: depot{wrong: func(_ http.ResponseWriter, _ *http.Request, n int) bool {
			if n == 4 {
				panic(http.ErrAbortHandler)
			}
			return false
		}, verify: 5}, most: time.Minute},
	}
	file := bytes.Repeat([]byte("0123456789abcdef"), 1500)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.depot.length = len(file)
				c := overPipes(t, 1<<20, false, &test.depot)
				start := time.Now()
				err := c.Upload(t.Context(), image.LayerID{1}, bytes.NewReader(file), int64(len(file)), nil)
				took := time.Since(start)
				switch {
				case test.want == "" && err != nil:
					t.Fatal(err)
				case test.want == "" && !bytes.Equal(test.depot.got, file):
					t.Error("something else arrived")
				case test.want != "" && (!test.verdict.fits(err) || test.want != "any" && syncclient.Code(err) != test.want):
					t.Errorf("%v", err)
				}
				if n := test.depot.requests; test.requests > 0 && n != test.requests {
					t.Errorf("%d requests, want %d", n, test.requests)
				}
				if test.most == 0 {
					test.most = 2 * time.Second // the line itself
				}
				if took < test.least || took > test.most {
					t.Errorf("it took %v, want %v to %v", took, test.least, test.most)
				}
			})
		})
	}
}

// TestReaderAtRetries: reads are made again as uploads are.
func TestReaderAtRetries(t *testing.T) {
	p := pack(t, lab.Disk(1))
	good := serveFile(p)
	for name, test := range map[string]struct {
		busy     int64
		ok       bool
		requests int64
	}{"seven times busy": {7, true, 8}, "busy for good": {1000, false, 8}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var requests atomic.Int64
				c := overPipes(t, 1<<24, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if requests.Add(1) <= test.busy {
						refuse(w, http.StatusServiceUnavailable, api.CodeBusy)
						return
					}
					good(w, r)
				}))
				b := make([]byte, 1000)
				n, err := c.ReaderAt(t.Context(), p.ref).ReadAt(b, 100)
				if test.ok && (err != nil || !bytes.Equal(b, p.file[100:1100])) || !test.ok && (syncclient.Code(err) != api.CodeBusy || n > 0) {
					t.Errorf("%d bytes, %v", n, err)
				}
				if got := requests.Load(); got != test.requests {
					t.Errorf("%d requests, want %d", got, test.requests)
				}
			})
		})
	}
}

// TestRangesOverABadLine reads a layer in ranges of random places and lengths over a line that is cut, reset or damaged at random
// points: what arrives is right or an error.
func TestRangesOverABadLine(t *testing.T) {
	p := pack(t, lab.Disk(1, 2))
	c, chaos := throughChaos(t, serveFile(p))
	r := rand.New(rand.NewPCG(3, 4))
	whole, broken := 0, map[string]int{}
	for i := range 60 {
		kind, x := "", netchaos.Toxic{}
		switch at := 1 + r.Int64N(p.ref.Length); i % 3 {
		case 0:
			kind, x = "cut", netchaos.Toxic{CutAfter: at}
		case 1:
			kind, x = "reset", netchaos.Toxic{ResetAfter: at}
		case 2:
			kind, x = "flip", netchaos.Toxic{FlipAt: at}
		}
		chaos.Set(netchaos.Toxics{Down: x})
		off := r.Int64N(p.ref.Length)
		length := 1 + r.Int64N(p.ref.Length-off)
		got, err := readRange(t.Context(), c, p.ref, off, length)
		if !bytes.Equal(got, p.file[off:off+int64(len(got))]) {
			t.Fatalf("%s %+v: wrong bytes in the range of %d at %d", kind, x, length, off)
		}
		if err == nil && int64(len(got)) != length || err != nil && !syncclient.Interrupted(err) {
			t.Fatalf("%s %+v: %d bytes of %d at %d, %v", kind, x, len(got), length, off, err)
		}
		if err == nil {
			whole++
		} else {
			broken[kind]++
			chaos.Cut() // a damaged connection is of no further use
		}
	}
	if whole < 5 || len(broken) < 3 {
		t.Errorf("%d ranges arrived, broken were %v", whole, broken)
	}
}
