package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"disksync/deploy"
	"disksync/disk"
	"disksync/disk/nbd"
	"disksync/hypervisor"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
	"disksync/vhd"
)

// liveDisk is a disk of a VM that runs.
type liveDisk struct {
	role image.Role
	*disk.Live
	open *deploy.Live // what it consists of at present; guarded by group.mu
}

// group is the disks of a VM that runs, and who serves them.
type group struct {
	vm    string
	store *deploy.Store
	disks []*liveDisk
	early *early    // what the disks stand on while they are downloaded; nil: they are all here
	left  sync.Once // the download
	boot  deploy.BootRecorder
	// stranded is why the disks are not open though the guest is there; nil: they are.
	stranded error
	why      string

	mu sync.Mutex // one Swap at a time
}

// openGroup opens all disks of a VM for writing.
func (e *Engine) openGroup(vm deploy.VM) (*group, error) {
	g := &group{vm: vm.Name, store: e.store, early: e.early(vm)}
	for _, r := range image.Roles() {
		d, ok := vm.Current.Disk(r)
		if !ok {
			continue
		}
		open, err := g.openLeaf(*d)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s disk of VM %s: %w", r, vm.Name, err), g.close())
		}
		g.disks = append(g.disks, &liveDisk{role: r, Live: disk.NewLive(open.Disk), open: open})
	}
	// From here on nobody else changes which leaves the VM has; up to here somebody could.
	now, err := e.vmOf(vm.ID)
	if err == nil && !slices.EqualFunc(now.Current.Disks, vm.Current.Disks, func(a, b deploy.InstalledDisk) bool { return a.Leaf == b.Leaf }) {
		err = problem.New("DS-BUSY", problem.Busy, nil, "VM "+vm.Name+" was updated, or backed up, at the same moment", "it is as it was", "try again")
	}
	if err == nil && g.early != nil {
		// The disks are opened anew, with the files below them, when these are all there.
		err = g.early.whenWhole(func() error { return g.Swap(func([]image.UUID) (map[image.UUID]image.UUID, error) { return nil, nil }) })
	}
	if err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

// openLeaf opens a disk for writing.
func (g *group) openLeaf(d deploy.InstalledDisk) (*deploy.Live, error) {
	if g.early != nil {
		return g.early.openLeaf(d)
	}
	return g.store.OpenLive(d.Leaf)
}

// close makes everything durable and lets go of the files. Nobody may use the disks any more.
func (g *group) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for _, d := range g.disks {
		if d.open != nil {
			errs = append(errs, d.open.Close())
			d.open = nil
		}
	}
	g.letGo()
	return errors.Join(errs...)
}

// letGo ends what waits for a download.
func (g *group) letGo() {
	if g.early != nil {
		g.left.Do(g.early.leave)
	}
}

// recorded is a disk of which is noted what is read first.
type recorded struct {
	*disk.Live
	role image.Role
	boot *deploy.BootRecorder
}

// ReadAt implements io.ReaderAt.
func (d recorded) ReadAt(p []byte, off int64) (int, error) {
	d.boot.Read(d.role, off, int64(len(p)))
	return d.Live.ReadAt(p, off)
}

// errGone says that the disks of a VM are no longer in use.
var errGone = errors.New("the VM does not run any more")

// Swap implements deploy.Swapper.
func (g *group) Swap(next func(now []image.UUID) (map[image.UUID]image.UUID, error)) error {
	if g.stranded != nil {
		return g.stranded
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	lives := make([]*disk.Live, len(g.disks))
	now := make([]image.UUID, len(g.disks))
	for i, d := range g.disks {
		if d.open == nil {
			return errGone
		}
		lives[i], now[i] = d.Live, d.open.Leaf
	}
	fresh := make([]*deploy.Live, len(g.disks))
	err := disk.SwapAll(lives, func([]*vhd.Disk) ([]*vhd.Disk, error) {
		if err := g.reopen(next, now, fresh); err != nil {
			return nil, err
		}
		disks := make([]*vhd.Disk, len(fresh))
		for i, l := range fresh {
			disks[i] = l.Disk
		}
		return disks, nil
	})
	if err != nil {
		for _, l := range fresh {
			if l != nil {
				err = errors.Join(err, l.GiveUp())
			}
		}
		return err
	}
	var errs []error
	for i, d := range g.disks {
		errs = append(errs, d.open.Close())
		d.open = fresh[i]
	}
	return errors.Join(errs...)
}

// reopen asks which leaves to go on with, and opens them all.
func (g *group) reopen(next func([]image.UUID) (map[image.UUID]image.UUID, error), now []image.UUID, fresh []*deploy.Live) error {
	instead, err := next(now)
	if err != nil {
		return err
	}
	for i, d := range g.disks {
		if leaf, ok := instead[now[i]]; ok && leaf != now[i] {
			fresh[i], err = g.store.OpenLive(leaf)
		} else {
			fresh[i], err = d.open.Again()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// exports returns the disks as the server of NBD has them, by their roles.
func (g *group) exports() map[string]nbd.Device {
	out := map[string]nbd.Device{}
	for _, d := range g.disks {
		out[string(d.role)] = recorded{d.Live, d.role, &g.boot}
	}
	return out
}

// listen listens on a socket of a VM, in place of what an earlier process left there. Only our user and root may connect.
func (e *Engine) listen(vm image.UUID, socket string) (*net.UnixListener, error) {
	name := vmDir(vm) + "/" + socket
	for _, dir := range []string{runDir, vmDir(vm)} {
		if err := durable.MakeDir(e.fsys, dir, 0o700); err != nil {
			return nil, err
		}
	}
	if err := durable.Remove(e.fsys, name); err != nil {
		return nil, err
	}
	path := filepath.Join(e.dir, name)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := e.fsys.Chmod(name, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// peer returns who is at the other end of a connection.
func peer(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cred, errors.Join(err, credErr)
}

// mayConnect reports whether a user may use the sockets of a VM.
func mayConnect(uid uint32) bool { return uid == 0 || int(uid) == os.Getuid() }

// door is a listener that lets in whom it may.
type door struct {
	*net.UnixListener
	// enter is called with the number of the process that connects, before it is let in; with an error it is not.
	enter func(pid int) error
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	for {
		conn, err := d.AcceptUnix()
		if err != nil {
			return nil, err
		}
		cred, err := peer(conn)
		if err == nil && !mayConnect(cred.Uid) {
			err = fmt.Errorf("user %d may not", cred.Uid)
		}
		if err == nil && d.enter != nil {
			err = d.enter(int(cred.Pid))
		}
		if err == nil {
			return conn, nil
		}
		conn.Close()
	}
}

// serve serves the disks until ctx ends.
func (g *group) serve(ctx context.Context, l net.Listener, report func(export, op string, err error)) error {
	return nbd.Serve(ctx, l, g.exports(), nbd.Options{Report: report})
}

// socketsOf are the names that may be left in a VM's folder.
func socketsOf() []string {
	names := []string{hypervisor.DisksSocket, hypervisor.ConsoleSocket, hypervisor.MonitorSocket, hypervisor.AgentSocket, hypervisor.VNCSocket}
	for n := range 2 {
		names = append(names, hypervisor.USBSocket(n))
	}
	return append(names, pidFile)
}

// removeSockets removes what a VM that has ended left.
func (e *Engine) removeSockets(vm image.UUID) error {
	var errs []error
	for _, name := range socketsOf() {
		errs = append(errs, durable.Remove(e.fsys, vmDir(vm)+"/"+name))
	}
	return errors.Join(append(errs, durable.Remove(e.fsys, vmDir(vm)))...)
}
