package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"disksync/cache"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/layer"
	"disksync/vhd"
)

// Plan says how a job will get from what is here to the version, before a byte moves.
type Plan struct {
	Image   string        `json:"image"`
	Version image.Version `json:"version"`
	Disks   []DiskPlan    `json:"disks"`
	// Bytes and Blocks are what is to come from each kind of source. Local blocks are copied, not fetched.
	Bytes  map[string]int64 `json:"bytes"`
	Blocks map[string]int   `json:"blocks"`
	// Here is how many blocks an interrupted run has left that need not be got again, as its file claims.
	Here int `json:"here"`
	// Needed and Free are bytes on this machine's disk.
	Needed int64 `json:"needed"`
	Free   int64 `json:"free"`
	// Missing is how many blocks no source has; a plan with missing blocks cannot be run.
	Missing int `json:"missing"`
	// Media are the media that were looked at.
	Media []MediumPlan `json:"media"`
}

// DiskPlan is the path of layers to the state of one disk.
type DiskPlan struct {
	Role  image.Role    `json:"role"`
	Size  int64         `json:"size"`
	State image.StateID `json:"state"`
	Start image.StateID `json:"start"` // installed; zero: the path begins with a full image
	Steps []Step        `json:"steps"` // none: the state is installed

	// plain are the states on the way that some medium has as VHD files.
	plain []cache.Disk
}

// Step is one layer to install.
type Step struct {
	Layer  image.LayerID    `json:"layer"`
	From   image.StateID    `json:"from"`
	To     image.StateID    `json:"to"`
	Blocks int              `json:"blocks"`
	Bytes  map[string]int64 `json:"bytes"` // by kind of source

	index *layer.Index
}

// MediumPlan says what a medium contributes.
type MediumPlan struct {
	cache.Medium
	Found  string   `json:"found"`  // what was recognised on it
	Blocks int      `json:"blocks"` // that it is to give
	Notes  []string `json:"notes,omitempty"`
}

// Job brings the disks of a manifest onto the endpoint.
type Job struct {
	Store    *Store
	Manifest image.Verified
	// Media are looked at in this order.
	Media []*cache.Inventory
	// Net is the Synchronizer; nil: the job works without it.
	Net *Net
	// Skip are roles whose disks stay as they are.
	Skip map[image.Role]bool
	// CheckMedia reads what media claim to have before anything is relied on.
	CheckMedia bool
	Tally      *Tally
	// Installed is called after each layer that was installed; nil: nobody is told.
	Installed func(image.LayerID)
}

// node is a state on the search for the cheapest path.
type node struct {
	state image.StateID
	cost  int64
	via   *image.LayerRef // nil where a path begins
}

// path finds the layers that lead from an installed state, or from nothing, to the disk's state for the fewest bytes over the
// network. A layer that a medium has costs nothing. It is Dijkstra's algorithm; the graphs are small.
func (j *Job) path(d *image.Disk) (start image.StateID, path []image.LayerRef, err error) {
	nodes := map[image.StateID]*node{{}: {}}
	add := func(id image.StateID) error {
		ok, err := j.Store.Installed(id)
		if ok {
			nodes[id] = &node{state: id}
		}
		return err
	}
	for _, l := range d.Layers {
		if err := add(l.To); err != nil {
			return start, nil, err
		}
	}
	settled := map[image.StateID]bool{}
	for {
		var best *node
		for _, n := range nodes {
			// Of equal costs the installed state is better than nothing, and any rule is better than chance.
			if !settled[n.state] && (best == nil || n.cost < best.cost || n.cost == best.cost && best.state.Compare(n.state) < 0) {
				best = n
			}
		}
		if best == nil {
			return start, nil, fmt.Errorf("no path of layers leads to state %s", d.State.Short())
		}
		if best.state == d.State {
			break
		}
		settled[best.state] = true
		for i := range d.Layers {
			l := &d.Layers[i]
			if l.From != best.state {
				continue
			}
			cost := best.cost + j.cost(l)
			if n := nodes[l.To]; n == nil || cost < n.cost {
				nodes[l.To] = &node{state: l.To, cost: cost, via: l}
			}
		}
	}
	at := nodes[d.State]
	for ; at.via != nil; at = nodes[at.via.From] {
		path = append(path, *at.via)
	}
	slices.Reverse(path)
	return at.state, path, nil
}

