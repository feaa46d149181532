package endpoint

import (
	"errors"
	"fmt"

	"disksync/deploy"
	"disksync/image"
	"disksync/internal/problem"
)

// commit makes what was installed the VM's current version, or notes it for the VM's next start when the VM runs.
func (e *Engine) commit(m *mission, replace bool) (vm deploy.VM, pending bool, err error) {
	vm, err = e.store.Commit(m.vm, m.job.Manifest, m.keep)
	if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Code != "DS-RUNNING" {
		return vm, false, err
	}
	if vm, err = e.store.Postpone(m.vm, m.job.Manifest, replace); err != nil {
		return vm, false, err
	}
	if e.runs(vm.ID) == nil {
		// It has ended meanwhile, perhaps before there was anything to apply.
		if now, err := e.apply(vm); err == nil {
			return now, false, nil
		}
	}
	return vm, true, nil
}

// apply makes a VM's pending version its current one; without one it does nothing. With an error the VM is as it was.
func (e *Engine) apply(vm deploy.VM) (deploy.VM, error) {
	if vm.Pending == nil {
		return vm, nil
	}
	m, err := e.store.Manifest(deploy.Deployment{Version: vm.Pending.Version, Manifest: vm.Pending.Manifest}, e.trusted()...)
	if err != nil {
		return vm, err
	}
	keep, _, err := e.keepDisks(vm, m.Manifest(), vm.Pending.Replace)
	if err != nil {
		return vm, err
	}
	next, err := e.store.Apply(vm.Name, m, keep)
	if err != nil {
		return vm, err
	}
	e.log.Info("pending update applied", "vm", next.Name, "version", next.Current.Version)
	return next, nil
}

// keepDisks decides which disks an update leaves alone: what a user has written to is the user's. The notes say so to people.
func (e *Engine) keepDisks(vm deploy.VM, mf *image.Manifest, replace bool) (keep map[image.Role]bool, notes []string, err error) {
	changed, err := e.store.Changed(vm)
	if err != nil {
		return nil, nil, err
	}
	keep = map[image.Role]bool{}
	for _, d := range mf.Disks {
		if _, had := vm.Current.Disk(d.Role); !had {
			continue
		}
		switch {
		case d.Role == image.User, d.Role == image.Application && changed[d.Role]:
			keep[d.Role] = true
			notes = append(notes, fmt.Sprintf("the %s disk stays as it is", d.Role))
		case changed[d.Role] && (mf.Mode != image.Dynamic || vm.SaveChanges) && !replace:
			return nil, nil, problem.New("DS-STATIC-CHANGED", problem.Busy, nil,
				fmt.Sprintf("VM %s is a %s VM and its %s disk has changes of its own, which version %d would put aside", vm.Name, mf.Mode, d.Role, mf.Version),
				"the VM and its disk are as they were",
				fmt.Sprintf("deploy the new version beside it with `download %s --as NAME`, or run the update with --replace: the present disk is then kept for `rollback`", mf.Image))
		}
	}
	return keep, notes, nil
}
