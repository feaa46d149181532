package dbusapi_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"disksync/internal/testkit"
)

// programs is the folder of the programs as they are shipped, built when the first test asks for them.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "programs")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // other users run the programs in it, too
		return "", err
	}
	built = dir
	return dir, testkit.Build(dir, "cmd/disksyncmgr")
})

var built string

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built) // temporary either way
	}
	os.Exit(code)
}

// disksyncmgr returns the path of the program.
func disksyncmgr(t *testing.T) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "disksyncmgr")
}
