package syncclient_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"disksync/agefile"
	"disksync/api"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/internal/testkit/lab"
	"disksync/layer"
	"disksync/syncclient"
)

// sealPacked returns a layer in an age file, and the layer's file.
func sealPacked(t *testing.T, p packed, k agefile.Identity) (packed, []byte) {
	t.Helper()
	var b bytes.Buffer
	w, err := agefile.Writer(&b, []string{k.Recipient()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(p.file); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	ref := image.LayerRef{ID: sha256.Sum256(b.Bytes()), From: p.ref.From, To: p.ref.To, Length: int64(b.Len()), Sealed: []string{k.Recipient()}}
	return packed{ref, p.index, b.Bytes()}, p.file
}

// short is a line that breaks after some bytes of each answer.
type short struct {
	http.ResponseWriter
	left *atomic.Int64 // below 0: it holds
	sent *atomic.Int64
}

func (s short) Write(p []byte) (int, error) {
	n := len(p)
	if left := s.left.Load(); left >= 0 {
		n = min(n, int(left))
		s.left.Add(-int64(n))
	}
	k, err := s.ResponseWriter.Write(p[:n])
	s.sent.Add(int64(k))
	if n < len(p) {
		if f, ok := s.ResponseWriter.(http.Flusher); ok {
			f.Flush()
		}
		panic(http.ErrAbortHandler)
	}
	return k, err
}

// TestSealedRanges: ranges of what is inside come as those of a layer do, on a line that breaks in the middle of chunks as well, and
// little comes that is not wanted.
func TestSealedRanges(t *testing.T) {
	k, err := agefile.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	plain := pack(t, lab.Disk(1, 2))
	p, file := sealPacked(t, plain, k)
	if len(file) < 20*agefile.ChunkSize {
		t.Fatalf("%d bytes", len(file))
	}
	var left, sent atomic.Int64
	left.Store(-1)
	i := newIdentity(t, nil, nil, nil)
	s := newServer(t, i, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serveFile(p)(short{w, &left, &sent}, r)
	}))
	open := func(keys ...agefile.Identity) *syncclient.Client {
		c, err := syncclient.New(syncclient.Options{URL: parse(t, s.URL), Fingerprint: i.fingerprint(t), Token: "secret", Line: patient, Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	c := open(k)
	x, err := c.Index(t.Context(), p.ref)
	if err != nil || x.ID() != plain.ref.ID || x.Ref().ID != p.ref.ID || len(x.Ref().Sealed) != 1 {
		t.Fatalf("%v, %v", x, err)
	}
	if n := sent.Load(); n > agefile.HeadSize+2*agefile.SealedChunk {
		t.Errorf("%d bytes for the index", n)
	}
	chance := rand.New(rand.NewPCG(3, 4))
	for range 30 {
		var spans []syncclient.Span
		at := chance.Int64N(int64(len(file)) / 2)
		for range 1 + chance.IntN(8) {
			n := 1 + chance.Int64N(1<<(1+chance.IntN(18)))
			if at+n > int64(len(file)) {
				break
			}
			spans = append(spans, syncclient.Span{Offset: at, Length: n})
			at += n + chance.Int64N(1<<(1+chance.IntN(18)))
		}
		if len(spans) == 0 {
			continue
		}
		body, err := c.Ranges(t.Context(), p.ref, spans)
		if err != nil {
			t.Fatal(err)
		}
		got, err := inPieces(1 + chance.IntN(50_000))(body)
		if err != nil || !bytes.Equal(got, bytesOf(file, spans)) {
			t.Fatalf("%v: %d bytes, %v", spans, len(got), err)
		}
		body.Close()
	}
	// Each answer breaks in the middle of a chunk. What came of it is not sent again.
	whole := syncclient.Span{Offset: 5 * agefile.ChunkSize, Length: 3 * agefile.ChunkSize}
	c = open(k)
	if _, err := c.Index(t.Context(), p.ref); err != nil {
		t.Fatal(err)
	}
	sent.Store(0)
	var got []byte
	for tries := 0; int64(len(got)) < whole.Length; tries++ {
		if tries > 20 {
			t.Fatalf("%d bytes after %d answers", len(got), tries)
		}
		left.Store(20 << 10)
		body, err := c.Range(t.Context(), p.ref, whole.Offset+int64(len(got)), whole.Length-int64(len(got)))
		if err != nil {
			continue
		}
		b, err := io.ReadAll(body)
		body.Close()
		if got = append(got, b...); err != nil && !syncclient.Interrupted(err) {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, file[whole.Offset:][:whole.Length]) {
		t.Error("other bytes")
	}
	if n := sent.Load(); n > 4*agefile.SealedChunk {
		t.Errorf("%d bytes came for three chunks", n)
	}
	left.Store(-1)
	if _, err := c.Range(t.Context(), p.ref, int64(len(file))-5, 6); err == nil {
		t.Error("behind the end")
	}
	other, err := agefile.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*syncclient.Client{open(), open(other)} {
		_, err := c.Index(t.Context(), p.ref)
		if e := problem.Of(err); e.Code != "DS-BACKUP-KEY" || !strings.Contains(e.Error(), k.Recipient()) {
			t.Errorf("%v", err)
		}
	}
	p.file = bytes.Clone(p.file)
	p.file[9*agefile.SealedChunk] ^= 1
	body, err := open(k).Range(t.Context(), p.ref, 0, int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if b, err := io.ReadAll(body); !errors.Is(err, layer.ErrCorrupt) || syncclient.Temporary(err) || !bytes.Equal(b, file[:len(b)]) || len(b) < agefile.ChunkSize {
		t.Errorf("after %d bytes: %v", len(b), err)
	}
}

// TestSealedRangesAtMost: chunks that are here split what is around them, but never into more ranges than one request may have.
func TestSealedRangesAtMost(t *testing.T) {
	k, err := agefile.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	// Each span takes three chunks, and a fourth keeps it from the next.
	const chunks = 4 * api.MaxRanges
	plain := packed{file: make([]byte, chunks*agefile.ChunkSize), ref: image.LayerRef{To: image.StateID{1}}}
	rand.NewChaCha8([32]byte{1}).Read(plain.file)
	p, file := sealPacked(t, plain, k)
	var asked atomic.Int64
	i := newIdentity(t, nil, nil, nil)
	s := newServer(t, i, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		serveFile(p)(w, r)
	}))
	c, err := syncclient.New(syncclient.Options{URL: parse(t, s.URL), Fingerprint: i.fingerprint(t), Token: "secret", Line: patient, Keys: []agefile.Identity{k}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	get := func(spans []syncclient.Span) {
		t.Helper()
		body, err := c.Ranges(t.Context(), p.ref, spans)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, bytesOf(file, spans)) {
			t.Fatalf("%d spans: %d bytes, %v", len(spans), len(got), err)
		}
	}
	var spans []syncclient.Span
	for i := range int64(api.MaxRanges) {
		spans = append(spans, syncclient.Span{Offset: 4 * i * agefile.ChunkSize, Length: 3 * agefile.ChunkSize})
	}
	// The middle of one is here already.
	get([]syncclient.Span{{Offset: spans[7].Offset + agefile.ChunkSize, Length: 1}})
	before := asked.Load()
	get(spans)
	if n := asked.Load() - before; n != 1 {
		t.Errorf("%d requests", n)
	}
}
