package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"disksync/api"
	"disksync/backup"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
)

// spoolDir has room for what a backup packs. Its files have no names, but for what is encrypted.
const spoolDir = "spool"

// tidySpool removes what an earlier process has left that is of no use.
func (e *Engine) tidySpool() error {
	if err := durable.RemoveTemps(e.fsys, spoolDir); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return backup.Tidy(e.fsys, spoolDir, e.hasVM)
}

// backUp makes a point of a VM's line of backups. What was frozen by a run of the same operation that was interrupted is what it goes on
// with.
func (o *Operation) backUp(ctx context.Context, r Request, start time.Time) error {
	e := o.e
	vm, err := e.vm(r.VM)
	if err == nil {
		err = vm.Whole("backed up")
	}
	if err != nil {
		return err
	}
	o.change(true, func(s *Status) {
		s.VM, s.Image, s.Version = vm.Name, vm.Image, vm.Current.Version
		s.Notes = o.withMeteredNote(s.Notes)
	})
	m, err := e.clarify(ctx, r, o.tally, o.limits())
	if err != nil {
		return err
	}
	defer m.close()
	// What is frozen shows the moment from which on the line is there: a backup that waited for it is not one of long ago.
	if err := m.mayBackUp(ctx, vm, r.Scheduled); err != nil {
		return err
	}
	if vm.Instant == nil || vm.Instant.At.Before(o.Status().Created) {
		if vm, err = e.freeze(ctx, vm); err != nil {
			return err
		}
	}
	if err := durable.MakeDir(e.fsys, spoolDir, 0o700); err != nil {
		return err
	}
	j := &backup.Job{
		Client: m.client, Store: e.store, VM: vm, Spool: filepath.Join(e.dir, spoolDir), Tally: o.tally, Ask: m.ask,
		Seal:      func(encrypt bool, escrow []string) (*backup.Seal, error) { return o.sealing(vm, encrypt, escrow) },
		AllBlocks: r.AllBlocks, Reader: e.child(),
	}
	res, err := j.Run(ctx)
	if err != nil {
		return err
	}
	rc := &Receipt{
		Operation: o.id, Kind: Backup, VM: vm.Name, Image: vm.Image, Version: vm.Current.Version, Path: []deploy.StepReport{},
		Outcome: *deploy.NewOutcome(), Wire: m.client.Bytes(),
		Point: &PointReceipt{Line: res.Line, Point: res.Point, Made: res.Made, Consistency: res.Consistency, Disks: res.Disks, Recipients: res.Recipients},
	}
	if res.Nothing {
		rc.Nothing = fmt.Sprintf("nothing was written to VM %s since point %d", vm.Name, res.Point)
	}
	o.coalesce(ctx, vm)
	rc.Seconds, rc.Notes = e.now().Sub(start).Seconds(), o.Status().Notes
	if err := rc.addDisks(e, vm.Name); err != nil {
		return err
	}
	o.change(true, func(s *Status) { s.Receipt = rc })
	return nil
}

// coalesce merges what backups no longer tell apart. What fails costs space and time to read, and is tried again with the next backup.
func (o *Operation) coalesce(ctx context.Context, vm deploy.VM) {
	err := o.e.store.Coalesce(ctx, vm.ID, func() deploy.Swapper { return o.e.swapper(vm.ID) }, o.tally)
	if err != nil && ctx.Err() == nil {
		o.note("what was frozen for backups could not be merged yet: " + err.Error())
	}
}

// freeze freezes the disks of a VM at one instant.
func (e *Engine) freeze(ctx context.Context, vm deploy.VM) (deploy.VM, error) {
	live := e.swapper(vm.ID)
	if live == nil {
		return e.store.Freeze(vm.Name, nil, image.Stopped)
	}
	thaw, c := e.quiesce(ctx, vm.ID)
	defer thaw()
	return e.store.Freeze(vm.Name, live, c)
}

// mayBackUp asks for the image's policy, and refuses a backup by hand where that does.
func (m *mission) mayBackUp(ctx context.Context, vm deploy.VM, scheduled bool) error {
	var offers []api.Offer
	err := m.ask(ctx, func() error {
		var err error
		offers, err = m.client.Offers(ctx)
		return err
	})
	if err != nil {
		return explainBackup(err, vm.Name)
	}
	m.e.learnPolicies(offers)
	i := slices.IndexFunc(offers, func(o api.Offer) bool { return o.ImageID == vm.ImageID })
	if scheduled || i < 0 || offers[i].Backup == nil || offers[i].Backup.Manual {
		return nil
	}
	when := "are not made of its VMs at all"
	if every := offers[i].Backup.Every; every > 0 {
		when = fmt.Sprintf("are made by themselves, every %d minutes", every)
	}
	return problem.New("DS-BACKUP-POLICY", problem.NeedsLogin, nil,
		fmt.Sprintf("the policy of image %s does not let you back up VM %s by hand", vm.Image, vm.Name), "the VM is as it was",
		"backups "+when+"; the administrator sets that")
}