// cost is what a layer costs over the network, in bytes.
func (j *Job) cost(l *image.LayerRef) int64 {
	for _, m := range j.Media {
		if m.HasLayer(l.ID) {
			return 0
		}
	}
	return l.Length
}

// index gets a layer's index from a medium, else from the Synchronizer.
func (j *Job) index(ctx context.Context, ref image.LayerRef) (*layer.Index, error) {
	for _, m := range j.Media {
		if x, ok := m.Index(ref.ID); ok {
			return x, nil
		}
	}
	if j.Net == nil {
		return nil, fmt.Errorf("layer %s: %w", ref.ID.Short(), errNoSource)
	}
	return j.Net.index(ctx, ref)
}

// ErrPlan is returned for layers that do not lead where the manifest says.
var ErrPlan = errors.New("the layers do not lead to the version")

// Plan finds the way. It reads media and fetches indexes, but no blocks.
func (j *Job) Plan(ctx context.Context) (*Plan, error) {
	m := j.Manifest.Manifest()
	p := &planner{
		Plan: &Plan{
			Image: m.Image, Version: m.Version, Disks: []DiskPlan{}, Bytes: map[string]int64{}, Blocks: map[string]int{}, Media: []MediumPlan{},
		},
		job: j, perMedium: map[string]int{}, local: map[image.Digest]bool{},
	}
	for i := range m.Disks {
		d := &m.Disks[i]
		if j.Skip[d.Role] {
			continue
		}
		if err := p.disk(ctx, d); err != nil {
			err = fmt.Errorf("plan the %s disk: %w", d.Role, err)
			if isUntrusted(err) {
				return nil, untrustedLayer(err, fmt.Sprintf("cannot plan version %d of %s", m.Version, m.Image), "nothing was changed")
			}
			return nil, err
		}
	}
	for _, inv := range j.Media {
		p.Media = append(p.Media, MediumPlan{Medium: inv.Medium, Found: inv.Summary(), Blocks: p.perMedium[inv.Medium.Dir], Notes: inv.Notes})
	}
	var err error
	p.Free, err = j.Store.fsys.Free()
	return p.Plan, err
}

// planner is a Plan in the making.
type planner struct {
	*Plan
	job       *Job
	perMedium map[string]int
	local     map[image.Digest]bool // what earlier steps bring; later ones will find it on this machine
}

func (p *planner) disk(ctx context.Context, d *image.Disk) error {
	dp, err := p.job.planDisk(ctx, d)
	if err != nil {
		return err
	}
	for k := range dp.Steps {
		if err := p.step(&dp, &dp.Steps[k]); err != nil {
			return err
		}
	}
	p.Disks = append(p.Disks, dp)
	return nil
}

func (j *Job) planDisk(ctx context.Context, d *image.Disk) (DiskPlan, error) {
	start, path, err := j.path(d)
	if err != nil {
		return DiskPlan{}, err
	}
	dp := DiskPlan{Role: d.Role, Size: d.Size, State: d.State, Start: start}
	state, err := j.Store.State(start)
	if err != nil {
		return DiskPlan{}, problem.New("DS-DISK-DAMAGED", problem.Damaged, err, "the digest list of an installed disk is damaged",
			"nothing was changed", "run `verify --repair` on the VM first")
	}
	for _, ref := range path {
		x, err := j.index(ctx, ref)
		if err != nil {
			return DiskPlan{}, err
		}
		next, err := x.Apply(state)
		if err != nil {
			return DiskPlan{}, fmt.Errorf("%w: %w", ErrPlan, err)
		}
		dp.Steps = append(dp.Steps, Step{
			Layer: ref.ID, From: ref.From, To: ref.To, Blocks: x.Len(), Bytes: map[string]int64{}, index: x,
		})
		j.keepPlain(&dp, next, ref)
		state = next
	}
	if state.ID() != d.State || d.Size != 0 && state.Size != d.Size {
		return DiskPlan{}, fmt.Errorf("%w: they end in %s", ErrPlan, state.ID().Short())
	}
	return dp, nil
}

