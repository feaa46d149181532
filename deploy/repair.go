package deploy

import (
	"context"
	"fmt"

	"disksync/image"
)

// Repair builds the VHDs of damaged states anew, from their own good blocks and from the job's sources, and puts each in the
// place of the damaged one when it is complete and checked. The states must be on the manifest's path.
func (j *Job) Repair(ctx context.Context, damaged map[image.StateID]bool) (*Outcome, error) {
	m := j.Manifest.Manifest()
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
	j.keepPlain(dp, to, ref)
	st := &Step{Layer: ref.ID, From: ref.From, To: ref.To, Blocks: x.Len(), Bytes: map[string]int64{}, index: x}
	return j.runStep(ctx, dp, st, from, out, bySource)
}
