package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// A command is a program that is run to its end and measured.
type command struct {
	program string
	args    []string
	stdin   string
	env     []string
	server  *service // that it talks to; nil: none
	makes   []string // files that must be on the disk before the clock stops
	peer    bool     // it may take no longer than the limit
	quiet   bool     // it is not on the page
}

// A sample is what a command took.
type sample struct {
	wall       time.Duration // until the last byte of its files was on the disk
	cpu        time.Duration // user and system
	serverCPU  time.Duration
	peak       int64 // memory
	serverPeak int64
	wire       int64  // bytes over the line to the server, both directions
	out        string // its standard output
}

// tooLong is why a peer's command was stopped.
type tooLong struct{ limit time.Duration }

func (e tooLong) Error() string { return "stopped after " + e.limit.String() }

// stopTime is how long a program may take to end after it was asked to.
const stopTime = 15 * time.Second

// run runs a command and measures it. Nothing else of ours is being written meanwhile.
func (b *bench) run(ctx context.Context, c command) (s sample, err error) {
	b.show(c)
	if err := syncDisk(b.dir); err != nil {
		return s, err
	}
	if c.server != nil {
		if err := c.server.before(ctx); err != nil {
			return s, err
		}
	}
	outer := ctx
	if c.peer {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, b.opts.limit, tooLong{b.opts.limit})
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, b.path(c.program), c.args...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = b.dir, append(os.Environ(), c.env...), ofOurs()
	cmd.Stdin = strings.NewReader(c.stdin)
	cmd.Cancel = func() error { signalGroup(cmd.Process, true); return nil }
	cmd.WaitDelay = stopTime
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	err = onThread(cmd.Run)
	if err == nil {
		for _, name := range c.makes {
			err = errors.Join(err, flush(b.at(name)))
		}
	}
	s.wall, s.out = time.Since(began), out.String()
	if ctx.Err() != nil {
		return s, errors.Join(context.Cause(ctx), outer.Err())
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w: %s", c.program, err, lastWords(errs.String()))
	}
	s.cpu, s.peak = cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), peakOf(cmd)
	if c.server != nil {
		err = c.server.after(ctx, &s)
	}
	return s, err
}

// onThread runs a function on a thread that stays for as long: the kernel ends a program with the thread that started it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- f()
	}()
	return <-done
}

// flush waits until a file is on the disk, or with a folder everything that was written so far.
func flush(name string) error {
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		return syncDisk(name)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// lastWords returns the end of what a program said.
func lastWords(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if n := len(lines); n > 3 {
		lines = lines[n-3:]
	}
	return strings.Join(lines, " / ")
}

// A service is a server that runs while others are measured, and the line to it.
type service struct {
	cmd    *exec.Cmd
	errs   bytes.Buffer // read when it has ended
	exited chan struct{}
	words  string // its first line, where it prints one
	line   *line
	cpu    time.Duration // at the start of what is being measured
}

// startTime is how long a service may take until it answers.
const startTime = 30 * time.Second

// serve starts a service. One that has an address is waited for there, another one prints a line when it listens.
func (b *bench) serve(ctx context.Context, address string, c command) (*service, error) {
	b.show(c)
	v := &service{cmd: exec.Command(b.path(c.program), c.args...), exited: make(chan struct{})}
	v.cmd.Dir, v.cmd.SysProcAttr, v.cmd.Stderr = b.dir, ofOurs(), &v.errs
	v.cmd.Env = append(os.Environ(), c.env...)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	v.cmd.Stdout = w
	started := make(chan error)
	go func() {
		_ = onThread(func() error {
			err := v.cmd.Start()
			started <- err
			if err == nil {
				_ = v.cmd.Wait() // whoever needs it finds out
			}
			return nil
		})
		close(v.exited)
	}()
	err = <-started
	w.Close()
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("start %s: %w", c.program, err)
	}
	b.atEnd(v.stop)
	lines := make(chan string, 1)
	go func() {
		defer r.Close()
		buffered := bufio.NewReader(r)
		first, _ := buffered.ReadString('\n')
		lines <- strings.TrimSpace(first)
		_, _ = io.Copy(io.Discard, buffered)
	}()
	if address != "" {
		err = waitUntil(ctx, startTime, func() bool { return answers(address) })
	} else {
		select {
		case v.words = <-lines:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	select {
	case <-v.exited:
		return nil, fmt.Errorf("%s ended early: %s", c.program, lastWords(v.errs.String()))
	default:
	}
	return v, err
}

// connect opens the line to a service.
func (b *bench) connect(v *service, address string) (err error) {
	if v.line, err = openLine(address); err == nil {
		b.atEnd(v.line.close)
	}
	return err
}

func (v *service) before(ctx context.Context) (err error) {
	if v.line != nil {
		if _, err = v.line.count(ctx); err != nil {
			return err
		}
	}
	forgetPeak(v.cmd.Process.Pid)
	v.cpu, err = cpuOf(v.cmd.Process.Pid)
	return err
}

func (v *service) after(ctx context.Context, s *sample) error {
	if v.line != nil {
		n, err := v.line.count(ctx)
		if err != nil {
			return err
		}
		s.wire = n
	}
	cpu, err := cpuOf(v.cmd.Process.Pid)
	s.serverCPU, s.serverPeak = cpu-v.cpu, peakSince(v.cmd.Process.Pid)
	return err
}

// stop ends a service and waits for its end.
func (v *service) stop() error {
	select {
	case <-v.exited: // its number may be another's by now
		return nil
	default:
	}
	signalGroup(v.cmd.Process, false)
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case <-v.exited:
		return nil
	case <-timer.C:
	}
	signalGroup(v.cmd.Process, true)
	<-v.exited
	return fmt.Errorf("%s did not end when it was asked to", filepath.Base(v.cmd.Path))
}
