package publish

import (
	"fmt"

	"disksync/diskmap"
)

// leaveOutFree has the source read as zeros what its file systems call free, and returns how much that is. Volumes of which that
// cannot be told are named in a warning and stay as they are.
func (p *run) leaveOutFree(src *Source, path string) (freed int64, err error) {
	if p.AllBlocks {
		return 0, nil
	}
	all := *src
	m, err := diskmap.Scan(&all)
	if changed := src.Unchanged(); changed != nil {
		return 0, changed
	}
	if err != nil {
		return 0, fmt.Errorf("find out what is free: %w", err)
	}
	for _, v := range m.Volumes() {
		if v.Kept == "" {
			continue
		}
		what := v.Name
		if v.Kind != diskmap.Unknown {
			what += fmt.Sprintf(" (%s)", v.Kind)
		}
		p.Warn(fmt.Sprintf("%s: %s is published with its free space: %s", path, what, v.Kept))
	}
	view := m.Disk(&all)
	src.ReaderAt, src.next = view, view.NextData
	return m.Free(), nil
}
