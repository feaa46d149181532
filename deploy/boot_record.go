package deploy

import (
	"maps"
	"slices"
	"sync"

	"disksync/image"
)

// BootRecorder notes the order in which the blocks of a VM's disks are read for the first time, up to [image.MaxBoot] of each disk. The zero
// value is ready. It is safe for concurrent use.
type BootRecorder struct {
	mu    sync.Mutex
	trace image.BootTrace
	seen  map[bootBlock]bool
}

type bootBlock struct {
	role  image.Role
	block int
}

// Read notes that n bytes at off of a disk are read.
func (r *BootRecorder) Read(role image.Role, off, n int64) {
	if off < 0 || n <= 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen, r.trace = map[bootBlock]bool{}, image.BootTrace{}
	}
	for b := off / image.BlockSize; b <= (off+n-1)/image.BlockSize && len(r.trace[role]) < image.MaxBoot; b++ {
		if k := (bootBlock{role, int(b)}); !r.seen[k] {
			r.seen[k] = true
			r.trace[role] = append(r.trace[role], int(b))
		}
	}
}

// Trace returns what was noted so far.
func (r *BootRecorder) Trace() image.BootTrace {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := maps.Clone(r.trace)
	for role := range out {
		out[role] = slices.Clone(out[role])
	}
	return out
}
