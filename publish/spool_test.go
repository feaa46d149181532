package publish_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"disksync/internal/testkit/lab"
	"disksync/publish"
)

// TestSpoolWhileChecked: when the Synchronizer checks a difference, what was unpacked for it has given its room back: only the packed
// difference is left, of which an answer may have been damaged.
func TestSpoolWhileChecked(t *testing.T) {
	l := lab.Start(t)
	dir := t.TempDir()
	publishFile(t, l, "golden", writeRaw(t, filepath.Join(dir, "v1.raw"), newDisk(1, 2, 3, 4)))
	o := options(t, "golden", writeRaw(t, filepath.Join(dir, "v2.raw"), newDisk(1, 5, 3, 6)))
	seen := map[string]int{}
	o.Progress = func(stage string, _, _ int64) {
		step, _, _ := strings.Cut(stage, " ")
		seen[step] = max(seen[step], openIn(t, o.Spool))
	}
	if _, err := publish.Run(t.Context(), l.Admin, o); err != nil {
		t.Fatal(err)
	}
	if seen["pack"] != 2 || seen["verify"] != 1 {
		t.Errorf("open files in the spool folder: %v", seen)
	}
}

// openIn returns how many files without a name this process has open in a folder.
func openIn(t *testing.T, dir string) (n int) {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if name, err := os.Readlink(fd); err == nil && strings.HasPrefix(name, dir+"/") {
			n++
		}
	}
	return n
}
