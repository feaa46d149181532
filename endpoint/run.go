package endpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"disksync/api"
	"disksync/config"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/limit"
	"disksync/internal/problem"
	"disksync/syncclient"
)

// mission is what a run found out before it began.
type mission struct {
	e      *Engine
	client *syncclient.Client
	reg    *Registration
	job    *deploy.Job
	vm     string
	old    *deploy.VM // nil when there is none
	early  bool       // the VM is there, and incomplete
	keep   map[image.Role]bool
	notes  []string
	// nothing is set when there is nothing to do, and says why.
	nothing string
	offer   api.Offer
	// The media, when they are looked at: what was named, what was there, what keeps them up to date, and what says that nobody reads
	// any more.
	named   []string
	shelved []shelved
	shelf   *shelf
	release func()
}

func (m *mission) close() {
	m.shelf.close()
	if m.job != nil {
		m.job.CloseMedia()
	}
	if m.release != nil {
		m.release()
	}
	if m.client != nil {
		m.client.Close()
	}
}

// prepare finds out what a request means: which version, from where, onto what; and looks at the media.
func (e *Engine) prepare(ctx context.Context, r Request, t *deploy.Tally, limits limit.Chain) (_ *mission, err error) {
	m, err := e.clarify(ctx, r, t, limits)
	if err != nil || m.nothing != "" {
		return m, err
	}
	m.named, m.release = r.Media, e.hotplug.Use(ctx, e.allowed)
	var notes []string
	if m.shelved, notes, err = e.scanMedia(ctx, r.Media); err != nil {
		m.close()
		return nil, err
	}
	m.job.Media = inventories(m.shelved)
	m.notes = append(m.notes, notes...)
	return m, nil
}

// clarify is prepare without media.
func (e *Engine) clarify(ctx context.Context, r Request, t *deploy.Tally, limits limit.Chain) (_ *mission, err error) {
	m := &mission{e: e}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.client, m.reg, err = e.connectWithin(limits, true); err != nil {
		return nil, err
	}
	m.job = &deploy.Job{
		Store: e.store, Tally: t, CheckMedia: e.Settings().Bool(config.ForceLocalChecksum), Rates: e.rates(), Bad: e.badBlock,
		Net: &deploy.Net{
			Client: m.client, MaxRange: e.Settings().Int(config.DownloadChunk) << 20, GiveUp: e.giveUp, Line: t.SetLine,
			Held: func(h limit.Hold) { t.SetHeld(h.String()) },
		},
	}
	switch r.Kind {
	case Download:
		err = m.download(ctx, r)
	case Update:
		err = m.update(ctx, r)
	case Repair:
		err = m.repair(r)
	case Restore:
		err = m.restore(ctx, r)
	case Backup:
	case Layers: // the caller has the manifest's part to play, and says which layers it is to be
		m.job.Line = true
	default:
		err = fmt.Errorf("endpoint: internal error: request of kind %q", r.Kind)
	}
	return m, err
}

// version returns the version of the image that the VM is to have.
func (m *mission) version() image.Version {
	mf := m.job.Manifest.Manifest()
	if mf.Point != nil {
		return mf.Point.Version
	}
	return mf.Version
}

// ask calls do until the Synchronizer answers, as long as the line is merely interrupted and the engine's patience lasts.
func (m *mission) ask(ctx context.Context, do func() error) error {
	var pause syncclient.Backoff
	start := m.e.now()
	for {
		err := do()
		if err == nil || !syncclient.Interrupted(err) || m.e.giveUp > 0 && m.e.now().Sub(start) > m.e.giveUp {
			return err
		}
		m.job.Tally.SetLine(lineStateOf(err))
		if err := pause.Wait(ctx, err); err != nil {
			return err
		}
		m.job.Tally.SetLine(deploy.LineRunning)
	}
}

func lineStateOf(err error) deploy.LineState {
	if syncclient.Busy(err) {
		return deploy.LineWaiting
	}
	return deploy.LineStalled
}

