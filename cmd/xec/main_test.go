package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"xec": main})
}

// TestScripts runs the program itself; what it does on a bus is tested in package
// xec.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			// Programs built with the race detector wait a second before they end.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
	})
}
