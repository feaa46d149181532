package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/vhd"
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
		Condition: func(condition string) (bool, error) {
			if condition != "root" {
				return false, fmt.Errorf("no condition %q", condition)
			}
			if os.Getuid() != 0 && os.Getenv("CI") != "" {
				return false, errors.New("a part of this script acts as another user, so it needs root; where CI is set it may not be left out")
			}
			return os.Getuid() == 0, nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"start": start, "stop": stop, "exits": exits, "disk": disk, "vhd": toVHD, "shape": shape, "damage": damage, "small": small,
		},
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

// stop: ask the server to end, which it must do well.
func stop(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(ts.Value(sceneKey{}).(*scene).running.Stop())
}

// exits STATUS PROGRAM ARG…: the program ends with the status.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](ts.Exec(args[1], args[2:]...)); ok {
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("%s: exit status %d, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

// disk FILE SEED…: write a raw disk with a block for each seed; 0 is a block of zeros.
func disk(ts *testscript.TestScript, _ bool, args []string) {
	var seeds []uint64
	for _, a := range args[1:] {
		n, err := strconv.ParseUint(a, 10, 64)
		ts.Check(err)
		seeds = append(seeds, n)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), lab.Disk(seeds...), 0o600))
}

// vhd FILE RAW [PARENT]: write a raw disk as a dynamic VHD, or as one that differs from PARENT.
func toVHD(ts *testscript.TestScript, _ bool, args []string) {
	raw, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	o := vhd.CreateOptions{Size: int64(len(raw)), UUID: [16]byte{1}, Timestamp: vhd.TimestampOf(time.Now())}
	var parents []*vhd.Image
	if len(args) > 2 {
		p, err := os.Open(ts.MkAbs(args[2]))
		ts.Check(err)
		defer p.Close()
		st, err := p.Stat()
		ts.Check(err)
		parent, err := vhd.Open(p, st.Size())
		ts.Check(err)
		parents = append(parents, parent)
		o.UUID, o.Parent = [16]byte{2}, &vhd.Parent{UUID: parent.UUID(), Path: args[2]}
	}
	ts.Check(vhd.Create(f, o))
	st, err := f.Stat()
	ts.Check(err)
	d, err := vhd.OpenDisk(f, st.Size(), parents)
	ts.Check(err)
	_, err = d.WriteAt(raw, 0)
	ts.Check(err)
	ts.Check(d.Sync())
}

// shape FILE: the JSON that was printed last has the names and types that are in the file.
func shape(ts *testscript.TestScript, _ bool, args []string) {
	got, err := testkit.JSONShape([]byte(ts.ReadFile("stdout")))
	ts.Check(err)
	if want := ts.ReadFile(args[0]); got != want {
		ts.Fatalf("the shape is\n%s", got)
	}
}

// damage PATTERN: change a byte in the middle of each file like PATTERN.
func damage(ts *testscript.TestScript, _ bool, args []string) {
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(names) == 0 {
		ts.Fatalf("there is no file like %s", args[0])
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		ts.Check(err)
		b[len(b)/2] ^= 1
		ts.Check(os.Chmod(name, 0o600))
		ts.Check(os.WriteFile(name, b, 0o600))
	}
}

// small FOLDER SIZE: make a folder with room for so much, as mount(8) takes it.
func small(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+args[1]))
	ts.Defer(func() { ts.Check(syscall.Unmount(dir, 0)) })
}
