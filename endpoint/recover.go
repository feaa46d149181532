package endpoint

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"disksync/deploy"
	"disksync/hypervisor"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/process"
)

// socket returns the path of a socket of a VM.
func (e *Engine) socket(vm image.UUID, name string) string {
	return filepath.Join(e.dir, vmDir(vm), name)
}

// ownSession keeps signals to the service, such as an interrupt of a terminal, from a process that outlives it.
func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// resumeVMs finds the VMs that an earlier process left running, and serves their disks again. What has ended meanwhile, or with the
// machine, is forgotten.
func (e *Engine) resumeVMs() error {
	entries, err := e.fsys.ReadDir(runningDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := durable.RemoveTemps(e.fsys, runningDir); err != nil {
		return err
	}
	boot, err := process.Boot()
	if err != nil {
		return err
	}
	for _, entry := range entries {
		text, ok := strings.CutSuffix(entry.Name(), ".json")
		id, err := image.ParseUUID(text)
		if !ok || err != nil {
			continue
		}
		if err := e.resumeVM(id, boot); err != nil {
			// Its guest waits; the others go on.
			e.log.Error("a VM that ran is not served", "vm", id, "error", err)
		}
	}
	return nil
}

func (e *Engine) resumeVM(id image.UUID, boot string) error {
	rec, err := e.readRun(id)
	if err != nil {
		e.log.Warn("the record of a running VM is damaged", "vm", id, "error", err)
		proc, ok := e.qemuOf(id)
		if !ok {
			return durable.Remove(e.fsys, runFile(id))
		}
		rec = runRecord{VM: id, Boot: boot, Hypervisor: QEMU, Process: proc, Since: e.now().UTC()}
		if err := e.saveRun(rec); err != nil {
			return err
		}
	}
	vm, err := e.vmOf(id)
	if err != nil {
		return err
	}
	if rec.Boot != boot {
		rec.Process = process.ID{}
	} else if rec.Process == (process.ID{}) && rec.Hypervisor == QEMU {
		e.endUnfinished(id)
	}
	switch {
	case rec.Process.Alive():
		return e.takeUp(vm, rec)
	case rec.Hypervisor != QEMU:
		rec.Boot, rec.Process = boot, process.ID{}
		return e.offer(vm, rec)
	}
	e.log.Info("VM ended while nobody watched", "vm", vm.Name)
	if err := errors.Join(durable.Remove(e.fsys, runFile(id)), e.removeSockets(id)); err != nil {
		return err
	}
	_, err = e.apply(vm)
	return err
}

// qemuOf returns the QEMU that has a VM's sockets, by what it has left in the VM's folder.
func (e *Engine) qemuOf(vm image.UUID) (id process.ID, ok bool) {
	b, err := durable.ReadFile(e.fsys, vmDir(vm)+"/"+pidFile, 32)
	if err != nil {
		return id, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return id, false
	}
	if id, err = process.Of(pid); err != nil {
		return id, false
	}
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return id, err == nil && strings.Contains(string(line), e.socket(vm, hypervisor.DisksSocket))
}

// endUnfinished ends a QEMU whose start did not come to its end: its guest was never let go.
func (e *Engine) endUnfinished(vm image.UUID) {
	id, ok := e.qemuOf(vm)
	if !ok {
		return
	}
	if err := id.Kill(); err != nil {
		e.log.Error("end what is left of a start", "vm", vm, "error", err)
		return
	}
	_ = id.Wait(e.live) // the engine has just begun
}

// takeUp serves a VM whose process has outlived the service.
func (e *Engine) takeUp(vm deploy.VM, rec runRecord) error {
	r := &runningVM{e: e, name: vm.Name, record: rec}
	if rec.Hypervisor != QEMU {
		return e.offer(vm, rec)
	}
	if err := r.open(vm); err != nil {
		r.strand(vm, err)
		e.adopt(r)
		return err
	}
	// Whoever died between the last two steps of a start left the guest held.
	if r.status(e.live) == "prelaunch" {
		_ = r.command(e.live, "cont")
	}
	e.adopt(r)
	e.log.Info("VM taken up again", "vm", vm.Name, "pid", rec.Process.Pid)
	return nil
}

// vmOf returns the VM with that id.
func (e *Engine) vmOf(id image.UUID) (deploy.VM, error) {
	vms, err := e.store.VMs()
	if err != nil {
		return deploy.VM{}, err
	}
	for _, vm := range vms {
		if vm.ID == id {
			return vm, nil
		}
	}
	return deploy.VM{}, deploy.ErrNoVM
}
