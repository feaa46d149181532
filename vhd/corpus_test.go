package vhd_test

import (
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"disksync/image"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// faultNames are the faults that a manifest's expect column may name.
var faultNames = map[string]vhd.Fault{
	"BadBAT": vhd.BadBAT, "BadBlockSize": vhd.BadBlockSize, "BadType": vhd.BadType, "CopyDamaged": vhd.CopyDamaged,
	"EndFooterDamaged": vhd.EndFooterDamaged, "EndFooterMissing": vhd.EndFooterMissing, "ShortFooter": vhd.ShortFooter,
}

type corpusFile struct {
	name, creator string
	typ, chain    string
	size          int64
	expect        string
}

// TestCorpus reads disks that other programs made, and damaged ones. Its manifest is kept for ever.
func TestCorpus(t *testing.T) {
	t.Parallel()
	checkCorpus(t, "testdata/corpus", 30)
}

// TestThirdPartyCorpus reads disks of Windows, VirtualBox and others that may not be copied into the project.
func TestThirdPartyCorpus(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("DISKSYNC_VHD_CORPUS")
	if dir == "" {
		dir = "../../shared/vhd-corpus"
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skip("no corpus of other programs' disks here; DISKSYNC_VHD_CORPUS names its folder")
	}
	checkCorpus(t, dir, 45)
}

func checkCorpus(t *testing.T, dir string, atLeast int) {
	files := readManifest(t, filepath.Join(dir, "MANIFEST.tsv"))
	if len(files) < atLeast {
		t.Fatalf("the manifest names %d files, want at least %d", len(files), atLeast)
	}
	unpacked := unpackCorpus(t, dir, files)
	for _, f := range files {
		t.Run(f.name, func(t *testing.T) {
			path := filepath.Join(unpacked, trimPack(f.name))
			f.check(t, path)
			checkFindings(t, trimPack(f.name), path)
		})
	}
}

func readManifest(t *testing.T, name string) []corpusFile {
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var files []corpusFile
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if strings.HasPrefix(line, "#") || f[0] == "file" {
			continue
		}
		size, err := strconv.ParseInt(f[3], 10, 64)
		if err != nil {
			t.Fatalf("manifest: %v", err)
		}
		files = append(files, corpusFile{name: f[0], typ: f[1], creator: f[2], size: size, chain: f[4], expect: f[5]})
	}
	return files
}

func trimPack(name string) string {
	return strings.TrimSuffix(strings.TrimSuffix(name, ".gz"), ".bz2")
}

// unpackCorpus unpacks every file, since parents are looked for beside their children.
func unpackCorpus(t *testing.T, dir string, files []corpusFile) string {
	out := t.TempDir()
	for _, f := range files {
		in, err := os.Open(filepath.Join(dir, f.name))
		if err != nil {
			t.Fatal(err)
		}
		var r io.Reader = bufio.NewReader(in)
		switch filepath.Ext(f.name) {
		case ".gz":
			if r, err = gzip.NewReader(r); err != nil {
				t.Fatal(err)
			}
		case ".bz2":
			r = bzip2.NewReader(r)
		}
		name := filepath.Join(out, trimPack(f.name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		w, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, r); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Close(), in.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func (f corpusFile) check(t *testing.T, name string) {
	want, rest, _ := strings.Cut(f.expect, " ")
	c, err := vhdfile.OpenChain(name, vhdfile.Options{})
	if want == "error" {
		if !errors.Is(err, faultNames[rest]) {
			t.Fatalf("open: %v, want %s", err, rest)
		}
		return
	}
	if want == "-" {
		f.checkUnreadable(t, err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f.checkProperties(t, c)
	if w := faultNames[rest]; w != 0 && !hasWarning(c.Members()[0], w) {
		t.Errorf("warnings %v, want %v", c.Members()[0].Warnings(), w)
	}
	if want == "zeros" || want == "(large," {
		checkZeros(t, c)
	} else if got := contentHash(t, c); got != want {
		t.Errorf("content is %s, want %s", got, want)
	}
}

// checkUnreadable covers the files whose manifest gives no content: damaged ones, and a child whose parent is not there.
func (f corpusFile) checkUnreadable(t *testing.T, err error) {
	t.Helper()
	base := filepath.Base(f.name)
	recovered := strings.Contains("bad-copy0 bad-end-footer no-end-footer trailing-garbage fixed-footer-511",
		strings.TrimSuffix(base, ".vhd.gz"))
	var e *vhd.Error
	switch {
	case recovered && err != nil:
		t.Errorf("open: %v, want recovery from the other footer", err)
	case !recovered && err == nil:
		t.Error("opened, want an error")
	case !recovered && !errors.As(err, &e) && !errors.Is(err, vhd.NoParent):
		t.Errorf("error %v names no fault", err)
	}
}

func (f corpusFile) checkProperties(t *testing.T, c *vhdfile.Chain) {
	t.Helper()
	leaf := c.Members()[0]
	if got := leaf.Size(); got != f.size {
		t.Errorf("size %d, want %d", got, f.size)
	}
	if got := strings.ReplaceAll(leaf.Type().String(), "differencing", "diff"); got != f.typ {
		t.Errorf("type %s, want %s", got, f.typ)
	}
	app := leaf.Footer().Creator.App
	if got := strings.ReplaceAll(string(app[:]), "\x00", `\0`); strings.TrimRight(got, " ") != strings.TrimRight(f.creator, " ") {
		t.Errorf("creator %q, want %q", got, f.creator)
	}
	want := 1
	if f.chain != "-" {
		want += len(strings.Split(f.chain, " -> "))
	}
	if got := len(c.Members()); got != want {
		t.Errorf("%d members, want %d (%s)", got, want, f.chain)
	}
}

func hasWarning(m *vhd.Image, f vhd.Fault) bool {
	for _, w := range m.Warnings() {
		if errors.Is(w, f) {
			return true
		}
	}
	return false
}

func contentHash(t *testing.T, c *vhdfile.Chain) string {
	t.Helper()
	h := sha256.New()
	buf := make([]byte, 4<<20)
	for off := int64(0); off < c.Size(); off += int64(len(buf)) {
		n, err := c.ReadAt(buf, off)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		h.Write(buf[:n])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// checkZeros reads what the members of a disk that is too large to read hold.
func checkZeros(t *testing.T, c *vhdfile.Chain) {
	t.Helper()
	for e, err := range c.Extents(0, c.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Member < 0 {
			continue
		}
		b := make([]byte, e.Length)
		if _, err := c.ReadAt(b, e.Offset); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if !image.IsZero(b) {
			t.Errorf("data at %d", e.Offset)
		}
	}
}
