package backup

import (
	"context"
	"fmt"

	"disksync/deploy"
	"disksync/diskmap"
	"disksync/image"
	"disksync/internal/mediachild"
)

// allBlocks reports whether free space is backed up, too: whoever asks for the backup can say so, and the image's policy.
func (r *run) allBlocks() bool { return r.AllBlocks || r.line.AllBlocks }

// free finds out what of a frozen disk is free, and notes of what that cannot be told, and why. Nothing is when the VM was running and its
// file systems were not brought in order: what they say of themselves then may be older than what they have written. A guest chooses every
// byte of them, so a child reads them; where that fails, nothing is free.
func (r *run) free(ctx context.Context, f *deploy.Frozen, res *DiskResult) deploy.Free {
	switch {
	case r.AllBlocks:
		return nil
	case r.line.AllBlocks:
		res.Kept = append(res.Kept, "all volumes: the policy of image "+r.VM.Image+" has free space backed up too")
		return nil
	case r.res.Consistency != image.Stopped && r.res.Consistency != image.Quiesced:
		res.Kept = append(res.Kept, "all volumes: the VM was running, and no guest agent brought its file systems in order")
		return nil
	}
	m, err := mediachild.Map(ctx, f, r.Reader)
	if err != nil {
		res.Kept = append(res.Kept, "all volumes: "+err.Error())
		return nil
	}
	if r.res.Consistency == image.Quiesced {
		m.Keep(func(v diskmap.Volume) bool { return !frozenWhole(v.Kind) }, "it may have been in use, and not all of what was written is on it")
	}
	for _, v := range m.Volumes() {
		if v.Kept == "" {
			continue
		}
		what := v.Name
		if v.Kind != diskmap.Unknown {
			what += fmt.Sprintf(" (%s)", v.Kind)
		}
		res.Kept = append(res.Kept, what+": "+v.Kept)
	}
	return m
}

// frozenWhole reports whether a file system that a running guest was asked to freeze, and that then says that it is in order, is: other
// kinds cannot be frozen, or say so while they are written.
func frozenWhole(k diskmap.Kind) bool {
	return k == diskmap.Ext3 || k == diskmap.Ext4 || k == diskmap.Swap
}
