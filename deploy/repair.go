package deploy

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"disksync/image"
	"disksync/internal/problem"
)

// Repair builds the VHDs of damaged states anew, from their own good blocks and from the job's sources, and puts each in the
// place of the damaged one when it is complete and checked. It goes by the manifest's layers and those on media. A damaged disk that
// those do not lead to is left, and the one that stands on it is built on another; when none does, that is an error, before
// anything is done.
func (j *Job) Repair(ctx context.Context, damaged map[image.StateID]bool) (*Outcome, error) {
	m := j.Manifest.Manifest()
	todo, err := j.toRepair(m, damaged)
	if err != nil {
		return nil, err
	}
	out := NewOutcome()
	bySource := map[string]int{}
	r := &repair{Job: j, damaged: maps.Clone(damaged), out: out, bySource: bySource}
	for i := range m.Disks {
		d := &m.Disks[i]
		for _, id := range todo[d.Role] {
			if err := r.rebuild(ctx, d, id); err != nil {
				return nil, explain(ctx, fmt.Errorf("%s disk: %w", d.Role, err), &Plan{Image: m.Image, Version: m.Version})
			}
			delete(r.damaged, id)
		}
	}
	t := j.Tally.Progress()
	out.Bytes, out.Healed = t.Bytes, t.Healed
	out.Verified, out.Resumed, out.Zero = j.Tally.counts()
	out.Rates = j.Tally.rates()
	return out, nil
}

// toRepair returns the states to build anew, in the order of the manifest's layers, so that a damaged parent is good again before its
// child is built on it.
func (j *Job) toRepair(m *image.Manifest, damaged map[image.StateID]bool) (map[image.Role][]image.StateID, error) {
	todo := map[image.Role][]image.StateID{}
	known := map[image.StateID]bool{}
	for _, d := range m.Disks {
		for _, l := range d.Layers {
			if damaged[l.To] {
				todo[d.Role] = append(todo[d.Role], l.To)
				known[l.To] = true
			}
		}
	}
	for id := range damaged {
		if known[id] {
			continue
		}
		found := false
		for _, d := range m.Disks {
			// What can be found of a chain that is damaged is enough.
			ids, _ := j.Store.ancestors(image.VHDUUID(d.State))
			if !slices.Contains(ids, image.VHDUUID(id)) {
				continue
			}
			found = true
			if !slices.Contains(todo[d.Role], d.State) {
				todo[d.Role] = append(todo[d.Role], d.State)
			}
		}
		if !found {
			return nil, problem.New("DS-CANNOT-REPAIR", problem.Damaged, nil,
				fmt.Sprintf("a damaged disk is not among those that version %d of %s is made of", m.Version, m.Image), "nothing was changed",
				"deploy the image anew with `download "+m.Image+" --as NAME`")
		}
	}
	return todo, nil
}

// repair is a Repair under way.
type repair struct {
	*Job
	damaged  map[image.StateID]bool // and not yet good again
	out      *Outcome
	bySource map[string]int
}

// rebuild builds the VHD of one state anew.
func (r *repair) rebuild(ctx context.Context, d *image.Disk, id image.StateID) error {
	here, err := r.Store.holdings()
	if err != nil {
		return err
	}
	goal := *d
	if goal.State = id; id != d.State {
		goal.Size = 0 // the manifest does not say
	}
	way, err := r.newRouter(ctx, &goal, here, r.unsound(id))
	if err != nil {
		return err
	}
	path, err := way.route()
	if err != nil {
		return err
	}
	dp := way.plan(path)
	last := len(dp.Steps) - 1
	below := dp
	below.Steps = dp.Steps[:last]
	if _, err := r.runDisk(ctx, &below, r.out, r.bySource); err != nil {
		return err
	}
	st := &dp.Steps[last]
	from, err := r.Store.State(st.From)
	if err != nil {
		return err
	}
	to, err := st.index.Apply(from)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPlan, err)
	}
	done, err := r.Store.parts.start(ctx, image.VHDUUID(st.To))
	if err != nil {
		return err
	}
	defer done()
	if _, err := r.Store.State(st.To); err != nil {
		// With its digest list, what is good of the old VHD need not be fetched.
		if err := r.Store.writeState(to); err != nil {
			return err
		}
	}
	return r.runStep(ctx, &dp, st, from, r.out, r.bySource)
}

// unsound returns a test for installed states that nothing may be built on: goal itself, and what stands on a damaged disk.
func (r *repair) unsound(goal image.StateID) func(image.StateID) bool {
	bad := map[image.UUID]bool{image.VHDUUID(goal): true}
	for id := range r.damaged {
		bad[image.VHDUUID(id)] = true
	}
	return func(id image.StateID) bool {
		ids, err := r.Store.ancestors(image.VHDUUID(id))
		return err != nil || slices.ContainsFunc(ids, func(id image.UUID) bool { return bad[id] })
	}
}
