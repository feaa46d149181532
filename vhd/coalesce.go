package vhd

import (
	"context"
	"errors"
	"fmt"

	"disksync/image"
)

// ErrSibling is returned when a merge would change what another disk reads.
var ErrSibling = errors.New("vhd: another disk still needs this parent as it is; nothing was changed")

// CoalesceOptions says what [Coalesce] may do.
type CoalesceOptions struct {
	// Children is asked for the uuids of all disks whose parent is the given one, as far as the caller knows them: it is the only
	// protection of disks that are not in the chain. It must be there; [NoOtherChildren] is for a caller who knows that there are
	// none.
	Children func(parent *Image) ([]image.UUID, error)
	// Grow resizes the ancestor when the topmost disk is larger; else that is refused.
	Grow bool
	// Start is where to go on after a merge that was interrupted: what Checkpoint was told last. 0: at the beginning, which is
	// always right.
	Start int64
	// Checkpoint is told that everything below the offset is merged and durable; nil: nobody is.
	Checkpoint func(off int64)
	// CheckpointBytes is how much is merged between two checkpoints, in bytes; 0: 256 MiB.
	CheckpointBytes int64
	// Progress is told how many of the disk's bytes are done; see [CopyOptions].
	Progress func(done, total int64)
}

// NoOtherChildren is a [CoalesceOptions.Children] that knows of none.
func NoOtherChildren(*Image) ([]image.UUID, error) { return nil, nil }

// defaultCheckpoint is large, as a sync waits for everything, and small enough to be merged again in seconds.
const defaultCheckpoint = 256 << 20

// Coalesce merges disks into their common ancestor: above lists them, the topmost first, each followed by its parent, and the
// parent of the last is ancestor's leaf, which is open for writing with its own parents. Afterwards ancestor's content is that
// of the topmost disk, followed by zeros when the ancestor is larger, and all of it is durable. The disks above are only read;
// they must not change meanwhile. When Coalesce has returned nil, the children of the topmost disk can be given ancestor as
// their parent, and then the disks above can be removed.
//
// Until then the whole chain stays valid. Only sectors are written in the ancestor that some disk above it holds or cuts off;
// whoever reads through that disk does not see the ancestor's sector at all, so neither a merge that runs, nor one that ended
// half way, nor a crash at any write changes what is read through the topmost disk and its children. A merge that was
// interrupted is finished by calling Coalesce again.
//
// What does see those sectors is any other child of the ancestor, and any other child of the disks above but the topmost.
// Coalesce refuses with [ErrSibling] when o.Children names one. It refuses a topmost disk larger than the ancestor unless it
// may grow the ancestor.
func Coalesce(ctx context.Context, ancestor *Disk, above []*Image, o CoalesceOptions) error {
	c, err := coalesceChain(ancestor, above, o)
	if err != nil {
		return err
	}
	size := c.Size()
	if size > ancestor.Size() {
		if !o.Grow {
			return fault(SizeDiffers, -1, "%d bytes do not go into an ancestor of %d; let it grow", size, ancestor.Size())
		}
		if err := ancestor.Resize(ctx, size, ResizeOptions{}); err != nil {
			return fmt.Errorf("grow the ancestor: %w", err)
		}
	}
	if o.CheckpointBytes <= 0 {
		o.CheckpointBytes = defaultCheckpoint
	}
	since := int64(0)
	u := &pump{src: newChanges(c, len(above)), unit: pumpUnit, from: min(max(o.Start, 0), size), exact: true, progress: o.Progress}
	u.turn = func(p *piece) error {
		if err := merge(ancestor, p); err != nil {
			return err
		}
		if since += int64(len(p.data)); since < o.CheckpointBytes {
			return nil
		}
		since = 0
		if err := ancestor.Sync(); err != nil {
			return err
		}
		if o.Checkpoint != nil {
			o.Checkpoint(p.off + int64(len(p.data)))
		}
		return nil
	}
	if err := u.run(ctx); err != nil {
		return fmt.Errorf("merge into %s: %w", ancestor.leaf.UUID(), err)
	}
	// A topmost disk that is smaller has zeros behind its end, for its children at least.
	if err := ancestor.Discard(size, ancestor.Size()-size); err != nil {
		return err
	}
	if err := ancestor.Sync(); err != nil {
		return err
	}
	if o.Checkpoint != nil {
		o.Checkpoint(size)
	}
	return nil
}

// merge brings one piece into the ancestor. Zeros are stored only where they hide something.
func merge(ancestor *Disk, p *piece) error {
	if image.IsZero(p.data) {
		return ancestor.Discard(p.off, int64(len(p.data)))
	}
	_, err := ancestor.WriteAt(p.data, p.off)
	return err
}

// coalesceChain checks that the disks belong together and that nobody else needs one of them.
func coalesceChain(ancestor *Disk, above []*Image, o CoalesceOptions) (*Chain, error) {
	if len(above) == 0 {
		return nil, fault(NoParent, -1, "there is nothing to merge")
	}
	if o.Children == nil {
		return nil, errors.New("vhd: Coalesce must be told which other children there are; nothing was changed")
	}
	members := append(append([]*Image{}, above...), ancestor.leaf)
	for i, child := range above {
		parent := members[i+1]
		if child.Type() != Differencing {
			return nil, fault(WrongParent, -1, "member %d is %s and has no parent", i, child.Type())
		}
		if err := checkParent(child, parent); err != nil {
			return nil, err
		}
		ids, err := o.Children(parent)
		if err != nil {
			return nil, fmt.Errorf("ask for the children of %s: %w", parent.UUID(), err)
		}
		for _, id := range ids {
			if id != child.UUID() {
				return nil, fmt.Errorf("%w: %s is a child of %s", ErrSibling, id, parent.UUID())
			}
		}
	}
	return &Chain{members: members}, nil
}
