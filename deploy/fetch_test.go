package deploy_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"disksync/api"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/limit"
	"disksync/internal/netchaos"
	"disksync/internal/testkit"
	"disksync/layer"
	"disksync/syncclient"
)

// hollow is a layer file whose bytes follow from their place, so that it may be as large as it likes.
type hollow struct {
	x *layer.Index
}

// filler is repeated all over a hollow file; its length is a prime, so that no frame looks like another.
var filler = func() []byte {
	b := make([]byte, 1_000_003)
	noise(b, 7)
	return append(b, b...)
}()

func fill(p []byte, off int64) {
	for len(p) > 0 {
		n := copy(p, filler[off%int64(len(filler)/2):][:len(filler)/2])
		p, off = p[n:], off+int64(n)
	}
}

func (s hollow) ReadAt(p []byte, off int64) (int, error) {
	n := int(min(int64(len(p)), s.x.Ref().Length-off))
	fill(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// newHollow returns a layer of so many frames of about size bytes.
func newHollow(t testing.TB, frames, size int) hollow {
	t.Helper()
	to := image.StateID{1}
	x := binary.BigEndian.AppendUint64([]byte("DSLINDEX"), 1<<32)
	x = append(append(x, make([]byte, 32)...), to[:]...)
	x = binary.BigEndian.AppendUint64(x, 0)
	x = binary.BigEndian.AppendUint64(x, uint64(frames)*block)
	x = binary.BigEndian.AppendUint32(x, block)
	x = binary.BigEndian.AppendUint32(x, uint32(frames))
	x = append(x, make([]byte, 8)...)
	at := uint64(16)
	for i := range frames {
		e := make([]byte, 56)
		binary.BigEndian.PutUint32(e, uint32(i))
		e[4] = 2 // zstd
		n := uint32(size - size/8 + i*7919%(size/4+1))
		binary.BigEndian.PutUint32(e[12:], n)
		binary.BigEndian.PutUint64(e[16:], at)
		at += uint64(n)
		sum := sha256.Sum256(e)
		copy(e[24:], sum[:])
		x = append(x, e...)
	}
	index, err := layer.ParseIndex(x, image.LayerID(sha256.Sum256(x)))
	if err != nil {
		t.Fatal(err)
	}
	return hollow{index}
}

// kiosk is a server that has a hollow layer and counts what it is asked for.
type kiosk struct {
	layer    hollow
	oneRange bool // only one a request, as the first release did
	*httptest.Server

	requests, ranges atomic.Int64
	asked            atomic.Int64 // bytes, of all ranges
	most             atomic.Int64 // requests at once
	now              atomic.Int64
	http1            atomic.Int64
}

func newKiosk(t testing.TB, s hollow) *kiosk {
	t.Helper()
	h := &kiosk{layer: s}
	h.Server = httptest.NewUnstartedServer(h)
	h.EnableHTTP2 = true
	h.Config.ErrorLog = log.New(io.Discard, "", 0) // TLS handshakes with a certificate that is not known yet
	h.Config.HTTP2 = &http.HTTP2Config{MaxReadFrameSize: 16 << 10}
	h.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	h.StartTLS()
	t.Cleanup(h.Close)
	return h
}

func (h *kiosk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.requests.Add(1)
	if r.ProtoMajor == 1 {
		h.http1.Add(1)
	}
	n := int64(strings.Count(r.Header.Get("Range"), ",") + 1)
	h.ranges.Add(n)
	for part := range strings.SplitSeq(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), ",") {
		var from, to int64
		if _, err := fmt.Sscanf(strings.TrimSpace(part), "%d-%d", &from, &to); err == nil {
			h.asked.Add(to - from + 1)
		}
	}
	if h.oneRange && n > 1 {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"code":%q,"message":"a request has one range"}`, api.CodeInvalid)
		return
	}
	now := h.now.Add(1)
	defer h.now.Add(-1)
	for m := h.most.Load(); now > m && !h.most.CompareAndSwap(m, now); m = h.most.Load() {
	}
	w.Header().Set("ETag", `"`+h.layer.x.ID().String()+`"`)
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(h.layer, 0, h.layer.x.Ref().Length))
}

// net returns the kiosk as a source, over a line to it.
func (h *kiosk) net(t testing.TB, addr string, limits ...*limit.Limiter) *deploy.Net {
	t.Helper()
	u, err := url.Parse("https://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := syncclient.New(syncclient.Options{
		URL: u, Fingerprint: syncclient.Fingerprint(sha256.Sum256(h.Certificate().RawSubjectPublicKeyInfo)), Token: "secret", Limit: limits,
		Line: syncclient.Line{LowSpeedTime: time.Hour}, // a busy machine is no bad line
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &deploy.Net{Client: c, MaxRange: 80 << 20}
}

// every returns the digests of each nth frame, and how many bytes they are.
func (s hollow) every(n int) (digests []image.Digest, bytes int64) {
	for i := 0; i < s.x.Len(); i += n {
		digests = append(digests, s.x.Frame(i).Digest)
		bytes += int64(s.x.Frame(i).Length)
	}
	return digests, bytes
}

// got collects what a Fetch delivers.
type got struct {
	mu     sync.Mutex
	frames map[image.Digest]int
	err    error
}

func (g *got) take(d image.Digest, f layer.Frame, packed []byte, err error) error {
	if err == nil {
		want := make([]byte, f.Length)
		fill(want, f.Offset)
		if !bytes.Equal(packed, want) || f.Digest != d {
			err = fmt.Errorf("frame of block %d: wrong bytes", f.Block)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = errors.Join(g.err, err)
	if g.frames == nil {
		g.frames = map[image.Digest]int{}
	}
	g.frames[d]++
	return nil
}

// once reports whether each of the digests was delivered, once.
func (g *got) once(digests []image.Digest) error {
	for _, d := range digests {
		if g.frames[d] != 1 {
			return fmt.Errorf("block %s came %d times", d.Short(), g.frames[d])
		}
	}
	if len(g.frames) != len(digests) {
		return fmt.Errorf("%d blocks, want %d", len(g.frames), len(digests))
	}
	return g.err
}

// TestFewRequests: a GB comes with few requests over one connection and with hardly a byte too many, whether its frames lie side by
// side or scattered over the layer.
func TestFewRequests(t *testing.T) {
	for _, test := range []struct {
		name         string
		frames, size int
		every        int
		most         int64 // requests
	}{
		{"side by side, 50 KiB", 5_000, 50 << 10, 1, 5},
		{"every second of 50 KiB", 40_000, 50 << 10, 2, 100},
		{"every tenth of 20 KiB", 125_000, 20 << 10, 10, 60},
		{"every second of 1 MiB", 500, 1 << 20, 2, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newHollow(t, test.frames/scale(), test.size)
			h := newKiosk(t, s)
			line := netchaos.Start(t, h.Listener.Addr().String())
			n := h.net(t, line.Addr())
			wanted, length := s.every(test.every)
			var g got
			if err := n.NewNetSource(s.x).Fetch(t.Context(), wanted, g.take); err != nil {
				t.Fatal(err)
			}
			if err := g.once(wanted); err != nil {
				t.Fatal(err)
			}
			wire := n.Client.Bytes()
			t.Logf("%d bytes in %d ranges and %d requests, %d at once, %.2f%% more over the line", length, h.ranges.Load(), h.requests.Load(), h.most.Load(),
				100*float64(wire-length)/float64(length))
			if r := h.requests.Load(); r > test.most/int64(scale())+1 {
				t.Errorf("%d requests for %d bytes", r, length)
			}
			if wire > length+length/33 {
				t.Errorf("%d bytes over the line for %d", wire, length)
			}
			if h.http1.Load() > 0 || line.Conns() > 2 { // the first one shows the certificate
				t.Errorf("%d requests of HTTP/1.1, %d connections", h.http1.Load(), line.Conns())
			}
		})
	}
}

// TestOneRangeARequest: a Synchronizer of the first release gives one range a request. Small holes are fetched along then, and not
// more of them than is said.
func TestOneRangeARequest(t *testing.T) {
	s := newHollow(t, 3000, 10<<10)
	h := newKiosk(t, s)
	h.oneRange = true
	n := h.net(t, h.Listener.Addr().String())
	wanted, length := []image.Digest{}, int64(0)
	for i := range s.x.Len() {
		if i%50 != 0 { // one in fifty is a hole
			wanted = append(wanted, s.x.Frame(i).Digest)
			length += int64(s.x.Frame(i).Length)
		}
	}
	for range 2 { // the first time it is found out
		var g got
		before, requests := n.Client.Bytes(), h.requests.Load()
		if err := n.NewNetSource(s.x).Fetch(t.Context(), wanted, g.take); err != nil {
			t.Fatal(err)
		}
		if err := g.once(wanted); err != nil || !n.OneRange() {
			t.Fatal(err)
		}
		wire := n.Client.Bytes() - before
		t.Logf("%d requests, %d bytes for %d", h.requests.Load()-requests, wire, length)
		if wire > length+length/10 {
			t.Errorf("%d bytes for %d", wire, length)
		}
		if r := h.requests.Load() - requests; before > 0 && r > 3 {
			t.Errorf("%d requests", r)
		}
	}
}

// TestResumeInPieces: wherever a request for many ranges is cut off, what was whole is not asked for again.
func TestResumeInPieces(t *testing.T) {
	s := newHollow(t, 400, 20<<10)
	wanted, length := s.every(2)
	h := newKiosk(t, s)
	line := netchaos.Start(t, h.Listener.Addr().String())
	n := h.net(t, line.Addr())
	line.Set(netchaos.Toxics{Down: netchaos.Toxic{CutAfter: length/4 + 4321}})
	var g got
	if err := n.NewNetSource(s.x).Fetch(t.Context(), wanted, g.take); err != nil {
		t.Fatal(err)
	}
	if err := g.once(wanted); err != nil {
		t.Fatal(err)
	}
	// Each cut costs the frame that was on its way, and what else was.
	if n := line.Conns(); n < 4 {
		t.Errorf("%d connections: it was not cut", n)
	}
	if wire := n.Client.Bytes(); wire > length+length/4 {
		t.Errorf("%d bytes for %d", wire, length)
	}
}

// TestResumeInsideFrames: a line that is cut before a frame is whole brings it all the same.
func TestResumeInsideFrames(t *testing.T) {
	s := newHollow(t, 4, 1<<20)
	wanted, length := s.every(1)
	h := newKiosk(t, s)
	line := netchaos.Start(t, h.Listener.Addr().String())
	n := h.net(t, line.Addr())
	line.Set(netchaos.Toxics{Down: netchaos.Toxic{CutAfter: 400_000}})
	var g got
	if err := n.NewNetSource(s.x).Fetch(t.Context(), wanted, g.take); err != nil {
		t.Fatal(err)
	}
	if err := g.once(wanted); err != nil {
		t.Fatal(err)
	}
	if conns, wire := line.Conns(), n.Client.Bytes(); conns < 8 || wire > length+int64(conns)*40<<10 {
		t.Errorf("%d bytes for %d over %d connections", wire, length, conns)
	}
}

// TestFetchBeginsAgain: a Fetch that is ended in the middle of a frame, because another source has some of the blocks, costs nothing of
// what has come: the next one goes on inside that frame.
func TestFetchBeginsAgain(t *testing.T) {
	s := newHollow(t, 8, 1<<20)
	wanted, length := s.every(1)
	h := newKiosk(t, s)
	line := netchaos.Start(t, h.Listener.Addr().String())
	line.Set(netchaos.Toxics{Down: netchaos.Toxic{Rate: 4 << 20}}) // so that little is on its way when it ends
	n := h.net(t, line.Addr())
	src := n.NewNetSource(s.x)
	var g got
	left, asked := wanted, int64(0)
	for _, part := range []int64{700_000, 900_000, 500_000} {
		ctx, cancel := context.WithCancel(t.Context())
		before := n.Client.Bytes()
		ended := make(chan error)
		go func() { ended <- src.Fetch(ctx, left, g.take) }()
		testkit.Until(t, "so much has come", func() bool { return n.Client.Bytes()-before >= part })
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		n.Client.HangUp() // what is still on its way does not count for the next one
		left = slices.DeleteFunc(slices.Clone(left), func(d image.Digest) bool { return g.frames[d] > 0 })
		asked = h.asked.Swap(0)
	}
	line.Set(netchaos.Toxics{})
	if err := src.Fetch(t.Context(), left, g.take); err != nil {
		t.Fatal(err)
	}
	if err := g.once(wanted); err != nil {
		t.Fatal(err)
	}
	if last := h.asked.Load(); len(left) > 7 || asked > length-1_000_000 || last > asked-200_000 {
		t.Errorf("%d bytes were asked for, then %d, of %d; %d frames in the last Fetch", asked, last, length, len(left))
	}
}

// TestShortAnswers: with a low limit, or a small setting, no request asks for more than it should, be it in the middle of a frame, and
// all requests together bring everything once.
func TestShortAnswers(t *testing.T) {
	s := newHollow(t, 300, 20<<10)
	h := newKiosk(t, s)
	var frames []layer.Frame
	for i := 0; i < s.x.Len(); i += 2 {
		frames = append(frames, s.x.Frame(i))
	}
	for _, test := range []struct {
		limit    string
		maxRange int64
		most     int64
	}{
		{"100", 80 << 20, 6000},
		{"1K", 80 << 20, 60 << 10},
		{"1G;5K@0-24", 80 << 20, 300 << 10},
		{"1G", 1 << 20, 1 << 20},
		{"unlimited", 5000, 5000},
		{"off", 80 << 20, 80 << 20},
		{"1K", 7, 7},
	} {
		l, err := limit.Parse(test.limit)
		if err != nil {
			t.Fatal(err)
		}
		n := h.net(t, h.Listener.Addr().String(), limit.New("", l))
		n.MaxRange = test.maxRange
		rest, have := frames, int64(0)
		requests := 0
		for ; len(rest) > 0; requests++ {
			spans, whole := n.Reach(rest, have, 200)
			var all int64
			for _, sp := range spans {
				all += sp.Length
			}
			if all > test.most || all == 0 || spans[0].Offset != rest[0].Offset+have {
				t.Fatalf("%s: a request for %d bytes at %d, where frame %d of %d bytes has %d", test.limit, all, spans[0].Offset, rest[0].Block, rest[0].Length, have)
			}
			if whole == 0 {
				have += all
				continue
			}
			last, end := rest[whole-1], spans[len(spans)-1]
			if end.Offset+end.Length != last.Offset+int64(last.Length) {
				t.Fatalf("%s: a request ends at %d and not behind frame %d", test.limit, end.Offset+end.Length, last.Block)
			}
			rest, have = rest[whole:], 0
		}
		t.Logf("%s, at most %d: %d requests", test.limit, test.maxRange, requests)
	}
}

// TestFetchEnds: an error of the taker, or the end of the context, ends everything at once.
func TestFetchEnds(t *testing.T) {
	s := newHollow(t, 400, 20<<10)
	wanted, _ := s.every(2)
	h := newKiosk(t, s)
	n := h.net(t, h.Listener.Addr().String())
	enough := errors.New("enough")
	err := n.NewNetSource(s.x).Fetch(t.Context(), wanted, func(image.Digest, layer.Frame, []byte, error) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	err = n.NewNetSource(s.x).Fetch(ctx, wanted, func(image.Digest, layer.Frame, []byte, error) error { cancel(enough); return nil })
	if !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
}

// BenchmarkLongLine fetches scattered frames over a line with a round trip of 200 ms.
func BenchmarkLongLine(b *testing.B) {
	for _, rate := range []int{1 << 20, 10 << 20} {
		for _, size := range []int{2 << 10, 50 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%dMiBps/frames of %d KiB", rate>>20, size>>10), func(b *testing.B) {
				s := newHollow(b, max(rate*12/size, 2), size)
				wanted, length := s.every(2)
				h := newKiosk(b, s)
				line := netchaos.Start(b, h.Listener.Addr().String())
				line.Set(netchaos.Toxics{Up: netchaos.Toxic{Delay: 100 * time.Millisecond}, Down: netchaos.Toxic{Delay: 100 * time.Millisecond, Rate: rate}})
				b.SetBytes(length)
				for b.Loop() {
					n := h.net(b, line.Addr())
					var g got
					if err := n.NewNetSource(s.x).Fetch(b.Context(), wanted, g.take); err != nil {
						b.Fatal(err)
					}
					if err := g.once(wanted); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(length)*float64(b.N)/b.Elapsed().Seconds()/float64(rate), "of-the-line")
				b.ReportMetric(float64(h.requests.Load())/float64(b.N), "requests/op")
				b.ReportMetric(float64(h.most.Load()), "at-once")
			})
		}
	}
}

// scale makes a GB smaller for the race detector.
func scale() int {
	if raceEnabled {
		return 8
	}
	return 1
}
