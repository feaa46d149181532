package testkit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Build builds programs of the project, as "cmd/xec", into the folder dir, the way they are shipped: without the race detector.
func Build(dir string, programs ...string) error {
	args := []string{"build", "-o", dir + "/"}
	for _, p := range programs {
		args = append(args, "disksync/"+p)
	}
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %v: %w: %s", programs, err, out)
	}
	return nil
}

// Program is a program that runs beside a test, such as a service. It is safe for concurrent use.
type Program struct {
	// Line is the first line that it printed.
	Line string

	t      testing.TB
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // how it ended; read when exited is closed
	stderr Buffer
}

// programTime is how long a program may take to begin, or to end when it is asked to.
const programTime = 30 * time.Second

// StartProgram starts a program and waits for its first line on standard output. It is asked to end, and waited for, when the
// test ends; what it said on standard error is shown when the test has failed.
func StartProgram(t testing.TB, cmd *exec.Cmd) *Program {
	t.Helper()
	p, err := RunProgram(t, cmd)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// RunProgram is StartProgram for a program that may fail to start.
func RunProgram(t testing.TB, cmd *exec.Cmd) (*Program, error) {
	p := &Program{t: t, cmd: cmd, exited: make(chan struct{})}
	cmd.Stderr = &p.stderr
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = in
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	go func() {
		// The program dies with the thread that started it: with us.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.exited)
		}
	}()
	err = <-started
	in.Close()
	if err != nil {
		out.Close()
		return nil, err
	}
	t.Cleanup(func() {
		_ = p.Stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", cmd.Args, p.Stderr())
		}
	})
	if err := out.SetReadDeadline(time.Now().Add(programTime)); err != nil {
		return nil, err
	}
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("%v did not begin: %w: %s", cmd.Args, err, p.Stderr())
	}
	p.Line = strings.TrimSuffix(line, "\n")
	if err := out.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	go func() {
		_, _ = io.Copy(io.Discard, r)
		out.Close()
	}()
	return p, nil
}

// Stop asks the program to end, waits for it and returns how it ended, as exec.Cmd.Wait does.
func (p *Program) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.exited:
		return p.err
	case <-time.After(programTime):
	}
	p.t.Errorf("%v did not end when asked to", p.cmd.Args)
	p.Kill()
	return p.err
}

// Kill ends the program at once and reports whether it was that what ended it.
func (p *Program) Kill() (killed bool) {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.exited
	exit, ok := errors.AsType[*exec.ExitError](p.err)
	if !ok {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// Exited is closed when the program has ended.
func (p *Program) Exited() <-chan struct{} { return p.exited }

// Err returns how the program ended, once Exited is closed.
func (p *Program) Err() error {
	<-p.exited
	return p.err
}

// Pid returns the number of the process.
func (p *Program) Pid() int { return p.cmd.Process.Pid }

// Stderr returns what the program said on standard error so far.
func (p *Program) Stderr() string { return p.stderr.String() }
