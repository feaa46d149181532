package mediachild_test

import (
	"os"
	"testing"
)

// BenchmarkRead compares reading a file of a medium in pieces of 1 MiB through a child with reading the image itself; both are in the
// system's memory, which no medium is.
func BenchmarkRead(b *testing.B) {
	const size, piece = 64 << 20, 1 << 20
	file := image(b, content(size))
	buf := make([]byte, piece)
	b.Run("direct", func(b *testing.B) {
		f, err := os.Open(file)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		b.SetBytes(piece)
		for at := int64(0); b.Loop(); at = (at + piece) % size {
			if _, err := f.ReadAt(buf, at); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("child", func(b *testing.B) {
		_, v := openFile(b, file, options(b, ""))
		f, err := v.Open("all")
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(piece)
		for at := int64(0); b.Loop(); at = (at + piece) % size {
			if _, err := f.ReadAt(buf, at); err != nil {
				b.Fatal(err)
			}
		}
	})
}
