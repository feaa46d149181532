package vhd

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestFooterRoundTrip: parsing and writing gives the same bytes, so nothing that is not understood gets lost.
func TestFooterRoundTrip(t *testing.T) {
	names, err := filepath.Glob("testdata/corpus/*/*.gz")
	if err != nil || len(names) == 0 {
		t.Fatal("no corpus", err)
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, FooterSize+headerSize)
		if _, err := io.ReadFull(z, b); err != nil {
			continue // a disk of one sector
		}
		if ft, found, err := parseFooter(b[:FooterSize]); found && err == nil && !bytes.Equal(ft.marshal(), b[:FooterSize]) {
			t.Errorf("%s: footer changes", name)
		} else if found && err == nil && string(ft.Creator.App[:3]) == "tap" && ft.Geometry != GeometryFor(ft.Size) {
			t.Errorf("%s: geometry of %d bytes is %s, tapdisk says %s", name, ft.Size, GeometryFor(ft.Size), ft.Geometry)
		}
		if h, err := parseHeader(b[FooterSize:], false); err == nil && !bytes.Equal(h.marshal(), b[FooterSize:]) {
			t.Errorf("%s: header changes", name)
		}
	}
}

// TestGeometry: the values are those of the specification's algorithm, at its edges.
func TestGeometry(t *testing.T) {
	for _, c := range []struct {
		size int64
		want string
	}{
		{512, "0/4/17"},
		{16 << 20, "481/4/17"},
		{31 << 30, "64495/16/63"},
		{66059280 * 512, "16191/16/255"},
		{66059279 * 512, "65534/16/63"},
		{2040 << 30, "65535/16/255"},
	} {
		g := GeometryFor(c.size)
		if g.String() != c.want {
			t.Errorf("%d: %s, want %s", c.size, g, c.want)
		}
		if g.Size() > c.size {
			t.Errorf("%d: the geometry has %d", c.size, g.Size())
		}
	}
}
