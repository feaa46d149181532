package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"disksync/cache"
	"disksync/image"
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
	// Seconds is how long it will take about, by the rates that transfers had before; 0: nobody knows.
	Seconds float64 `json:"seconds,omitempty"`
	// Unknown are the sources whose rate would have to be known for that.
	Unknown []string `json:"unknown,omitempty"`
	// Indexes is what was fetched to make the plan, in bytes: indexes of layers.
	Indexes int64 `json:"indexes"`
}

// DiskPlan is the path of layers to the state of one disk.
type DiskPlan struct {
	Role  image.Role    `json:"role"`
	Size  int64         `json:"size"`
	State image.StateID `json:"state"`
	Start image.StateID `json:"start"` // installed; zero: the path begins with a full image
	// StartVersion is the version that Start is of; 0: not known, or none.
	StartVersion image.Version `json:"start_version,omitempty"`
	Steps        []Step        `json:"steps"` // none: the state is installed

	// plain are the states that some medium has as VHD files.
	plain []cache.Disk
}

// Step is one layer to install.
type Step struct {
	Layer image.LayerID `json:"layer"`
	From  image.StateID `json:"from"`
	To    image.StateID `json:"to"`
	// The versions that From and To are of; 0: not known, or none.
	FromVersion image.Version    `json:"from_version,omitempty"`
	ToVersion   image.Version    `json:"to_version,omitempty"`
	Blocks      int              `json:"blocks"`
	Bytes       map[string]int64 `json:"bytes"` // by kind of source

	index *layer.Index
}

// MediumPlan says what a medium contributes.
type MediumPlan struct {
	cache.Medium
	Found  string   `json:"found"`  // what was recognised on it
	Blocks int      `json:"blocks"` // that it is to give
	Saves  int64    `json:"saves"`  // bytes that need not come over the network for that
	Notes  []string `json:"notes,omitempty"`
}

// Job brings the disks of a manifest onto the endpoint.
type Job struct {
	Store    *Store
	Manifest image.Verified
	// Media are looked at in this order. While the job runs they come and go with Plug and Unplug only.
	Media []*cache.Inventory
	// Net is the Synchronizer; nil: the job works without it.
	Net *Net
	// Skip are roles whose disks stay as they are.
	Skip map[image.Role]bool
	// CheckMedia reads what media claim to have before anything is relied on.
	CheckMedia bool
	Tally      *Tally
	// Line keeps to the layers of the manifest, whatever they cost.
	Line bool
	// Rates are the bytes a second that sources gave before, by their kind, for the estimate of time; see Outcome.
	Rates map[string]float64
	// Installed is called after each layer that was installed; nil: nobody is told.
	Installed func(image.LayerID)

	// Bad is told of each block that a source did not give, and why, from several goroutines; nil: nobody is.
	Bad func(kind, name string, why error)

	banned bans
	visits visits
	media  sync.RWMutex // held to change Media while others look
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
	j.settle()
	m := j.Manifest.Manifest()
	here, err := j.Store.holdings()
	if err != nil {
		return nil, err
	}
	p := &planner{
		Plan: &Plan{
			Image: m.Image, Version: originOf(m).version, Disks: []DiskPlan{}, Bytes: map[string]int64{}, Blocks: map[string]int{}, Media: []MediumPlan{},
		},
		job: j, perMedium: map[string]gift{}, here: here,
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
			if errors.Is(err, layer.ErrCorrupt) {
				return nil, serverDamaged(err, fmt.Sprintf("cannot plan version %d of %s", m.Version, m.Image), "nothing was changed")
			}
			return nil, err
		}
	}
	for _, inv := range j.Media {
		p.Media = append(p.Media, MediumPlan{Medium: inv.Medium, Found: inv.Summary(), Blocks: p.perMedium[inv.Medium.Place()].blocks,
			Saves: p.perMedium[inv.Medium.Place()].saves, Notes: inv.Notes})
	}
	p.Seconds, p.Unknown = j.estimate(p.Bytes, p.behind)
	p.Free, err = j.Store.fsys.Free()
	return p.Plan, err
}

// gift is what a medium is to give.
type gift struct {
	blocks int
	saves  int64 // bytes over the network
}

// planner is a Plan in the making.
type planner struct {
	*Plan
	job       *Job
	perMedium map[string]gift
	here      *holdings
	behind    int64 // bytes that are read back when a step's transfer is over; the rest is while it runs
}

func (p *planner) disk(ctx context.Context, d *image.Disk) error {
	if t := p.job.Store.standing(d.State); t != nil {
		dp, err := t.rest(), error(nil)
		t.release()
		if p.job.allows(&dp) {
			for k := range dp.Steps {
				err = errors.Join(err, p.step(&dp, &dp.Steps[k]))
			}
			p.Disks = append(p.Disks, dp)
			return err
		}
	}
	r, err := p.job.newRouter(ctx, d, p.here, nil)
	if err != nil {
		return err
	}
	path, err := r.route()
	if err != nil {
		return err
	}
	p.Indexes += r.fetched
	dp := r.plan(path)
	for k := range dp.Steps {
		if err := p.step(&dp, &dp.Steps[k]); err != nil {
			return err
		}
	}
	p.Disks = append(p.Disks, dp)
	return nil
}

