package endpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"disksync/config"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
	"disksync/syncclient"
)

const (
	operationsDir = "operations"
	// maxFinished is how many operations that are over are remembered.
	maxFinished = 20
)

func operationFile(id image.UUID) string { return operationsDir + "/" + id.String() + ".json" }

func (e *Engine) saveOperation(s Status) error {
	return writeJSON(e.fsys, operationFile(s.ID), s)
}

// loadOperations reads what an earlier process left. Whatever was going on then has stopped.
func (e *Engine) loadOperations() error {
	if err := durable.MakeDir(e.fsys, operationsDir, 0o700); err != nil {
		return err
	}
	if err := durable.RemoveTemps(e.fsys, operationsDir); err != nil {
		return err
	}
	entries, err := e.fsys.ReadDir(operationsDir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		text, ok := strings.CutSuffix(entry.Name(), ".json")
		id, err := image.ParseUUID(text)
		if !ok || err != nil {
			continue
		}
		o := e.newOperationOf(Status{ID: id})
		if err := readJSON(e.fsys, operationFile(id), &o.status); err != nil || o.status.ID != id {
			e.log.Warn("operation forgotten: its file is damaged", "operation", id, "error", err)
			if err := durable.Remove(e.fsys, operationFile(id)); err != nil {
				return err
			}
			continue
		}
		if !o.status.over() {
			o.status.setState(Stopped)
		}
		if own, err := checkLimit(o.status.Request.Limit); err == nil {
			o.own.Set(own)
		}
		e.operations = append(e.operations, o)
	}
	slices.SortFunc(e.operations, func(a, b *Operation) int { return a.status.Created.Compare(b.status.Created) })
	return nil
}

// Operations returns all operations, oldest first.
func (e *Engine) Operations() []*Operation {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.operations)
}

// Operation returns the operation with that id.
func (e *Engine) Operation(id image.UUID) (*Operation, error) {
	for _, o := range e.Operations() {
		if o.id == id {
			return o, nil
		}
	}
	return nil, problem.New("DS-NO-OPERATION", problem.NotFound, nil, fmt.Sprintf("there is no operation %s", id), "", "`disksyncmgr status` shows those that are there")
}

// Find returns the newest unfinished operation on a VM; "" means the only unfinished one of all.
func (e *Engine) Find(vm string) (*Operation, error) {
	var found []*Operation
	for _, o := range slices.Backward(e.Operations()) {
		s := o.Status()
		if s.State != Finished && (vm == "" || s.VM == vm || s.Request.VM == vm || s.Image == vm) {
			found = append(found, o)
		}
	}
	switch {
	case len(found) == 0:
		return nil, problem.New("DS-NO-OPERATION", problem.NotFound, nil, "there is no unfinished operation"+on(vm), "", "`disksyncmgr status` shows the operations that are there")
	case len(found) > 1 && vm == "":
		return nil, problem.New("DS-CHOOSE", problem.Usage, nil, "there are several unfinished operations", "", "name the VM")
	}
	return found[0], nil
}

func on(vm string) string {
	if vm == "" {
		return ""
	}
	return " on " + vm
}

// Start queues a request. When an unfinished operation asks for the same, that one goes on.
func (e *Engine) Start(r Request) (*Operation, error) {
	own, err := checkLimit(r.Limit)
	if err != nil {
		return nil, err
	}
	named := !r.Scheduled && (r.Image != "" || r.VM != "")
	if r.Kind == Download && r.VM == "" {
		r.VM = r.Image
	}
	if r.VM != "" {
		if err := image.CheckName(r.VM); err != nil {
			return nil, problem.New("DS-USAGE", problem.Usage, err, "this cannot be the name of a VM", "", "choose another name with --as")
		}
	}
	if err := e.possible(r); err != nil {
		return nil, err
	}
	for _, o := range e.Operations() {
		s := o.Status()
		if s.State == Finished || s.Request.Kind != r.Kind || s.Request.VM != r.VM || s.Request.Image != r.Image {
			continue
		}
		o.change(true, func(s *Status) { s.Request = r })
		o.own.Set(own)
		o.askFor(named)
		if named {
			o.hurry.Now()
		}
		return o, o.enqueue()
	}
	o := e.newOperation(Status{Request: r, VM: r.VM, Image: r.Image})
	o.own.Set(own)
	o.askFor(named)
	return o, o.enqueue()
}

// possible returns an error for a request that cannot be met as long as a VM is downloaded. It would wait for the download, which may take days.
func (e *Engine) possible(r Request) error {
	doing := map[Kind]string{Update: "updated", Verify: "verified", Repair: "repaired", Backup: "backed up"}[r.Kind]
	vm, err := e.vm(r.VM)
	if doing == "" || err != nil || r.Scheduled {
		return nil
	}
	return vm.Whole(doing)
}

// newOperation makes an operation that does not run yet.
func (e *Engine) newOperation(s Status) *Operation {
	s.ID, s.Created, s.State, s.Disks = deploy.NewUUID(), e.now().UTC(), Stopped, append([]DiskInfo{}, s.Disks...)
	o := e.newOperationOf(s)
	e.mu.Lock()
	e.operations = append(e.operations, o)
	e.mu.Unlock()
	o.change(true, func(*Status) {})
	return o
}

// Resume queues the operation, which somebody named, unless it is queued or runs already. It runs when its turn comes. One that runs and
// waits for the line tries at once.
func (o *Operation) Resume() error {
	o.askFor(o.Status().Request.Kind != Layers) // those are asked for by programs
	o.hurry.Now()
	return o.enqueue()
}

