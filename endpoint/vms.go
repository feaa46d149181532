package endpoint

import (
	"context"
	"errors"
	"io"
	"time"

	"disksync/backup"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
)

// VMInfo describes a VM.
type VMInfo struct {
	ID        image.UUID    `json:"id"`
	Name      string        `json:"name"`
	Image     string        `json:"image"`
	Mode      image.Mode    `json:"mode"`
	Version   image.Version `json:"version"`
	Installed time.Time     `json:"installed"`
	Previous  image.Version `json:"previous,omitempty"` // what a roll back returns to
	Changed   []image.Role  `json:"changed"`            // disks that the VM has written to
	Disks     []DiskReceipt `json:"disks"`
	Kept      []image.UUID  `json:"kept,omitempty"`
	Run       RunInfo       `json:"run"`
	Pending   image.Version `json:"pending,omitempty"` // becomes current at the next start
	// SaveChanges says of a dynamic VM that its system disk does not begin anew.
	SaveChanges bool `json:"save_changes,omitempty"`
	// Downloading says that the version is not all here yet; the VM may run meanwhile.
	Downloading bool `json:"downloading,omitempty"`
	// Waits says what it waits for: a part of the download, or disks that cannot be opened; empty: for nothing.
	Waits string `json:"waits,omitempty"`
}

// VMs describes all VMs, by name.
func (e *Engine) VMs() ([]VMInfo, error) {
	vms, err := e.store.VMs()
	if err != nil {
		return nil, err
	}
	out := []VMInfo{}
	for _, vm := range vms {
		info, err := e.describe(vm)
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	return out, nil
}

func (e *Engine) describe(vm deploy.VM) (VMInfo, error) {
	info := VMInfo{
		ID: vm.ID, Name: vm.Name, Image: vm.Image, Mode: vm.Current.Mode, Version: vm.Current.Version, Installed: vm.Current.Installed,
		Changed: []image.Role{}, Disks: e.diskReceipts(vm.Current), Kept: vm.Kept,
		Run: e.runOf(vm.ID), SaveChanges: vm.SaveChanges, Downloading: len(vm.Current.Incomplete) > 0, Waits: e.waitsOf(vm.ID),
	}
	if vm.Pending != nil {
		info.Pending = vm.Pending.Version
	}
	if vm.Previous != nil {
		info.Previous = vm.Previous.Version
	}
	changed, err := e.store.Changed(vm)
	if err != nil {
		return info, err
	}
	for _, r := range image.Roles() {
		if changed[r] {
			info.Changed = append(info.Changed, r)
		}
	}
	return info, nil
}

// idle returns an error while an operation works on a VM.
func (e *Engine) idle(vm string) error {
	for _, o := range e.Operations() {
		s := o.Status()
		if s.VM == vm && !s.over() {
			return problem.New("DS-BUSY", problem.Busy, nil, "an operation is working on VM "+vm, "nothing was changed",
				"wait for it, or stop it with `pause "+vm+"`")
		}
	}
	return nil
}

// atRest returns an error while an operation works on a VM, or it runs: doing is what cannot be done then. Otherwise it does not start
// before done is called.
func (e *Engine) atRest(vm deploy.VM, doing string) (done func(), err error) {
	if err := e.idle(vm.Name); err != nil {
		return nil, err
	}
	done, err = e.fleet.change(vm)
	if err == nil && e.runs(vm.ID) != nil {
		done()
		return nil, deploy.Running(vm.Name, doing)
	}
	if err == nil {
		if rec, recErr := e.readRun(vm.ID); recErr == nil && rec.Hypervisor != QEMU {
			done()
			return nil, defined(vm.Name, rec.Hypervisor)
		}
	}
	return done, err
}

// RollBack makes a VM's previous version the current one. It needs no network.
func (e *Engine) RollBack(name string) (VMInfo, error) {
	vm, err := e.vm(name)
	if err != nil {
		return VMInfo{}, err
	}
	done, err := e.atRest(vm, "rolled back")
	if err != nil {
		return VMInfo{}, err
	}
	defer done()
	vm, err = e.store.RollBack(vm.Name)
	if err != nil {
		return VMInfo{}, err
	}
	e.log.Info("rolled back", "vm", vm.Name, "version", vm.Current.Version)
	return e.describe(vm)
}

// Remove removes a VM with its disks.
func (e *Engine) Remove(name string) error {
	if err := e.idle(name); err != nil { // also when there is no VM yet
		return err
	}
	vm, err := e.vm(name)
	if err != nil {
		return err
	}
	done, err := e.atRest(vm, "removed")
	if err != nil {
		return err
	}
	defer done()
	if err := e.store.Delete(vm.Name); err != nil {
		return err
	}
	if err := errors.Join(durable.Remove(e.fsys, firmwareFile(vm.ID)), backup.Tidy(e.fsys, spoolDir, e.hasVM)); err != nil {
		return err
	}
	e.log.Info("removed", "vm", name)
	return nil
}

// Export writes the content of a VM's disk to out, which must be empty, and returns the disk's size.
func (e *Engine) Export(ctx context.Context, name string, r image.Role, out io.WriterAt, t *deploy.Tally) (int64, error) {
	vm, err := e.vm(name)
	if err != nil {
		return 0, err
	}
	if e.runs(vm.ID) != nil {
		return 0, deploy.Running(vm.Name, "exported")
	}
	return e.store.Export(ctx, vm.Name, r, out, t)
}
