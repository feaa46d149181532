package ntfs_test

import (
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkRead reads files in one piece, in many, and compressed, in order and 1 MiB at a time: here, and from an ntfs-3g mount that has
// nothing of them in memory. The image itself is in memory.
func BenchmarkRead(b *testing.B) {
	const size = 64 << 20
	plain := makeImage(b, 200, "-c 4096")
	mounted(b, plain, "rw,compression", func(dir string) {
		put(b, filepath.Join(dir, "sequential"), random(size))
		if err := os.Mkdir(filepath.Join(dir, "packed"), 0o755); err != nil {
			b.Fatal(err)
		}
		setAttributes(b, filepath.Join(dir, "packed"), 0x810)
		put(b, filepath.Join(dir, "packed/compressed"), text(size))
	})
	pieces := makeImage(b, 200, "-c 4096")
	r := rand.New(rand.NewPCG(7, 8))
	edit(b, pieces).scatter(func() int { return 1 + r.IntN(3) })
	mounted(b, pieces, "rw", func(dir string) { put(b, filepath.Join(dir, "fragmented"), random(size)) })
	for _, c := range []struct{ img, name string }{{plain, "sequential"}, {pieces, "fragmented"}, {plain, "packed/compressed"}} {
		buf := make([]byte, 1<<20)
		read := func(b *testing.B, f io.ReaderAt) {
			for off := int64(0); off < size; off += int64(len(buf)) {
				if _, err := f.ReadAt(buf, off); err != nil && err != io.EOF {
					b.Fatal(err)
				}
			}
		}
		b.Run(filepath.Base(c.name), func(b *testing.B) {
			f, err := open(b, c.img).Open(c.name)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(size)
			for b.Loop() {
				read(b, f)
			}
		})
		b.Run(filepath.Base(c.name)+"-small", func(b *testing.B) { // in pieces of 4 KiB
			f, err := open(b, c.img).Open(c.name)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(size)
			for b.Loop() {
				for off := int64(0); off < size; off += 4096 {
					if _, err := f.ReadAt(buf[:4096], off); err != nil && err != io.EOF {
						b.Fatal(err)
					}
				}
			}
		})
		b.Run(filepath.Base(c.name)+"-ntfs-3g", func(b *testing.B) {
			mounted(b, c.img, "ro", func(dir string) {
				f, err := os.Open(filepath.Join(dir, c.name))
				if err != nil {
					b.Fatal(err)
				}
				defer f.Close()
				b.SetBytes(size)
				for b.Loop() {
					b.StopTimer()
					if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
					read(b, f)
				}
			})
		})
	}
}
