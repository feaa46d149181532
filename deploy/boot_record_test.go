package deploy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/deploy"
	"disksync/image"
)

// TestBootRecorder: blocks are noted once, in the order of their first read, and not too many of them.
func TestBootRecorder(t *testing.T) {
	var r deploy.BootRecorder
	for _, x := range []struct{ off, n int64 }{{5 * block, 512}, {0, 1}, {5*block + 4096, 512}, {2*block - 1, 2}, {3, 0}, {-5, 3}} {
		r.Read(image.System, x.off, x.n)
	}
	r.Read(image.User, 9*block, block)
	if diff := cmp.Diff(image.BootTrace{image.System: {5, 0, 1, 2}, image.User: {9}}, r.Trace()); diff != "" {
		t.Error(diff)
	}
	r.Read(image.System, 0, 1<<40)
	if got := r.Trace()[image.System]; len(got) != image.MaxBoot || image.CheckBoot(got, image.MaxDiskSize) != nil {
		t.Errorf("%d blocks", len(got))
	}
}
