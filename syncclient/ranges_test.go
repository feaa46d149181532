package syncclient_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"disksync/api"
	"disksync/internal/netchaos"
	"disksync/internal/testkit/lab"
	"disksync/syncclient"
)

// bytesOf returns what spans of a file hold.
func bytesOf(file []byte, spans []syncclient.Span) []byte {
	var out []byte
	for _, s := range spans {
		out = append(out, file[s.Offset:][:s.Length]...)
	}
	return out
}

// TestRanges: any ranges of a real Synchronizer come as they were asked for, over both versions of HTTP and however they are read.
func TestRanges(t *testing.T) {
	p := pack(t, lab.Disk(1, 2))
	i := newIdentity(t, nil, nil, nil)
	s := newServer(t, i, serveFile(p))
	chance := rand.New(rand.NewPCG(1, 2))
	for round := range 40 {
		s.http1.Store(round%2 == 0)
		c := newClient(t, s.URL, i.fingerprint(t))
		var spans []syncclient.Span
		at := int64(0)
		for range 1 + chance.IntN(api.MaxRanges) {
			at += chance.Int64N(1 << (1 + chance.IntN(15)))
			n := 1 + chance.Int64N(1<<(1+chance.IntN(17)))
			if at+n > p.ref.Length {
				break
			}
			spans = append(spans, syncclient.Span{Offset: at, Length: n})
			at += n
		}
		if len(spans) == 0 {
			continue
		}
		for range 2 { // the second time over the same connection
			body, err := c.Ranges(t.Context(), p.ref, spans)
			if err != nil {
				t.Fatal(err)
			}
			got, err := inPieces(1 + chance.IntN(50_000))(body)
			if err != nil || !bytes.Equal(got, bytesOf(p.file, spans)) {
				t.Fatalf("%d ranges: %d bytes, %v", len(spans), len(got), err)
			}
			if n, err := body.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("behind the end: %d, %v", n, err)
			}
			body.Close()
		}
		c.Close()
	}
}

func TestRangesThatMakeNoSense(t *testing.T) {
	p := pack(t, lab.Disk(1))
	c, _ := throughChaos(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked for") }))
	for name, spans := range map[string][]syncclient.Span{
		"none": nil, "too many": make([]syncclient.Span, api.MaxRanges+1), "empty": {{Offset: 5}}, "before the start": {{Offset: -1, Length: 5}},
		"behind the end": {{Offset: 0, Length: 1}, {Offset: p.ref.Length - 1, Length: 2}}, "overlapping": {{0, 5}, {4, 5}}, "out of order": {{10, 5}, {0, 5}},
		"as much as numbers go": {{0, 5}, {1<<63 - 1, 1<<63 - 1}},
	} {
		if _, err := c.Ranges(t.Context(), p.ref, spans); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// part is one of an answer with several ranges.
type part struct {
	header string
	body   []byte
}

// multi writes parts as RFC 9110 says.
func multi(parts []part, boundary string) []byte {
	var b bytes.Buffer
	for i, p := range parts {
		if i > 0 {
			b.WriteString("\r\n")
		}
		fmt.Fprintf(&b, "--%s\r\n%s\r\n%s", boundary, p.header, p.body)
	}
	fmt.Fprintf(&b, "\r\n--%s--\r\n", boundary)
	return b.Bytes()
}

// TestLiarsAboutRanges has servers answer a request for three ranges in ways that a Synchronizer does not, and in some that it might.
func TestLiarsAboutRanges(t *testing.T) {
	p := pack(t, lab.Disk(1))
	spans := []syncclient.Span{{10, 1000}, {2000, 5}, {70_000, 100_000}}
	honest := func() []part {
		var out []part
		for _, s := range spans {
			out = append(out, part{
				fmt.Sprintf("Content-Range: bytes %d-%d/%d\r\nContent-Type: application/octet-stream\r\n", s.Offset, s.Offset+s.Length-1, p.ref.Length),
				p.file[s.Offset:][:s.Length],
			})
		}
		return out
	}
	edit := func(do func(p []part) []part) []byte { return multi(do(honest()), "x") }
	all := multi(honest(), "x")
	none := verdict(-1) // an honest answer in other words
	for _, test := range []struct {
		name, kind string
		want       verdict
		body       []byte
	}{
		{"honest", "multipart/byteranges; boundary=x", none, all},
		{"a quoted boundary", `Multipart/ByteRanges; boundary="a b:c"`, none, multi(honest(), "a b:c")},
		{"something before the first part", "multipart/byteranges; boundary=x", none, append([]byte("\r\n"), all...)},
		{"nothing behind the last byte", "multipart/byteranges; boundary=x", none, all[:len(all)-len("\r\n--x--\r\n")]},
		{"other header fields", "multipart/byteranges; boundary=x", none, edit(func(p []part) []part {
			p[1].header = "X: " + strings.Repeat("y", 1000) + "\r\ncontent-range:" + strings.TrimPrefix(p[1].header, "Content-Range:")
			return p
		})},
		{"no boundary", "multipart/byteranges", protocol, all},
		{"a long boundary", "multipart/byteranges; boundary=" + strings.Repeat("x", 71), protocol, multi(honest(), strings.Repeat("x", 71))},
		{"another boundary", "multipart/byteranges; boundary=y", protocol, all},
		{"another type", "multipart/mixed; boundary=x", protocol, all},
		{"a single range", "application/octet-stream", protocol, p.file[10:1010]},
		{"no parts", "multipart/byteranges; boundary=x", protocol, multi(nil, "x")},
		{"one part less", "multipart/byteranges; boundary=x", protocol, edit(func(p []part) []part { return p[:2] })},
		{"one part more", "multipart/byteranges; boundary=x", protocol, edit(func(p []part) []part { return append(p, p[2]) })},
		{"other order", "multipart/byteranges; boundary=x", protocol, edit(func(p []part) []part { return []part{p[1], p[0], p[2]} })},
		{"the same again", "multipart/byteranges; boundary=x", protocol, edit(func(p []part) []part { return []part{p[0], p[0], p[2]} })},
		{"joined", "multipart/byteranges; boundary=x", protocol, multi([]part{{
			fmt.Sprintf("Content-Range: bytes 10-2004/%d\r\n", p.ref.Length), p.file[10:2005]}, honest()[2]}, "x")},
		{"a short part", "multipart/byteranges; boundary=x", protocol, edit(func(p []part) []part { p[0].body = p[0].body[1:]; return p })},
		{"a long part", "multipart/byteranges; boundary=x", protocol, edit(func(p []part) []part { p[0].body = append(bytes.Clone(p[0].body), 1); return p })},
		{"no range in a part", "multipart/byteranges; boundary=x", protocol, edit(func(p []part) []part { p[1].header = ""; return p })},
		{"two ranges in a part", "multipart/byteranges; boundary=x", protocol, edit(func(p []part) []part { p[1].header += p[1].header; return p })},
		{"another file's length", "multipart/byteranges; boundary=x", protocol, edit(func(q []part) []part {
			q[1].header = strings.Replace(q[1].header, fmt.Sprint(p.ref.Length), fmt.Sprint(p.ref.Length+1), 1)
			return q
		})},
		{"an endless header", "multipart/byteranges; boundary=x", protocol, edit(func(p []part) []part { p[0].header = strings.Repeat("A: b\r\n", 10_000); return p })},
		{"an endless line", "multipart/byteranges; boundary=x", protocol, edit(func(p []part) []part { p[0].header = strings.Repeat("A", 100_000); return p })},
		{"line feeds alone", "multipart/byteranges; boundary=x", protocol, bytes.ReplaceAll(all[:200], []byte("\r\n"), []byte("\n"))},
		{"cut in a header", "multipart/byteranges; boundary=x", line, all[:30]},
		{"cut in a part", "multipart/byteranges; boundary=x", line, all[:700]},
		{"cut between parts", "multipart/byteranges; boundary=x", line, all[:bytes.Index(all[1:], []byte("\r\n--x"))+3]},
		{"nothing", "multipart/byteranges; boundary=x", line, nil},
		{"more behind the end", "multipart/byteranges; boundary=x", protocol, append(bytes.Clone(all), make([]byte, 10_000)...)},
	} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/HTTP2=%v", test.name, http2), func(t *testing.T) {
				i := newIdentity(t, nil, nil, nil)
				s := newServer(t, i, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("ETag", `"`+p.ref.ID.String()+`"`)
					w.Header().Set("Content-Type", test.kind)
					w.WriteHeader(http.StatusPartialContent)
					_, _ = w.Write(test.body)
				}))
				s.http1.Store(!http2)
				body, err := newClient(t, s.URL, i.fingerprint(t)).Ranges(t.Context(), p.ref, spans)
				var got []byte
				if err == nil {
					got, err = io.ReadAll(body)
					body.Close()
				}
				whole := bytesOf(p.file, spans)
				if test.want == none {
					if err != nil || !bytes.Equal(got, whole) {
						t.Fatalf("%d bytes, %v", len(got), err)
					}
					return
				}
				if !test.want.fits(err) || len(got) == len(whole) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		}
	}
}

