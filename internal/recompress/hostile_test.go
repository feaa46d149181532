package recompress_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"disksync/internal/recompress"
	"disksync/internal/testkit"
)

// TestHostileStreams: what looks like the beginning of a stream at every byte, and goes on for long, is not followed from each; and a stream
// before it is found as ever. Who follows them all does not come to the end of this test.
func TestHostileStreams(t *testing.T) {
	content := bytes.Repeat([]byte("a file before "), 100)
	for name, part := range map[string]string{
		"names without an end":    "\x1f\x8b\x08\x18",
		"empty blocks":            "x\x9c\x00\x00\x00\xff\xff",
		"empty blocks of codes":   "x\x9c\x04\xc0\x81\x08",
		"blocks that fail late":   "x\x9cbh\xdc\xd6\x06\x98Eb|u\xc9X\xb0\x18",
		"headers of zip archives": "PK\x03\x04\x14\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02",
		"long matches":            "x\x9cc\x18\x05\xa3`\x14\x0c",
	} {
		b := testkit.Gzip(t, content, 6)
		b = append(b, bytes.Repeat([]byte(part), (8<<20)/len(part))...)
		var k kit
		if _, plain := k.split(t, b, false); plain < len(content) {
			t.Errorf("%s: %d bytes were unpacked, want %d before them", name, plain, len(content))
		}
	}
}

// TestHostileRecipes: a few megabytes say of more runs, blocks or corrections than there may be, or of a block that is too long.
func TestHostileRecipes(t *testing.T) {
	number := func(b []byte, v int) []byte { return binary.AppendUvarint(b, uint64(v)) }
	const many = 4 << 20
	run := []byte{0, 0, 0, 0, 6, 0, 0}
	blocks := func(n int, block ...byte) []byte {
		return append(number(bytes.Clone(run), n), bytes.Repeat(block, n)...)
	}
	for name, split := range map[string][]byte{
		"runs":           append(number(nil, many), bytes.Repeat(append(bytes.Clone(run), 0, 0), many)...),
		"blocks":         append([]byte{1}, blocks(many, 1<<1, 0)...),
		"blocks in runs": append(number(nil, 100), bytes.Repeat(append(blocks(1000, 1<<1, 0), 0), 100)...),
		"corrections":    append(number([]byte{1, 0, 0, 0, 0, 6, 0, 0, 0}, many), bytes.Repeat([]byte{0, 0, 'a'}, many)...),
		"tokens":         append(number([]byte{1, 0, 0, 0, 0, 6, 0, 0, 1, 1 << 1}, many), 0),
	} {
		var j recompress.Joiner
		dst := make([]byte, 2<<20)
		if err := j.Join(dst, split); !errors.Is(err, recompress.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_ = j.Join(dst, split)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
			t.Errorf("%s: it took %d bytes of memory", name, n)
		}
	}
}

// TestManySmallStreams: more streams than there may be recipes for are taken apart as far as that goes.
func TestManySmallStreams(t *testing.T) {
	const size, most = 600, 16_384
	one := testkit.Gzip(t, make([]byte, size), 9)
	var k kit
	split, plain := k.split(t, bytes.Repeat(one, 40_000), false)
	if plain <= most*size {
		t.Fatalf("%d streams were found, of which all may be taken apart", plain/size)
	}
	if n, _ := binary.Uvarint(split); n != most {
		t.Errorf("%d streams were taken apart, want %d", n, most)
	}
}
