package layer_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"disksync/image"
	"disksync/internal/testkit"
	"disksync/layer"
)

// journal gives n bytes of lines as programs log them.
func journal(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "2031-%02d-%02d host%d app[%d]: %016x was written\n", 1+r.IntN(12), 1+r.IntN(28), r.IntN(50), r.IntN(99999), r.Uint64())
	}
	return b.Bytes()[:n]
}

// codecs counts the frames of each codec.
func codecs(x *layer.Index) map[layer.Codec]int {
	n := map[layer.Codec]int{}
	for i := range x.Len() {
		n[x.Frame(i).Codec]++
	}
	return n
}

// TestStreams: what a new disk has in deflate streams is found on the old one, and in what else is new, as what it unpacks to.
func TestStreams(t *testing.T) {
	const block = image.BlockSize
	disk := func(n int, parts ...[]byte) []byte { return append(bytes.Join(parts, nil), make([]byte, n)...)[:n] }
	pad := func(b []byte) []byte { return append(b, make([]byte, -len(b)&4095)...) }
	log := journal(9_000_000, 1)
	packed := testkit.Gzip(t, log, 6)
	if len(packed) < block {
		t.Fatalf("the stream has %d bytes and is in one block", len(packed))
	}
	small := make([][]byte, 60)
	for i := range small {
		small[i] = pad(testkit.Gzip(t, log[i*9000:][:8000], 9))
	}
	for _, c := range []struct {
		name    string
		a, b    []byte
		besides []byte // what b is without the streams, when that is new as well
		most    int    // bytes for the streams
	}{
		// Where it goes from one block to the next the block of the stream that is cut stays as it is.
		{"a log that was rotated", disk(8*block, log), disk(8*block, log, pad(packed)), nil, 30_000},
		{"the same by itself", disk(8*block, log), disk(8*block, make([]byte, 777*512), packed), nil, 20_000},
		{"many files", disk(6*block, log), disk(6*block, append([][]byte{log[:2*block]}, small...)...), nil, 5000},
		{"of what is new itself", disk(8*block, code(block, 1)), disk(8*block, code(block, 1), log[:2*block], bytes.Join(small, nil)),
			disk(8*block, code(block, 1), log[:2*block]), 5000},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, got := difference(t, c.a, c.b)
			if codecs(res.Index)[layer.Recompressed] == 0 {
				t.Fatal("nothing was taken apart")
			}
			if !bytes.Equal(applied(t, c.a, got), c.b) {
				t.Fatal("it gives another disk")
			}
			n := res.Bytes
			if c.besides != nil {
				without, _ := difference(t, c.a, c.besides)
				n -= without.Bytes
			}
			if n > int64(c.most) {
				t.Errorf("%d bytes, want at most %d", n, c.most)
			}
		})
	}
}

// TestStreamsInPart: where a part of a stream's sectors is on the old disk, those are not sent; and a stream of which nobody knows how it
// was made is left as it is.
func TestStreamsInPart(t *testing.T) {
	const block = image.BlockSize
	log := journal(3_000_000, 3)
	packed := testkit.Gzip(t, log, 9)
	a := make([]byte, 2*block)
	copy(a, packed)
	b := bytes.Clone(a)
	copy(b[300_032:], code(5000, 4)) // in the middle of the stream
	res, got := difference(t, a, b)
	if !bytes.Equal(applied(t, a, got), b) {
		t.Fatal("it gives another disk")
	}
	if res.Bytes > 7000 {
		t.Errorf("%d bytes for 5000 that changed", res.Bytes)
	}
	for i := 1000; i < len(packed); i += 9001 {
		packed[i] ^= 4
	}
	copy(b, packed)
	_, got = difference(t, make([]byte, 2*block), b)
	if !bytes.Equal(applied(t, make([]byte, 2*block), got), b) {
		t.Fatal("it gives another disk")
	}
}

// TestRecompressedNeedsItsDisk: a frame of streams with another disk than it was made for, or damage of its own, gives no block.
func TestRecompressedNeedsItsDisk(t *testing.T) {
	const block = image.BlockSize
	log := journal(2_000_000, 5)
	a := append(log, make([]byte, 2*block)...)[:2*block]
	b := bytes.Clone(a)
	copy(b[block:], testkit.Gzip(t, log, 9))
	_, packed := difference(t, a, b)
	s := open(t, packed)
	dec := layer.NewDecoder(1)
	defer dec.Close()
	f := s.Index.Frame(0)
	frame := packed[f.Offset:][:f.Length]
	if f.Codec != layer.Recompressed || f.Alone() || !s.Index.Refers() || len(layer.References(f, frame)) == 0 {
		t.Fatalf("codec %d; the test shows nothing", f.Codec)
	}
	dst := make([]byte, block)
	if err := dec.Block(dst, f, frame, memDisk(a)); err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(a)
	for i := 0; i < len(log); i += 50_000 {
		other[i] ^= 1
	}
	if err := dec.Block(dst, f, frame, memDisk(other)); !errors.Is(err, layer.ErrCorrupt) {
		t.Errorf("another disk: %v", err)
	}
	for i := range 20 {
		damaged := bytes.Clone(frame)
		damaged[(i*4001)%len(frame)] ^= 1
		if err := dec.Check(dst, f, damaged); !errors.Is(err, layer.ErrCorrupt) {
			t.Errorf("byte %d of %d changed: %v", (i*4001)%len(frame), len(frame), err)
		}
	}
}
