package main

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"disksync/internal/testkit"
)

// programs is the folder of the project's programs as they are shipped, built when the first test asks for them.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "programs")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // other users run the programs in it, too
		return "", err
	}
	built = dir
	return dir, testkit.Build(dir, "cmd/disksyncmgr", "cmd/synchronizer", "cmd/xec")
})

var built string

// tests removes the programs after the tests.
type tests struct{ *testing.M }

func (t tests) Run() int {
	code := t.M.Run()
	if built != "" {
		_ = os.RemoveAll(built) // temporary either way
	}
	return code
}

func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){"disksyncmgr": func() {
		if os.Getenv("NO_TERMINAL") != "" {
			// Whoever runs the tests may sit at a terminal; the programs of the scripts do not.
			_, _ = syscall.Setsid()
		}
		main()
	}})
}

// program returns the path of a program as it is shipped.
func program(t *testing.T, name string) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}
