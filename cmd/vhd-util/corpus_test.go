package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestThirdPartyCorpus describes disks of Windows, VirtualBox and others that may not be copied into the project.
func TestThirdPartyCorpus(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("DISKSYNC_VHD_CORPUS")
	if dir == "" {
		dir = "../../../shared/vhd-corpus"
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skip("no corpus of other programs' disks here; DISKSYNC_VHD_CORPUS names its folder")
	}
	manifest, err := os.ReadFile(filepath.Join(dir, "MANIFEST.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for line := range strings.Lines(string(manifest)) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if !strings.HasPrefix(f[0], "third-party/") || f[5] == "-" || filepath.Ext(f[0]) == ".bz2" {
			continue // those that take long to unpack are read in package vhd
		}
		checked++
		var d description
		if err := json.Unmarshal([]byte(util(t, "info", "--json", unpackFile(t, filepath.Join(dir, f[0])))), &d); err != nil {
			t.Fatal(err)
		}
		if got := strings.ReplaceAll(d.Type, "differencing", "diff"); got != f[1] || strconv.FormatInt(d.Size, 10) != f[3] {
			t.Errorf("%s: %s of %d bytes, want %s of %s", f[0], got, d.Size, f[1], f[3])
		}
	}
	if checked < 10 {
		t.Errorf("the manifest names %d disks of others, want at least 10", checked)
	}
}

func unpackFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Ext(name) == ".gz" {
		r, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if b, err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(t.TempDir(), "disk.vhd")
	if err := os.WriteFile(out, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}
