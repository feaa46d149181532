package xec_test

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"disksync/internal/testkit"
	"disksync/xec"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"xec": func() { os.Exit(xec.Main(os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs the scripts in testdata/script, which read like a manual. The
// test service is offered on both buses of each script.
func TestScripts(t *testing.T) {
	testkit.Tool(t, "dbus-daemon")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			session := testkit.StartBus(t, testkit.SessionBus)
			system := testkit.StartBus(t, testkit.SystemBus, systemPolicy)
			startService(t, session)
			startService(t, system)
			// Programs built with the race detector wait a second before they end.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Vars = append(env.Vars, session.Env()...)
			env.Vars = append(env.Vars, system.Env()...)
			return nil
		},
	})
}