// fetchVersion decides on a version and gets its manifest.
func (m *mission) fetchVersion(ctx context.Context, name string, v image.Version) error {
	err := m.ask(ctx, func() error {
		var err error
		m.offer, err = m.e.choose(ctx, m.client, name)
		return err
	})
	if err != nil {
		return err
	}
	m.e.learnKeys(ctx, m.client, m.offer)
	if v == 0 {
		v = m.offer.Version
	}
	return m.ask(ctx, func() error {
		var err error
		m.job.Manifest, err = m.e.manifest(ctx, m.client, m.reg, m.offer.Image, v)
		return err
	})
}

func (m *mission) download(ctx context.Context, r Request) error {
	if there, err := m.goOn(r); there || err != nil {
		return err
	}
	if err := m.fetchVersion(ctx, r.Image, r.Version); err != nil {
		return err
	}
	mf := m.job.Manifest.Manifest()
	m.vm = r.VM
	if m.vm == "" {
		m.vm = mf.Image
	}
	vm, err := m.e.store.VM(m.vm)
	switch {
	case errors.Is(err, deploy.ErrNoVM):
		return nil
	case err != nil:
		return err
	case vm.ImageID == mf.ImageID && vm.Current.Version == mf.Version:
		m.old = &vm
		m.nothing = fmt.Sprintf("VM %s has version %d already", m.vm, mf.Version)
		return nil
	}
	return problem.New("DS-EXISTS", problem.Busy, nil,
		fmt.Sprintf("there is a VM %s already, with version %d of %s", m.vm, vm.Current.Version, vm.Image), "it is as it was",
		fmt.Sprintf("bring it to another version with `update %s`, or deploy a second one with --as NAME", m.vm))
}

// goOn takes up the download of a VM that is there already, and incomplete.
func (m *mission) goOn(r Request) (bool, error) {
	vm, err := m.e.store.VM(cmp.Or(r.VM, r.Image))
	switch {
	case errors.Is(err, deploy.ErrNoVM):
		return false, nil
	case err != nil:
		return false, err
	case len(vm.Current.Incomplete) == 0 || r.Image != "" && r.Image != vm.Image || r.Version != 0 && r.Version != vm.Current.Version:
		return false, nil
	}
	m.vm, m.early = vm.Name, true
	m.job.Manifest, err = m.e.store.ManifestOf(vm, m.e.trusted()...)
	return true, err
}

func (m *mission) update(ctx context.Context, r Request) error {
	vm, err := m.e.vm(r.VM)
	if err != nil {
		return err
	}
	m.vm, m.old = vm.Name, &vm
	if err := vm.Whole("updated"); err != nil {
		return err
	}
	if err := m.fetchVersion(ctx, vm.Image, r.Version); err != nil {
		return err
	}
	mf := m.job.Manifest.Manifest()
	if vm.ImageID != mf.ImageID {
		return problem.New("DS-OTHER-IMAGE", problem.Untrusted, nil,
			fmt.Sprintf("the image %s is another one than VM %s was made from (it was deleted and made anew)", mf.Image, vm.Name), "the VM is as it was",
			"deploy the new image under another name with `download "+mf.Image+" --as NAME`")
	}
	switch {
	case vm.Pending != nil && mf.Version == vm.Pending.Version:
		m.nothing = fmt.Sprintf("version %d of VM %s is here already, and is applied when it does not run", mf.Version, vm.Name)
		return nil
	case mf.Version == vm.Current.Version:
		m.nothing = fmt.Sprintf("VM %s has version %d already", vm.Name, mf.Version)
		return nil
	case mf.Version < vm.Current.Version && r.Version == 0:
		m.nothing = fmt.Sprintf("VM %s has version %d, which is newer than version %d that is meant for you", vm.Name, vm.Current.Version, mf.Version)
		m.notes = append(m.notes, fmt.Sprintf("to go back, run `update %s --version %d`, or `rollback %s`", vm.Name, mf.Version, vm.Name))
		return nil
	}
	return m.keepDisks(vm, mf, r.Replace)
}

