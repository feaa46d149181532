package vhd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// noTruncate is a file whose length cannot be cut.
type noTruncate struct{ f *memFile }

func (n noTruncate) ReadAt(p []byte, off int64) (int, error)  { return n.f.ReadAt(p, off) }
func (n noTruncate) WriteAt(p []byte, off int64) (int, error) { return n.f.WriteAt(p, off) }
func (n noTruncate) Sync() error                              { return n.f.Sync() }

// relinkNames are parents' names of all kinds, short and long.
var relinkNames = []string{
	"p.vhd", "sub/dir/parent.vhd", "../up/parent.vhd", "Grundbild Ä 漢字.vhd", "🖴🖴.vhd",
	strings.Repeat("long/", 300) + "parent.vhd", strings.Repeat("x", 251) + ".vhd",
}

// TestRelink: the new name is what a reader finds first, the content stays, nothing is left to find but notes, and a file that
// can be cut is no longer than it must be.
func TestRelink(t *testing.T) {
	t.Parallel()
	start, parents, content := goodChild(t)
	for _, cut := range []bool{true, false} {
		for _, name := range relinkNames {
			f := inMemory(start)
			var file vhd.File = f
			if !cut {
				file = noTruncate{f}
			}
			p := vhd.Parent{UUID: newUUID(1), Timestamp: 77, Path: name}
			size, err := vhd.Relink(file, f.size(), p, vhd.RelinkOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if size != f.size() {
				t.Errorf("the file has %d bytes, Relink says %d", f.size(), size)
			}
			relinked(t, f, p, parents, content)
			if m := openImage(t, f); len(m.Warnings()) > 0 {
				t.Errorf("warnings %v", m.Warnings())
			}
			if h, _ := openImage(t, f).Header(); h.ParentTimestamp != 77 {
				t.Errorf("time %d", h.ParentTimestamp)
			}
			if cut && len(name) < 1000 && f.size() != int64(len(start)) {
				t.Errorf("%d bytes became %d", len(start), f.size())
			}
			if openImage(t, f).Footer().DataOffset != 512 {
				t.Error("the header is not where it was")
			}
		}
	}
}

// relinked checks that f names the parent p and has the content.
func relinked(t *testing.T, f *memFile, p vhd.Parent, parents []*vhd.Image, content []byte) {
	t.Helper()
	m := openImage(t, f)
	// A path with a climbing start comes back as it is; what is done with it is the caller's business.
	if got := m.ParentPaths(); len(got) == 0 || strings.TrimPrefix(got[0], "./") != p.Path {
		t.Errorf("paths %q, want %q first", got, p.Path)
	}
	if m.ParentUUID() != p.UUID {
		t.Errorf("parent %s, want %s", m.ParentUUID(), p.UUID)
	}
	rep := check(t, f, vhd.CheckOptions{Bitmaps: true})
	if worst, _ := rep.Worst(); worst > vhd.Note {
		t.Errorf("findings %v", rep.Findings)
	}
	if parents != nil && !bytes.Equal(composed(t, f, parents...), content) {
		t.Error("content changed")
	}
}

// TestRelinkPowerLoss cuts the power at each write: the file opens with the whole old or the whole new header and paths, and
// can be relinked again.
func TestRelinkPowerLoss(t *testing.T) {
	t.Parallel()
	start, parents, content := goodChild(t)
	oldPaths := openImage(t, inMemory(start)).ParentPaths()
	for _, name := range []string{"other.vhd", strings.Repeat("long/", 300) + "other.vhd"} {
		p := vhd.Parent{UUID: newUUID(1), Path: name}
		saw := [2]bool{}
		do := func(f *memFile) error {
			_, err := vhd.Relink(f, f.size(), p, vhd.RelinkOptions{})
			return err
		}
		crashEverywhere(t, start, do, func(t *testing.T, after *memFile) {
			got := openImage(t, after).ParentPaths()
			isOld, isNew := slices.Equal(got, oldPaths), strings.TrimPrefix(got[0], "./") == name
			saw[0], saw[1] = saw[0] || isOld, saw[1] || isNew
			if !isOld && !isNew {
				t.Fatalf("paths %q", got)
			}
			if !bytes.Equal(composed(t, after, parents...), content) {
				t.Fatal("content changed")
			}
			repair(t, after, vhd.RepairOptions{})
			if err := do(after); err != nil {
				t.Fatal(err)
			}
			relinked(t, after, p, parents, content)
			if openImage(t, after).Footer().DataOffset != 512 {
				t.Fatal("the header did not come home")
			}
		})
		if !saw[0] || !saw[1] {
			t.Error("not both outcomes were seen")
		}
	}
}

// corpusDirs are the folders in which a corpus may be.
func corpusDirs() []string {
	other := os.Getenv("DISKSYNC_VHD_CORPUS")
	if other == "" {
		other = "../../shared/vhd-corpus"
	}
	return []string{"testdata/corpus", other}
}

// TestRelinkForeign: files of other programs keep their layout, and name a new parent.
func TestRelinkForeign(t *testing.T) {
	t.Parallel()
	n := 0
	for _, dir := range corpusDirs() {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		files := readManifest(t, filepath.Join(dir, "MANIFEST.tsv"))
		files = slices.DeleteFunc(files, func(f corpusFile) bool { return f.typ != "diff" })
		unpacked := unpackCorpus(t, dir, files)
		for _, c := range files {
			b, err := os.ReadFile(filepath.Join(unpacked, trimPack(c.name)))
			if err != nil {
				t.Fatal(err)
			}
			n++
			t.Run(c.name, func(t *testing.T) { relinkForeign(t, b) })
		}
	}
	if n < 3 {
		t.Fatalf("only %d differencing disks", n)
	}
}

func relinkForeign(t *testing.T, b []byte) {
	f := inMemory(b)
	repair(t, f, vhd.RepairOptions{})
	m := openImage(t, f)
	raw := vhd.Content(m.ParentUUID(), sevens{}, m.Size())
	sample := func() []byte {
		c, err := vhd.NewChain(openImage(t, f), raw)
		if err != nil {
			t.Fatal(err)
		}
		return readAll(t, c, min(c.Size(), 3<<20))
	}
	content := sample()
	for _, name := range []string{"p.vhd", "漢字/🖴.vhd", strings.Repeat("long/", 300) + "parent.vhd", "p2.vhd"} {
		p := vhd.Parent{UUID: m.ParentUUID(), Path: name}
		if _, err := vhd.Relink(f, f.size(), p, vhd.RelinkOptions{}); err != nil {
			t.Fatal(err)
		}
		relinked(t, f, p, nil, nil)
		if !bytes.Equal(sample(), content) {
			t.Error("content changed")
		}
	}
	h, _ := openImage(t, f).Header()
	before, _ := m.Header()
	if h.TableOffset != before.TableOffset || h.BlockSize != before.BlockSize || h.MaxTableEntries != before.MaxTableEntries {
		t.Error("the table moved")
	}
}

// TestRelinkRefuses: a parent with another uuid is another disk, unless the caller says otherwise.
func TestRelinkRefuses(t *testing.T) {
	t.Parallel()
	child, _, _ := goodChild(t)
	good, _ := goodDisk(t)
	ok := vhd.Parent{UUID: newUUID(1), Path: "p.vhd"}
	for _, c := range []struct {
		name string
		file []byte
		p    vhd.Parent
		want error // nil: any
	}{
		{"another uuid", child, vhd.Parent{UUID: newUUID(5), Path: "p.vhd"}, vhd.WrongParent},
		{"raw parent", child, vhd.Parent{Path: "p.raw"}, vhd.WrongParent},
		{"itself", child, vhd.Parent{UUID: newUUID(2), Path: "p.vhd"}, vhd.Cycle},
		{"no child", good, ok, vhd.BadType},
		{"end footer missing", child[:len(child)-512], ok, vhd.EndFooterMissing},
		{"no path", child, vhd.Parent{UUID: newUUID(1)}, nil},
		{"absolute path", child, vhd.Parent{UUID: newUUID(1), Path: "/p.vhd"}, nil},
		{"long name", child, vhd.Parent{UUID: newUUID(1), Path: strings.Repeat("🖴", 129)}, nil},
		{"long path", child, vhd.Parent{UUID: newUUID(1), Path: strings.Repeat("x/", 30000)}, nil},
	} {
		f := inMemory(c.file)
		if _, err := vhd.Relink(f, f.size(), c.p, vhd.RelinkOptions{}); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if f.ops > 0 {
			t.Errorf("%s: the file was written to", c.name)
		}
	}
	f := inMemory(child)
	p := vhd.Parent{UUID: newUUID(5), Path: "p.vhd"}
	if _, err := vhd.Relink(f, f.size(), p, vhd.RelinkOptions{SameContent: true}); err != nil {
		t.Fatal(err)
	}
	relinked(t, f, p, nil, nil)
}

// TestRelinkRemovesOthers: a locator in a form that is not written here would still name the old parent.
func TestRelinkRemovesOthers(t *testing.T) {
	t.Parallel()
	child, _, _ := goodChild(t)
	editHeader(child, func(h []byte) {
		copy(h[576+3*24:], h[576:576+24])
		copy(h[576+3*24:], "Wi2r")
		binary.BigEndian.PutUint32(h[576+3*24+8:], 4)
	})
	f := inMemory(child)
	if _, err := vhd.Relink(f, f.size(), vhd.Parent{UUID: newUUID(1), Path: "p.vhd"}, vhd.RelinkOptions{}); err != nil {
		t.Fatal(err)
	}
	h, _ := openImage(t, f).Header()
	var left []string
	for _, l := range h.Locators {
		if l.Platform != (vhd.Platform{}) {
			left = append(left, string(l.Platform[:]))
		}
	}
	if !slices.Equal(left, []string{"W2ru", "W2ku", "MacX"}) {
		t.Errorf("locators %v", left)
	}
}

// TestRelinkOnDisk: a real file is cut, and its chain opens from the new place.
func TestRelinkOnDisk(t *testing.T) {
	t.Parallel()
	child, _, content := goodChild(t)
	_, parents, _ := newChainFiles(t, goodSize, 1)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "neu Ä"), 0o700); err != nil {
		t.Fatal(err)
	}
	base, _, _ := newChainFiles(t, goodSize, 0)
	if err := os.WriteFile(filepath.Join(dir, "neu Ä", "basis 漢.vhd"), base.data, 0o600); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "leaf.vhd")
	if err := os.WriteFile(name, child, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := vhdfile.OpenChain(name, vhdfile.Options{}); !errors.Is(err, vhd.NoParent) {
		t.Fatalf("before: %v", err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := vhd.Parent{UUID: parents[0].UUID(), Path: "neu Ä/basis 漢.vhd"}
	if _, err := vhd.Relink(f, int64(len(child)), p, vhd.RelinkOptions{}); err != nil {
		t.Fatal(err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != int64(len(child)) {
		t.Errorf("the file has %d bytes, before %d (%v)", st.Size(), len(child), err)
	}
	c, err := vhdfile.OpenChain(name, vhdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !bytes.Equal(readAll(t, c, c.Size()), content) {
		t.Error("content differs")
	}
}