// plan describes a path.
func (r *router) plan(path []*edge) DiskPlan {
	dp := DiskPlan{Role: r.d.Role, Size: r.d.Size, State: r.d.State, Start: r.d.State, plain: r.here.plain}
	if len(path) > 0 {
		dp.Start = path[0].ref.From
	}
	dp.StartVersion = r.names[dp.Start]
	for _, e := range path {
		x := r.indexes[e.ref.ID]
		dp.Steps = append(dp.Steps, Step{
			Layer: e.ref.ID, From: e.ref.From, To: e.ref.To, FromVersion: r.names[e.ref.From], ToVersion: r.names[e.ref.To],
			Blocks: x.Len(), Bytes: map[string]int64{}, index: x,
		})
	}
	return dp
}

// step adds up where the blocks of a step are to come from.
func (p *planner) step(dp *DiskPlan, st *Step) error {
	sources, err := p.job.sources(st, dp, nil)
	if err != nil {
		return err
	}
	here, err := p.job.Store.leftOver(image.VHDUUID(st.To), st.From)
	if err != nil {
		return err
	}
	p.behind += min(int64(st.index.Len())*image.BlockSize, syncEvery)
	seen := map[image.Digest]bool{}
	for i := range st.index.Len() {
		f := st.index.Frame(i)
		if here.blocks[f.Block] {
			p.Here++
			continue
		}
		if f.Codec == layer.Zero || seen[f.Digest] {
			continue
		}
		seen[f.Digest] = true
		kind, n := Local, int64(image.BlockSize)
		if !p.here.local[f.Digest] {
			k := slices.IndexFunc(sources, func(s Source) bool { _, ok := s.Holds(f.Digest); return ok })
			if k < 0 {
				p.Missing++
				continue
			}
			n, _ = sources[k].Holds(f.Digest)
			if kind = sources[k].Kind(); kind == USB || kind == DVD {
				g := p.perMedium[sources[k].Name()]
				p.perMedium[sources[k].Name()] = gift{g.blocks + 1, g.saves + int64(f.Length)}
			}
		}
		p.Bytes[kind] += n
		p.Blocks[kind]++
		st.Bytes[kind] += n
	}
	for i := range st.index.Len() {
		// Later steps, and those of other disks, will find it on this machine.
		p.here.local[st.index.Frame(i).Digest] = true
	}
	p.Needed += here.space(st.index)
	return nil
}

// leftOver is what an interrupted run has left of a VHD: its part's tables, the blocks that they claim to have, and how much room the part
// has taken besides, in bytes. It is empty where there is none.
type leftOver struct {
	blocks        map[int]bool
	tables, spare int64
}

// space is what a layer still takes on this machine's disk at most: its other blocks, the golden VHD's tables, those of a leaf on top of
// it, and the digest list.
func (l leftOver) space(x *layer.Index) int64 {
	n := 0
	for i := range x.Len() {
		if !l.blocks[x.Frame(i).Block] {
			n++
		}
	}
	todo := blockSpace(n)
	return todo - min(todo, l.spare) + 2*emptyVHD(x.Size()) - l.tables + image.EncodedStateSize(x.Size())
}

// blockSpace is what n blocks take in a VHD at most, in bytes.
func blockSpace(n int) int64 { return int64(n) * (image.BlockSize + vhdOverhead) }

// vhdOverhead is what a block takes besides its content, in bytes: its bitmap, and what aligns it.
const vhdOverhead = 4096

// emptyVHD bounds the size of the file of a disk that has no block, in bytes: footers, header and locators, and the table.
func emptyVHD(size int64) int64 { return 64<<10 + 4*int64(image.BlockCount(size)) }

// leftOver returns what there is of the part of a VHD, when it stands on the state from: on another one it is of no use.
func (s *Store) leftOver(id image.UUID, from image.StateID) (leftOver, error) {
	out := leftOver{blocks: map[int]bool{}}
	f, err := s.fsys.Open(partFile(id))
	if err != nil {
		return out, nil //nolint:nilerr // no part, nothing here
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return out, err
	}
	m, err := vhd.Open(f, size, vhd.Salvage())
	if err != nil {
		return out, nil //nolint:nilerr // of no use; it will be made anew
	}
	if full := m.Type() != vhd.Differencing; full != from.IsZero() || !full && m.ParentUUID() != image.VHDUUID(from) {
		return out, nil
	}
	for i := range image.BlockCount(m.Size()) {
		if m.Allocated(i) {
			out.blocks[i] = true
		}
	}
	// Where the file system takes no room ahead the spare bytes may be a hole. Then a plan may succeed that has too little, and its run tells.
	out.tables, out.spare = emptyVHD(m.Size()), m.Spare()
	return out, nil
}

// sources returns the sources of a step's blocks in the order of preference: this machine, USB, DVD, the Synchronizer. y is where they
// go; nil: nowhere.
func (j *Job) sources(st *Step, dp *DiskPlan, y *site) ([]Source, error) {
	w := st.wanted(dp)
	here, err := j.Store.newLocal(w.Blocks)
	if err != nil {
		return nil, err
	}
	sources := []Source{here}
	j.media.RLock()
	media := j.Media
	j.media.RUnlock()
	for _, inv := range media {
		sources = append(sources, inv.Source(w))
	}
	if j.Net != nil {
		src := j.Net.source(st.index)
		if y != nil {
			src.transit, src.gate = &y.transit, &j.Store.gate
			src.skip = func(d image.Digest) bool { return y.hasAll(d) || y.inHand(d) }
		}
		sources = append(sources, src)
	}
	slices.SortStableFunc(sources, func(a, b Source) int { return cmp.Compare(preference(a), preference(b)) })
	return sources, nil
}
