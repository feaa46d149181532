package vhd_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"disksync/vhd"
)

// corpusFindings are the files in which more is to be found than notes, and what.
var corpusFindings = map[string][]vhd.Fault{
	"bad-bat-in-header":    {vhd.BlockInMetadata},
	"bad-bat-past-eof":     {vhd.BlockPastEnd},
	"bad-blocksize-0":      {vhd.BadBlockSize},
	"bad-blocksize-npot":   {vhd.BadBlockSize},
	"bad-copy0":            {vhd.CopyDamaged},
	"bad-disktype-5":       {vhd.BadType},
	"bad-end-footer":       {vhd.EndFooterDamaged},
	"bad-maxentries-small": {vhd.BadBAT},
	"bad-tableoffset":      {vhd.BadBAT},
	"no-end-footer":        {vhd.EndFooterMissing},
	"trailing-garbage":     {vhd.EndFooterMissing},
	"hcsshim-style-footer": {vhd.NilUUID},

	"third-party/plaso/image":              {vhd.NilUUID},
	"third-party/dfvfs/image":              {vhd.ChecksumStale},
	"third-party/dfvfs/image-differential": {vhd.ChecksumStale},
}

// corpusNotes are notes that must be there.
var corpusNotes = map[string][]vhd.Fault{
	"fixed-footer-511":     {vhd.ShortFooter},
	"trailing-garbage":     {vhd.TrailingData},
	"hcsshim-style-footer": {vhd.WrongGeometry},
	"win8":                 {vhd.TrailingData},
}

// checkFindings is part of the corpus tests: in every file Check finds what is wrong with it and nothing else, and Open agrees
// with it.
func checkFindings(t *testing.T, name, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	rep, err := vhd.Check(f, st.Size(), vhd.CheckOptions{Data: true})
	if err != nil {
		t.Fatal(err)
	}
	name = strings.TrimSuffix(name, ".vhd")
	want, ok := corpusFindings[name]
	if !ok {
		want = corpusFindings[filepath.Base(name)]
	}
	var worse []vhd.Fault
	for _, e := range rep.Findings {
		if e.Fault.Severity() > vhd.Note && !slices.Contains(worse, e.Fault) {
			worse = append(worse, e.Fault)
		}
	}
	if !slices.Equal(worse, want) {
		t.Errorf("findings %v, want %v", rep.Findings, want)
	}
	for _, n := range corpusNotes[filepath.Base(name)] {
		if !rep.Has(n) {
			t.Errorf("findings %v, want the note %v", rep.Findings, n)
		}
	}
	worst, _ := rep.Worst()
	if _, err := vhd.Open(f, st.Size()); (err != nil) != (worst == vhd.Damage) {
		t.Errorf("open: %v, and check finds %v", err, rep.Findings)
	}
}
