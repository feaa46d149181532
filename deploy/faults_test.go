package deploy_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.org/x/sync/errgroup"

	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/faultfs"
)

// The tests in this file break the protocol of deployment at every step that it makes on the file system: every write of data and
// of metadata, every sync, rename, removal and change of permissions, each in every way of [faultfs.Fault]. The layers have one
// digest each, in several blocks, so that one worker writes and the order of steps is the same every time.
//
// What is enumerated: all steps of five phases × {fail before, fail after, short write, no space, power loss keeping nothing, half
// and all of what was not synced}; and, for every third step of power loss, a second loss at steps of the recovery that are
// drawn. With the race detector, which makes it all many times slower, there are fewer modes, and every fourth of the writes into
// a VHD that is being built stands for all of them. DISKSYNC_SOAK=1 leaves nothing out, draws more seeds and takes every step for
// the second loss.

// phase is a piece of the life of a VM: a protocol that leads from one version to another. run can be called again after a
// failure, and then finishes the job.
type phase struct {
	name     string
	from, to image.Version // 0: no VM
	start    *faultfs.FS
	run      func(s *deploy.Store) error
}

// life is a line of versions, and the phases on it.
func life(t *testing.T) (*line, []phase) {
	l := newLine("life")
	l.add(t, true, disk(3, 1))
	l.add(t, false, disk(3, 1, 2))       // the disk grows
	l.add(t, false, disk(1, 0, 2, 3, 3)) // a block becomes zero, others are alike
	l.add(t, true, disk(0, 4))
	bringTo := func(n int) func(*deploy.Store) error {
		return func(s *deploy.Store) error {
			v := l.version(n)
			return bring(t.Context(), s, v, newSource(deploy.USB, v.layers...))
		}
	}
	phases := []phase{
		{name: "first deployment", from: 0, to: 2, run: bringTo(2)},
		{name: "update", from: 2, to: 3, run: bringTo(3)},
		{name: "roll back", from: 3, to: 2, run: func(s *deploy.Store) error {
			if vm, err := s.VM("vm"); err != nil || vm.Current.Version == 2 {
				return err
			}
			_, err := s.RollBack("vm")
			return err
		}},
		{name: "update that retires a version", from: 2, to: 4, run: bringTo(4)},
		{name: "removal", from: 4, to: 0, run: func(s *deploy.Store) error {
			if err := s.Delete("vm"); !errors.Is(err, deploy.ErrNoVM) {
				return err
			}
			return nil
		}},
	}
	phases = append(phases, phase{name: "early deployment", from: 0, to: 2, run: func(s *deploy.Store) error {
		return bringEarly(t, s, l.version(2))
	}})
	fsys := newFS()
	openStore(t, fsys)
	for i := range phases {
		phases[i].start = fsys
		fsys = fsys.Clone()
		if err := phases[i].run(openStore(t, fsys)); err != nil {
			t.Fatalf("%s: %v", phases[i].name, err)
		}
		if err := phases[i].check(l, fsys, true); err != nil {
			t.Fatalf("%s, without a fault: %v", phases[i].name, err)
		}
	}
	return l, phases
}

// bringEarly makes v the version of the VM "vm" before it is there, and installs it then.
func bringEarly(t *testing.T, s *deploy.Store, v version) error {
	vm, err := s.VM("vm")
	if errors.Is(err, deploy.ErrNoVM) {
		p := &deploy.Plan{Disks: []deploy.DiskPlan{{Role: image.System, State: v.state.ID()}}}
		for _, m := range v.layers {
			p.Disks[0].Steps = append(p.Disks[0].Steps, deploy.Step{Layer: m.ID(), From: m.From(), To: m.To()})
		}
		vm, err = s.CommitEarly("vm", v.signed, nil, p)
	}
	if err != nil {
		return err
	}
	for _, id := range vm.Current.Incomplete {
		if err := s.DropPart(id); err != nil { // which it does not
			return err
		}
	}
	if err := installAll(t.Context(), s, v, deploy.NewTally(), newSource(deploy.USB, v.layers...)); err != nil {
		return err
	}
	_, err = s.Complete("vm")
	return err
}

