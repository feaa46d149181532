package endpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"disksync/deploy"
	"disksync/hypervisor"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
	"disksync/internal/process"
	"disksync/internal/qmp"
)

// RunState is what a VM does.
type RunState string

// The states of VMs.
const (
	VMStopped RunState = "stopped"
	VMRunning RunState = "running"
	VMPaused  RunState = "paused" // by somebody, or because a disk cannot be read or written
)

const (
	runningDir = "running"
	pidFile    = "pid"
	// answerTime is how long QEMU may take to answer, also at its start.
	answerTime = 20 * time.Second
)

// RunInfo says how a VM runs.
type RunInfo struct {
	State      RunState   `json:"state"`
	Hypervisor Hypervisor `json:"hypervisor,omitempty"` // empty: it does not run, and is not defined anywhere
	Pid        int        `json:"pid,omitempty"`
	Since      time.Time  `json:"since,omitzero"`
	Notes      []string   `json:"notes,omitempty"` // of its start
}

// runRecord is the file of a VM that runs, or whose disks are served for another hypervisor to run it.
type runRecord struct {
	VM         image.UUID `json:"vm"`
	Boot       string     `json:"boot"` // the run of the machine that the process belongs to
	Hypervisor Hypervisor `json:"hypervisor"`
	Process    process.ID `json:"process,omitzero"` // zero: none yet, or none at present
	Since      time.Time  `json:"since,omitzero"`
	Options    RunOptions `json:"options"`
}

func runFile(vm image.UUID) string { return runningDir + "/" + vm.String() + ".json" }

// runningVM is a VM that runs.
type runningVM struct {
	e       *Engine
	name    string
	console *console // nil: another hypervisor has it
	offered *offered // nil: it was started by us
	*group
	stopServing context.CancelFunc
	served      chan struct{} // closed when nobody is served any more
	gone        chan struct{} // closed when it has ended and everything is done
	exit        chan error    // gets how QEMU ended, when it is our child
	// replace has another runningVM take over; watched is done then, and when the service ends.
	replace context.CancelFunc
	watched context.Context
	stderr  *tail

	mu      sync.Mutex
	record  runRecord
	monitor *qmp.Client // nil: not connected
}

// fleet is the VMs that run.
type fleet struct {
	mu  sync.Mutex
	vms map[image.UUID]*runningVM
	// offers are the VMs that are defined for other hypervisors.
	offers map[image.UUID]*offered
	// changing are the VMs that somebody starts or stops: one at a time.
	changing map[image.UUID]bool
}

// runs returns a VM that runs; nil when it does not.
func (e *Engine) runs(vm image.UUID) *runningVM {
	e.fleet.mu.Lock()
	defer e.fleet.mu.Unlock()
	return e.fleet.vms[vm]
}

// change begins a change of whether a VM runs.
func (f *fleet) change(vm deploy.VM) (done func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changing[vm.ID] {
		return nil, problem.New("DS-BUSY", problem.Busy, nil, "VM "+vm.Name+" is being started or stopped", "nothing was changed", "try again in a moment")
	}
	f.changing[vm.ID] = true
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.changing, vm.ID)
	}, nil
}

// RunVM starts a VM, or with RunOptions.Define gives it to another hypervisor. One that is paused goes on. It returns when the guest
// runs; how that ends, [Engine.AwaitVM] tells.
func (e *Engine) RunVM(ctx context.Context, name string, o RunOptions) (VMInfo, error) {
	vm, err := e.vm(name)
	if err != nil {
		return VMInfo{}, err
	}
	done, err := e.fleet.change(vm)
	if err != nil {
		return VMInfo{}, err
	}
	defer done()
	if r := e.runs(vm.ID); r != nil && (o.Define == "" || o.Define != r.record.Hypervisor) {
		return e.goOn(ctx, vm, r, o)
	}
	if o.SaveChanges != nil {
		if vm, err = e.store.SaveChanges(vm.Name, *o.SaveChanges); err != nil {
			return VMInfo{}, err
		}
	}
	if err := e.undefine(ctx, vm, o.Define); err != nil {
		return VMInfo{}, err
	}
	switch o.Define {
	case "":
	case Nobody:
		return e.describe(vm)
	default:
		return e.define(ctx, vm, o)
	}
	vm, notes, err := e.freshen(vm)
	if err != nil {
		return VMInfo{}, err
	}
	m, err := e.machine(vm, o)
	if err != nil {
		return VMInfo{}, err
	}
	if err := e.goOnWith(vm); err != nil {
		return VMInfo{}, err
	}
	if err := e.start(ctx, vm, m, o); err != nil {
		return VMInfo{}, err
	}
	info, err := e.describe(vm)
	info.Run.Notes = notes
	return info, err
}