// keepDisks decides which disks an update leaves alone.
func (m *mission) keepDisks(vm deploy.VM, mf *image.Manifest, replace bool) error {
	keep, notes, err := m.e.keepDisks(vm, mf, replace)
	if err != nil {
		return err
	}
	m.keep, m.notes = keep, append(m.notes, notes...)
	m.job.Skip = maps.Clone(m.keep)
	return nil
}

func (m *mission) repair(r Request) error {
	vm, err := m.e.vm(r.VM)
	if err != nil {
		return err
	}
	m.vm, m.old = vm.Name, &vm
	if err := vm.Whole("repaired"); err != nil {
		return err
	}
	m.job.Manifest, err = m.e.store.ManifestOf(vm, m.e.trusted()...)
	return err
}

// vm returns the record of a VM; "" means the only one.
func (e *Engine) vm(name string) (deploy.VM, error) {
	if name != "" {
		vm, err := e.store.VM(name)
		if errors.Is(err, deploy.ErrNoVM) {
			err = problem.New("DS-NO-VM", problem.NotFound, nil, "there is no VM "+name+" on this machine", "", "`disksyncmgr vms` shows them")
		}
		return vm, err
	}
	vms, err := e.store.VMs()
	if err != nil {
		return deploy.VM{}, err
	}
	if len(vms) != 1 {
		return deploy.VM{}, problem.New("DS-CHOOSE", problem.Usage, nil, fmt.Sprintf("there are %d VMs on this machine", len(vms)), "", "name one")
	}
	return vms[0], nil
}

// PlanReport is a plan and what the user should know about it.
type PlanReport struct {
	*deploy.Plan
	Notes []string `json:"notes,omitempty"`
}

// Plan finds out what a request would do, without doing it.
func (e *Engine) Plan(ctx context.Context, r Request) (PlanReport, error) {
	m, err := e.prepare(ctx, r, deploy.NewTally(), nil) // a plan takes little, and is wanted before anything is let through
	if err != nil {
		return PlanReport{}, err
	}
	defer m.close()
	if m.nothing != "" {
		p := &deploy.Plan{
			Image: m.offer.Image, Version: m.offer.Version, Disks: []deploy.DiskPlan{}, Bytes: map[string]int64{}, Blocks: map[string]int{},
			Media: []deploy.MediumPlan{},
		}
		return PlanReport{p, append(m.notes, m.nothing)}, nil
	}
	p, err := m.job.Plan(ctx)
	return PlanReport{p, m.notes}, syncclient.Explain(err, "cannot plan", "nothing was changed")
}

// run does what the operation is for. Meanwhile nobody removes disks: what is installed and not yet committed is in no record.
func (o *Operation) run(ctx context.Context) error {
	letGo := o.e.store.Hold()
	err := o.perform(ctx)
	if err := letGo(); err != nil {
		o.change(true, func(s *Status) {
			s.Notes = append(slices.Clone(s.Notes), "disks that nobody needs any more could not be removed: "+err.Error())
		})
	}
	return err
}

