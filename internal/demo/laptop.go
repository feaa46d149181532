package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"disksync/deploy"
	"disksync/endpoint"
	"disksync/internal/progress"
	"disksync/internal/testkit/privbus"
)

// A laptop is an endpoint of its own: a state folder and, where there is D-Bus, a bus with the service on it.
type laptop struct {
	machine
	d       *demo
	dir     string // its state folder
	bus     *privbus.Bus
	busDir  string
	service *child // nil while it does not run
}

// laptopName is the name of a laptop, without its number.
const laptopName = "laptop-"

// newLaptop makes a laptop with nothing on it, starts its service, and registers it with the Synchronizer at the url.
func (d *demo) newLaptop(ctx context.Context, number, url string) (*laptop, error) {
	name := laptopName + number
	l := &laptop{machine: d.machine(name), d: d, dir: name}
	d.atEnd(l.close)
	if err := l.turnOn(ctx); err != nil {
		return nil, err
	}
	register := l.manager("register", url, "--fingerprint", d.server.fingerprint)
	if err := l.show(ctx, register); err != nil {
		return nil, err
	}
	login := l.manager("login", d.user.name, "--password-stdin")
	login.secret = d.user.password
	return l, l.show(ctx, login)
}

func (l *laptop) turnOn(ctx context.Context) (err error) {
	if l.d.opts.standalone {
		l.export("DISKSYNCMGR_STATE=" + l.dir)
		return nil
	}
	// The path of a socket must be short, so it is not in the work folder.
	if l.busDir, err = os.MkdirTemp("", "bus"); err != nil {
		return err
	}
	if l.bus, err = privbus.Start(l.busDir, privbus.Session); err != nil {
		return err
	}
	address, _, _ := strings.Cut(l.bus.Env()[0], ",") // the rest of it nobody needs
	l.export("DISKSYNCMGR_STATE="+l.dir, address)
	return l.serve(ctx)
}

// serve starts the service and waits until it answers.
func (l *laptop) serve(ctx context.Context) (err error) {
	if l.service, err = l.start(cmdline("disksyncmgr", "serve", "--session")); err != nil {
		return err
	}
	l.d.services = append(l.d.services, l.service)
	line, err := l.service.ready(ctx)
	if err != nil {
		return err
	}
	l.result("%s", line)
	return nil
}

// close turns the laptop off and removes its disk. To close it again does nothing.
func (l *laptop) close() error {
	var errs []error
	if l.service != nil {
		errs = append(errs, l.service.stop())
	}
	if l.bus != nil {
		errs = append(errs, l.bus.Stop())
	}
	if l.busDir != "" {
		errs = append(errs, os.RemoveAll(l.busDir))
	}
	l.service, l.bus, l.busDir = nil, nil, ""
	return errors.Join(append(errs, os.RemoveAll(l.d.path(l.dir)))...)
}

// manager returns a command of the endpoint's user, who talks to the service where there is one.
func (l *laptop) manager(args ...string) call {
	door := "--session"
	if l.d.opts.standalone {
		door = "--standalone"
	}
	return cmdline("disksyncmgr", append([]string{door}, args...)...)
}

// receive runs a command that brings a version here, and says where the bytes came from.
func (l *laptop) receive(ctx context.Context, args ...string) (endpoint.Receipt, error) {
	rc, err := ask[endpoint.Receipt](ctx, &l.machine, l.manager(append(args, "--json")...))
	if err != nil {
		return rc, err
	}
	l.tellReceipt(rc)
	return rc, nil
}

func (l *laptop) tellReceipt(rc endpoint.Receipt) {
	l.result("version %d is installed: %s; %.1f s", rc.Version, bySource(rc.Bytes), rc.Seconds)
	blocks := fmt.Sprintf("%d blocks verified", rc.Verified)
	if rc.Healed > 0 {
		blocks += fmt.Sprintf(", %d healed from another source", rc.Healed)
	}
	if rc.Resumed > 0 {
		blocks += fmt.Sprintf(", %d kept from the interrupted run", rc.Resumed)
	}
	if rc.Verified > 0 {
		l.result("%s", blocks)
	}
}

// bySource says how many bytes came from where.
func bySource(bytes map[string]int64) string {
	names := map[string]string{deploy.Local: "this machine", deploy.USB: "the stick", deploy.DVD: "a disc", deploy.Network: "the network"}
	var parts []string
	for _, k := range deploy.Kinds() {
		if bytes[k] > 0 {
			parts = append(parts, progress.Bytes(bytes[k])+" from "+names[k])
		}
	}
	if len(parts) == 0 {
		return "nothing had to be brought here"
	}
	return strings.Join(parts, ", ")
}

// vms returns what is installed on the laptop, without printing anything.
func (l *laptop) vms(ctx context.Context) ([]endpoint.VMInfo, error) {
	c := l.manager("vms", "--json")
	c.quiet = true
	return ask[[]endpoint.VMInfo](ctx, &l.machine, c)
}

// hasBus reports whether this machine can run a bus.
func hasBus() bool {
	_, err := exec.LookPath(privbus.Daemon)
	return err == nil
}
