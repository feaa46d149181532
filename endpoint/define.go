package endpoint

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"time"

	"disksync/deploy"
	"disksync/hypervisor"
	"disksync/hypervisor/libvirt"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
	"disksync/internal/process"
)

// Nobody takes a VM back from the hypervisor that it was defined for.
const Nobody Hypervisor = "none"

const definedDir = "defined" // configurations for xl

// ConfigurationFile returns the file that a VM's configuration for xl is written to, relative to the state folder.
func configurationFile(vm deploy.VM) string { return definedDir + "/" + vm.Name + ".cfg" }

// define gives a VM to another hypervisor: what it has to know is written or told, and the disks are served from now on to whoever
// starts it there.
func (e *Engine) define(ctx context.Context, vm deploy.VM, o RunOptions) (VMInfo, error) {
	m, err := e.machine(vm, o)
	if err != nil {
		return VMInfo{}, err
	}
	var note string
	switch o.Define {
	case Libvirt:
		note, err = e.defineLibvirt(ctx, m, o)
	case XL:
		note, err = e.defineXL(vm, m)
	default:
		err = problem.New("DS-USAGE", problem.Usage, nil, "a VM can be defined for libvirt or xl", "nothing was changed", "")
	}
	if err != nil {
		return VMInfo{}, err
	}
	if err := e.serveDefined(vm, o); err != nil {
		return VMInfo{}, err
	}
	e.log.Info("VM defined", "vm", vm.Name, "hypervisor", string(o.Define))
	info, err := e.describe(vm)
	info.Run.Notes = []string{note}
	return info, err
}

// serveDefined serves the disks of a VM that is defined, unless they are already.
func (e *Engine) serveDefined(vm deploy.VM, o RunOptions) error {
	e.fleet.mu.Lock()
	there := e.fleet.offers[vm.ID]
	e.fleet.mu.Unlock()
	if there != nil {
		there.mu.Lock()
		defer there.mu.Unlock()
		there.record.Options = o
		return e.saveRun(there.record)
	}
	boot, err := process.Boot()
	if err != nil {
		return err
	}
	rec := runRecord{VM: vm.ID, Boot: boot, Hypervisor: o.Define, Options: o}
	if err := e.saveRun(rec); err != nil {
		return err
	}
	return e.offer(vm, rec)
}

func (e *Engine) defineLibvirt(ctx context.Context, m *hypervisor.Machine, o RunOptions) (string, error) {
	text, err := m.Domain()
	if err != nil {
		return "", cannotDefine(m.Name, err)
	}
	if err := libvirt.Define(ctx, o.Connect, text); err != nil {
		return "", cannotDefine(m.Name, err)
	}
	return "start it with `virsh start " + m.Name + "`; disksyncmgr has to run as long as it does", nil
}

func (e *Engine) defineXL(vm deploy.VM, m *hypervisor.Machine) (string, error) {
	text, err := m.XL()
	if err != nil {
		return "", cannotDefine(m.Name, err)
	}
	if err := durable.MakeDir(e.fsys, definedDir, 0o700); err != nil {
		return "", err
	}
	name := configurationFile(vm)
	if err := durable.WriteFile(e.fsys, name, []byte(text), 0o600); err != nil {
		return "", err
	}
	return "start it with `xl create " + filepath.Join(e.dir, name) + "`; disksyncmgr has to run as long as it does", nil
}

func cannotDefine(name string, err error) error {
	return problem.New("DS-DEFINE", problem.Failure, err, "VM "+name+" was not defined", "what was defined before is as it was", "")
}