func (o *Operation) perform(ctx context.Context) error {
	start := o.e.now()
	r := o.Status().Request
	o.change(true, func(s *Status) {
		s.Problem, s.Receipt, s.Notes = nil, nil, nil
		s.setState(InProgress)
	})
	switch r.Kind {
	case Layers:
		return o.runLayers(ctx)
	case Verify:
		return o.verify(ctx, r, start)
	case Backup:
		return o.backUp(ctx, r, start)
	}
	m, err := o.e.prepare(ctx, r, o.tally, o.limits())
	if err != nil {
		return err
	}
	defer m.close()
	mf, version := m.job.Manifest.Manifest(), m.version()
	o.change(true, func(s *Status) {
		m.notes = o.withMeteredNote(m.notes)
		s.VM, s.Image, s.Version, s.Notes = m.vm, mf.Image, version, m.notes
	})
	if m.nothing == "" {
		m.follow(ctx, o.note)
	}
	rc := &Receipt{Operation: o.id, Kind: r.Kind, VM: m.vm, Image: mf.Image, Version: version, Path: []deploy.StepReport{}, Notes: m.notes}
	if mf.Point != nil {
		rc.Point = &PointReceipt{Line: mf.ImageID, Point: mf.Version, Made: mf.Created, Consistency: mf.Point.Consistency}
	}
	if m.old != nil && m.nothing == "" && (r.Kind == Update || r.Kind == Restore) {
		rc.Previous = m.old.Current.Version
	}
	switch {
	case m.nothing != "":
		rc.Nothing, rc.Version = m.nothing, m.old.Current.Version
		rc.Outcome = *deploy.NewOutcome()
		err = o.e.store.MendManifest(m.old.Current, m.job.Manifest)
	case r.Kind == Repair:
		err = o.mend(ctx, m, rc)
	default:
		err = o.deploy(ctx, m, rc)
	}
	if err != nil {
		return err
	}
	rc.Wire, rc.Seconds = m.client.Bytes(), o.e.now().Sub(start).Seconds()
	if err := rc.addDisks(o.e, m.vm); err != nil {
		return err
	}
	m.shelf.close()
	o.change(true, func(s *Status) {
		rc.Notes = slices.Concat(rc.Notes, s.Notes[min(len(m.notes), len(s.Notes)):]) // what happened meanwhile
		s.Receipt = rc
	})
	return nil
}

// note adds a line for people.
func (o *Operation) note(line string) {
	o.change(true, func(s *Status) { s.Notes = append(slices.Clone(s.Notes), line) })
}

// setDisks notes what is going to be installed. What an earlier run has built of disks that are not on the way any more goes.
func (o *Operation) setDisks(disks []DiskInfo) error {
	before := o.Status().Disks
	o.change(true, func(s *Status) { s.Disks = disks })
	for _, d := range before {
		for _, l := range d.Layers {
			used := slices.ContainsFunc(disks, func(d DiskInfo) bool {
				return slices.ContainsFunc(d.Layers, func(now LayerInfo) bool { return now.UUID == l.UUID })
			})
			if used {
				continue
			}
			if err := o.e.store.DropPart(l.UUID); err != nil {
				return err
			}
		}
	}
	return nil
}

// deploy plans, installs and commits.
func (o *Operation) deploy(ctx context.Context, m *mission, rc *Receipt) error {
	p, err := m.job.Plan(ctx)
	if err != nil {
		return syncclient.Explain(err, fmt.Sprintf("cannot plan version %d of %s", rc.Version, rc.Image), "nothing was changed")
	}
	if err := o.setDisks(disksOf(p, m.reg.URL)); err != nil {
		return err
	}
	if err := o.makeEarly(m, p); err != nil {
		return err
	}
	m.job.Installed = o.layerDone
	out, err := m.job.Run(ctx, p)
	if err != nil {
		return err
	}
	rc.add(out)
	o.e.learnRates(out.Rates)
	o.tally.Installing()
	vm, pending, err := o.commit(m)
	if err != nil {
		return err
	}
	if pending {
		rc.Pending = true
		o.note(fmt.Sprintf("VM %s is running; version %d is applied when it has ended", m.vm, rc.Version))
	}
	rc.Kept = vm.Kept
	return nil
}

// commit makes what is installed the VM's version.
func (o *Operation) commit(m *mission) (vm deploy.VM, pending bool, err error) {
	if m.early {
		vm, err = o.e.complete(m.vm)
		return vm, false, err
	}
	return o.e.commit(m, o.Status().Request.Replace)
}

