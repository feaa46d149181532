package main

import (
	"os"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"disksync/internal/testkit"
)

// shipped are the programs that scripts use besides the one that is tested.
var shipped = testkit.NewShipped("cmd/disksyncmgr", "cmd/synchronizer", "cmd/xec")

// tests removes the programs after the tests.
type tests struct{ *testing.M }

func (t tests) Run() int {
	defer shipped.Remove()
	return t.M.Run()
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
