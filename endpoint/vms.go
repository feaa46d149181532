package endpoint

import (
	"context"
	"errors"
	"io"
	"time"

	"disksync/deploy"
	"disksync/image"
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

// RollBack makes a VM's previous version the current one. It needs no network.
func (e *Engine) RollBack(name string) (VMInfo, error) {
	vm, err := e.vm(name)
	if err != nil {
		return VMInfo{}, err
	}
	if err := e.idle(vm.Name); err != nil {
		return VMInfo{}, err
	}
	vm, err = e.store.RollBack(vm.Name)
	if err != nil {
		return VMInfo{}, err
	}
	e.log.Info("rolled back", "vm", vm.Name, "version", vm.Current.Version)
	return e.describe(vm)
}

// Remove removes a VM with its disks.
func (e *Engine) Remove(name string) error {
	if err := e.idle(name); err != nil {
		return err
	}
	if err := e.store.Delete(name); err != nil {
		if errors.Is(err, deploy.ErrNoVM) {
			_, err = e.vm(name)
		}
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
	return e.store.Export(ctx, vm.Name, r, out, t)
}
