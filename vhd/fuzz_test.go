package vhd_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"disksync/vhd"
)

// seedCorpus gives the small files of the corpus to a fuzz target.
func seedCorpus(f *testing.F) {
	f.Helper()
	names, err := filepath.Glob("testdata/corpus/*/*.gz")
	if err != nil {
		f.Fatal(err)
	}
	n := 0
	for _, name := range names {
		in, err := os.Open(name)
		if err != nil {
			f.Fatal(err)
		}
		z, err := gzip.NewReader(in)
		if err != nil {
			f.Fatal(err)
		}
		// The start holds everything that is parsed first; a few megabytes would only slow the fuzzer down.
		b, err := io.ReadAll(io.LimitReader(z, 16<<10))
		if err != nil {
			f.Fatal(err)
		}
		in.Close()
		f.Add(b)
		n++
	}
	if n < 20 {
		f.Fatalf("%d seeds, want at least 20", n)
	}
}

// FuzzOpen: no input makes the parser panic, and what opens can be read or says why not.
func FuzzOpen(f *testing.F) {
	seedCorpus(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, opts := range [][]vhd.Option{nil, {vhd.Salvage()}} {
			m, err := vhd.Open(bytes.NewReader(b), int64(len(b)), opts...)
			if err != nil {
				var e *vhd.Error
				if !errors.As(err, &e) {
					t.Fatalf("error %v has no fault", err)
				}
				continue
			}
			c, err := vhd.NewChain(m)
			if err != nil {
				continue
			}
			buf := make([]byte, min(c.Size(), 16<<10))
			for _, off := range []int64{0, c.Size() / 2, c.Size() - int64(len(buf))} {
				if _, err := c.ReadAt(buf, off); err != nil && !errors.Is(err, io.EOF) {
					t.Fatalf("read at %d: %v", off, err)
				}
			}
		}
	})
}
