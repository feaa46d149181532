package deploy

import (
	"context"
	"fmt"

	"disksync/image"
	"disksync/internal/problem"
)

// Repair builds the VHDs of damaged states anew, from their own good blocks and from the job's sources, and puts each in the
// place of the damaged one when it is complete and checked. A state that is not on the manifest's path is an error, before
// anything is done: nothing says how to build it.
func (j *Job) Repair(ctx context.Context, damaged map[image.StateID]bool) (*Outcome, error) {
	m := j.Manifest.Manifest()
	if err := onPath(m, damaged); err != nil {
		return nil, err
	}
	p := &Plan{Image: m.Image, Version: m.Version}
	out := &Outcome{Bytes: map[string]int64{}, Sources: []SourceReport{}}
	bySource := map[string]int{}
	for i := range m.Disks {
		if err := j.repairDisk(ctx, &m.Disks[i], damaged, out, bySource); err != nil {
			return nil, explain(ctx, fmt.Errorf("%s disk: %w", m.Disks[i].Role, err), p)
		}
	}
	t := j.Tally.Progress()
	out.Bytes, out.Healed = t.Bytes, t.Healed
	out.Verified, out.Resumed, out.Zero = j.Tally.counts()
	return out, nil
}

func onPath(m *image.Manifest, damaged map[image.StateID]bool) error {
	known := map[image.StateID]bool{}
	for _, d := range m.Disks {
		for _, l := range d.Layers {
			known[l.To] = true
		}
	}
	for id := range damaged {
		if !known[id] {
			return problem.New("DS-CANNOT-REPAIR", problem.Damaged, nil,
				fmt.Sprintf("a damaged disk is not among those that version %d of %s is made of", m.Version, m.Image), "nothing was changed",
				"deploy the image anew with `download "+m.Image+" --as NAME`")
		}
	}
	return nil
}

// repairDisk goes up the path, so that a damaged parent is good again before its child is built on it.
func (j *Job) repairDisk(ctx context.Context, d *image.Disk, damaged map[image.StateID]bool, out *Outcome, bySource map[string]int) error {
	dp := &DiskPlan{Role: d.Role, Size: d.Size, State: d.State}
	for _, ref := range d.Layers {
		if damaged[ref.To] {
			if err := j.rebuild(ctx, dp, ref, out, bySource); err != nil {
				return err
			}
		}
	}
	return nil
}

func (j *Job) rebuild(ctx context.Context, dp *DiskPlan, ref image.LayerRef, out *Outcome, bySource map[string]int) error {
	from, err := j.Store.State(ref.From)
	if err != nil {
		return err
	}
	x, err := j.index(ctx, ref)
	if err != nil {
		return err
	}
	to, err := x.Apply(from)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPlan, err)
	}
	done, err := j.Store.parts.start(ctx, image.VHDUUID(ref.To))
	if err != nil {
		return err
	}
	defer done()
	if _, err := j.Store.State(ref.To); err != nil {
		// With its digest list, what is good of the old VHD need not be fetched.
		if err := j.Store.writeState(to); err != nil {
			return err
		}
	}
	j.keepPlain(dp, to, ref)
	st := &Step{Layer: ref.ID, From: ref.From, To: ref.To, Blocks: x.Len(), Bytes: map[string]int64{}, index: x}
	return j.runStep(ctx, dp, st, from, out, bySource)
}
