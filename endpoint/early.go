package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"disksync/config"
	"disksync/deploy"
	"disksync/disk/nbd"
	"disksync/image"
	"disksync/internal/limit"
	"disksync/syncclient"
)

// early are the golden disks of a VM that runs while they are downloaded. There is one for each such VM, whose users let go of it. It is
// safe for concurrent use.
type early struct {
	e     *Engine
	id    image.UUID
	tally *deploy.Tally
	ctx   context.Context //nolint:containedctx // ends when the last user lets go
	stop  context.CancelFunc
	ready chan struct{} // closed when disks is set
	again chan struct{} // has an element when it is worth trying to open them at once

	users int // guarded by Engine.mu

	mu      sync.Mutex
	disks   *deploy.Early
	trouble string // why disks is not set yet
	swap    func() error
	whole   bool // all disks are installed …
	swapped bool // … and the VM goes on with the files themselves
}

// early returns the disks of a VM whose version is incomplete, as far as they are here or can be fetched; nil when it is complete. Who
// has them calls leave. There need be no line: a read waits for one.
func (e *Engine) early(vm deploy.VM) *early {
	if len(vm.Current.Incomplete) == 0 {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.earlies[vm.ID]
	if v == nil {
		v = &early{e: e, id: vm.ID, tally: deploy.NewTally(), ready: make(chan struct{}), again: make(chan struct{}, 1)}
		v.ctx, v.stop = context.WithCancel(context.WithoutCancel(e.live))
		e.earlies[vm.ID] = v
		e.work.Go(func() { v.open(vm) })
	}
	v.users++
	return v
}

// leave lets go of the disks.
func (v *early) leave() {
	v.e.mu.Lock()
	v.users--
	last := v.users == 0
	if last && v.e.earlies[v.id] == v {
		delete(v.e.earlies, v.id)
	}
	v.e.mu.Unlock()
	if last {
		v.stop()
	}
}

// open opens the disks, trying again as long as that does not succeed, and closes them in the end.
func (v *early) open(vm deploy.VM) {
	var pause syncclient.Backoff
	for {
		m, d, err := v.try(vm)
		if err == nil {
			defer m.close()
			defer d.Close()
			v.mu.Lock()
			v.disks, v.trouble = d, ""
			v.mu.Unlock()
			close(v.ready)
			<-v.ctx.Done()
			return
		}
		v.mu.Lock()
		v.trouble = err.Error()
		v.mu.Unlock()
		v.e.log.Warn("a VM waits for its disks", "vm", vm.Name, "error", err)
		timer := time.NewTimer(min(pause.Next(err), longestEarlyPause))
		select {
		case <-timer.C:
		case <-v.again:
			timer.Stop()
		case <-v.ctx.Done():
			timer.Stop()
			return
		}
	}
}

// longestEarlyPause is the longest time between two attempts to get at what a VM that runs waits for.
const longestEarlyPause = 10 * time.Second

// try opens the disks once.
func (v *early) try(vm deploy.VM) (*mission, *deploy.Early, error) {
	e := v.e
	m := &mission{e: e, vm: vm.Name}
	d, err := v.prepare(m, vm)
	if err != nil {
		m.close()
		return nil, nil, err
	}
	return m, d, nil
}

func (v *early) prepare(m *mission, vm deploy.VM) (_ *deploy.Early, err error) {
	e := v.e
	if m.client, m.reg, err = e.connectWithin(e.limitsOf(vm.Name), true); err != nil {
		return nil, err
	}
	m.job = &deploy.Job{
		Store: e.store, Tally: v.tally, Rates: e.rates(), Bad: e.badBlock,
		Net: &deploy.Net{
			// Each demand is tried again by itself, and soon.
			Client: m.client, MaxRange: e.Settings().Int(config.DownloadChunk) << 20, GiveUp: time.Nanosecond, Line: v.tally.SetLine,
			Held: func(h limit.Hold) { v.tally.SetHeld(h.String()) },
		},
	}
	if m.job.Manifest, err = e.store.ManifestOf(vm, e.trusted()...); err != nil {
		return nil, err
	}
	m.release = e.hotplug.Use(v.ctx, e.allowed)
	if m.shelved, _, err = e.scanMedia(v.ctx, nil); err != nil {
		return nil, err
	}
	m.job.Media = inventories(m.shelved)
	p, err := m.job.Plan(v.ctx)
	if err != nil {
		return nil, err
	}
	if err := e.store.Replan(vm.Name, p); err != nil {
		return nil, err
	}
	d, err := m.job.OpenEarly(v.ctx, p)
	if err == nil {
		m.follow(v.ctx, func(string) {})
	}
	return d, err
}

// limitsOf returns what everything is held to that is fetched for a VM.
func (e *Engine) limitsOf(vm string) limit.Chain {
	for _, o := range e.Operations() {
		if s := o.Status(); s.VM == vm && s.State != Finished {
			return o.limits()
		}
	}
	return limit.Chain{e.limit}
}

// openLeaf opens the leaf of a disk for writing, on top of what is being downloaded.
func (v *early) openLeaf(d deploy.InstalledDisk) (*deploy.Live, error) {
	return v.e.store.OpenLiveEarly(d, earlyReader{v, d.Role})
}

// earlyReader is the content of a golden disk.
type earlyReader struct {
	v    *early
	role image.Role
}

// ReadAt implements io.ReaderAt. It waits until the bytes are here.
func (r earlyReader) ReadAt(p []byte, off int64) (int, error) {
	select {
	case <-r.v.ready:
	case <-r.v.ctx.Done():
		return 0, errEarlyOver
	}
	r.v.mu.Lock()
	d, ok := r.v.disks.Disk(r.role)
	r.v.mu.Unlock()
	if !ok {
		return 0, errors.New("endpoint: internal error: no " + string(r.role) + " disk is downloaded")
	}
	n, err := d.Reader(r.v.ctx).ReadAt(p, off)
	if r.v.ctx.Err() != nil && err != nil {
		err = errEarlyOver
	}
	return n, err
}

var _ io.ReaderAt = earlyReader{}

// errEarlyOver ends reads that wait when nobody serves the VM any more. The guest, if it goes on, waits for the next service.
var errEarlyOver = fmt.Errorf("the VM's disks are closed: %w", nbd.ErrHangUp)

// whenWhole has swap called, once, when all disks are installed, so that the VM goes on with the files themselves. Until it has returned
// without an error the disks stay as they are.
func (v *early) whenWhole(swap func() error) error {
	v.mu.Lock()
	whole := v.whole
	v.swap = swap
	v.mu.Unlock()
	if whole {
		return v.exchange()
	}
	return nil
}

func (v *early) exchange() error {
	v.mu.Lock()
	swap := v.swap
	v.swap, v.whole = nil, true
	v.mu.Unlock()
	select {
	case v.again <- struct{}{}: // for reads that wait still
	default:
	}
	if swap == nil {
		return nil
	}
	if err := swap(); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.swapped = true
	return nil
}

// waits says what the VM waits for; "": for nothing.
func (v *early) waits() string {
	v.mu.Lock()
	trouble, swapped := v.trouble, v.swapped
	v.mu.Unlock()
	switch {
	case swapped:
		return ""
	case trouble != "":
		return trouble
	}
	return v.tally.Progress().Waits
}

// complete notes that all disks of a VM are installed.
func (e *Engine) complete(name string) (deploy.VM, error) {
	vm, err := e.store.Complete(name)
	if err != nil {
		return vm, err
	}
	e.mu.Lock()
	v := e.earlies[vm.ID]
	e.mu.Unlock()
	if v != nil {
		if err := v.exchange(); err != nil {
			e.log.Error("a VM goes on reading through the download", "vm", name, "error", err)
		}
	}
	return vm, nil
}

// goOnWith goes on with the download of a VM that is not all here, unless its user has paused it: then only what the VM reads is fetched.
func (e *Engine) goOnWith(vm deploy.VM) error {
	if len(vm.Current.Incomplete) == 0 {
		return nil
	}
	for _, o := range e.Operations() {
		s := o.Status()
		if s.VM != vm.Name || s.Request.Kind != Download || s.State == Finished {
			continue
		}
		if s.Active || s.State == Paused {
			return nil
		}
		return o.Resume()
	}
	_, err := e.Start(Request{Kind: Download, Image: vm.Image, VM: vm.Name, Early: true})
	return err
}

// waitsOf says what a VM that runs waits for: a download, or disks that cannot be opened; "": for nothing.
func (e *Engine) waitsOf(id image.UUID) string {
	if r := e.runs(id); r != nil && r.stranded != nil {
		return r.why
	}
	e.mu.Lock()
	v := e.earlies[id]
	e.mu.Unlock()
	if v == nil {
		return ""
	}
	return v.waits()
}

// BootTrace returns the blocks that a VM which runs has read, in the order of their first reads, up to a number of them.
func (e *Engine) BootTrace(name string) (image.BootTrace, error) {
	vm, err := e.vm(name)
	if err != nil {
		return nil, err
	}
	r := e.runs(vm.ID)
	if r == nil {
		return nil, notRunning(vm.Name)
	}
	return r.boot.Trace(), nil
}
