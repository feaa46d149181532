// Package testkit holds what the tests of several packages need of the world
// outside of the test: external programs and private D-Bus buses.
package testkit

import (
	"os"
	"os/exec"
	"testing"
)

// Tool returns the path of an external program. A test that needs a program which
// is not installed is skipped; but where CI is set it fails, since there a missing
// program means that tests silently do not run.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("this test needs %s, and where CI is set it may not be skipped: %v", name, err)
	}
	t.Skipf("this test needs %s: %v", name, err)
	return ""
}

// Root skips a test that only root can do; where CI is set it fails.
func Root(t testing.TB, why string) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("this test needs root, and where CI is set it may not be skipped: %s", why)
	}
	t.Skipf("this test needs root: %s", why)
}
