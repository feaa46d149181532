package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"disksync/volume"
)

// tree is folders by their numbers: what is in them, and which numbers those have.
type tree map[int][]volume.Item[int]

func (tr tree) folders(reads *int, err error) *volume.Folders[int] {
	return volume.NewFolders(0, func(dir int, add func(volume.Item[int]) error) error {
		*reads++
		for _, it := range tr[dir] {
			if err := add(it); err != nil {
				return err
			}
		}
		return err
	}, func(dir int) int64 { return int64(dir) })
}

func item(name string, dir bool, node int) volume.Item[int] {
	return volume.Item[int]{Entry: volume.Entry{Name: name, Dir: dir, Size: int64(node)}, Node: node}
}

// TestFolders: files are found on their paths, folders are read once, and one that is in itself is told.
func TestFolders(t *testing.T) {
	t.Parallel()
	tr := tree{
		0: {item("a", true, 1), item("file", false, 7), item("no\nname", false, 9)},
		1: {item("b", true, 2), item("up", true, 0)},
		2: {item("deep", false, 8)},
	}
	reads := 0
	f := tr.folders(&reads, nil)
	for range 3 {
		if it, err := f.File("a/b/deep"); err != nil || it.Node != 8 {
			t.Errorf("%+v, %v", it, err)
		}
	}
	if reads != 3 {
		t.Errorf("folders were read %d times", reads)
	}
	for name, want := range map[string]error{
		"a": fs.ErrInvalid, "none": fs.ErrNotExist, "file/x": fs.ErrNotExist, "no\nname": fs.ErrNotExist,
		"a/up/file": volume.ErrDamaged, "../x": fs.ErrInvalid,
	} {
		if _, err := f.File(name); !errors.Is(err, want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := f.ReadDir("file"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if got, err := f.ReadDir("."); err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

// TestFoldersDamaged: what can be read is listed, and an error of the device is tried again.
func TestFoldersDamaged(t *testing.T) {
	t.Parallel()
	twice := tree{0: {item("a", false, 1), item("a", false, 2), item("b", false, 3)}}
	for _, c := range []struct {
		tr    tree
		err   error
		want  error
		n     int
		reads int
	}{
		{twice, nil, volume.ErrDamaged, 2, 1},
		{tree{0: {item("a", false, 1)}}, volume.Damaged("x"), volume.ErrDamaged, 1, 1},
		{tree{0: {item("a", false, 1)}}, syscall.EIO, syscall.EIO, 1, 3},
	} {
		reads := 0
		f := c.tr.folders(&reads, c.err)
		for range 2 {
			if got, err := f.ReadDir("."); len(got) != c.n || !errors.Is(err, c.want) {
				t.Errorf("%v, %v", got, err)
			}
		}
		if it, err := f.File("a"); err != nil || it.Node != 1 || reads != c.reads {
			t.Errorf("%+v, %v, read %d times", it, err, reads)
		}
		if _, err := f.File("none"); !errors.Is(err, c.want) {
			t.Errorf("what is not there may be what could not be read: %v", err)
		}
	}
	var many tree = map[int][]volume.Item[int]{}
	for i := range volume.MaxEntries + 1 {
		many[0] = append(many[0], item(fmt.Sprint(i), false, i))
	}
	reads := 0
	if got, err := many.folders(&reads, nil).ReadDir("."); len(got) != volume.MaxEntries || !errors.Is(err, volume.ErrLimit) {
		t.Errorf("%d entries, %v", len(got), err)
	}
}

// counter is a disk that counts how often it is read, and cannot be read in one place.
type counter struct {
	b     []byte
	reads int
	bad   int64
}

func (c *counter) ReadAt(p []byte, off int64) (int, error) {
	c.reads++
	if off <= c.bad && c.bad < off+int64(len(p)) {
		return 0, syscall.EIO
	}
	return copy(p, c.b[off:]), nil
}

// TestPieces: what is read is what is there, most of it from memory; what is beside a bad place is read; work comes to an end.
func TestPieces(t *testing.T) {
	t.Parallel()
	disk := &counter{b: make([]byte, 20<<20+100), bad: 5<<20 + 10}
	for i := range disk.b {
		disk.b[i] = byte(i * i >> 7)
	}
	p := volume.NewPieces(volume.NewDevice(disk, int64(len(disk.b))), 4096)
	for round := range 2 {
		b := volume.NewBudget()
		for off := int64(0); off < int64(len(disk.b))-100; off += 1000 {
			got, err := p.View(b, off, 100)
			bad := off <= disk.bad && disk.bad < off+100
			if bad != (err != nil) || err == nil && !bytes.Equal(got, disk.b[off:off+100]) {
				t.Fatalf("round %d, at %d: %v", round, off, err)
			}
		}
	}
	disk.reads = 0
	b := volume.NewBudget()
	for range 1000 {
		if _, err := p.View(b, 12345, 4); err != nil {
			t.Fatal(err)
		}
	}
	if disk.reads > 1 {
		t.Errorf("%d reads", disk.reads)
	}
	var err error
	for n := 0; err == nil; n++ {
		if _, err = p.View(b, 4096, 4096); n > volume.MaxWork/4096 {
			t.Fatal("no end")
		}
	}
	if !errors.Is(err, volume.ErrLimit) {
		t.Error(err)
	}
	for _, c := range [][2]int64{{-1, 4}, {int64(len(disk.b)), 1}, {0, -1}, {0, 1 << 60}} {
		if _, err := p.View(volume.NewBudget(), c[0], c[1]); !errors.Is(err, volume.ErrDamaged) {
			t.Errorf("%d bytes at %d: %v", c[1], c[0], err)
		}
	}
}

func TestUTF16(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"a\x00": "a", "": "", "\x3e\xd8\x80\xdd": "🦀", "\x3e\xd8": "-", "\x80\xdd\x3e\xd8": "-", "\x3e\xd8a\x00": "-"} {
		got, ok := volume.UTF16([]byte(in))
		if !ok {
			got = "-"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
