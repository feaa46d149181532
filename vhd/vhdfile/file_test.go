package vhdfile_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"disksync/internal/testkit"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// unpack unpacks a disk of the corpus.
func unpack(t testing.TB, name string) string {
	t.Helper()
	b := testkit.Gunzip(t, filepath.Join("../testdata/corpus", name+".vhd.gz"))
	to := filepath.Join(t.TempDir(), filepath.Base(name)+".vhd")
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestInspectAgrees: what Inspect shows of a good disk is what vhd.Open reads, and the checksums are right.
func TestInspectAgrees(t *testing.T) {
	for _, name := range []string{"gen-vhd-util/base", "gen-vhd-util/leaf", "gen-vhd-util/batmap", "gen-qemu/dyn-chs", "gen-vhd-util/fixed"} {
		t.Run(name, func(t *testing.T) {
			path := unpack(t, name)
			s, err := vhdfile.Inspect(path)
			if err != nil {
				t.Fatal(err)
			}
			f, err := vhdfile.OpenFile(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			want := f.Footer()
			if s.Footer.UUID != want.UUID || s.Footer.Size != want.Size || s.Footer.Creator != want.Creator || s.Footer.Geometry != want.Geometry {
				t.Errorf("footer %+v, want %+v", s.Footer, want)
			}
			if !s.FooterSum.Good() {
				t.Errorf("footer's checksum %+v", s.FooterSum)
			}
			h, ok := f.Header()
			if !ok {
				return
			}
			if s.Header.ParentName != h.ParentName || s.Header.TableOffset != h.TableOffset || s.Header.ParentUUID != h.ParentUUID || !s.HeaderSum.Good() {
				t.Errorf("header %+v, want %+v; checksum %+v", s.Header, h, s.HeaderSum)
			}
			if b := s.Batmap; b != nil && (b.Err() != nil || !b.Sum.Good()) {
				t.Errorf("batmap %v %+v", b.Err(), b.Sum)
			}
		})
	}
}

// TestRunsAreExtents: the runs that a file says it holds are those that the chain reads from it.
func TestRunsAreExtents(t *testing.T) {
	dir := t.TempDir()
	base, leaf := filepath.Join(dir, "base.vhd"), filepath.Join(dir, "leaf.vhd")
	makeFile(t, base, vhd.CreateOptions{Size: 8 << 20, UUID: newID(1)})
	makeFile(t, leaf, vhd.CreateOptions{Size: 8 << 20, UUID: newID(2), Parent: &vhd.Parent{UUID: newID(1), Path: "base.vhd"}})
	d, err := vhdfile.OpenDisk(leaf, vhdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 3 * 512, 2<<20 - 512, 2 << 20, 5<<20 + 512} {
		if _, err := d.WriteAt(bytes.Repeat([]byte{1}, 1024), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := vhdfile.OpenChain(leaf, vhdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var want, got []vhdfile.Run
	for e, err := range c.Extents(0, c.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Member == 0 {
			want = append(want, vhdfile.Run{Start: e.Offset / 512, Count: e.Length / 512})
		}
	}
	f, err := vhdfile.OpenFile(leaf)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r, err := range f.Runs(0, f.Size()/512) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
	}
	if len(want) != 4 || len(got) != len(want) {
		t.Fatalf("runs %v, want %v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("run %d is %v, want %v", i, got[i], want[i])
		}
	}
}

func newID(n byte) (id [16]byte) {
	id[0], id[15] = 1, n
	return id
}

func makeFile(t *testing.T, name string, o vhd.CreateOptions) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(vhdfile.Create(f, o), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestFollowPaths: a parent outside of the folders is found only when that is asked for, and only when its uuid tells that it is
// the parent.
func TestFollowPaths(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	for _, d := range []string{in, out} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	makeFile(t, filepath.Join(out, "base.vhd"), vhd.CreateOptions{Size: 1 << 20, UUID: newID(1)})
	if err := os.WriteFile(filepath.Join(out, "base.raw"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	good, wrong, raw := filepath.Join(in, "good.vhd"), filepath.Join(in, "wrong.vhd"), filepath.Join(in, "raw.vhd")
	makeFile(t, good, vhd.CreateOptions{Size: 1 << 20, UUID: newID(2), Parent: &vhd.Parent{UUID: newID(1), Path: "../out/base.vhd"}})
	makeFile(t, wrong, vhd.CreateOptions{Size: 1 << 20, UUID: newID(3), Parent: &vhd.Parent{UUID: newID(9), Path: "../out/base.vhd"}})
	makeFile(t, raw, vhd.CreateOptions{Size: 1 << 20, UUID: newID(4), Parent: &vhd.Parent{Path: "../out/base.raw"}})
	follow := vhdfile.Options{FollowPaths: true}
	for _, tt := range []struct {
		name string
		o    vhdfile.Options
		ok   bool
	}{
		{good, vhdfile.Options{}, false}, {good, follow, true}, {wrong, follow, false}, {raw, follow, false},
		{raw, vhdfile.Options{Dirs: []string{out}}, true},
	} {
		c, err := vhdfile.OpenChain(tt.name, tt.o)
		if err == nil {
			if len(c.Paths) != 2 {
				t.Errorf("%s: paths %v", tt.name, c.Paths)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, vhd.NoParent) {
			t.Errorf("%s with %+v: %v", filepath.Base(tt.name), tt.o, err)
		}
	}
}

// TestSetMarker: the marker is kept, in the batmap and elsewhere, and the disk stays good.
func TestSetMarker(t *testing.T) {
	for _, name := range []string{"gen-vhd-util/batmap", "gen-qemu/dyn-chs"} {
		path := unpack(t, name)
		err := vhdfile.SetMarker(path, 201)
		if errors.Is(err, syscall.ENOTSUP) {
			t.Logf("%s: this file system has no extended attributes: %v", name, err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if m, err := vhdfile.Marker(path); m != 201 || err != nil {
			t.Errorf("%s: marker %d, %v", name, m, err)
		}
		f, err := vhdfile.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := vhd.Check(f.Reader(), f.Length, vhd.CheckOptions{Data: true})
		if err != nil {
			t.Fatal(err)
		}
		if worst, some := rep.Worst(); some && worst > vhd.Note {
			t.Errorf("%s: %v", name, rep.Findings)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBadJournals: a journal that is not whole is refused, and the disk is not written.
func TestBadJournals(t *testing.T) {
	path := unpack(t, "gen-vhd-util/base")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	j := filepath.Join(t.TempDir(), "journal")
	good := make([]byte, 512)
	copy(good, "vjournal")
	binary.BigEndian.PutUint64(good[24:], uint64(len(before)-512))
	many := bytes.Clone(good)
	binary.BigEndian.PutUint32(many[32:], 1<<31)
	far := bytes.Clone(good)
	binary.BigEndian.PutUint64(far[24:], 1<<63)
	for _, b := range [][]byte{nil, make([]byte, 512), good, many, far, good[:100]} {
		if err := os.WriteFile(j, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := vhdfile.RevertJournal(path, j); !errors.Is(err, vhdfile.ErrBadJournal) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the disk was written: %v", err)
	}
}

// FuzzInspect: any bytes can be looked at.
func FuzzInspect(f *testing.F) {
	for _, name := range []string{"gen-vhd-util/leaf", "gen-vhd-util/batmap", "crafted/bad-tableoffset", "crafted/fixed-footer-511"} {
		b, err := os.ReadFile(unpack(f, name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(b[:min(len(b), 16<<10)], b[len(b)-512:]...))
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		s, err := vhdfile.InspectReader(bytes.NewReader(b), int64(len(b)))
		if err == nil && s.Batmap != nil {
			s.Batmap.Full(1 << 40)
		}
	})
}
