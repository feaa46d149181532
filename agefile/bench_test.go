package agefile_test

import (
	"bytes"
	"testing"

	"disksync/agefile"
)

func BenchmarkChunk(b *testing.B) {
	k := newKey(b)
	sealed := seal(b, content(4*agefile.ChunkSize), k.Recipient())
	f, err := agefile.Open(bytes.NewReader(sealed), int64(len(sealed)), []agefile.Identity{k})
	if err != nil {
		b.Fatal(err)
	}
	off, n := f.Place(1)
	b.SetBytes(agefile.ChunkSize)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Chunk(1, sealed[off:off+n]); err != nil {
			b.Fatal(err)
		}
	}
}
