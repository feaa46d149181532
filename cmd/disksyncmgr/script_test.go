package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"disksync/deploy"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/internal/testkit/script"
	"disksync/vhd/vhdfile"
)

// TestBothDoors runs the scripts in testdata/doors twice: $DOOR is --standalone, or --session with the service behind it.
func TestBothDoors(t *testing.T) {
	for _, door := range []string{"--standalone", "--session"} {
		t.Run(strings.TrimPrefix(door, "--"), func(t *testing.T) { scripts(t, "testdata/doors", door) })
	}
}

// TestFiles runs the scripts that make file systems, in the same way.
func TestFiles(t *testing.T) {
	testkit.Tool(t, "mke2fs")
	testkit.Tool(t, "debugfs")
	for _, door := range []string{"--standalone", "--session"} {
		t.Run(strings.TrimPrefix(door, "--"), func(t *testing.T) { scripts(t, "testdata/files", door) })
	}
}

// TestMounted runs the scripts that show disks as files, in the same way.
func TestMounted(t *testing.T) {
	testkit.FUSE(t)
	for _, tool := range []string{"mke2fs", "debugfs", "e2fsck"} {
		testkit.Tool(t, tool)
	}
	for _, door := range []string{"--standalone", "--session"} {
		t.Run(strings.TrimPrefix(door, "--"), func(t *testing.T) { scripts(t, "testdata/mounted", door) })
	}
}

// TestExchanged runs the scripts in which the service is exchanged under the files of a point.
func TestExchanged(t *testing.T) {
	testkit.FUSE(t)
	scripts(t, "testdata/exchanged", "--session")
}

// TestEarly runs the scripts that start a VM before it is here.
func TestEarly(t *testing.T) {
	testkit.Tool(t, "qemu-system-x86_64")
	scripts(t, "testdata/early", "")
}

// TestScripts runs the scripts that choose their door themselves.
func TestScripts(t *testing.T) { scripts(t, "testdata/scripts", "") }

func scripts(t *testing.T, dir, door string) {
	bin := shipped.Dir(t)
	testscript.Run(t, testscript.Params{
		Dir: dir, RequireExplicitExec: true, UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			s := &scene{t: env.T().(testing.TB), running: map[string]*testkit.Program{}}
			env.Values[sceneKey{}] = s
			env.Setenv("PROGRAMS", bin)
			env.Setenv("PATH", env.Getenv("PATH")+":"+bin)
			env.Setenv("DOOR", door)
			env.Setenv("NO_TERMINAL", "1")
			// Programs built with the race detector wait a second before they end.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Defer(func() {
				endVMs(filepath.Join(env.WorkDir, "S"))
				_ = syscall.Unmount(filepath.Join(env.WorkDir, "m"), syscall.MNT_DETACH) // where a script failed
			})
			bus := testkit.StartBus(s.t, testkit.SessionBus)
			env.Vars = append(env.Vars, bus.Env()...)
			// Whether the connection of the machine that this runs on is metered is of no interest.
			env.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere")
			if door == "--session" {
				cmd := exec.Command("disksyncmgr", "serve", "--session", "--state", "S")
				var err error
				cmd.Path, err = exec.LookPath("disksyncmgr")
				cmd.Dir, cmd.Env = env.WorkDir, env.Vars
				s.running["disksyncmgr"] = testkit.StartProgram(s.t, cmd)
				return err
			}
			return nil
		},
		Condition: script.Condition,
		Cmds: script.With(map[string]script.Command{
			"start": start, "end": end, "crash": crash, "interrupt": interrupt, "same": same, "slow": slow, "settled": settled, "until": until,
			"write": write,
		}),
	})
}

// endVMs ends the VMs of a state folder, which outlive their service and so a script that failed.
func endVMs(dir string) {
	found, _ := filepath.Glob(filepath.Join(dir, "run", "*", "pid"))
	for _, name := range found {
		b, err := os.ReadFile(name)
		pid, convErr := strconv.Atoi(strings.TrimSpace(string(b)))
		if errors.Join(err, convErr) == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// write STATE VM OFFSET TEXT: write to the VM's system disk as the VM does; @FILE: what is in a file.
func write(ts *testscript.TestScript, _ bool, args []string) {
	record, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "vms", "*.json"))
	ts.Check(err)
	p := []byte(args[3])
	if name, ok := strings.CutPrefix(args[3], "@"); ok {
		p, err = os.ReadFile(ts.MkAbs(name))
		ts.Check(err)
	}
	off, err := strconv.ParseInt(args[2], 10, 64)
	ts.Check(err)
	for _, name := range record {
		b, err := os.ReadFile(name)
		ts.Check(err)
		var vm deploy.VM
		ts.Check(json.Unmarshal(b, &vm))
		if vm.Name == args[1] {
			leaf := filepath.Join(ts.MkAbs(args[0]), filepath.FromSlash(deploy.Path(vm.Current.Disks[0].Leaf)))
			d, err := vhdfile.OpenDisk(leaf, vhdfile.Options{})
			ts.Check(err)
			_, err = d.WriteAt(p, off)
			ts.Check(errors.Join(err, d.Sync(), d.Close()))
			return
		}
	}
	ts.Fatalf("there is no VM %s", args[1])
}

