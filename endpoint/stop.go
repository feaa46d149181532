package endpoint

import (
	"context"
	"errors"
	"fmt"
	"time"

	"disksync/hypervisor"
	"disksync/internal/problem"
	"disksync/internal/qmp"
)

const (
	// powerDownTime is how long a guest may take to shut down when it is asked to.
	powerDownTime = 90 * time.Second
	// agentShare is the part of it after which the power button is pressed although the agent took the request.
	agentShare = 3
	// glance is how often it is looked whether a guest that shuts down has been paused by an error of its disk.
	glance = time.Second
)

// StopVM asks the guest to shut down, by its agent where one answers, else by its power button, and waits until it has. One that
// does not react goes on. With force it is ended as by a loss of power: what it had written and flushed is there. That is
// possible also while somebody waits for a guest to shut down.
func (e *Engine) StopVM(ctx context.Context, name string, force bool) error {
	vm, err := e.vm(name)
	if err != nil {
		return err
	}
	r := e.runs(vm.ID)
	if r == nil {
		return notRunning(vm.Name)
	}
	if err := r.ours(); err != nil {
		return err
	}
	if !force {
		return r.shutDown(ctx)
	}
	done, err := e.fleet.change(vm)
	if err != nil {
		return err
	}
	defer done()
	if err := r.command(ctx, "quit"); err != nil {
		if err := r.record.Process.Kill(); err != nil {
			return err
		}
	}
	return e.AwaitVM(ctx, vm.Name)
}

// shutDown asks the guest to shut down, and waits until it has.
func (r *runningVM) shutDown(ctx context.Context) error {
	if r.stranded != nil {
		return r.stranded
	}
	limit := r.e.powerDown
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_ = r.command(wait, "cont") // a guest that is held cannot shut down; one that runs does not mind
	refused := r.byAgent(wait)
	button := time.NewTimer(limit / agentShare)
	defer button.Stop()
	look := time.NewTicker(min(glance, limit/agentShare))
	defer look.Stop()
	var trouble error
	stuck := 0 // how often in a row it was seen paused by an error
	for {
		select {
		case <-r.gone:
			return nil
		case err := <-refused:
			refused = nil
			r.e.log.Debug("a guest is not shut down by its agent", "vm", r.name, "error", err)
			button.Reset(0)
		case <-button.C:
			trouble = r.command(wait, "system_powerdown")
		case <-look.C:
			if stuck++; r.status(wait) != "io-error" {
				stuck = 0
			}
			if stuck > 1 {
				return r.cannotGoOn()
			}
		case <-wait.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return r.stillRunning(limit, trouble)
		}
	}
}

// byAgent asks the guest's agent to shut the guest down. The channel gets why it does not; an agent that does says nothing.
func (r *runningVM) byAgent(ctx context.Context) <-chan error {
	refused := make(chan error, 1)
	go func() {
		near, cancel := context.WithTimeout(ctx, r.e.agentTime)
		defer cancel()
		agent, err := qmp.Agent(near, r.e.socket(r.record.VM, hypervisor.AgentSocket))
		if err != nil {
			refused <- err
			return
		}
		defer agent.Close()
		if err := agent.Do(ctx, "guest-shutdown", nil, nil); err != nil {
			refused <- err // also that it hung up, perhaps since it ends: the button does no harm then
		}
	}()
	return refused
}

// stillRunning is the error for a guest that did not shut down within a time.
func (r *runningVM) stillRunning(limit time.Duration, trouble error) error {
	what := fmt.Sprintf("VM %s was asked to shut down, and still runs after %v", r.name, limit)
	safe := "it goes on, and may yet shut down"
	if waits := r.e.waitsOf(r.record.VM); waits != "" {
		what += ", waiting for blocks of its disk: " + waits
		safe = "it goes on, and can shut down when it has the blocks"
	}
	return problem.New("DS-STILL-RUNNING", problem.Busy, trouble, what, safe, endsIt(r.name))
}

// cannotGoOn is the error for a guest that a failing disk holds.
func (r *runningVM) cannotGoOn() error {
	return problem.New("DS-STILL-RUNNING", problem.Busy, errors.New("a disk of it cannot be read or written; the service's log says why"),
		"VM "+r.name+" is paused and cannot shut down", "it stays paused; nothing of it is lost",
		"mend what is wrong with the disk (is it full?) and try again, or: "+endsIt(r.name))
}

func endsIt(name string) string {
	return "shut it down from within, or end it with `stop --force " + name +
		"`, as by a loss of power: what the guest has not yet written to its disk is lost"
}
