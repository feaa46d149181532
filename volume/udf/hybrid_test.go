package udf_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"disksync/internal/testkit"
	"disksync/volume"
	"disksync/volume/udf"
	"disksync/volume/volumetest"
)

// TestHybrid: of a disc that is ISO 9660 as well, the UDF side is right for all names, and for files that ISO 9660 has cut off.
func TestHybrid(t *testing.T) {
	t.Parallel()
	src := volumetest.Source(t, volumetest.NoLinks, volumetest.NoPlanes, volumetest.NoDeep, volumetest.NoSemicolon)
	img := filepath.Join(t.TempDir(), "disc.iso")
	run(t, "", "genisoimage", "-quiet", "-udf", "-R", "-J", "-joliet-long", "-input-charset", "utf-8", "-V", "LABEL", "-o", img, src)
	v := open(t, img)
	volumetest.Compare(t, v, src)
	sameAsBlkid(t, img, v.Info())
}

const huge = 4<<30 + 12_345_678

// hugeFile makes a sparse file of more than 4 GiB in a folder.
func hugeFile(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "huge.vhd"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{0, 1 << 30, 2<<30 - 5, 4<<30 - 100, huge - 1000} {
		if _, err := f.WriteAt(bytes.Repeat([]byte("mark"), 250), at); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// sparsely writes what it gets to a file, and leaves out zeros.
type sparsely struct {
	f     *os.File
	off   int64
	zeros [64 << 10]byte
}

func (s *sparsely) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), len(s.zeros))
		if !bytes.Equal(rest[:n], s.zeros[:n]) {
			if _, err := s.f.WriteAt(rest[:n], s.off); err != nil {
				return 0, err
			}
		}
		s.off += int64(n)
		rest = rest[n:]
	}
	return len(p), nil
}

// TestHuge: a file of more than 4 GiB is all there. genisoimage takes its time for one, so that is for DISKSYNC_SOAK=1; on the other side
// of its disc the file is cut off.
func TestHuge(t *testing.T) {
	t.Parallel()
	src := hugeFile(t)
	t.Run("built", func(t *testing.T) {
		t.Parallel()
		compareHuge(t, open(t, build(t, plan{blockSize: 2048, kind: "physical"}, src)), src)
	})
	t.Run("genisoimage", func(t *testing.T) {
		t.Parallel()
		if os.Getenv("DISKSYNC_SOAK") == "" {
			t.Skip("only with DISKSYNC_SOAK=1")
		}
		f, err := os.Create(filepath.Join(t.TempDir(), "disc.iso"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		w := &sparsely{f: f}
		cmd := exec.Command(testkit.Tool(t, "genisoimage"), "-quiet", "-udf", "-allow-limited-size", "-iso-level", "3", "-J", "-R", src)
		cmd.Stdout = w
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(w.off); err != nil {
			t.Fatal(err)
		}
		v := open(t, f.Name())
		compareHuge(t, v, src)
		volumetest.Compare(t, v, src)
	})
}

// compareHuge compares the file where it has content, and around the ends of extents.
func compareHuge(t *testing.T, v volume.Volume, src string) {
	t.Helper()
	want, err := os.Open(filepath.Join(src, "huge.vhd"))
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	f, err := v.Open("huge.vhd")
	if err != nil {
		t.Fatal(err)
	}
	if f.Size() != huge {
		t.Fatalf("%d bytes", f.Size())
	}
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for _, at := range []int64{0, 1<<30 - 500_000, 2<<30 - 500_000, 3<<30 - 500_000, 4<<30 - 500_000, huge - 1<<20, huge - 1000} {
		n, err := f.ReadAt(a, at)
		m, _ := want.ReadAt(b, at)
		if !bytes.Equal(a[:n], b[:m]) || err != nil && !(err == io.EOF && at+int64(n) == huge) {
			t.Errorf("at %d: %d bytes, %v", at, n, err)
		}
	}
}

// BenchmarkSequential reads a file of 256 MiB in calls of 1 MiB, from memory: in one extent, in pieces of 64 KiB, and through the table of a
// sparable partition.
func BenchmarkSequential(b *testing.B) {
	const size = 256 << 20
	src := b.TempDir()
	if err := os.WriteFile(filepath.Join(src, "file"), bytes.Repeat([]byte("0123456789abcdef"), size/16), 0o644); err != nil {
		b.Fatal(err)
	}
	for _, p := range []plan{
		{blockSize: 2048, kind: "physical"},
		{blockSize: 2048, kind: "physical", alloc: 1, piece: 32},
		{blockSize: 2048, kind: "sparable"},
		{blockSize: 2048, kind: "metadata", extended: true},
	} {
		b.Run(p.String(), func(b *testing.B) {
			d := inMemory(load(b, build(b, p, src)))
			buf := make([]byte, 1<<20)
			b.SetBytes(size)
			for b.Loop() {
				v, err := udf.Open(d)
				if err != nil {
					b.Fatal(err)
				}
				f, err := v.Open("file")
				if err != nil {
					b.Fatal(err)
				}
				for off := int64(0); off < f.Size(); off += int64(len(buf)) {
					if _, err := f.ReadAt(buf, off); err != nil && err != io.EOF {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
