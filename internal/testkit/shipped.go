package testkit

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Shipped are programs of the project as they are shipped, built when the first test asks for one. It is safe for concurrent
// use.
type Shipped struct {
	programs []string // as "cmd/xec"
	once     sync.Once
	dir      string
	err      error
}

// NewShipped names the programs. TestMain calls Remove after the tests.
func NewShipped(programs ...string) *Shipped { return &Shipped{programs: programs} }

// Dir returns the folder that the programs are in.
func (s *Shipped) Dir(t testing.TB) string {
	t.Helper()
	s.once.Do(func() {
		if s.dir, s.err = os.MkdirTemp("", "programs"); s.err != nil {
			return
		}
		// Other users run the programs in it, too.
		if s.err = os.Chmod(s.dir, 0o755); s.err == nil {
			s.err = Build(s.dir, s.programs...)
		}
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.dir
}

// Path returns the path of a program, such as "xec".
func (s *Shipped) Path(t testing.TB, name string) string {
	t.Helper()
	return filepath.Join(s.Dir(t), name)
}

// Remove removes the programs.
func (s *Shipped) Remove() {
	if s.dir != "" {
		_ = os.RemoveAll(s.dir) // temporary either way
	}
}