// undefine takes a VM back from the hypervisor that it is defined for, unless it is to be defined for the same again.
func (e *Engine) undefine(ctx context.Context, vm deploy.VM, to Hypervisor) error {
	rec, err := e.readRun(vm.ID)
	if err != nil || rec.Hypervisor == QEMU {
		return nil //nolint:nilerr // it is defined nowhere
	}
	if to == "" {
		return defined(vm.Name, rec.Hypervisor)
	}
	if to == rec.Hypervisor {
		return nil
	}
	e.fleet.mu.Lock()
	o := e.fleet.offers[vm.ID]
	delete(e.fleet.offers, vm.ID)
	e.fleet.mu.Unlock()
	if o != nil {
		o.listener.Close()
		<-o.done
	}
	if rec.Hypervisor == Libvirt {
		if err := libvirt.Undefine(ctx, rec.Options.Connect, vm.ID); err != nil {
			e.log.Warn("a domain stays defined", "vm", vm.Name, "error", err)
		}
	}
	return errors.Join(durable.Remove(e.fsys, runFile(vm.ID)), durable.Remove(e.fsys, configurationFile(vm)), e.removeSockets(vm.ID))
}

func defined(name string, by Hypervisor) error {
	return problem.New("DS-DEFINED", problem.Busy, nil, "VM "+name+" is defined for "+string(by), "it is as it was",
		"start it there, or take it back first with `run "+name+" --define none`")
}

// offered is the disks of a VM that another hypervisor starts: who connects has started it.
type offered struct {
	e        *Engine
	vm       image.UUID
	listener *net.UnixListener
	done     chan struct{} // closed when nobody is let in any more

	mu      sync.Mutex
	record  runRecord
	feed    *feed // of the VM that runs; nil: it does not
	running *runningVM
}

// offer begins to serve a VM's disks to whoever connects. When it runs already, it is taken up.
func (e *Engine) offer(vm deploy.VM, rec runRecord) error {
	l, err := e.listen(vm.ID, hypervisor.DisksSocket)
	if err != nil {
		return err
	}
	o := &offered{e: e, vm: vm.ID, listener: l, done: make(chan struct{}), record: rec}
	runs := rec.Process.Alive()
	if runs {
		if err := o.begin(vm, rec.Process); err != nil {
			return errors.Join(err, l.Close())
		}
	}
	e.fleet.mu.Lock()
	e.fleet.offers[vm.ID] = o
	e.fleet.mu.Unlock()
	if runs && rec.Hypervisor == Libvirt {
		e.work.Go(o.resume)
	}
	stop := context.AfterFunc(e.live, func() { l.Close() })
	e.work.Go(func() {
		defer stop()
		defer close(o.done)
		o.accept()
	})
	return nil
}

// resumeTime is how long after the service's start a guest may notice that its disks were gone.
const resumeTime = 20 * time.Second