// step adds up where the blocks of a step are to come from.
func (p *planner) step(dp *DiskPlan, st *Step) error {
	sources, err := p.job.sources(st, dp)
	if err != nil {
		return err
	}
	here, err := p.job.Store.partBlocks(image.VHDUUID(st.To))
	if err != nil {
		return err
	}
	seen := map[image.Digest]bool{}
	for i := range st.index.Len() {
		f := st.index.Frame(i)
		if here[f.Block] {
			p.Here++
			continue
		}
		p.Needed += image.BlockSize + vhdOverhead
		if f.Codec == layer.Zero || seen[f.Digest] {
			continue
		}
		seen[f.Digest] = true
		kind, n := Local, int64(image.BlockSize)
		if !p.local[f.Digest] {
			k := slices.IndexFunc(sources, func(s Source) bool { _, ok := s.Holds(f.Digest); return ok })
			if k < 0 {
				p.Missing++
				continue
			}
			n, _ = sources[k].Holds(f.Digest)
			if kind = sources[k].Kind(); kind == USB || kind == DVD {
				p.perMedium[sources[k].Name()]++
			}
		}
		p.Bytes[kind] += n
		p.Blocks[kind]++
		st.Bytes[kind] += n
	}
	for i := range st.index.Len() {
		p.local[st.index.Frame(i).Digest] = true
	}
	// The golden VHD's tables, those of a leaf on top of it, and the digest list.
	p.Needed += 2*emptyVHD(st.index.Size()) + image.EncodedStateSize(st.index.Size())
	return nil
}

// vhdOverhead is what a block takes besides its content, in bytes: its bitmap, and what aligns it.
const vhdOverhead = 4096

// emptyVHD bounds the size of the file of a disk that has no block, in bytes: footers, header and locators, and the table.
func emptyVHD(size int64) int64 { return 64<<10 + 4*int64(image.BlockCount(size)) }

// partBlocks returns the blocks that the part of a VHD claims to have.
func (s *Store) partBlocks(id image.UUID) (map[int]bool, error) {
	out := map[int]bool{}
	f, err := s.fsys.Open(partFile(id))
	if err != nil {
		return out, nil //nolint:nilerr // no part, nothing here
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	m, err := vhd.Open(f, size, vhd.Salvage())
	if err != nil {
		return out, nil //nolint:nilerr // of no use; it will be made anew
	}
	for i := range image.BlockCount(m.Size()) {
		if m.Allocated(i) {
			out[i] = true
		}
	}
	return out, nil
}

// sources returns the sources of a step's blocks in the order of preference: this machine, USB, DVD, the Synchronizer.
func (j *Job) sources(st *Step, dp *DiskPlan) ([]Source, error) {
	wanted := map[image.Digest]bool{}
	for i := range st.index.Len() {
		if f := st.index.Frame(i); f.Codec != layer.Zero {
			wanted[f.Digest] = true
		}
	}
	here, err := j.Store.newLocal(wanted)
	if err != nil {
		return nil, err
	}
	sources := []Source{here}
	w := cache.Wanted{Blocks: wanted, Layers: []*layer.Index{st.index}, Disks: dp.plain}
	for _, inv := range j.Media {
		sources = append(sources, inv.Source(w))
	}
	if j.Net != nil {
		sources = append(sources, j.Net.source(st.index))
	}
	order := Kinds()
	slices.SortStableFunc(sources, func(a, b Source) int {
		return cmp.Compare(slices.Index(order, a.Kind()), slices.Index(order, b.Kind()))
	})
	return sources, nil
}

// keepPlain notes a state that some medium has as VHD files. The digests of every state on a long path would take much memory;
// only those that help are kept.
func (j *Job) keepPlain(dp *DiskPlan, to image.State, ref image.LayerRef) {
	if uuids := j.onMedia(append([]image.UUID{image.VHDUUID(ref.To)}, ref.VHDUUIDs...)); len(uuids) > 0 {
		dp.plain = append(dp.plain, cache.Disk{State: to, UUIDs: uuids})
	}
}

// onMedia returns those of the uuids that are VHD files on some medium.
func (j *Job) onMedia(ids []image.UUID) []image.UUID {
	return slices.DeleteFunc(ids, func(id image.UUID) bool {
		return !slices.ContainsFunc(j.Media, func(inv *cache.Inventory) bool { return inv.HasVHD(id) })
	})
}