// goOn lets a VM that runs go on when it is paused.
func (e *Engine) goOn(ctx context.Context, vm deploy.VM, r *runningVM, o RunOptions) (VMInfo, error) {
	if o.Define == "" && r.stranded != nil {
		return e.rescue(ctx, vm, r)
	}
	if o.Define == "" && r.state(ctx) == VMPaused {
		if err := r.command(ctx, "cont"); err == nil {
			return e.describe(vm)
		}
	}
	return VMInfo{}, problem.New("DS-RUNNING", problem.Busy, nil, "VM "+vm.Name+" is running already", "it goes on as it was", "`stop "+vm.Name+"` ends it")
}

// freshen makes of a VM what it is to be when it starts: a pending update becomes current, and the system disk of a dynamic VM is as it
// was published. An update that cannot be applied stays pending, and the VM starts as it is.
func (e *Engine) freshen(vm deploy.VM) (deploy.VM, []string, error) {
	var notes []string
	vm, err := e.apply(vm)
	if err != nil {
		e.log.Warn("pending update", "vm", vm.Name, "error", err)
		notes = append(notes, fmt.Sprintf("version %d was not applied: %v", vm.Pending.Version, err))
	}
	if vm.Current.Mode != image.Dynamic || vm.SaveChanges {
		return vm, notes, nil
	}
	vm, err = e.store.Renew(vm.Name, map[image.Role]bool{image.System: true})
	return vm, notes, err
}

// start opens a VM's disks, serves them, and starts QEMU on them.
func (e *Engine) start(ctx context.Context, vm deploy.VM, m *hypervisor.Machine, o RunOptions) (err error) {
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			err = errors.New("no qemu-system-x86_64")
		}
		return problem.New("DS-NO-HYPERVISOR", problem.NotFound, err, "VM "+vm.Name+" cannot be started: there is no QEMU on this machine", "it is as it was",
			"install it (Debian: apt install qemu-system-x86)")
	}
	boot, err := process.Boot()
	if err != nil {
		return err
	}
	r := &runningVM{e: e, name: vm.Name, record: runRecord{VM: vm.ID, Boot: boot, Hypervisor: QEMU, Since: e.now().UTC(), Options: o}}
	// The record first: whatever happens now, the next service finds the process by its folder.
	if err := e.saveRun(r.record); err != nil {
		return err
	}
	if err := r.open(vm); err != nil {
		return errors.Join(err, durable.Remove(e.fsys, runFile(vm.ID)))
	}
	err = r.launch(ctx, program, m)
	if err == nil {
		err = e.saveRun(r.record)
	}
	if err == nil {
		err = r.command(ctx, "cont")
	}
	if err != nil {
		said := r.abandon()
		return problem.New("DS-HYPERVISOR", problem.Failure, errors.Join(err, said), "VM "+vm.Name+" did not start", "its disks are as they were",
			"the text says why; `run --help` shows what can be chosen")
	}
	e.adopt(r)
	e.log.Info("VM started", "vm", vm.Name, "pid", r.record.Process.Pid, "memory", m.Memory, "kvm", m.KVM)
	return nil
}

// open opens the disks and begins to serve them and the console.
func (r *runningVM) open(vm deploy.VM) error {
	g, err := r.e.openGroup(vm)
	if err != nil {
		return err
	}
	r.group, r.console = g, newConsole()
	disks, err := r.e.listen(vm.ID, hypervisor.DisksSocket)
	if err != nil {
		return errors.Join(err, g.close())
	}
	serial, err := r.e.listen(vm.ID, hypervisor.ConsoleSocket)
	if err != nil {
		return errors.Join(err, disks.Close(), g.close())
	}
	r.serveOn(&door{UnixListener: disks}, &door{UnixListener: serial})
	return nil
}

