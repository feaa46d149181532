package layer_test

import (
	"bytes"
	"context"
	"io"
	"testing"

	"disksync/image"
	"disksync/layer"
)

// benchDisk is a disk of 128 MiB of which half compresses.
func benchDisk() memDisk {
	d := make([]byte, 64*image.BlockSize)
	fill(d, 0, len(d), 1)
	return d
}

func BenchmarkEncode(b *testing.B) {
	d := benchDisk()
	b.SetBytes(int64(len(d)))
	for b.Loop() {
		if _, err := layer.Encode(context.Background(), io.Discard, image.State{}, d, layer.EncodeOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	d := benchDisk()
	_, packed := encode(b, image.State{}, d)
	x := open(b, packed).Index
	b.SetBytes(int64(len(d)))
	for b.Loop() {
		err := layer.Verify(context.Background(), bytes.NewReader(packed), x, nil, nil, func(_ layer.Frame, err error) error { return err })
		if err != nil {
			b.Fatal(err)
		}
	}
}
