package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"disksync/image"
	"disksync/internal/problem"
	"disksync/layer"
	"disksync/syncclient"
)

// SourceReport says what a source contributed.
type SourceReport struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Blocks int    `json:"blocks"` // good ones
	Bytes  int64  `json:"bytes"`  // read from it, good or bad
	Bad    int    `json:"bad"`    // blocks that it gave wrong or not at all
	// GivenUp says why it was left out of the rest of the transfer.
	GivenUp string `json:"given_up,omitempty"`
}

// Outcome says what a job did.
type Outcome struct {
	Bytes    map[string]int64 `json:"bytes"` // got, by kind of source
	Sources  []SourceReport   `json:"sources"`
	Blocks   int              `json:"blocks"`   // of the layers that were installed
	Verified int              `json:"verified"` // read back from the disk and compared
	Healed   int              `json:"healed"`   // came from another source than the first, which failed
	Resumed  int              `json:"resumed"`  // were there from an interrupted run, and good
	Zero     int              `json:"zero"`     // became zero
	Layers   int              `json:"layers"`   // installed
	// Steps are the layers that were installed, in order.
	Steps []StepReport `json:"-"`
	// Detours is how many layers turned out to be of no use, so that another path was taken.
	Detours int `json:"detours"`
	// Rates are the bytes a second that the kinds of sources gave, as far as there was enough to measure; see Job.Rates.
	Rates map[string]float64 `json:"-"`
}

// StepReport says what the installation of one layer took.
type StepReport struct {
	Role        image.Role       `json:"role"`
	Layer       image.LayerID    `json:"layer"`
	From        image.StateID    `json:"from"`
	To          image.StateID    `json:"to"`
	FromVersion image.Version    `json:"from_version,omitempty"` // 0: not known, or none
	ToVersion   image.Version    `json:"to_version,omitempty"`
	Blocks      int              `json:"blocks"` // of the layer
	Bytes       map[string]int64 `json:"bytes"`  // got for it, by kind of source
}

// NewOutcome returns an Outcome of nothing done.
func NewOutcome() *Outcome {
	return &Outcome{Bytes: map[string]int64{}, Sources: []SourceReport{}, Steps: []StepReport{}, Rates: map[string]float64{}}
}

// Run installs what the plan says. When it returns an error, the layers that are complete stay, the one that was being built
// is gone on with by the next Run, and nothing else has changed.
//
// A layer that nobody vouched for, and whose blocks cannot be had after all, is gone around: the manifest's own layers lead there too.
func (j *Job) Run(ctx context.Context, p *Plan) (*Outcome, error) {
	if err := j.CheckPlan(p); err != nil {
		return nil, err
	}
	out := NewOutcome()
	bySource := map[string]int{}
	j.Tally.plan(p.work())
	var err error
	for {
		var failed *Step
		if failed, err = j.runDisks(ctx, p, out, bySource); err == nil || !j.ban(failed, err) {
			break
		}
		j.leavePath(p)
		next, planErr := j.Plan(ctx)
		if planErr != nil || j.CheckPlan(next) != nil {
			break // the first error says more
		}
		p = next
		out.Detours++
		j.Tally.replan(p.work())
	}
	t := j.Tally.Progress()
	out.Bytes, out.Healed = t.Bytes, t.Healed
	out.Verified, out.Resumed, out.Zero = j.Tally.counts()
	out.Rates = j.Tally.rates()
	return out, explain(ctx, err, p)
}

// runDisks installs what is to be installed of all disks. With an error it returns the step that failed.
func (j *Job) runDisks(ctx context.Context, p *Plan, out *Outcome, bySource map[string]int) (*Step, error) {
	towers, down, err := j.towers(ctx, p)
	if err != nil {
		return nil, err
	}
	defer down()
	if err := j.boot(ctx, towers); err != nil {
		return nil, err
	}
	for i := range p.Disks {
		if failed, err := j.runDisk(ctx, &p.Disks[i], out, bySource); err != nil {
			return failed, fmt.Errorf("%s disk: %w", p.Disks[i].Role, err)
		}
	}
	return nil, nil
}

// ban sees to it that a layer is not planned with again, when that makes sense: its blocks are nowhere to be had, which is not for
// want of a line, and there are the manifest's layers in its place.
func (j *Job) ban(st *Step, err error) bool {
	missing, ok := errors.AsType[*MissingError](err)
	if st == nil || !ok || syncclient.Interrupted(missing) {
		return false
	}
	for _, d := range j.Manifest.Manifest().Disks {
		if slices.ContainsFunc(d.Layers, func(l image.LayerRef) bool { return l.ID == st.Layer }) {
			return false
		}
	}
	j.banned.add(st.Layer, err)
	return true
}

// work is what the transfer stages of all steps add up to.
func (p *Plan) work() int64 {
	var n int64
	for _, d := range p.Disks {
		for _, st := range d.Steps {
			n += st.work()
		}
	}
	return n
}

