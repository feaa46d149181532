package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"time"
)

// A child is a program that was started. It is safe for concurrent use.
type child struct {
	cmd    *exec.Cmd
	line   chan string   // the first line of its standard output
	out    *record       // its standard output
	errs   *record       // its standard error
	exited chan struct{} // closed when it has ended; then err is set
	err    error
}

// stopTime is how long a child may take to end after it was asked to.
const stopTime = 15 * time.Second

// start starts a program in a process group of its own: an interrupt from the terminal is for us to pass on.
func start(cmd *exec.Cmd) (*child, error) {
	c := &child{cmd: cmd, line: make(chan string, 1), exited: make(chan struct{})}
	c.out, c.errs = &record{first: c.line}, &record{}
	cmd.Stdout, cmd.Stderr = c.out, c.errs
	cmd.SysProcAttr = ofOurs()
	started := make(chan error)
	go func() {
		// What makes it end with us is tied to the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			c.err = cmd.Wait()
		}
		close(c.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Args[0], err)
	}
	return c, nil
}

// wait waits for its end, and asks for it when ctx ends.
func (c *child) wait(ctx context.Context) error {
	select {
	case <-c.exited:
		return c.err
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), c.stop())
	}
}

// ready waits for its first line.
func (c *child) ready(ctx context.Context) (string, error) {
	select {
	case line := <-c.line:
		return line, nil
	case <-c.exited:
		return "", fmt.Errorf("%s ended early: %w", c.cmd.Args[0], c.failure())
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// stop asks it to end, as Ctrl-C does, and waits until it has.
func (c *child) stop() error {
	select {
	case <-c.exited:
		return nil
	default:
	}
	interrupt(c.cmd.Process)
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case <-c.exited:
		return nil
	case <-timer.C:
	}
	c.kill()
	return fmt.Errorf("%s did not end when it was asked to", c.cmd.Args[0])
}

// kill ends it without a warning.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // all that can be wrong is that it has ended
	<-c.exited
}

// failure describes how it ended, with its last words.
func (c *child) failure() error {
	words := c.errs.last(6)
	if words == "" {
		return c.err
	}
	return fmt.Errorf("%w\n%s", c.err, words)
}

// record keeps what a program prints.
type record struct {
	first chan<- string // gets the first line; nil: nobody does

	mu   sync.Mutex
	text []byte
	told bool
}

// maxRecord bounds what is kept of a program that does not stop talking; the beginning is forgotten.
const maxRecord = 1 << 20

// Write keeps b.
func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text = append(r.text, b...)
	if line, _, whole := bytes.Cut(r.text, []byte("\n")); whole && !r.told && r.first != nil {
		r.told = true
		r.first <- string(line)
	}
	if len(r.text) > maxRecord {
		r.text = append([]byte(nil), r.text[len(r.text)-maxRecord/2:]...)
	}
	return len(b), nil
}

// String returns what was kept.
func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.text)
}

// last returns the last n lines.
func (r *record) last(n int) string {
	text := bytes.TrimSpace([]byte(r.String()))
	for i := len(text) - 1; i >= 0; i-- {
		if text[i] == '\n' {
			if n--; n == 0 {
				return string(text[i+1:])
			}
		}
	}
	return string(text)
}
