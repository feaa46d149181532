package durable_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"disksync/internal/durable"
)

// TestDirect: what is transferred directly, as far as it can be, is what is transferred as usual: on and off the borders of units,
// short and long, from any place in memory, and over the end of the file.
func TestDirect(t *testing.T) {
	both(t, func(t *testing.T, fsys durable.FS) {
		plain, err := fsys.Create("f", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		direct, err := fsys.OpenWrite("f")
		if err != nil {
			t.Fatal(err)
		}
		defer direct.Close()
		direct.Direct()
		direct.Direct() // twice does no harm
		const size = 1 << 20
		want := make([]byte, size)
		rand.NewChaCha8([32]byte{1}).Read(want)
		if _, err := plain.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		room := make([]byte, size)
		rnd := rand.NewChaCha8([32]byte{2})
		for _, off := range []int{0, 512, 4096, 65536, 100000} {
			for _, n := range []int{1, 512, 32 << 10, 128 << 10, 128<<10 + 1, 300000} {
				for _, shift := range []int{0, 8, 512, off % 4096} {
					t.Run(fmt.Sprintf("%d at %d from %d", n, off, shift), func(t *testing.T) {
						b := room[shift:][:n]
						rnd.Read(b)
						copy(want[off:], b)
						if _, err := direct.WriteAt(b, int64(off)); err != nil {
							t.Fatal(err)
						}
						got := make([]byte, size)
						if _, err := plain.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
							t.Fatalf("written directly: the file differs, %v", err)
						}
						clear(b)
						if _, err := direct.ReadAt(b, int64(off)); err != nil || !bytes.Equal(b, want[off:][:n]) {
							t.Fatalf("read directly: it differs, %v", err)
						}
					})
				}
			}
		}
		if n, err := direct.ReadAt(room, 70000); n != size-70000 || !errors.Is(err, io.EOF) || !bytes.Equal(room[:n], want[70000:]) {
			t.Errorf("over the end: %d bytes, %v", n, err)
		}
		if n, err := direct.ReadAt(room, 2*size); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("behind the end: %d bytes, %v", n, err)
		}
		if _, err := direct.WriteAt(want, size+8192); err != nil {
			t.Error(err)
		}
		if err := direct.Sync(); err != nil {
			t.Error(err)
		}
		if n, err := plain.Size(); n != 2*size+8192 || err != nil {
			t.Errorf("size %d, %v", n, err)
		}
	})
}

// TestDirectOnlyReads: a file that was opened for reading stays one.
func TestDirectOnlyReads(t *testing.T) {
	both(t, func(t *testing.T, fsys durable.FS) {
		b := make([]byte, 64<<10)
		b[9] = 9
		if err := durable.WriteFile(fsys, "f", b, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := fsys.Open("f")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		f.Direct()
		got := make([]byte, len(b))
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, b) {
			t.Errorf("the content differs, %v", err)
		}
		if _, err := f.WriteAt(got, 0); err == nil || strings.Contains(err.Error(), "/proc/") {
			t.Errorf("written, or what fails has another name: %v", err)
		}
	})
}
