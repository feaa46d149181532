package deploy

import (
	"sync"
	"time"

	"disksync/image"
)

// Stage is what a job is doing, in the original's words.
type Stage string

// The stages.
const (
	StageNone     Stage = ""
	StageChecksum Stage = "checksum"     // reading back what was written, or a medium before it is used
	StageTransfer Stage = "transfer"     // getting blocks and writing them
	StageInstall  Stage = "installation" // making the version the current one
	// The original did not have these.
	StagePack   Stage = "pack"   // reading what was written and packing it for a backup
	StageUpload Stage = "upload" // sending it
	StageMerge  Stage = "merge"  // merging what is frozen and backed up into what was before
)

// Progress is how far a job is.
type Progress struct {
	Stage Stage      `json:"stage"`
	Role  image.Role `json:"role,omitempty"`
	Done  int64      `json:"done"`  // of the stage, bytes
	Total int64      `json:"total"` // of the stage, bytes
	// PlanDone and PlanTotal are the bytes of all layers that are to be got, over all stages and disks.
	PlanDone  int64            `json:"plan_done"`
	PlanTotal int64            `json:"plan_total"`
	Bytes     map[string]int64 `json:"bytes"`  // got so far, by kind of source
	Healed    int              `json:"healed"` // blocks that came from another source than the first
	// Line is what the line is doing; while media or disks give blocks the job is not held up by it, and it is LineRunning.
	Line LineState `json:"line"`
	Held string    `json:"held,omitempty"` // why nothing is fetched though the line is good
	// Waits is the block that a running VM waits for, and why; empty: it does not.
	Waits string `json:"waits,omitempty"`
}

// Tally counts what a job does. It is safe for concurrent use.
type Tally struct {
	mu sync.Mutex
	p  Progress
	// blocks counts for the receipt.
	verified, resumed, zero int
	speed                   map[string]speed
	stageBegan              time.Time
	elsewhere               time.Time // when the last block came from elsewhere than over the line
}

// heldUp is how long nothing has come from elsewhere when an interrupted line holds the job up.
const heldUp = 10 * time.Second

// NewTally returns an empty Tally.
func NewTally() *Tally {
	return &Tally{p: Progress{Bytes: map[string]int64{}, Line: LineRunning}, speed: map[string]speed{}}
}

// Progress returns a copy of the present state.
func (t *Tally) Progress() Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.p
	p.Bytes = make(map[string]int64, len(t.p.Bytes))
	for k, v := range t.p.Bytes {
		p.Bytes[k] = v
	}
	if !t.elsewhere.IsZero() && time.Since(t.elsewhere) < heldUp {
		p.Line = LineRunning
	}
	return p
}

// SetLine notes what the line is doing.
func (t *Tally) SetLine(s LineState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p.Line = s
}

// SetHeld notes why nothing is fetched; "": something is.
func (t *Tally) SetHeld(why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p.Held = why
}

// setWaits notes what a VM waits for; "": nothing.
func (t *Tally) setWaits(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p.Waits = what
}

func (t *Tally) begin(s Stage, r image.Role, total int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endStage()
	t.p.Stage, t.p.Role, t.p.Done, t.p.Total = s, r, 0, total
}

// Begin notes that a stage begins, which has total bytes to do.
func (t *Tally) Begin(s Stage, r image.Role, total int64) { t.begin(s, r, total) }

// Done notes how many bytes of the stage are done.
func (t *Tally) Done(n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p.Done = n
}

// plan notes how much the whole job is to get, in the unit of the transfer stage.
func (t *Tally) plan(total int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p.PlanTotal = total
}

// replan notes how much is still to be got, after the plan has changed.
func (t *Tally) replan(left int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p.PlanTotal = t.p.PlanDone + left
}

// had counts work of the transfer stage that an earlier run has done.
func (t *Tally) had(n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p.Done += n
	t.p.PlanDone += n
}

func (t *Tally) add(n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p.Done += n
}

// got counts a block that is in its place; work is its share of the stage.
func (t *Tally) got(kind string, bytes, work int64, healed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p.Bytes[kind] += bytes
	t.p.Done += work
	t.p.PlanDone += work
	if kind != Network {
		t.elsewhere = time.Now()
	}
	if healed {
		t.p.Healed++
	}
}

// wasted counts bytes that were got in vain.
func (t *Tally) wasted(kind string, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p.Bytes[kind] += bytes
}

func (t *Tally) count(verified, resumed, zero int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.verified += verified
	t.resumed += resumed
	t.zero += zero
}

func (t *Tally) counts() (verified, resumed, zero int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.verified, t.resumed, t.zero
}

// Installing notes that everything is there and the version is being made the current one.
func (t *Tally) Installing() { t.begin(StageInstall, "", 0) }