// TestSeveralRangesCut: what arrived before a cut is right.
func TestSeveralRangesCut(t *testing.T) {
	p := pack(t, lab.Disk(1, 2))
	spans := []syncclient.Span{{10, 300_000}, {400_000, 5}, {500_000, 1_000_000}}
	for _, at := range []int64{5_000, 250_000, 350_000, 900_000} {
		c, chaos := throughChaos(t, serveFile(p))
		if _, err := readRange(t.Context(), c, p.ref, 0, 1); err != nil {
			t.Fatal(err)
		}
		chaos.Set(netchaos.Toxics{Down: netchaos.Toxic{CutAfter: at}})
		body, err := c.Ranges(t.Context(), p.ref, spans)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		body.Close()
		if !line.fits(err) || !bytes.Equal(got, bytesOf(p.file, spans)[:len(got)]) {
			t.Errorf("cut at %d: %d bytes, %v", at, len(got), err)
		}
	}
}

// FuzzParts: whatever stands between ranges, the reader gives the right number of bytes or an error.
func FuzzParts(f *testing.F) {
	p := pack(f, lab.Disk(1))
	spans := []syncclient.Span{{0, 3}, {10, 1}}
	f.Add("x", []byte("--x\r\nContent-Range: bytes 0-2/1\r\n\r\nabc\r\n--x\r\n\r\n"))
	body := multi([]part{
		{fmt.Sprintf("Content-Range: bytes 0-2/%d\r\n", p.ref.Length), []byte("abc")}, {fmt.Sprintf("Content-Range: bytes 10-10/%d\r\n", p.ref.Length), []byte("d")},
	}, "x")
	f.Add("x", body)
	f.Add("--", body)
	f.Fuzz(func(t *testing.T, boundary string, b []byte) {
		got, err := syncclient.ReadParts(`multipart/byteranges; boundary="`+boundary+`"`, b, p.ref, spans)
		if len(got) > 4 || err == nil && len(got) != 4 {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if err == nil && (!bytes.Contains(b, got[:3]) || !bytes.Contains(b, got[3:])) {
			t.Fatalf("%q is not in it", got)
		}
	})
}
