package publish_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"disksync/image"
	"disksync/internal/problem"
	"disksync/internal/testkit/lab"
	"disksync/publish"
)

// TestDamagedVersionBefore: when the Synchronizer has lost the version that a difference is to start from, that is said, and nothing
// is published.
func TestDamagedVersionBefore(t *testing.T) {
	l := lab.Start(t)
	r := rand.NewChaCha8([32]byte{1})
	disk := make([]byte, 2*image.BlockSize)
	_, _ = r.Read(disk) // it never fails
	file := filepath.Join(t.TempDir(), "disk.raw")
	write := func() {
		if err := os.WriteFile(file, disk, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	publishFile(t, l, "win7", file)
	name := filepath.Join(l.Dir, "layers", stored(t, l)[0])
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[image.BlockSize/2] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	disk = append(bytes.Clone(disk[4096:]), disk[:4096]...)
	write()
	o := options(t, "win7", file)
	_, err = publish.Run(t.Context(), l.Admin, o)
	if p := problem.Of(err); p == nil || p.Code != "DS-SERVER-DAMAGED" {
		t.Errorf("published on a damaged version: %v", err)
	}
	im, err := l.Admin.Image(t.Context(), "win7")
	if err != nil || len(im.Versions) != 1 {
		t.Errorf("the image has %d versions, %v", len(im.Versions), err)
	}
	empty(t, o.Spool)
}