// work is the extent of a step's transfer stage: the bytes of the layer's frames.
func (s *Step) work() int64 {
	var n int64
	for i := range s.index.Len() {
		n += int64(s.index.Frame(i).Length)
	}
	return n
}

// CheckPlan returns a problem when a plan cannot be run: something is nowhere to be had, or there is no room for it.
func (j *Job) CheckPlan(p *Plan) error {
	if p.Missing > 0 {
		return problem.New("DS-MISSING", problem.Unreachable, nil,
			fmt.Sprintf("%d blocks of version %d of %s are on no medium, and there is no Synchronizer to ask", p.Missing, p.Version, p.Image),
			"nothing was changed", "connect to the network, or plug in a medium with the version")
	}
	if p.Needed > p.Free {
		return problem.New("DS-SPACE", problem.NoSpace, nil,
			fmt.Sprintf("not enough space: version %d of %s may need %s, %s are free", p.Version, p.Image, mib(p.Needed), mib(p.Free)),
			"nothing was changed", fmt.Sprintf("free %s and run the same command again", mib(p.Needed-p.Free)))
	}
	return nil
}

func mib(n int64) string { return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20) }

func (j *Job) runDisk(ctx context.Context, dp *DiskPlan, out *Outcome, bySource map[string]int) (failed *Step, err error) {
	if len(dp.Steps) == 0 {
		return nil, nil
	}
	state, err := j.Store.State(dp.Start)
	if err != nil {
		return nil, err
	}
	for i := range dp.Steps {
		st := &dp.Steps[i]
		next, err := st.index.Apply(state)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrPlan, err)
		}
		if err := j.stepOnce(ctx, dp, st, state, out, bySource); err != nil {
			return st, err
		}
		state = next
	}
	return nil, nil
}

// stepOnce runs a step unless somebody else has meanwhile.
func (j *Job) stepOnce(ctx context.Context, dp *DiskPlan, st *Step, from image.State, out *Outcome, bySource map[string]int) error {
	done, err := j.Store.parts.start(ctx, image.VHDUUID(st.To))
	if err != nil {
		return err
	}
	defer done()
	there, err := j.Store.Installed(st.To)
	if err != nil {
		return err
	}
	if there {
		j.Tally.had(st.work())
		j.tellInstalled(st)
		if y, _ := j.Store.trySite(st.index, func(*site) bool { return true }); y != nil {
			y.finish()
			y.release()
		}
		return nil
	}
	return j.runStep(ctx, dp, st, from, out, bySource)
}

// runStep installs one layer on top of the state from, whether or not it is there. Nobody else may be building it.
func (j *Job) runStep(ctx context.Context, dp *DiskPlan, st *Step, from image.State, out *Outcome, bySource map[string]int) error {
	j.settle()
	y, err := j.Store.site(ctx, st.index)
	if err != nil {
		return err
	}
	defer y.release()
	sources, err := j.sources(st, dp, y)
	if err != nil {
		return err
	}
	if j.CheckMedia {
		if sources, err = j.checkMedia(ctx, dp.Role, st, sources, j.Tally); err != nil {
			return err
		}
	}
	g := guests{
		sources: j.Tally.timed(sources), bad: j.tellBad,
		visit: func(ctx context.Context, b *board) { j.receive(ctx, b, dp.Role, st, dp) },
	}
	done, err := j.Store.install(ctx, y, from, dp.Role, g, j.Tally)
	if done != nil {
		done.report(out, bySource)
	}
	if err != nil {
		return err
	}
	out.Steps = append(out.Steps, StepReport{
		Role: dp.Role, Layer: st.Layer, From: st.From, To: st.To, FromVersion: st.FromVersion, ToVersion: st.ToVersion,
		Blocks: st.Blocks, Bytes: done.bytes(),
	})
	out.Layers++
	out.Blocks += st.Blocks
	j.tellInstalled(st)
	return nil
}

func (j *Job) tellBad(s Source, why error) {
	if j.Bad != nil {
		j.Bad(s.Kind(), s.Name(), why)
	}
}

func (j *Job) tellInstalled(st *Step) {
	if j.Installed != nil {
		j.Installed(st.Layer)
	}
}

// bytes adds up what was read, by kind of source.
func (in *installed) bytes() map[string]int64 {
	out := map[string]int64{}
	for _, s := range in.sources {
		if s.bytes > 0 {
			out[s.Kind()] += s.bytes
		}
	}
	return out
}

// report adds what the sources of one install did to the outcome.
func (in *installed) report(out *Outcome, bySource map[string]int) {
	for _, s := range in.sources {
		if s.good+s.bad == 0 && s.dead == nil {
			continue
		}
		key := s.Kind() + " " + s.Name()
		i, ok := bySource[key]
		if !ok {
			i = len(out.Sources)
			bySource[key] = i
			out.Sources = append(out.Sources, SourceReport{Kind: s.Kind(), Name: s.Name()})
		}
		r := &out.Sources[i]
		r.Blocks += s.good
		r.Bytes += s.bytes
		r.Bad += s.bad
		if s.dead != nil {
			r.GivenUp = s.dead.Error()
		}
	}
}