// seen returns the version of the VM, 0 when there is none.
func seen(s *deploy.Store) (image.Version, error) {
	vm, err := s.VM("vm")
	if errors.Is(err, deploy.ErrNoVM) {
		return 0, nil
	}
	return vm.Current.Version, err
}

// check opens the store as a new process does and looks at all that a user could lose. done says that the phase reported
// success.
func (p *phase) check(l *line, fsys *faultfs.FS, done bool) error {
	s, err := deploy.OpenStore(fsys, nowForTests)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	got, err := seen(s)
	if err != nil {
		return err
	}
	if got != p.to && (done || got != p.from) {
		return fmt.Errorf("version %d; went from %d to %d, success reported: %v", got, p.from, p.to, done)
	}
	vms, err := s.VMs()
	if err != nil {
		return err
	}
	for _, vm := range vms {
		for _, d := range []*deploy.Deployment{&vm.Current, vm.Previous} {
			if d == nil {
				continue
			}
			if len(d.Incomplete) > 0 {
				if done {
					return errors.New("the version is incomplete")
				}
				continue
			}
			if err := checkDisks(fsys, d, l.version(int(d.Version)).disk); err != nil {
				return err
			}
			if _, err := s.Manifest(*d, l.public()); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish does the job without faults and checks the end: the content, and that nothing is left over that nobody needs.
func (p *phase) finish(l *line, fsys *faultfs.FS) error {
	s, err := deploy.OpenStore(fsys, nowForTests)
	if err != nil {
		return err
	}
	if err := p.run(s); err != nil {
		return fmt.Errorf("finish: %w", err)
	}
	if err := p.check(l, fsys, true); err != nil {
		return fmt.Errorf("finished: %w", err)
	}
	return checkTidy(s, fsys)
}

// checkTidy returns an error when the store has unfinished files, or leaves that no record has.
func checkTidy(s *deploy.Store, fsys durable.FS) error {
	vms, err := s.VMs()
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	note := func(d *deploy.Deployment) {
		for _, k := range d.Disks {
			for _, id := range append(k.Frozen, k.Leaf) {
				wanted[id.String()+".vhd"] = true
			}
			wanted[k.Leaf.String()+".vhd.log"] = true // while it is in use
			if k.Held != nil {
				wanted[image.VHDUUID(k.Held.State).String()+".point"] = true
				wanted[k.Held.Omitted+".omitted"] = k.Held.Omitted != ""
			}
		}
	}
	for _, vm := range vms {
		note(&vm.Current)
		if vm.Previous != nil {
			note(vm.Previous)
		}
	}
	states, err := s.States()
	if err != nil {
		return err
	}
	for _, id := range states {
		wanted[image.VHDUUID(id).String()+".vhd"] = true
		wanted[image.VHDUUID(id).String()+".state"] = true
	}
	entries, err := fsys.ReadDir("disks")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !wanted[e.Name()] && !strings.HasSuffix(e.Name(), ".state") { // a digest list alone does no harm
			return fmt.Errorf("left over: %s", e.Name())
		}
	}
	return nil
}

// order returns an error when a protocol broke a rule of order: a name before the bytes, or a change behind a name.
func order(fsys *faultfs.FS) error {
	if bad := fsys.UnsafeRenames(); len(bad) > 0 {
		return fmt.Errorf("named before they were synced: %v", bad)
	}
	if bad := fsys.LateWrites(); len(bad) > 0 {
		return fmt.Errorf("changed after they had their names: %v", bad)
	}
	return nil
}

// mode is a fault and what of the unsynced is there afterwards; keep < 0: the process died, the machine went on.
type mode struct {
	fault faultfs.Fault
	keep  float64
	seed  uint64
}

func modes() []mode {
	m := []mode{
		{faultfs.FailBefore, -1, 0}, {faultfs.FailAfter, -1, 0}, {faultfs.NoSpace, -1, 0},
		{faultfs.PowerLoss, 0, 0}, {faultfs.PowerLoss, 0.5, 0},
	}
	if raceEnabled && !soak() {
		return m
	}
	m = append(m, mode{faultfs.Short, -1, 0}, mode{faultfs.FailAfter, 0, 0}, mode{faultfs.PowerLoss, 1, 0})
	seeds := uint64(2)
	if soak() {
		seeds = 20
	}
	for seed := range seeds {
		m = append(m, mode{faultfs.PowerLoss, 0.5, seed + 1})
	}
	return m
}

func soak() bool { return os.Getenv("DISKSYNC_SOAK") != "" }

// steps returns the numbers of the steps at which the fault is another one than FailBefore, or those that stand for them.
func (m mode) steps(log []faultfs.Step) []int {
	var at []int
	inner := 0
	for i, step := range log {
		write := step.Op == faultfs.OpWrite
		if m.fault == faultfs.Short && !write || m.fault == faultfs.NoSpace && !write && step.Op != faultfs.OpCreate {
			continue
		}
		if write && strings.HasSuffix(step.Name, ".part") && raceEnabled && !soak() {
			if inner++; (inner+int(m.fault)+int(m.seed))%4 != 0 {
				continue
			}
		}
		at = append(at, i+1)
	}
	return at
}

// after returns the file system as the next process finds it.
func (m mode) after(fsys *faultfs.FS, step int) *faultfs.FS {
	if m.keep < 0 {
		fsys.Arm(0, faultfs.None)
		return fsys
	}
	return fsys.Restart(m.keep, rand.New(rand.NewPCG(m.seed, uint64(step))))
}

// faultCases counts what TestFaultAtEveryStep has tried.
type faultCases struct{ once, twice atomic.Int64 }

func TestFaultAtEveryStep(t *testing.T) {
	l, phases := life(t)
	var n faultCases
	for _, p := range phases {
		t.Run(p.name, func(t *testing.T) {
			// In a bubble a timer's steps come at the same place however slow the machine is.
			synctest.Test(t, func(t *testing.T) { p.breakEverywhere(t, l, &n) })
		})
	}
	once, twice := n.once.Load(), n.twice.Load()
	t.Logf("%d cases, %d with a second loss of power", once, twice)
	if once < 500 || twice < 60 {
		t.Errorf("only %d cases, %d with a second loss of power", once, twice)
	}
}

// breakEverywhere runs the phase with every fault at every step.
func (p *phase) breakEverywhere(t *testing.T, l *line, n *faultCases) {
	trial := p.start.Clone()
	s := openStore(t, trial)
	trial.Arm(0, faultfs.None)
	if err := p.run(s); err != nil {
		t.Fatal(err)
	}
	if err := order(trial); err != nil {
		t.Error(err)
	}
	log := trial.Log()
	if p.to != 0 && len(log) < 5 {
		t.Fatalf("%d steps: this is not the protocol", len(log))
	}
	flipped := 0
	for _, m := range modes() {
		at := m.steps(log)
		flips := make([]bool, len(at))
		var g errgroup.Group
		g.SetLimit(runtime.GOMAXPROCS(0))
		for i, step := range at {
			g.Go(func() (err error) {
				flips[i], err = p.breakAt(l, m, step, log, n)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		if len(flips) > 0 && flips[len(flips)-1] {
			flipped++
		}
		// Between the rename and the sync of its folder it is chance what a loss of power keeps of it.
		if m.keep != 0.5 && !slices.IsSortedFunc(flips, func(a, b bool) int { return btoi(a) - btoi(b) }) {
			t.Errorf("%v, keep %v: the version goes to and fro over the steps: %v", m.fault, m.keep, flips)
		}
	}
	if flipped == 0 {
		t.Error("the new version was never seen")
	}
	t.Logf("%d steps", len(log))
}

// breakAt runs the phase with a fault at one of the steps of log, and at some with a second one in the recovery. It reports whether
// the phase's version was there after the first.
func (p *phase) breakAt(l *line, m mode, step int, log []faultfs.Step, n *faultCases) (flipped bool, err error) {
	n.once.Add(1)
	left, flipped, err := p.broken(l, m, step)
	if err != nil {
		return false, fmt.Errorf("%v, keep %v, seed %d, at step %d of %d (%v): %w", m.fault, m.keep, m.seed, step, len(log), log[step-1], err)
	}
	if m.fault != faultfs.PowerLoss || m.keep != 0.5 || step%3 != 0 && !soak() {
		return flipped, nil
	}
	cases, err := p.brokenAgain(l, left, uint64(step))
	n.twice.Add(cases)
	if err != nil {
		return false, fmt.Errorf("power loss, seed %d, at step %d, then again: %w", m.seed, step, err)
	}
	return flipped, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// broken runs the phase with a fault at one step, checks what is left and finishes the job on a copy. It returns what was left.
func (p *phase) broken(l *line, m mode, step int) (left *faultfs.FS, flipped bool, err error) {
	fsys := p.start.Clone()
	s, err := deploy.OpenStore(fsys, nowForTests)
	if err != nil {
		return nil, false, err
	}
	fsys.Arm(step, m.fault)
	runErr := p.run(s)
	if !fsys.Fired() {
		return nil, false, errors.New("the fault did not fire")
	}
	// What is not there need not be removed.
	if at := fsys.Log()[step-1]; runErr == nil && m.fault != faultfs.NoSpace && at.Op != faultfs.OpRemove {
		return nil, false, errors.New("the fault went unnoticed")
	}
	if err := order(fsys); err != nil {
		return nil, false, err
	}
	left = m.after(fsys, step)
	// Looking opens the store, which tidies up; the second loss of power needs it as it was left.
	look := left.Clone()
	if err := p.check(l, look, runErr == nil); err != nil {
		return nil, false, fmt.Errorf("(%v) %w", runErr, err)
	}
	got, err := seen(mustOpen(look))
	if err != nil {
		return nil, false, err
	}
	return left, got == p.to, p.finish(l, look)
}

func mustOpen(fsys durable.FS) *deploy.Store {
	s, err := deploy.OpenStore(fsys, nowForTests)
	if err != nil {
		panic(err)
	}
	return s
}

// brokenAgain cuts the power during the recovery from what a loss of power left.
func (p *phase) brokenAgain(l *line, left *faultfs.FS, seed uint64) (cases int64, err error) {
	recover := func(fsys *faultfs.FS) error {
		s, err := deploy.OpenStore(fsys, nowForTests)
		if err != nil {
			return err
		}
		return p.run(s)
	}
	trial := left.Clone()
	trial.Arm(0, faultfs.None)
	if err := recover(trial); err != nil {
		return 0, err
	}
	steps := trial.Steps()
	r := rand.New(rand.NewPCG(seed, 2))
	n := min(steps, 2)
	if soak() {
		n = min(steps, 10)
	}
	for range n {
		step := 1 + r.IntN(steps)
		fsys := left.Clone()
		fsys.Arm(step, faultfs.PowerLoss)
		runErr := recover(fsys)
		if !fsys.Fired() {
			return cases, fmt.Errorf("step %d of %d of the recovery was not reached", step, steps)
		}
		cases++
		again := fsys.Restart([]float64{0, 0.5, 1}[r.IntN(3)], r)
		if err := p.check(l, again, runErr == nil); err != nil {
			return cases, fmt.Errorf("step %d: %w", step, err)
		}
		if err := p.finish(l, again); err != nil {
			return cases, fmt.Errorf("step %d: %w", step, err)
		}
	}
	return cases, nil
}
