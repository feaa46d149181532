package testkit

import (
	"os"
	"testing"
)

// Scratch returns an empty temporary file that ends with the test.
func Scratch(t testing.TB) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "scratch-*") //nolint:forbidigo // not a persistent file
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