type sceneKey struct{}

// scene is what runs beside a script.
type scene struct {
	t       testing.TB
	running map[string]*testkit.Program
	line    *lab.Line // nil until a script wants a slow one
}

func sceneOf(ts *testscript.TestScript) *scene { return ts.Value(sceneKey{}).(*scene) }

func command(ts *testscript.TestScript, args []string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	for dir := range strings.SplitSeq(ts.Getenv("PATH"), ":") {
		name := filepath.Join(dir, args[0])
		if _, err := os.Stat(name); err == nil {
			cmd.Path, cmd.Err = name, nil
			break
		}
	}
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = nil
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GORACE", "NO_TERMINAL", "DBUS_SESSION_BUS_ADDRESS", "DISKSYNCMGR_STATE"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	return cmd
}

// start PROGRAM ARG…: start a service and wait for its first line. Of a Synchronizer, $URL, $ADDRESS and $FINGERPRINT are set.
func start(ts *testscript.TestScript, _ bool, args []string) {
	s := sceneOf(ts)
	p, err := testkit.RunProgram(s.t, command(ts, args))
	ts.Check(err)
	s.running[args[0]] = p
	if words := strings.Fields(p.Line); words[0] == "listening" {
		ts.Setenv("URL", words[1])
		ts.Setenv("ADDRESS", strings.TrimPrefix(words[1], "https://"))
		ts.Setenv("FINGERPRINT", words[3])
	}
	ts.Logf("%s", p.Line)
}

// end PROGRAM: ask a service to end, which it must do well.
func end(ts *testscript.TestScript, _ bool, args []string) {
	s := sceneOf(ts)
	ts.Check(s.running[args[0]].Stop())
}

// crash PROGRAM: end a service at once.
func crash(ts *testscript.TestScript, _ bool, args []string) {
	if !sceneOf(ts).running[args[0]].Kill() {
		ts.Fatalf("%s had ended before", args[0])
	}
}

// interrupt PATTERN PROGRAM ARG…: run a program, interrupt it as Ctrl-C does when there is a file like PATTERN, and want the
// status of an interrupt. What it says on standard error is in the file interrupted.
func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	cmd := command(ts, args[1:])
	var errs bytes.Buffer
	cmd.Stderr = &errs
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(testkit.Patience)
	for found := []string{}; len(found) == 0; {
		select {
		case <-tick.C:
			var err error
			found, err = filepath.Glob(ts.MkAbs(args[0]))
			ts.Check(err)
		case err := <-ended:
			ts.Fatalf("it ended before the interrupt: %v %s", err, errs.String())
		case <-deadline:
			ts.Fatalf("there was no file like %s", args[0])
		}
	}
	ts.Check(cmd.Process.Signal(syscall.SIGINT))
	<-ended
	if exit := cmd.ProcessState.ExitCode(); exit != 130 {
		ts.Fatalf("exit status %d: %s", exit, errs.String())
	}
	ts.Check(os.WriteFile(ts.MkAbs("interrupted"), errs.Bytes(), 0o600))
}

// same FILE FILE: two files have the same bytes.
func same(ts *testscript.TestScript, neg bool, args []string) {
	a, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	b, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	if bytes.Equal(a, b) == neg {
		ts.Fatalf("%s has %d bytes, %s has %d; the same: %t", args[0], len(a), args[1], len(b), !neg)
	}
}

// slow BYTES: $SLOW is the address of the Synchronizer behind a line that brings so many bytes a second, from now on; 0: as many as
// can be taken.
func slow(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.ParseInt(args[0], 10, 64)
	ts.Check(err)
	s := sceneOf(ts)
	if s.line != nil {
		s.line.SetRate(n)
		return
	}
	s.line = (&lab.Lab{URL: ts.Getenv("URL")}).Line(s.t, n)
	ts.Setenv("SLOW", s.line.URL)
}

// until PATTERN PROGRAM ARG…: run a program again and again until its output matches.
func until(ts *testscript.TestScript, _ bool, args []string) {
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(testkit.Patience)
	for {
		out, err := command(ts, args[1:]).Output()
		ts.Check(err)
		if pattern.Match(out) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("in the end it prints\n%s", out)
		}
	}
}

// settled: nothing is left of what was not finished, in the state folder S.
func settled(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(leftovers(ts.MkAbs("S")))
}

// leftovers returns an error when a state folder has files that should have been gone or finished.
func leftovers(dir string) error {
	for _, pattern := range []string{"*.tmp", "*/*.tmp", "*/*.part"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(found) > 0 {
			return errors.Join(err, errors.New("left over: "+strings.Join(found, " ")))
		}
	}
	return nil
}
