package dbusapi_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"disksync/dbusapi"
	"disksync/endpoint"
	"disksync/internal/problem"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
)

// wantProblem compares an error's code and exit status.
func wantProblem(t *testing.T, err error, code string, exit problem.Exit) {
	t.Helper()
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok || p.Code != code || p.Exit != exit {
		t.Errorf("error %v (%+v), want %s with exit status %d", err, p, code, exit)
	}
}

func TestNameIsTaken(t *testing.T) {
	r := newRig(t)
	o := r.options()
	o.Dir = filepath.Join(t.TempDir(), "other")
	e, err := endpoint.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	err = dbusapi.Serve(t.Context(), r.dial(), e, dbusapi.Options{Ready: func() { t.Error("ready without the name") }})
	wantProblem(t, err, "DS-BUS-NAME", problem.Busy)
	// The first one is as it was.
	if got := property[string](r, "/", ownFace, "state-folder"); got != r.dir {
		t.Errorf("state folder %s", got)
	}
}

func TestBusGoesAway(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SessionBus)
	r := &rig{t: t, bus: bus, dir: filepath.Join(t.TempDir(), "state"), log: &testkit.Buffer{}}
	e, err := endpoint.Open(t.Context(), r.options())
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	ready, served := make(chan struct{}), make(chan error, 1)
	conn := r.dial()
	go func() {
		served <- dbusapi.Serve(t.Context(), conn, e, dbusapi.Options{Ready: func() { close(ready) }})
	}()
	<-ready
	c := r.client()
	if _, err := c.VMs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := bus.Stop(); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, <-served, "DS-BUS-GONE", problem.Unreachable)
	_, err = c.VMs(t.Context())
	wantProblem(t, err, "DS-SERVICE-GONE", problem.Unreachable)
}

func TestClientWithoutService(t *testing.T) {
	r := &rig{t: t, bus: testkit.StartBus(t, testkit.SessionBus)}
	c := r.client()
	_, err := c.Operations(t.Context())
	wantProblem(t, err, "DS-NO-SERVICE", problem.Unreachable)
	_, err = c.StateFolder(t.Context())
	wantProblem(t, err, "DS-NO-SERVICE", problem.Unreachable)
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus")
	_, err = dbusapi.Dial(t.Context(), true)
	wantProblem(t, err, "DS-NO-SERVICE", problem.Unreachable)
}

// TestServiceEndsMeanwhile: whoever follows an operation hears that the service went, not that the operation failed.
func TestServiceEndsMeanwhile(t *testing.T) {
	r, _, _ := slowRig(t, 3<<20, lab.Disk(1, 2, 3, 4, 5, 6))
	c := r.client()
	seen := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		_, err := c.Run(t.Context(), endpoint.Request{Kind: endpoint.Download, Image: "win7"}, func(s endpoint.Status) {
			if s.State == endpoint.InProgress {
				select {
				case seen <- struct{}{}:
				default:
				}
			}
		})
		ended <- err
	}()
	<-seen
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, <-ended, "DS-SERVICE-GONE", problem.Unreachable)
	r.start()
}

// TestInterruptedClient: an interrupt stops the operation in the service, and what it did is kept.
func TestInterruptedClient(t *testing.T) {
	r, _, line := slowRig(t, 3<<20, lab.Disk(1, 2, 3, 4, 5, 6))
	c := r.client()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Run(ctx, endpoint.Request{Kind: endpoint.Download, Image: "win7"}, func(s endpoint.Status) {
		if s.Progress.Done > 0 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	var ops []endpoint.Status
	testkit.Until(r.t, "the operation ends", func() bool {
		if ops, err = c.Operations(t.Context()); err != nil || len(ops) != 1 {
			t.Fatal(ops, err)
		}
		return !ops[0].Active
	})
	if ops[0].State != endpoint.Stopped {
		t.Errorf("the operation is %s", ops[0].State)
	}
	line.SetRate(0)
	rc, err := c.Resume(t.Context(), ops[0].ID, func(endpoint.Status) {})
	if err != nil || rc.Resumed == 0 {
		t.Errorf("resumed %+v %v", rc, err)
	}
}

// TestCancelledByAnother: whoever follows an operation hears that somebody else cancelled it.
func TestCancelledByAnother(t *testing.T) {
	r, _, _ := slowRig(t, 3<<20, lab.Disk(1, 2, 3, 4, 5, 6))
	c := r.client()
	cancelled := false
	_, err := c.Run(t.Context(), endpoint.Request{Kind: endpoint.Download, Image: "win7"}, func(s endpoint.Status) {
		if s.Progress.Done == 0 || cancelled {
			return
		}
		cancelled = true
		if err := c.Cancel(t.Context(), s.ID); err != nil {
			t.Error(err)
		}
	})
	wantProblem(t, err, "DS-STOPPED", problem.Interrupted)
}
