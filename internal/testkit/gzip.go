package testkit

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
)

// Gzip has GNU gzip pack content at a level, 1 to 9.
func Gzip(t testing.TB, content []byte, level int) []byte {
	t.Helper()
	cmd := exec.Command(Tool(t, "gzip"), "-nc", fmt.Sprintf("-%d", level))
	cmd.Stdin = bytes.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("gzip: %v", err)
	}
	return out
}

// Gunzip returns what a packed file of testdata holds.
func Gunzip(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return b
}