// makeEarly makes the VM before its disks are here, when that is wanted.
func (o *Operation) makeEarly(m *mission, p *deploy.Plan) error {
	if m.early {
		return o.e.store.Replan(m.vm, p)
	}
	missing := slices.ContainsFunc(p.Disks, func(d deploy.DiskPlan) bool { return len(d.Steps) > 0 })
	if !o.Status().Request.Early || m.old != nil || !missing {
		return nil
	}
	if err := m.job.CheckPlan(p); err != nil {
		return err
	}
	_, err := o.e.store.CommitEarly(m.vm, m.job.Manifest, m.keep, p)
	m.early = err == nil
	return err
}

// verify compares a VM's golden disks with the signed manifest. It needs no network.
func (o *Operation) verify(ctx context.Context, r Request, start time.Time) error {
	vm, err := o.e.vm(r.VM)
	if err != nil {
		return err
	}
	o.change(true, func(s *Status) { s.VM, s.Image, s.Version = vm.Name, vm.Image, vm.Current.Version })
	res, err := o.e.store.Verify(ctx, vm.Name, o.tally, o.e.trusted()...)
	if err != nil {
		return err
	}
	rc := &Receipt{
		Operation: o.id, Kind: Verify, VM: vm.Name, Image: vm.Image, Version: vm.Current.Version, Verify: res, Path: []deploy.StepReport{},
		Outcome: *deploy.NewOutcome(),
		Seconds: o.e.now().Sub(start).Seconds(), Disks: o.e.diskReceipts(vm.Current),
	}
	rc.Verified = res.Blocks
	o.change(true, func(s *Status) { s.Receipt = rc })
	return res.Damaged()
}

// mend checks a VM and builds anew what is damaged.
func (o *Operation) mend(ctx context.Context, m *mission, rc *Receipt) error {
	res, err := o.e.store.Verify(ctx, m.vm, o.tally, o.e.trusted()...)
	if err != nil {
		return err
	}
	damaged := map[image.StateID]bool{}
	for _, b := range res.Bad {
		damaged[b.State] = true
	}
	if len(damaged) == 0 {
		rc.Nothing = fmt.Sprintf("no block of VM %s is damaged", m.vm)
		rc.Outcome = *deploy.NewOutcome()
		rc.Verified = res.Blocks
		return nil
	}
	rc.Notes = append(rc.Notes, fmt.Sprintf("%d of %d blocks were damaged", len(res.Bad), res.Blocks))
	m.job.Installed = o.layerDone
	out, err := m.job.Repair(ctx, damaged)
	if err == nil {
		rc.add(out)
		o.e.learnRates(out.Rates)
	}
	return err
}

// layerDone notes that a layer is installed.
func (o *Operation) layerDone(id image.LayerID) {
	o.change(true, func(s *Status) {
		for i := range s.Disks {
			for k := range s.Disks[i].Layers {
				if s.Disks[i].Layers[k].Layer == id {
					s.Disks[i].Layers[k].State = Finished
				}
			}
		}
		s.setState(InProgress)
	})
}

// layerURL is the address of a layer, which the original's interface calls an image URL.
func layerURL(base string, id image.LayerID) string {
	return base + "/" + api.Version + "/layers/" + id.String()
}

// disksOf describes a plan in the terms of the original: a disk's images are its layers, the newest first.
func disksOf(p *deploy.Plan, base string) []DiskInfo {
	var out []DiskInfo
	for _, d := range p.Disks {
		di := DiskInfo{UUID: image.VHDUUID(d.State), Role: d.Role, Direction: "down"}
		for i, st := range slices.Backward(d.Steps) {
			u := layerURL(base, st.Layer)
			di.Layers = append(di.Layers, LayerInfo{
				UUID: image.VHDUUID(st.To), Layer: st.Layer, State: Stopped, Ordinal: len(d.Steps) - i, URL: u, TransferURL: u,
			})
		}
		out = append(out, di)
	}
	return out
}
