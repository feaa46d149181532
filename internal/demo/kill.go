package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"disksync/deploy"
	"disksync/endpoint"
	"disksync/internal/progress"
)

const (
	// lineSeconds is how long the full disk takes over the slow line: long enough for it to have a middle.
	lineSeconds = 6
	// killPercent is how much of the full disk is there when the endpoint is killed.
	killPercent = 40

	lookEvery = 100 * time.Millisecond
)

// deployThroughKill deploys over a slow line, without a stick, and kills the endpoint in the middle.
func (d *demo) deployThroughKill(ctx context.Context) error {
	d.step("The third laptop: no stick, a slow line, and a sudden death")
	full := d.disks[0].stored.Bytes
	rate := full / lineSeconds
	if d.opts.lineSeconds > 0 {
		rate = full / d.opts.lineSeconds
	}
	line, err := openLine(d.server.address, rate)
	if err != nil {
		return err
	}
	d.atEnd(line.close)
	d.say("Its line to the Synchronizer passes %s a second.", progress.Bytes(rate))
	l, err := d.newLaptop(ctx, "3", "https://"+line.address())
	if err != nil {
		return err
	}
	killed, err := l.killInTheMiddle(ctx, line, full*killPercent/100)
	if err != nil {
		return err
	}
	d.report.add(killed)
	rc, err := l.goOn(ctx)
	if err != nil {
		return err
	}
	d.expect(rc.Resumed > 0 && rc.Resumed < d.disks[0].stored.Blocks,
		"%d blocks were kept, of a full disk of %d: it was not killed in the middle", rc.Resumed, d.disks[0].stored.Blocks)
	same, err := l.has(ctx, 3, false)
	if err != nil {
		return err
	}
	d.report.add(l.deployed("went on", rc, same))
	return l.close()
}

// killInTheMiddle starts a download and kills whoever does it when so many bytes have crossed the line.
func (l *laptop) killInTheMiddle(ctx context.Context, line *line, bytes int64) (deployment, error) {
	row := deployment{laptop: l.name, version: 3, what: "no stick, killed", unfinished: true}
	began, before := time.Now(), line.passed.Load()
	download := l.manager("download", imageName)
	download.beside = true
	client, err := l.start(download)
	if err != nil {
		return row, err
	}
	defer client.kill()
	got := int64(0)
	for got < bytes {
		select {
		case <-client.exited:
			return row, fmt.Errorf("the download ended before it could be killed: %w", client.failure())
		case <-ctx.Done():
			return row, context.Cause(ctx)
		case <-time.After(lookEvery):
		}
		if got, err = l.progress(ctx, line.passed.Load()-before); err != nil {
			return row, err
		}
	}
	victim := client
	if l.service != nil {
		if err := l.show(ctx, l.manager("status")); err != nil {
			return row, err
		}
		victim = l.service
	}
	l.command(l.name, fmt.Sprintf("kill -KILL %d", victim.cmd.Process.Pid))
	victim.kill()
	row.bytes, row.seconds = map[string]int64{deploy.Network: got}, time.Since(began).Seconds()
	return row, l.hearOfDeath(ctx, client)
}

// progress returns how many bytes the download has got: what the service says of the only operation, or, where there is no
// service to be asked, what has crossed the line.
func (l *laptop) progress(ctx context.Context, passed int64) (int64, error) {
	if l.service == nil {
		return passed, nil
	}
	ops, err := l.operations(ctx, true)
	if err != nil || len(ops) == 0 {
		return 0, err
	}
	return ops[0].Progress.Bytes[deploy.Network], nil
}

// operations asks the service what it is doing.
func (l *laptop) operations(ctx context.Context, quiet bool) ([]endpoint.Status, error) {
	status := l.manager("status", "--json")
	status.quiet = quiet
	return ask[[]endpoint.Status](ctx, &l.machine, status)
}

// hearOfDeath waits for the end of a download command that was killed, or whose service was.
func (l *laptop) hearOfDeath(ctx context.Context, client *child) error {
	err := client.wait(ctx)
	switch {
	case ctx.Err() != nil:
		return err
	case err == nil:
		return errors.New("the download says that it is done, though it was killed")
	case l.service != nil:
		l.result("The download command ends, too. Its last words: %s", lastProblem(client.errs.String()))
	}
	return nil
}

// lastProblem returns the line in which a program said what is wrong.
func lastProblem(text string) string {
	last := text
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "disksyncmgr: ") {
			last = line
		}
	}
	return strings.TrimSpace(last)
}

// goOn starts the endpoint again and waits until it has finished the download.
func (l *laptop) goOn(ctx context.Context) (endpoint.Receipt, error) {
	if l.service == nil {
		l.say("The same command goes on from there.")
		if err := l.nothingYet(ctx); err != nil {
			return endpoint.Receipt{}, err
		}
		return l.receive(ctx, "download", imageName)
	}
	l.say("The service is started again, as it would be by the system. Nobody has to ask for the download.")
	if err := l.serve(ctx); err != nil {
		return endpoint.Receipt{}, err
	}
	if err := l.nothingYet(ctx); err != nil {
		return endpoint.Receipt{}, err
	}
	for quiet := false; ; quiet = true {
		ops, err := l.operations(ctx, quiet)
		if err != nil {
			return endpoint.Receipt{}, err
		}
		if len(ops) != 1 {
			return endpoint.Receipt{}, fmt.Errorf("there are %d operations", len(ops))
		}
		if op := ops[0]; !op.Active {
			if op.Receipt == nil {
				return endpoint.Receipt{}, fmt.Errorf("the download is %s: %w", op.State, op.Outcome())
			}
			l.tellReceipt(*op.Receipt)
			return *op.Receipt, nil
		}
		select {
		case <-ctx.Done():
			return endpoint.Receipt{}, context.Cause(ctx)
		case <-time.After(lookEvery):
		}
	}
}

// nothingYet checks that what was killed has installed nothing.
func (l *laptop) nothingYet(ctx context.Context) error {
	vms, err := l.vms(ctx)
	l.d.expect(len(vms) == 0, "a download that was killed has installed a VM")
	return err
}
