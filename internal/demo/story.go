package main

import (
	"context"

	"disksync/internal/testkit/privbus"
)

// tell tells the story.
func (d *demo) tell(ctx context.Context) error {
	d.introduce()
	for _, part := range []func(context.Context) error{
		d.makeThings,
		d.publishFirst,
		d.publishUpdate,
		d.deployFromStick,
		d.updateAndRollBack,
		d.deployFromDamagedStick,
		d.deployThroughKill,
	} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) introduce() {
	d.print(d.bold("Disksync: a demonstration"))
	d.say("A disk of several hundred MB goes from a Synchronizer to three laptops: from a stick and over a line, " +
		"with damage and interruption on the way. It is compared byte by byte each time. All of it happens in one " +
		"folder and on the loopback interface, without root, and takes about two minutes.")
	d.print("   The folder, called $WORK below: " + d.work)
	if !d.opts.standalone && !hasBus() {
		d.say("There is no %s on this machine (Debian and Fedora call the package that, too). So the laptops run no "+
			"service: disksyncmgr does the work itself, with --standalone.", privbus.Daemon)
		d.opts.standalone = true
	}
}
