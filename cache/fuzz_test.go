package cache_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime/metrics"
	"testing"

	"disksync/cache"
	"disksync/image"
	"disksync/layer"
	"disksync/vhd"
)

// FuzzScan: whatever the files of a medium are, it can be scanned and read without a panic and in bounded memory, and no block passes
// that is not what it is called (see fetch).
func FuzzScan(f *testing.F) {
	g := get(f)
	last := g.full.Frame(g.full.Len() - 1)
	seeds := [][2][]byte{
		{g.full.file, g.base[:32<<10]}, {g.diff.file, g.child[:32<<10]}, {changed(g.full.file, int(last.Offset)+20), changed(g.base[:32<<10], 560)},
		{g.full.file[:last.Offset], g.fixed[len(g.fixed)-4096:]}, {changed(g.full.file, -40), nil},
		{changed(g.full.file, int(g.full.IndexOffset())+130), changed(g.base[:32<<10], 1600)}, {nil, g.base[len(g.base)-512:]},
		{pieceOf(g.full, layer.Piece(g.full.Index, 0, 1)), nil}, {pieceOf(g.full, layer.Seal(g.full.Index, 0, 1, mediaKey, [32]byte{1})), nil},
	}
	for _, s := range seeds {
		f.Add(s[0], s[1])
	}
	w := g.wanted()
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, asLayer, asVHD []byte) {
		// As they come, and with the checksums mended, so that the fuzzer reaches what lies behind them.
		medium := filepath.Join(dir, "medium")
		for name, b := range map[string][]byte{"a": asLayer, "b": nameAnew(asLayer), "e": headAnew(asLayer), "c.vhd": asVHD, "d.vhd": mended(asVHD)} {
			write(t, medium, name, b)
		}
		defer os.RemoveAll(medium)
		before := allocated()
		inv, err := cache.Scan(t.Context(), cache.Medium{Kind: cache.USB, Dir: medium})
		if err != nil {
			t.Fatal(err)
		}
		defer inv.Close()
		inv.Unlock([]image.MediaKey{mediaKey})
		h := fetch(t, inv.Source(w), w)
		if h.err != nil {
			t.Error(h.err)
		}
		// A block and its frame for each claim, a decoder, and the tables.
		limit := uint64((len(h.good)+len(h.bad)+8)*2*block + 64*(len(asLayer)+len(asVHD)) + 16<<20)
		if used := allocated() - before; used > limit {
			t.Errorf("%d MiB of memory were used, want at most %d", used>>20, limit>>20)
		}
	})
}

// allocated returns how many bytes were allocated so far.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// nameAnew writes into the trailer of a layer file the name that its index has.
func nameAnew(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) < layer.TrailerSize {
		return b
	}
	tail := b[len(b)-layer.TrailerSize:]
	off, n := binary.BigEndian.Uint64(tail), binary.BigEndian.Uint64(tail[8:])
	if off > uint64(len(b)) || n > uint64(len(b))-off {
		return b
	}
	id := sha256.Sum256(b[off : off+n])
	copy(tail[16:], id[:])
	return b
}

// headAnew writes the check sum of the header of a piece.
func headAnew(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) >= layer.PieceHeaderSize {
		binary.BigEndian.PutUint32(b[76:], crc32.Checksum(b[:76], crc32.MakeTable(crc32.Castagnoli)))
	}
	return b
}

// mended writes the checksums of a VHD file's header and footers.
func mended(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) < 512+1024+vhd.FooterSize {
		return b
	}
	sum(b[:vhd.FooterSize], 64)
	sum(b[512:][:1024], 36)
	sum(b[len(b)-vhd.FooterSize:], 64)
	return b
}