// checkMedia reads everything that media claim to have of a step, and keeps the claims that are true.
func (j *Job) checkMedia(ctx context.Context, role image.Role, st *Step, sources []Source, t *Tally) ([]Source, error) {
	out := make([]Source, 0, len(sources))
	for _, s := range sources {
		if s.Kind() != USB && s.Kind() != DVD {
			out = append(out, s)
			continue
		}
		c := &checked{Source: s, good: map[image.Digest]bool{}, bad: j.tellBad}
		if err := c.check(ctx, role, st.index, t); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// checked is a Source of which only the blocks count that were read once and found good.
type checked struct {
	Source
	good map[image.Digest]bool
	bad  func(Source, error)
}

// Holds implements Source.
func (c *checked) Holds(d image.Digest) (int64, bool) {
	if !c.good[d] {
		return 0, false
	}
	return c.Source.Holds(d)
}

func (c *checked) check(ctx context.Context, role image.Role, x *layer.Index, t *Tally) error {
	var claims []image.Digest
	var total int64
	for i := range x.Len() {
		d := x.Frame(i).Digest
		if n, ok := c.Source.Holds(d); ok {
			claims = append(claims, d)
			total += n
		}
	}
	t.begin(StageChecksum, role, total)
	dec := layer.NewDecoder(1)
	defer dec.Close()
	block := make([]byte, image.BlockSize)
	var mu sync.Mutex
	// A medium that goes away has given what it has given.
	_ = c.Source.Fetch(ctx, claims, func(d image.Digest, f layer.Frame, packed []byte, err error) error {
		mu.Lock()
		defer mu.Unlock()
		t.add(int64(len(packed)))
		if err == nil {
			err = dec.Check(block, f, packed)
		}
		if c.good[d] = err == nil; err != nil {
			c.bad(c.Source, err)
		}
		return nil
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// explain turns the errors of a job into ones for people.
func explain(ctx context.Context, err error, p *Plan) error {
	safe := "what was got is kept, and whatever was installed before stays as it is"
	again := "run the same command again; it goes on from there"
	what := fmt.Sprintf("version %d of %s is not installed yet", p.Version, p.Image)
	if m, ok := errors.AsType[*MissingError](err); ok {
		return explainMissing(m, what, safe, again)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return problem.New("DS-INTERRUPTED", problem.Interrupted, nil, "interrupted; "+what, safe, again)
	case isUntrusted(err):
		return untrustedLayer(err, what, safe)
	case errors.Is(err, layer.ErrFrom):
		return problem.New("DS-DISK-DAMAGED", problem.Damaged, err, "the installed disk that the difference starts from is damaged; "+what, safe,
			"run `verify --repair` on the VM first, which gets good copies of the damaged blocks")
	}
	if _, ok := errors.AsType[*problem.Problem](err); ok {
		return err
	}
	if p := diskProblem(err, what); p != nil {
		return p
	}
	return fmt.Errorf("%s: %w", what, err)
}

// isUntrusted reports whether an error is about a layer that is not what the manifest says of it.
func isUntrusted(err error) bool {
	return errors.Is(err, ErrPlan) || errors.Is(err, layer.ErrMismatch) || errors.Is(err, layer.ErrFormat)
}

func untrustedLayer(err error, what, safe string) error {
	if errors.Is(err, layer.ErrNewer) {
		return problem.New("DS-NEWER", problem.Failure, err, "a layer needs a newer release of this program; "+what, safe,
			"install the present release on this machine, then run the same command again")
	}
	return problem.New("DS-UNTRUSTED-LAYER", problem.Untrusted, err, what, safe, "tell the administrator: the Synchronizer's layers do not fit its manifest")
}

// explainDisk turns errors of this machine's disk into ones for people. Others stay as they are.
func explainDisk(err error, what string) error {
	if p := diskProblem(err, what); p != nil {
		return p
	}
	return err
}

func diskProblem(err error, what string) *problem.Problem {
	const safe = "whatever was installed before stays as it is"
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return problem.New("DS-SPACE", problem.NoSpace, err, "the disk is full; "+what, safe,
			"free some space; then run the same command again; it goes on from there")
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.EROFS), errors.Is(err, ErrDiskLies):
		return problem.New("DS-DISK", problem.Damaged, err, "this machine's disk fails; "+what, safe, "check the disk before anything else is stored on it")
	}
	return nil
}

func serverDamaged(err error, what, safe string) error {
	return problem.New("DS-SERVER-DAMAGED", problem.Damaged, err, "the Synchronizer's copy is damaged; "+what, safe,
		"tell the administrator; a medium with good copies of these blocks helps as well")
}

func explainMissing(m *MissingError, what, safe, again string) error {
	if errors.Is(m, layer.ErrCorrupt) {
		return serverDamaged(m, what, safe)
	}
	if p, ok := errors.AsType[*problem.Problem](syncclient.Explain(m, what, safe)); ok {
		return p
	}
	return problem.New("DS-MISSING", problem.Unreachable, m, what, safe, again)
}
