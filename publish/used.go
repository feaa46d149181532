package publish

import (
	"context"
	"fmt"

	"disksync/diskmap"
)

// leaveOutFree has the source read as zeros what its file systems call free, and returns how much that is. Volumes of which that
// cannot be told are named in a warning and stay as they are.
func (p *run) leaveOutFree(ctx context.Context, src *Source, path string) (freed int64, err error) {
	if p.AllBlocks {
		return 0, nil
	}
	all := *src
	m, err := p.FindFree(ctx, &all)
	if changed := src.Unchanged(); changed != nil {
		return 0, changed
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err != nil {
		p.keepFree(path, "the disk", err.Error())
		return 0, nil
	}
	for _, v := range m.Volumes() {
		if v.Kept == "" {
			continue
		}
		what := v.Name
		if v.Kind != diskmap.Unknown {
			what += fmt.Sprintf(" (%s)", v.Kind)
		}
		p.keepFree(path, what, v.Kept)
	}
	view := m.Disk(&all)
	src.ReaderAt, src.next = view, view.NextData
	return m.Free(), nil
}

func (p *run) keepFree(path, what, why string) {
	p.Warn(fmt.Sprintf("%s: %s is published with its free space: %s", path, what, why))
}
