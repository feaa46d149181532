package lzma_test

import (
	"bytes"
	"os"
	"testing"

	"disksync/internal/lzma"
)

// BenchmarkDecode unpacks 1 MiB of a program, packed with another MiB of it as the dictionary.
func BenchmarkDecode(b *testing.B) {
	name, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	content, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	const half = 1 << 20
	content = content[:2*half]
	var e lzma.Encoder
	packed := e.Encode(nil, content, half, 0)
	var d lzma.Decoder
	buf := bytes.Clone(content)
	b.SetBytes(half)
	b.ReportMetric(float64(len(packed))/half, "packed/byte")
	for b.Loop() {
		clear(buf[half:])
		if err := d.Decode(buf, half, packed); err != nil {
			b.Fatal(err)
		}
	}
	if !bytes.Equal(buf, content) {
		b.Error("the content differs")
	}
}
