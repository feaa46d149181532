package backup_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"disksync/internal/faultfs"
)

// scenario is what there is when a run begins whose steps are broken.
type scenario struct {
	name    string
	prepare func(l *laptop) error
}

// written is what the VM writes: some pages of the spool when it is packed, in two blocks.
var written = noise(7000, 77)

var scenarios = []scenario{
	{"the first", func(l *laptop) error { return l.write(block-3000, written) }},
	{"gone on with", func(l *laptop) error {
		return errors.Join(l.write(block-3000, written), l.keep())
	}},
	{"in the place of an older one", func(l *laptop) error {
		return errors.Join(l.write(block-3000, written[:5000]), l.keep(), l.write(block, written))
	}},
}

// mode is a fault, and what of what was not synced is there after a loss of power; keep below 0: the process dies, and nothing is lost.
// One step of so many as every says is broken.
type mode struct {
	fault faultfs.Fault
	keep  float64
	every int
}

func modes() []mode {
	m := []mode{{faultfs.FailAfter, -1, 1}, {faultfs.PowerLoss, 0, 1}, {faultfs.PowerLoss, 0.5, 1}}
	if !raceEnabled || soak() {
		m = append(m, mode{faultfs.FailBefore, -1, 3}, mode{faultfs.PowerLoss, 1, 3}, mode{faultfs.NoSpace, -1, 1}, mode{faultfs.Short, -1, 1})
	}
	for i := range m {
		switch {
		case soak():
			m[i].every = 1
		case raceEnabled:
			m[i].every = 4
		}
	}
	return m
}

// differs reports whether the fault does something of its own at a step of a kind.
func (m mode) differs(op faultfs.Op) bool {
	switch m.fault {
	case faultfs.Short:
		return op == faultfs.OpWrite
	case faultfs.NoSpace:
		return op == faultfs.OpWrite || op == faultfs.OpCreate
	}
	return true
}

func soak() bool { return os.Getenv("DISKSYNC_SOAK") != "" }

// TestSpoolFaults breaks an encrypted backup at every step that it makes on the file system, in the spool and in the records, in every way;
// some runs that go on are broken too. Whatever is left, a later run seals the point exactly, with the layer that was kept where one was,
// and each byte that was ever sent is one of a layer that is kept whole and opens. With the race detector, with which the Synchronizer takes
// many times as long, there are fewer modes, and every fourth step stands for all of them; DISKSYNC_SOAK=1 leaves nothing out.
func TestSpoolFaults(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	var cases, sealed atomic.Int64
	for _, sc := range scenarios {
		trial, err := h.laptop()
		if err != nil {
			t.Fatal(err)
		}
		defer trial.close()
		if err := sc.prepare(trial); err != nil {
			t.Fatalf("%s: %v", sc.name, err)
		}
		res, err := trial.run(t.Context(), func() {})
		log := trial.fsys.Log()
		if err == nil {
			err = trial.check(res)
		}
		if err != nil || trial.chunks == 0 {
			t.Fatalf("%s, without a fault: %d chunks, %v", sc.name, trial.chunks, err)
		}
		if names := trial.fsys.UnsafeRenames(); len(names) > 0 {
			t.Errorf("%s: names for what was not synced: %v", sc.name, names)
		}
		t.Logf("%s: %d steps", sc.name, len(log))
		var g errgroup.Group
		g.SetLimit(2 * runtime.GOMAXPROCS(0)) // they wait for the Synchronizer now and then
		for _, m := range modes() {
			for i, step := range log {
				if !m.differs(step.Op) || (i+int(m.fault)+int(2*m.keep))%m.every != 0 {
					continue
				}
				g.Go(func() error {
					cases.Add(1)
					before, err := h.broken(sc, m, i+1)
					if before {
						sealed.Add(1)
					}
					if err != nil {
						return fmt.Errorf("%s: %v, keep %v, at step %d of %d (%v): %w", sc.name, m.fault, m.keep, i+1, len(log), step, err)
					}
					return nil
				})
			}
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d cases; in %d the point was there already", cases.Load(), sealed.Load())
	if sealed.Load() == 0 || sealed.Load() == cases.Load() {
		t.Error("no step was before the point, or none behind it")
	}
}

// broken breaks a run at a step, and has others finish its work. It reports whether the first had sealed the point.
func (h *house) broken(sc scenario, m mode, step int) (sealed bool, err error) {
	l, err := h.laptop()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, l.end()) }()
	if err := sc.prepare(l); err != nil {
		return false, err
	}
	_, first := l.run(h.Context(), func() { l.fsys.Arm(step, m.fault) })
	if !l.fsys.Fired() {
		return false, fmt.Errorf("it was not reached; %w", first)
	}
	l.after(m, step)
	sent := l.chunks
	if m.fault == faultfs.PowerLoss && step%3 == 0 {
		_, _ = l.run(h.Context(), func() { l.fsys.Arm(1+step*7%13, m.fault) }) // it may end before
		l.after(m, step+1)
	}
	res, err := l.run(h.Context(), func() {})
	if err == nil {
		err = l.check(res)
	}
	if err != nil {
		return false, fmt.Errorf("%w; the run that was broken said: %w", err, errors.Join(first, errors.New("-")))
	}
	return res.Nothing && sent > 0, nil
}

// after gives the laptop the file system as the next process finds it.
func (l *laptop) after(m mode, step int) {
	if m.keep < 0 {
		l.fsys.Arm(0, faultfs.None)
		return
	}
	l.fsys = l.fsys.Restart(m.keep, rand.New(rand.NewPCG(1, uint64(step))))
}
