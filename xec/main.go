package xec

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"disksync/internal/busconn"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1
)

// Program is xec with what it needs of the world around it. All fields must be
// set; NewProgram does so. Run may be called by one goroutine at a time.
type Program struct {
	// Stdout takes the results, and the errors that services answer with.
	Stdout io.Writer
	// Stderr takes what xec itself finds wrong.
	Stderr io.Writer
	// Getenv returns an environment variable; the addresses of the buses are read
	// from it.
	Getenv func(name string) string
	// Pause waits before another attempt to reach a service that is not there.
	// attempt counts from 0. It returns false if there is to be no other attempt.
	Pause func(ctx context.Context, attempt int) bool
	// Log takes note of a command line.
	Log func(args []string)
}

// NewProgram returns xec as it runs outside of tests.
func NewProgram(stdout, stderr io.Writer) *Program {
	return &Program{
		Stdout: stdout,
		Stderr: stderr,
		Getenv: os.Getenv,
		Pause:  pause,
		Log:    func(args []string) { logInvocation(syslogSocket, args, time.Now()) },
	}
}

// Main runs xec with a command line (without the program's name) and returns the
// exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	return NewProgram(stdout, stderr).Run(context.Background(), args)
}

// Run carries out one command line and returns the exit code.
func (p *Program) Run(ctx context.Context, args []string) int {
	cmd := ParseArgs(args)
	if !cmd.Query {
		p.Log(args)
	}
	out := bufio.NewWriter(p.Stdout)
	err := p.execute(ctx, cmd, out)
	// An error that a service answers with is a result: it is printed like one.
	if failure, ok := errors.AsType[dbus.Error](err); ok {
		_, _ = fmt.Fprintln(out, showFailure(failure))
	}
	// Nothing checks the single writes to out, because this tells it all.
	if flushErr := out.Flush(); flushErr != nil && err == nil {
		err = fmt.Errorf("write the result: %w", flushErr)
	}
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[dbus.Error](err); !ok {
		_, _ = fmt.Fprintf(p.Stderr, "xec: %v\n", err)
	}
	return exitFailed
}

// execute connects and carries out the command.
func (p *Program) execute(ctx context.Context, cmd Command, out io.Writer) error {
	if cmd.Action == Help {
		_, err := io.WriteString(out, usage)
		return err
	}
	if cmd.TargetDomain != noDomain {
		return fmt.Errorf("cannot reach domain %d: buses of other domains were reached through argo, "+
			"which this system does not have", cmd.TargetDomain)
	}
	conn, err := busconn.Connect(ctx, cmd.Session, p.Getenv)
	if err != nil {
		return err
	}
	defer conn.Close()
	c, err := newClient(conn, cmd, p.Pause)
	if err != nil {
		return err
	}
	return c.run(ctx, cmd, out)
}

// showFailure returns the text for an error that came from D-Bus.
func showFailure(e dbus.Error) string {
	values := make([]string, len(e.Body))
	for i, v := range e.Body {
		values[i] = ShowValue(v)
	}
	return e.Name + ": " + strings.Join(values, ", ")
}
