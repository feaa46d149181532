package endpoint

import (
	"context"

	"disksync/cache"
	"disksync/diskmap"
	"disksync/internal/mediachild"
	"disksync/vhd"
)

// child is how the children are started that read what others have written.
func (e *Engine) child() mediachild.Options { return mediachild.Options{Command: e.reader, Log: e.log} }

// look looks through a medium: in its folder, or, where nothing is mounted, on its device, which a child reads.
func (e *Engine) look(ctx context.Context, m cache.Medium) (*cache.Inventory, error) {
	if m.Dir != "" || m.Device == "" {
		return cache.Scan(ctx, m)
	}
	d, err := mediachild.Open(m.Device, e.child())
	if err != nil {
		return nil, err
	}
	// Who does not want to wait any more ends the child.
	stop := context.AfterFunc(ctx, func() { d.Close() })
	var trees []cache.Tree
	for _, v := range d.Volumes() {
		trees = append(trees, cache.Tree{Name: v.Name(), Tree: v})
	}
	inv, err := cache.ScanTrees(ctx, m, trees, d)
	if !stop() && err == nil {
		inv.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	inv.Notes = append(inv.Notes, d.Notes()...)
	return inv, nil
}

// freeOn returns what finds out what is free on the plain disks of a medium: a child, and where that fails, the log says why.
func (e *Engine) freeOn(m cache.Medium) cache.FindFree {
	o := e.child()
	o.Log = o.Log.With("medium", m.Place())
	return func(ctx context.Context, name string, disk *vhd.Chain) *diskmap.Map {
		o := o
		o.Log = o.Log.With("file", name)
		found, _ := mediachild.Map(ctx, disk, o) // which logs why there is none
		return found
	}
}