// resume lets a guest of libvirt go on that was paused while nobody served its disks.
func (o *offered) resume() {
	ctx, cancel := context.WithTimeout(o.e.live, resumeTime)
	defer cancel()
	tick := time.NewTicker(time.Second / 2)
	defer tick.Stop()
	for {
		o.mu.Lock()
		connect := o.record.Options.Connect // it may be defined anew meanwhile
		o.mu.Unlock()
		resumed, err := libvirt.Resume(ctx, connect, o.vm)
		if err != nil && ctx.Err() == nil {
			o.e.log.Warn("cannot see whether a VM is paused", "vm", o.vm, "error", err)
		}
		if resumed {
			o.e.log.Info("VM goes on", "vm", o.vm)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// accept lets in who may, until the listener is closed.
func (o *offered) accept() {
	for {
		conn, err := o.listener.AcceptUnix()
		if err != nil {
			return
		}
		if err := o.let(conn); err != nil {
			o.e.log.Warn("nobody was let in to the disks of a VM", "vm", o.vm, "error", err)
			conn.Close()
		}
	}
}

// let lets a connection in. The first one starts the VM, as far as we are concerned.
func (o *offered) let(conn *net.UnixConn) error {
	cred, err := peer(conn)
	if err != nil {
		return err
	}
	if !mayConnect(cred.Uid) {
		return errors.New("another user")
	}
	if err := o.awaitEnd(int(cred.Pid)); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.feed == nil {
		id, err := process.Of(int(cred.Pid))
		if err != nil {
			return err
		}
		vm, err := o.e.vmOf(o.vm)
		if err != nil {
			return err
		}
		done, err := o.e.fleet.change(vm)
		if err != nil {
			return err
		}
		defer done()
		if vm, _, err = o.e.freshen(vm); err != nil {
			return err
		}
		if err := o.begin(vm, id); err != nil {
			return err
		}
	}
	return o.feed.give(conn)
}

// endTime is how long the end of a VM may take, with all that it has written, before the next one may begin.
const endTime = 30 * time.Second

// awaitEnd waits, when another process comes than the one that has the disks, until that one has ended. It must not be let in: it may
// be the next start of the VM. Clients of the kernel have processes that come and go.
func (o *offered) awaitEnd(pid int) error {
	o.mu.Lock()
	r, mine := o.running, o.record.Process.Pid == pid || o.record.Hypervisor != Libvirt
	o.mu.Unlock()
	if r == nil || mine {
		return nil
	}
	ctx, cancel := context.WithTimeout(o.e.live, endTime)
	defer cancel()
	if r.record.Process.Alive() {
		return errors.New("another process has the disks")
	}
	select {
	case <-r.gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// quiet returns when nobody is connected any more.
func (o *offered) quiet(ctx context.Context) error {
	o.mu.Lock()
	f := o.feed
	o.mu.Unlock()
	return f.wait(ctx)
}

// begin opens the disks for the process that came first. It is called with mu held, or before anybody can come.
func (o *offered) begin(vm deploy.VM, id process.ID) error {
	if o.record.Process != id {
		o.record.Process, o.record.Since = id, o.e.now().UTC()
	}
	if err := o.e.saveRun(o.record); err != nil {
		return err
	}
	g, err := o.e.openGroup(vm)
	if err != nil {
		return err
	}
	r := &runningVM{e: o.e, name: vm.Name, record: o.record, group: g, offered: o}
	o.feed, o.running = newFeed(), r
	r.serveOn(o.feed, nil)
	o.e.adopt(r)
	return nil
}

// end notes that the VM does not run any more.
func (o *offered) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.feed, o.running = nil, nil
	o.record.Process = process.ID{}
	if err := o.e.saveRun(o.record); err != nil {
		o.e.log.Error("note the end of a VM", "vm", o.vm, "error", err)
	}
}

// feed is a listener for connections that somebody else has accepted.
type feed struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once

	mu    sync.Mutex
	open  int
	quiet chan struct{} // closed when open is 0
}

func newFeed() *feed {
	f := &feed{conns: make(chan net.Conn), closed: make(chan struct{}), quiet: make(chan struct{})}
	close(f.quiet)
	return f
}

// give hands over a connection.
func (f *feed) give(conn net.Conn) error {
	f.mu.Lock()
	if f.open++; f.open == 1 {
		f.quiet = make(chan struct{})
	}
	f.mu.Unlock()
	c := &counted{Conn: conn, f: f}
	select {
	case f.conns <- c:
		return nil
	case <-f.closed:
		c.Close()
		return net.ErrClosed
	}
}

// Accept implements net.Listener.
func (f *feed) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (f *feed) Close() error {
	f.once.Do(func() { close(f.closed) })
	return nil
}

// Addr implements net.Listener.
func (f *feed) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// wait returns when there is no connection any more, or ctx has ended.
func (f *feed) wait(ctx context.Context) error {
	f.mu.Lock()
	quiet := f.quiet
	f.mu.Unlock()
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// counted is a connection that says when it is closed.
type counted struct {
	net.Conn
	f    *feed
	once sync.Once
}

// Close implements net.Conn.
func (c *counted) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.f.mu.Lock()
		defer c.f.mu.Unlock()
		if c.f.open--; c.f.open == 0 {
			close(c.f.quiet)
		}
	})
	return err
}