func (o *Operation) enqueue() error {
	o.mu.Lock()
	if o.done != nil {
		o.mu.Unlock()
		return nil
	}
	if o.deleted {
		o.mu.Unlock()
		return problem.New("DS-NO-OPERATION", problem.NotFound, nil, "the operation was deleted", "", "ask for the same again")
	}
	if err := o.e.live.Err(); err != nil {
		o.mu.Unlock()
		return fmt.Errorf("the engine is closing: %w", err)
	}
	o.done, o.queued = make(chan struct{}), true
	o.mu.Unlock()
	o.e.schedule()
	return nil
}

// schedule starts queued operations, oldest first, as long as fewer run than may.
func (e *Engine) schedule() {
	limit := int(e.Settings().Int(config.MaxParallelTasks))
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, o := range e.operations {
		if e.running >= limit {
			return
		}
		if o.begin() {
			e.running++
		}
	}
}

// begin starts the run of a queued operation.
func (o *Operation) begin() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.queued {
		return false
	}
	o.queued = false
	ctx, cancel := context.WithCancelCause(syncclient.WithHurry(o.e.live, &o.hurry))
	o.cancel = cancel
	o.tally = deploy.NewTally()
	o.rate, o.wire = meter{}, meter{}
	o.e.work.Go(func() {
		s := o.Status()
		o.e.log.Info("operation begins, or goes on", "operation", o.id, "kind", string(s.Request.Kind), "vm", s.VM)
		err := o.run(ctx)
		cancel(nil)
		o.end(ctx, err)
	})
	return true
}

// end notes how a run ended, and lets the next one begin.
func (o *Operation) end(ctx context.Context, err error) {
	cause := context.Cause(ctx)
	o.change(true, func(s *Status) {
		s.Progress, s.Ended = o.tally.Progress(), o.e.now().UTC()
		switch {
		case err == nil:
			s.Problem = nil
			s.setState(Finished)
		case errors.Is(cause, errPause):
			s.setState(Paused)
		case errors.Is(cause, errStop) || o.e.live.Err() != nil:
			// Whatever the run says of its end: it was told to, and goes on at the next start.
			s.setState(Stopped)
		default:
			s.Problem = problem.Of(err).Flat()
			for i := range s.Disks {
				s.Disks[i].Reason = reasonOf(err)
			}
			s.setState(Failed)
		}
		o.cancel, o.tally, o.asked = nil, nil, false
	})
	s := o.Status()
	log := o.e.log.With("operation", o.id, "kind", string(s.Request.Kind), "vm", s.VM)
	if s.State == Failed {
		log.Warn("operation failed", "error", err)
	} else {
		log.Info("operation ended", "state", string(s.State))
	}
	o.e.mu.Lock()
	o.e.running--
	o.e.mu.Unlock()
	o.e.forgetFinished() // before it is told that the run is over: who waits for that finds everything done
	o.mu.Lock()
	close(o.done)
	o.done = nil
	o.mu.Unlock()
	o.e.schedule()
}

// Stop ends the run, keeping what it did.
func (o *Operation) Stop() { o.interrupt(errStop, Stopped) }

// Pause is Stop, but the operation does not go on by itself after a restart.
func (o *Operation) Pause() { o.interrupt(errPause, Paused) }

func (o *Operation) interrupt(cause error, st State) {
	o.mu.Lock()
	cancel := o.cancel
	waiting := o.queued
	if waiting {
		o.queued = false
		close(o.done)
		o.done = nil
	}
	o.mu.Unlock()
	if cancel != nil {
		cancel(cause)
		return
	}
	o.change(true, func(s *Status) {
		if waiting || s.State == Stopped || s.State == Paused {
			s.setState(st)
		}
	})
}

// Delete stops the operation and forgets it. What it has built so far is removed, unless it was installed.
func (o *Operation) Delete(ctx context.Context) error {
	o.Stop()
	if err := o.Wait(ctx); err != nil {
		return err
	}
	o.forget()
	s := o.Status()
	e := o.e
	e.mu.Lock()
	e.operations = slices.DeleteFunc(e.operations, func(x *Operation) bool { return x == o })
	e.mu.Unlock()
	if s.State != Finished {
		for _, d := range s.Disks {
			for _, l := range d.Layers {
				if err := e.store.DropPart(l.UUID); err != nil {
					return err
				}
			}
		}
	}
	return durable.Remove(e.fsys, operationFile(o.id))
}

// forgetFinished removes the oldest operations that are finished, beyond a number.
func (e *Engine) forgetFinished() {
	e.mu.Lock()
	var over []*Operation
	for _, o := range e.operations {
		o.mu.Lock()
		kind := o.status.Request.Kind
		ended := o.status.State == Finished || kind == Verify && o.status.over()
		if ended && o.cancel == nil && !o.queued && kind != Layers {
			over = append(over, o)
		}
		o.mu.Unlock()
	}
	if len(over) <= maxFinished {
		e.mu.Unlock()
		return
	}
	over = over[:len(over)-maxFinished]
	e.operations = slices.DeleteFunc(e.operations, func(o *Operation) bool { return slices.Contains(over, o) })
	e.mu.Unlock()
	for _, o := range over {
		o.forget()
		if err := durable.Remove(e.fsys, operationFile(o.id)); err != nil {
			e.log.Error("forget operation", "operation", o.id, "error", err)
		}
	}
}

// ResumeAll queues what an earlier process left unfinished, as the service does when it starts.
func (e *Engine) ResumeAll() {
	for _, o := range e.Operations() {
		s := o.Status()
		if s.State != Stopped || s.Request.Kind == Layers && len(s.Disks) == 0 {
			continue
		}
		o.applyMetered()
		if err := o.enqueue(); err != nil {
			e.log.Error("resume operation", "operation", o.id, "error", err)
		}
	}
}
