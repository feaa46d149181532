// Package testkit holds what the tests of several packages need of the world
// outside of the test: external programs and private D-Bus buses.
package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Missing skips a test for want of something that the machine should have. Where CI is set it fails, since there a test that is skipped
// is one that silently never runs.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	what := fmt.Sprintf("this test needs "+format, args...)
	if os.Getenv("CI") != "" {
		t.Fatal(what + "; where CI is set it may not be skipped")
	}
	t.Skip(what)
}

// Tool returns the path of an external program, which must not be [Missing].
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "%s: %v", name, err)
	}
	return path
}

// Root says that only root can do a test, and why.
func Root(t testing.TB, why string) {
	t.Helper()
	if os.Getuid() != 0 {
		Missing(t, "root: %s", why)
	}
}

// FUSE says that a test mounts by FUSE.
func FUSE(t testing.TB) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		Missing(t, "FUSE: %v", err)
	}
	Tool(t, "fusermount3")
}
