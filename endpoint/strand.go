package endpoint

import (
	"context"

	"disksync/deploy"
	"disksync/internal/problem"
)

// A VM outlives the service. Where the next service cannot open its disks, its guest waits for them, and counts as running: whoever took
// it for a stopped one would change disks that it has an idea of, or start it a second time.

// strand makes r a VM whose disks are not served because of an error. The caller adopts it.
func (r *runningVM) strand(vm deploy.VM, why error) {
	r.group = &group{vm: vm.Name, store: r.e.store, stranded: stranded(vm, why), why: why.Error()}
	leave := r.e.store.Occupy(vm)
	r.stopServing, r.served, r.gone = leave, make(chan struct{}), make(chan struct{})
	close(r.served)
}

func stranded(vm deploy.VM, why error) error {
	return problem.New("DS-STRANDED", problem.Damaged, why, "VM "+vm.Name+" waits: its disks cannot be opened",
		"its guest is held, and what it has written is kept",
		"mend what is wrong with the disks, perhaps with `verify "+vm.Name+" --repair`; then `run "+vm.Name+"` lets it go on. Or "+endsIt(vm.Name))
}

// rescue tries again to serve a VM that was stranded, and lets it go on.
func (e *Engine) rescue(ctx context.Context, vm deploy.VM, r *runningVM) (VMInfo, error) {
	next := &runningVM{e: e, name: r.name, record: r.record}
	if err := next.open(vm); err != nil {
		return VMInfo{}, stranded(vm, err)
	}
	e.adopt(next)
	r.replace()
	<-r.gone // and has hung up
	e.log.Info("VM taken up again", "vm", vm.Name, "pid", next.record.Process.Pid)
	_ = next.command(ctx, "cont") // one that never noticed does not mind
	return e.describe(vm)
}
