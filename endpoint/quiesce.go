package endpoint

import (
	"context"
	"time"

	"disksync/deploy"
	"disksync/hypervisor"
	"disksync/image"
	"disksync/internal/qmp"
)

const (
	// freezeTime is how long the guest may take to bring its file systems in order. Windows gives up after 10 seconds by itself.
	freezeTime = 15 * time.Second
	// agentTime is how long the agent of the guest may take to answer at all: most of those that do not are not there.
	agentTime = 2 * time.Second
)

// freezeTime is how long a guest may take to freeze or thaw; where agents may take their time to answer, at least as long.
func (e *Engine) freezeTime() time.Duration { return max(freezeTime, e.agentTime) }

// swapper returns what exchanges the disks of a VM that runs; nil when it does not run.
func (e *Engine) swapper(vm image.UUID) deploy.Swapper {
	if r := e.runs(vm); r != nil {
		return r.group
	}
	return nil
}

// quiesce asks the guest of a VM to bring its file systems in order and to hold its writes, and returns how consistent its disks are
// until thaw is called, which is always to be done, and soon.
func (e *Engine) quiesce(ctx context.Context, vm image.UUID) (thaw func(), c image.Consistency) {
	r := e.runs(vm)
	if r == nil {
		return func() {}, image.Stopped
	}
	crash := func() (func(), image.Consistency) { return func() {}, image.CrashConsistent }
	if r.record.Hypervisor != QEMU || r.stranded != nil {
		return crash() // the agent is another hypervisor's to speak with, or waits for the disks
	}
	near, cancel := context.WithTimeout(ctx, e.agentTime)
	defer cancel()
	agent, err := qmp.Agent(near, e.socket(vm, hypervisor.AgentSocket))
	if err != nil {
		e.log.Debug("no guest agent", "vm", r.name, "error", err)
		return crash()
	}
	long, cancelLong := context.WithTimeout(ctx, e.freezeTime())
	defer cancelLong()
	var frozen int
	if err := agent.Do(long, "guest-fsfreeze-freeze", nil, &frozen); err != nil || frozen == 0 {
		e.log.Warn("the guest did not freeze its file systems", "vm", r.name, "frozen", frozen, "error", err)
		// What it froze before it failed must not stay so. An agent that is still at it is asked on a new connection.
		agent.Close()
		e.thaw(ctx, r)
		return crash()
	}
	return func() {
		defer agent.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.freezeTime())
		defer cancel()
		var thawed int
		if err := agent.Do(ctx, "guest-fsfreeze-thaw", nil, &thawed); err != nil {
			e.log.Error("the guest was not told to go on", "vm", r.name, "error", err)
			e.thaw(ctx, r)
		}
	}, image.Quiesced
}

// thaw lets the file systems of a guest go on, over a connection of its own.
func (e *Engine) thaw(ctx context.Context, r *runningVM) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.freezeTime())
	defer cancel()
	agent, err := qmp.Agent(ctx, e.socket(r.record.VM, hypervisor.AgentSocket))
	if err == nil {
		err = agent.Do(ctx, "guest-fsfreeze-thaw", nil, nil)
		agent.Close()
	}
	if err != nil {
		e.log.Error("the guest may hold its writes", "vm", r.name, "error", err)
	}
}
