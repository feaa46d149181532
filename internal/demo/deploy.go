package main

import (
	"context"
	"fmt"
	"time"

	"disksync/deploy"
	"disksync/endpoint"
)

// deployFromStick deploys version 2 on an empty laptop: version 1 is on the stick, the rest comes over the network.
func (d *demo) deployFromStick(ctx context.Context) error {
	d.step("The first laptop: from the stick, and the difference from the Synchronizer")
	l, err := d.newLaptop(ctx, "1", d.server.url())
	if err != nil {
		return err
	}
	d.first = l
	if err := l.show(ctx, l.manager("list")); err != nil {
		return err
	}
	if err := l.showStick(ctx); err != nil {
		return err
	}
	if err := l.show(ctx, l.manager("download", imageName, "--media", stickFolder, "--plan")); err != nil {
		return err
	}
	plan, err := l.planWithout(ctx)
	if err != nil {
		return err
	}
	d.say("Now for real: \"Download from Synchronizer\".")
	rc, err := l.receive(ctx, "download", imageName, "--media", stickFolder)
	if err != nil {
		return err
	}
	for _, kind := range deploy.Kinds() {
		d.expect(rc.Bytes[kind] == plan.Bytes[kind], "%d bytes came from %s, %d were planned", rc.Bytes[kind], kind, plan.Bytes[kind])
	}
	d.expect(rc.Bytes[deploy.USB] > 0 && rc.Bytes[deploy.Network] > 0, "the version did not come from both the stick and the network")
	d.expect(rc.Healed == 0 && rc.Resumed == 0, "blocks of an undisturbed download were healed or kept")
	same, err := l.has(ctx, 2, true)
	d.report.add(l.deployed("stick and network", rc, same))
	return err
}

// showStick shows what the endpoint finds on the stick.
func (l *laptop) showStick(ctx context.Context) error {
	media, err := ask[[]endpoint.MediumInfo](ctx, &l.machine, l.manager("media", "--media", stickFolder, "--json"))
	if err != nil {
		return err
	}
	for _, m := range media {
		if m.Dir == l.d.path(stickFolder) {
			l.result("%s is a medium of the kind %q; on it: %s", m.Dir, m.Kind, m.Found)
			return nil
		}
	}
	l.d.expect(false, "the stick is not among the media")
	return nil
}

// planWithout shows what the administrator's setting does to a plan. It returns the plan with the stick.
func (l *laptop) planWithout(ctx context.Context) (with endpoint.PlanReport, err error) {
	if with, err = l.plan(ctx, true); err != nil {
		return with, err
	}
	if l.d.opts.standalone {
		l.say("(xec, which would turn the use of sticks off and on here, needs D-Bus.)")
		return with, nil
	}
	l.say("The administrator can turn the use of sticks off, and on again.")
	if err := l.setUSB(ctx, "false"); err != nil {
		return with, err
	}
	without, err := l.plan(ctx, false)
	if err != nil {
		return with, err
	}
	if err := l.setUSB(ctx, "true"); err != nil {
		return with, err
	}
	again, err := l.plan(ctx, false)
	all := with.Bytes[deploy.USB] + with.Bytes[deploy.Network]
	l.d.expect(without.Bytes[deploy.USB] == 0 && without.Bytes[deploy.Network] == all,
		"without the stick %d bytes are to come from it and %d over the network", without.Bytes[deploy.USB], without.Bytes[deploy.Network])
	l.d.expect(again.Bytes[deploy.USB] == with.Bytes[deploy.USB], "the stick is not used again")
	return with, err
}

// plan asks what a download would do; quietly when the reader has seen it.
func (l *laptop) plan(ctx context.Context, quiet bool) (endpoint.PlanReport, error) {
	c := l.manager("download", imageName, "--media", stickFolder, "--plan", "--json")
	c.quiet = quiet
	p, err := ask[endpoint.PlanReport](ctx, &l.machine, c)
	if err != nil || quiet {
		return p, err
	}
	l.result("planned: %s", bySource(p.Bytes))
	for _, n := range p.Notes {
		l.result("note: %s", n)
	}
	return p, nil
}

// setUSB turns the use of sticks on or off, with xec's option -q so that nothing is written to this machine's log.
func (l *laptop) setUSB(ctx context.Context, value string) error {
	_, err := l.run(ctx, cmdline("xec", "--session", "-q", "-s", "com.citrix.xenclient.disksyncmgr", "--set", "enable-usb-cache", value))
	return err
}

// updateAndRollBack brings version 3 to the first laptop, and goes back and forth between versions.
func (d *demo) updateAndRollBack(ctx context.Context) error {
	d.step("The next version: an update")
	if err := d.publishNext(ctx); err != nil {
		return err
	}
	l := d.first
	rc, err := l.receive(ctx, "update", imageName)
	if err != nil {
		return err
	}
	d.expect(rc.Previous == 2 && rc.Bytes[deploy.Network] > 0, "the update did not bring the difference to version 2 over the network")
	same, err := l.has(ctx, 3, false)
	if err != nil {
		return err
	}
	d.report.add(l.deployed("update", rc, same))
	if err := l.show(ctx, l.manager("verify", imageName)); err != nil {
		return err
	}
	if err := l.rollBack(ctx); err != nil {
		return err
	}
	if err := l.forward(ctx); err != nil {
		return err
	}
	return l.close()
}

// rollBack goes back to version 2 while there is no network.
func (l *laptop) rollBack(ctx context.Context) error {
	d := l.d
	d.step("Back to the version before, without network, and forward again")
	d.server.command(d.server.name, fmt.Sprintf("kill -INT %d", d.server.process.cmd.Process.Pid))
	d.server.result("The Synchronizer has stopped.")
	if err := d.server.stop(); err != nil {
		return err
	}
	began := time.Now()
	vm, err := ask[endpoint.VMInfo](ctx, &l.machine, l.manager("rollback", imageName, "--json"))
	if err != nil {
		return err
	}
	l.result("version %d is installed, version %d is kept", vm.Version, vm.Previous)
	row := deployment{laptop: l.name, version: vm.Version, what: "rollback, offline", seconds: time.Since(began).Seconds()}
	row.identical, err = l.has(ctx, 2, false)
	d.report.add(row)
	return err
}

// forward installs version 3 again: all of it is there.
func (l *laptop) forward(ctx context.Context) error {
	d := l.d
	if err := d.serve(ctx, d.server.address); err != nil {
		return err
	}
	rc, err := l.receive(ctx, "update", imageName)
	if err != nil {
		return err
	}
	d.expect(len(rc.Bytes) == 0, "%s, although version 3 was here", bySource(rc.Bytes))
	same, err := l.has(ctx, 3, false)
	d.report.add(l.deployed("forward again", rc, same))
	return err
}
