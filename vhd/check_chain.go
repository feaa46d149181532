package vhd

import (
	"errors"
	"fmt"
	"io"

	"disksync/image"
)

// ChainFile is one file of a chain that [CheckChain] looks at.
type ChainFile struct {
	R    io.ReaderAt
	Size int64 // bytes
	// Raw tells that the file is no VHD but the raw disk that a nil parent uuid refers to. Only the last file may be raw.
	Raw bool
	// Modified is when the file was changed last; 0: not known. It is compared with the time that its child notes.
	Modified Timestamp
}

// CheckChain checks every file of a chain, the leaf first and each followed by its parent, and each with its parent. It returns
// one report for each file, in the same order; a finding about a parent is in the report of its child. o's Parent fields are
// not used. A chain of more than [MaxDepth] files is checked as far as that.
func CheckChain(files []ChainFile, o CheckOptions) ([]*Report, error) {
	o.Parent, o.ParentModified = nil, 0
	reports := make([]*Report, 0, len(files))
	for i, f := range files[:min(len(files), MaxDepth)] {
		rep := &Report{Image: Raw(f.R, f.Size), End: f.Size}
		if !f.Raw {
			var err error
			if rep, err = Check(f.R, f.Size, o); err != nil {
				return nil, fmt.Errorf("member %d: %w", i, err)
			}
		} else if f.Size <= 0 || f.Size%sectorSize != 0 {
			rep = &Report{}
			rep.find(BadSize, -1, "a raw disk of %d bytes", f.Size)
		}
		reports = append(reports, rep)
	}
	if len(files) > MaxDepth {
		reports[0].find(TooDeep, -1, "%d members, this program reads %d", len(files), MaxDepth)
	}
	// From the base to the leaf, so that what is wrong with a parent is known when its child's turn comes.
	for i := len(reports) - 1; i >= 0; i-- {
		if reports[i].Image != nil {
			o.ParentModified = 0
			if i+1 < len(files) {
				o.ParentModified = files[i+1].Modified
			}
			reports[i].link(reports[i:], o)
		}
	}
	reportCycles(reports)
	return reports, nil
}

// link compares the first of the reports' disks with the parent that follows it.
func (r *Report) link(chain []*Report, o CheckOptions) {
	m := r.Image
	if m.Type() != Differencing {
		if len(chain) > 1 {
			r.find(WrongParent, -1, "a %s disk has no parent, and here one follows", m.Type())
		}
		return
	}
	if len(chain) == 1 {
		r.find(NoParent, -1, "%s", m.ParentUUID())
		return
	}
	if worst, some := chain[1].Worst(); some && worst == Damage {
		r.find(BadParent, -1, "%s", m.ParentUUID())
	}
	if o.Parent = chain[1].Image; o.Parent != nil {
		r.withParent(m, o)
	}
}

// reportCycles tells of a disk that comes back further down.
func reportCycles(reports []*Report) {
	seen := map[image.UUID]bool{}
	for _, r := range reports {
		if r.Image == nil || r.Image.UUID().IsZero() {
			continue
		}
		seen[r.Image.UUID()] = true
		if id := r.Image.ParentUUID(); r.Image.Type() == Differencing && seen[id] && !r.Has(Cycle) {
			r.find(Cycle, -1, "its parent %s is its child as well", id)
		}
	}
}

// parent looks at what a differencing disk says of its parent.
func (r *Report) parent(m *Image, o CheckOptions) {
	if m.Type() != Differencing {
		return
	}
	if m.ParentUUID() == m.UUID() && !m.UUID().IsZero() {
		r.find(Cycle, -1, "the disk names itself as its parent")
	}
	if o.Parent != nil {
		r.withParent(m, o)
	}
}

func (r *Report) withParent(m *Image, o CheckOptions) {
	if e, ok := errors.AsType[*Error](checkParent(m, o.Parent)); ok {
		r.add(e)
		return
	}
	if o.Parent.Size() != m.Size() {
		r.find(SizeDiffers, -1, "parent %d bytes, child %d", o.Parent.Size(), m.Size())
	}
	// Windows writes 0; then nothing can be compared.
	if t := m.header.ParentTimestamp; t != 0 && o.ParentModified != 0 && t != o.ParentModified {
		const layout = "2006-01-02 15:04:05"
		r.find(ParentChanged, -1, "child says %s, the parent's file %s", t.Time().Format(layout), o.ParentModified.Time().Format(layout))
	}
}
