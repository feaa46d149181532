package process_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"disksync/internal/process"
)

// TestProcess: a process is found by its number and its start, until it has ended.
func TestProcess(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := process.Of(cmd.Process.Pid)
	if err != nil || id.Pid != cmd.Process.Pid || id.Start == 0 || !id.Alive() {
		t.Fatalf("%+v, %v", id, err)
	}
	other := process.ID{Pid: id.Pid, Start: id.Start + 1}
	if other.Alive() || other.Wait(t.Context()) != nil || other.Kill() != nil || !id.Alive() {
		t.Error("a process of the same number, but of another time, is taken for it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := id.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it goes on: %v", err)
	}
	if err := id.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := id.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if id.Alive() { // it is not reaped yet
		t.Error("a dead process is taken for a living one")
	}
	in.Close()
	if err := cmd.Wait(); err == nil {
		t.Error("it was not killed")
	}
	if err := errors.Join(id.Wait(t.Context()), id.Kill()); err != nil {
		t.Error(err)
	}
	if self, err := process.Of(os.Getpid()); err != nil || !self.Alive() {
		t.Errorf("%+v, %v", self, err)
	}
	if a, err := process.Boot(); err != nil || len(a) != 36 {
		t.Errorf("boot %q, %v", a, err)
	}
}

// TestGone: whenever a process ends while it is looked at, it has ended, and nothing else is wrong.
func TestGone(t *testing.T) {
	t.Parallel()
	for range 50 {
		cmd := exec.Command("true")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		reaped := make(chan error, 1)
		go func() { reaped <- cmd.Wait() }()
		var err error
		for err == nil {
			_, err = process.Of(cmd.Process.Pid)
		}
		if !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		if err := <-reaped; err != nil {
			t.Error(err)
		}
	}
}
