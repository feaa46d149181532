package mediachild

import (
	"context"
	"errors"

	"disksync/diskmap"
	"disksync/internal/remotedisk"
)

// Map has a child find out what of a disk is free. The child gets a socket on which it may read the disk, and nothing else; what it says is
// checked, so that it can name a wrong part of this disk at worst. An error says why nothing is known: the disk cannot be read, or the child
// ended, took longer than o.Timeout, the reads of the disk included, or made no sense; o.Log is told, too. The end of ctx ends the child. The disk is not
// read any more when Map returns.
func Map(ctx context.Context, disk remotedisk.Source, o Options) (*diskmap.Map, error) {
	o = o.orElse(mapTime)
	m, err := mapOf(ctx, disk, o)
	if err != nil && ctx.Err() == nil {
		o.Log.Warn("what is free on a disk is not known", "error", err)
	}
	return m, err
}

func mapOf(ctx context.Context, disk remotedisk.Source, o Options) (*diskmap.Map, error) {
	c, err := startOn(disk, o.Command)
	if err != nil {
		return nil, err
	}
	defer c.release()
	defer c.kill()
	const who = "the program that looks for what is free"
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, errors.New(who+" took too long"))
	defer cancel()
	defer context.AfterFunc(ctx, c.kill)()
	var m *diskmap.Map
	err = c.first(opMap, who, o, maxError+diskmap.MaxEncoded(disk.Size()), func(a *answer) (err error) {
		m, err = readMap(a, disk.Size())
		return err
	})
	if ctx.Err() != nil {
		m, err = nil, context.Cause(ctx)
	}
	return m, err
}

// readMap reads what a child says of what is free on a disk of size bytes.
func readMap(a *answer, size int64) (*diskmap.Map, error) {
	if err := a.err(); err != nil {
		if !a.ok() {
			return nil, errNonsense
		}
		return nil, err
	}
	if a.bad {
		return nil, errNonsense
	}
	m, err := diskmap.Parse(a.b, size)
	if err != nil {
		return nil, errNonsense
	}
	return m, nil
}
