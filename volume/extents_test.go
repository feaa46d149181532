package volume_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"disksync/volume"
)

// TestExtents: a file in pieces and holes reads as a model of it does, at every place and length.
func TestExtents(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	disk := make([]byte, 4096)
	for i := range disk {
		disk[i] = byte(1 + rnd.IntN(255))
	}
	for range 200 {
		var x volume.Extents
		var want []byte
		for range rnd.IntN(6) {
			n := int64(rnd.IntN(300))
			place := int64(rnd.IntN(len(disk)-300)) - 1
			piece := make([]byte, n)
			if place != volume.Hole {
				copy(piece, disk[place:])
			}
			if err := x.Append(place, n); err != nil {
				t.Fatal(err)
			}
			want = append(want, piece...)
		}
		want = append(want, make([]byte, rnd.IntN(50))...) // behind the last piece
		valid := rnd.IntN(len(want) + 1)
		clear(want[valid:])
		f := volume.NewFile(volume.NewDevice(bytes.NewReader(disk), int64(len(disk))), &x, int64(len(want)), int64(valid))
		if err := iotest.TestReader(io.NewSectionReader(f, 0, f.Size()), want); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPlace: where a byte is is told of the whole device, not of the part that holds the file system.
func TestPlace(t *testing.T) {
	t.Parallel()
	var x volume.Extents
	if err := errors.Join(x.Append(10, 5), x.Append(15, 5), x.Append(volume.Hole, 5), x.Append(30, 5)); err != nil {
		t.Fatal(err)
	}
	d := volume.NewDevice(bytes.NewReader(make([]byte, 200)), 200).Sub(100, 50)
	f := volume.NewFile(d, &x, 20, 18)
	for _, c := range [][2]int64{{0, 110}, {9, 119}, {10, -1}, {15, 130}, {17, 132}, {18, -1}, {99, -1}, {-1, -1}} {
		if got := f.Place(c[0]); got != c[1] {
			t.Errorf("Place(%d) = %d, want %d", c[0], got, c[1])
		}
	}
}

func TestExtentsRefuse(t *testing.T) {
	t.Parallel()
	var x volume.Extents
	for _, c := range [][2]int64{{-2, 1}, {0, -1}, {volume.MaxFile, 1}, {0, volume.MaxFile + 1}} {
		if err := x.Append(c[0], c[1]); !errors.Is(err, volume.ErrDamaged) {
			t.Errorf("a piece of %d bytes at %d: %v", c[1], c[0], err)
		}
	}
	var err error
	for i := int64(0); err == nil; i++ {
		err = x.Append(2*i, 1)
	}
	if !errors.Is(err, volume.ErrLimit) || x.Size() != volume.MaxExtents {
		t.Errorf("%d pieces: %v", x.Size(), err)
	}
}

// TestDevice: what begins or ends outside is refused, whatever the numbers; what the reader lacks is told.
func TestDevice(t *testing.T) {
	t.Parallel()
	d := volume.NewDevice(bytes.NewReader(make([]byte, 100)), 120)
	for _, c := range []struct {
		off, n int64
		ok     bool
	}{{0, 100, true}, {99, 1, true}, {99, 2, false}, {-1, 1, false}, {120, 0, true}, {121, 0, false}, {1 << 62, 1, false}} {
		_, err := d.ReadAt(make([]byte, c.n), c.off)
		if ok := err == nil; ok != c.ok || !ok && !errors.Is(err, volume.ErrDamaged) {
			t.Errorf("%d bytes at %d: %v", c.n, c.off, err)
		}
	}
	if s := d.Sub(110, 1<<62); s.Size() != 10 {
		t.Errorf("a part has %d bytes", s.Size())
	}
	b := volume.NewBudget()
	if _, err := b.Read(d, 0, 1<<40); !errors.Is(err, volume.ErrDamaged) {
		t.Error(err)
	}
	if err := b.Spend(volume.MaxWork + 1); !errors.Is(err, volume.ErrLimit) {
		t.Error(err)
	}
}

func TestWalk(t *testing.T) {
	t.Parallel()
	lookup := func(dir, e string) (string, error) {
		if e == "none" {
			return "", fs.ErrNotExist
		}
		return dir + "/" + e, nil
	}
	for _, c := range []struct {
		name, want string
		err        error
	}{
		{".", "", nil},
		{"a/b", "/a/b", nil},
		{"a/none", "", fs.ErrNotExist},
		{"../a", "", fs.ErrInvalid},
		{"/a", "", fs.ErrInvalid},
		{"", "", fs.ErrInvalid},
		{"a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a", "", volume.ErrLimit},
	} {
		got, err := volume.Walk("open", c.name, "", lookup)
		if !errors.Is(err, c.err) || err == nil && got != c.want {
			t.Errorf("%q: %q, %v", c.name, got, err)
		}
	}
}

func TestValidName(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"a", "ä ö.vhd", "日本", "a\\b", "..."} {
		if !volume.ValidName(s) {
			t.Errorf("%q is refused", s)
		}
	}
	for _, s := range []string{"", ".", "..", "a/b", "a\x00", "a\n", "\xff", "\x7f"} {
		if volume.ValidName(s) {
			t.Errorf("%q is taken", s)
		}
	}
}
