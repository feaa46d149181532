package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"disksync/internal/testkit"
	"disksync/internal/testkit/script"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"synchronizer": func() {
		// Whoever runs the tests may sit at a terminal; the programs of the scripts do not.
		_, _ = syscall.Setsid()
		if os.Getenv("AS_NOBODY") != "" {
			if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
				panic(err)
			}
		}
		main()
	}})
}

// nobody is a user and a group without rights.
const nobody = 65534

// TestScripts runs the scripts in testdata: a manual of the program, which shows that it is right.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireExplicitExec: true, UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			env.Values[sceneKey{}] = &scene{t: env.T().(testing.TB)}
			// Programs built with the race detector wait a second before they end.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Condition: script.Condition,
		Cmds:      script.With(map[string]script.Command{"start": start, "end": end, "backup": backup}),
	})
}

type sceneKey struct{}

// scene is what runs beside a script.
type scene struct {
	t       testing.TB
	running *testkit.Program
}

// start ARG…: start "synchronizer serve ARG…" and wait for its first line, which is in the file line. $URL and $FINGERPRINT are
// what it says.
func start(ts *testscript.TestScript, _ bool, args []string) {
	s := ts.Value(sceneKey{}).(*scene)
	cmd := exec.Command("synchronizer", append([]string{"serve"}, args...)...)
	dir, _, _ := strings.Cut(ts.Getenv("PATH"), ":") // where testscript puts the programs of the scripts
	cmd.Path, cmd.Err = filepath.Join(dir, "synchronizer"), nil
	cmd.Dir = ts.Getenv("WORK")
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GORACE", "SYNCHRONIZER_DATA"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	var err error
	s.running, err = testkit.RunProgram(s.t, cmd)
	ts.Check(err)
	words := strings.Fields(s.running.Line)
	if len(words) != 4 {
		ts.Fatalf("it says %q", s.running.Line)
	}
	ts.Setenv("URL", words[1])
	ts.Setenv("FINGERPRINT", words[3])
	ts.Check(os.WriteFile(ts.MkAbs("line"), []byte(s.running.Line+"\n"), 0o600))
}

// end: ask the server to end, which it must do well.
func end(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(ts.Value(sceneKey{}).(*scene).running.Stop())
}