// serveOn serves the disks and the console until stopServing is called.
func (r *runningVM) serveOn(disks, serial net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	r.stopServing, r.served, r.gone = cancel, make(chan struct{}), make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		err := r.serve(ctx, disks, func(export, op string, err error) {
			r.e.log.Error("disk of a running VM", "vm", r.name, "disk", export, "operation", op, "error", err)
		})
		if err != nil {
			r.e.log.Error("disks are not served any more", "vm", r.name, "error", err)
		}
	})
	if serial != nil {
		context.AfterFunc(ctx, func() { serial.Close() })
		work.Go(func() { r.console.serve(serial) })
	}
	go func() {
		work.Wait()
		close(r.served)
	}()
}

// launch starts QEMU, held, and connects with its monitor.
func (r *runningVM) launch(ctx context.Context, program string, m *hypervisor.Machine) error {
	args := append(m.QEMU(), "-pidfile", m.Path(pidFile))
	cmd := exec.Command(program, args...)
	r.stderr = &tail{}
	cmd.Stderr = r.stderr
	cmd.Dir = "/"
	cmd.SysProcAttr = ownSession()
	if err := cmd.Start(); err != nil {
		return err
	}
	r.exit = make(chan error, 1)
	go func() { r.exit <- cmd.Wait() }()
	id, err := process.Of(cmd.Process.Pid)
	if errors.Is(err, os.ErrProcessDone) {
		return errEndedAtOnce
	}
	if err != nil {
		return err
	}
	r.record.Process = id
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if r.monitor, err = qmp.Monitor(ctx, m.Path(hypervisor.MonitorSocket)); err == nil {
			return nil
		}
		select {
		case <-tick.C:
			if !id.Alive() {
				return errEndedAtOnce
			}
		case <-ctx.Done():
			return fmt.Errorf("QEMU does not answer: %w", err)
		}
	}
}

var errEndedAtOnce = errors.New("QEMU ended at once")

// abandon takes back a start that failed, and returns what QEMU said.
func (r *runningVM) abandon() error {
	if r.monitor != nil {
		r.monitor.Close()
	}
	var said error
	if r.exit != nil {
		said = r.record.Process.Kill()
		<-r.exit
		if text := strings.TrimSpace(r.stderr.String()); text != "" {
			said = errors.Join(said, errors.New(text))
		}
	}
	r.stopServing()
	r.letGo()
	<-r.served
	return errors.Join(said, r.group.close(), r.e.removeSockets(r.record.VM), durable.Remove(r.e.fsys, runFile(r.record.VM)))
}

// adopt counts a VM among those that run, and watches over it.
func (e *Engine) adopt(r *runningVM) {
	r.watched, r.replace = context.WithCancel(e.live)
	e.fleet.mu.Lock()
	e.fleet.vms[r.record.VM] = r
	e.fleet.mu.Unlock()
	e.work.Go(func() { r.supervise() })
}

// supervise waits for the end of the VM, or of the service, which the VM outlives: then its guest waits for the next one.
func (r *runningVM) supervise() {
	e := r.e
	defer r.replace()
	err := r.record.Process.Wait(r.watched)
	if err == nil && r.offered != nil {
		err = r.offered.quiet(r.watched) // the kernel's client of NBD has no process that stays
	}
	ended := err == nil
	if err != nil && r.watched.Err() == nil {
		e.log.Error("cannot watch over a VM", "vm", r.name, "error", err)
		<-r.watched.Done()
	}
	r.stopServing()
	r.letGo()
	<-r.served
	if err := r.group.close(); err != nil {
		e.log.Error("close the disks of a VM", "vm", r.name, "error", err)
	}
	r.mu.Lock()
	if r.monitor != nil {
		r.monitor.Close()
	}
	r.mu.Unlock()
	if ended {
		e.ended(r)
	}
	e.fleet.mu.Lock()
	if e.fleet.vms[r.record.VM] == r {
		delete(e.fleet.vms, r.record.VM)
	}
	e.fleet.mu.Unlock()
	close(r.gone)
}

// ended tidies up behind a VM that has ended.
func (e *Engine) ended(r *runningVM) {
	var exit error
	if r.exit != nil {
		exit = <-r.exit
	}
	if exit != nil {
		e.log.Warn("VM ended", "vm", r.name, "error", exit)
	} else {
		e.log.Info("VM ended", "vm", r.name)
	}
	if r.offered != nil {
		r.offered.end()
	} else if err := errors.Join(durable.Remove(e.fsys, runFile(r.record.VM)), e.removeSockets(r.record.VM)); err != nil {
		e.log.Error("tidy up behind a VM", "vm", r.name, "error", err)
	}
	if vm, err := e.vm(r.name); err == nil && vm.Pending != nil {
		if _, err := e.apply(vm); err != nil {
			e.log.Warn("pending update", "vm", vm.Name, "error", err)
		}
	}
}

// AwaitVM returns when a VM does not run any more, or when ctx ends. Of one that failed it returns what QEMU said.
func (e *Engine) AwaitVM(ctx context.Context, name string) error {
	vm, err := e.vm(name)
	if err != nil {
		return err
	}
	for r := e.runs(vm.ID); r != nil; r = e.runs(vm.ID) {
		select {
		case <-r.gone:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// command has QEMU execute a command without arguments.
func (r *runningVM) command(ctx context.Context, name string) error { return r.ask(ctx, name, nil) }

// ask has QEMU execute a command and stores its answer in result, which may be nil. It connects anew when the connection has gone.
func (r *runningVM) ask(ctx context.Context, name string, result any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.ours(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if r.monitor == nil {
		var err error
		if r.monitor, err = qmp.Monitor(ctx, r.e.socket(r.record.VM, hypervisor.MonitorSocket)); err != nil {
			r.monitor = nil
			return err
		}
	}
	err := r.monitor.Do(ctx, name, nil, result)
	if _, answered := errors.AsType[*qmp.Error](err); err != nil && !answered {
		r.monitor.Close()
		r.monitor = nil
	}
	return err
}

// ours returns an error when another hypervisor runs the VM.
func (r *runningVM) ours() error {
	if r.offered == nil {
		return nil
	}
	return problem.New("DS-OTHER-HYPERVISOR", problem.Usage, nil, fmt.Sprintf("VM %s was started by %s", r.name, r.record.Hypervisor), "it goes on", "work with it there")
}

// state returns what the VM does.
func (r *runningVM) state(ctx context.Context) RunState {
	if r.offered != nil {
		return VMRunning
	}
	if r.stranded != nil {
		return VMPaused
	}
	switch r.status(ctx) {
	case "running", "shutdown", "":
		return VMRunning // as far as is known: its process is there
	}
	return VMPaused
}

// status returns what QEMU calls the state of the VM; "" when it does not say.
func (r *runningVM) status(ctx context.Context) string {
	var st struct {
		Status string `json:"status"`
	}
	if err := r.ask(ctx, "query-status", &st); err != nil {
		return ""
	}
	return st.Status
}

func (r *runningVM) info(ctx context.Context) RunInfo {
	r.mu.Lock()
	rec := r.record
	r.mu.Unlock()
	return RunInfo{State: r.state(ctx), Hypervisor: rec.Hypervisor, Pid: rec.Process.Pid, Since: rec.Since}
}

func (e *Engine) saveRun(rec runRecord) error {
	if err := durable.MakeDir(e.fsys, runningDir, 0o700); err != nil {
		return err
	}
	return writeJSON(e.fsys, runFile(rec.VM), rec)
}

// tail keeps the end of what is written to it. It is safe for concurrent use.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailLength = 8 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - tailLength; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

// String returns what is kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

// runOf returns how a VM runs, or that it does not.
func (e *Engine) runOf(vm image.UUID) RunInfo {
	if r := e.runs(vm); r != nil {
		return r.info(e.live)
	}
	info := RunInfo{State: VMStopped}
	if rec, err := e.readRun(vm); err == nil {
		info.Hypervisor = cmp.Or(rec.Options.Define, rec.Hypervisor)
	}
	return info
}

func (e *Engine) readRun(vm image.UUID) (rec runRecord, err error) {
	if _, err := e.fsys.Stat(runFile(vm)); err != nil {
		return rec, err
	}
	err = readJSON(e.fsys, runFile(vm), &rec)
	if err == nil && rec.VM != vm {
		err = fmt.Errorf("%s: %w", runFile(vm), fs.ErrInvalid)
	}
	return rec, err
}
