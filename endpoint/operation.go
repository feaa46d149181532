package endpoint

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"disksync/deploy"
	"disksync/image"
	"disksync/internal/limit"
	"disksync/internal/problem"
	"disksync/syncclient"
)

// Kind says what an operation does.
type Kind string

// The kinds.
const (
	Download Kind = "download" // a new VM
	Update   Kind = "update"   // another version of a VM
	Repair   Kind = "repair"   // damaged disks of a VM
	Verify   Kind = "verify"   // whether a VM's disks are as they were published
	Backup   Kind = "backup"   // a point of the line of backups of a VM
	Restore  Kind = "restore"  // a VM from a point
	Layers   Kind = "layers"   // single layers, asked for through the original's interface
)

// Request says what an operation is to do.
type Request struct {
	Kind  Kind   `json:"kind"`
	Image string `json:"image,omitempty"` // download: "" means the only one that is assigned
	VM    string `json:"vm,omitempty"`    // download: "" means the image's name
	// Version is what the user asked for; 0: what the administrator means for the user.
	Version image.Version `json:"version,omitempty"`
	Media   []string      `json:"media,omitempty"` // folders, devices and image files to look at besides mounted media
	// Replace lets an update of a static VM put the user's changed disk aside.
	Replace bool `json:"replace,omitempty"`
	// From names the backups that a restore takes: by the VM's name or by the id of the line; "" means the only line.
	From string `json:"from,omitempty"`
	// Point is the number of the point that a restore takes; 0: the newest.
	Point image.Version `json:"point,omitempty"`
	// InPlace lets a restore replace the present disks of the VM, which are kept for a roll back; without it there is a new VM.
	InPlace bool `json:"in_place,omitempty"`
	// Scheduled says that the backup is due by the image's policy. It is for the engine alone.
	Scheduled bool `json:"scheduled,omitempty"`
	// AllBlocks has a backup keep what the file systems call free.
	AllBlocks bool `json:"all_blocks,omitempty"`
	// Early has the VM of a download made as soon as it is planned, so that it can run while it is downloaded.
	Early bool `json:"early,omitempty"`
	// Limit is how much of the line this may take, as the setting download-limit, or for a backup upload-limit, which holds as well.
	Limit string `json:"limit,omitempty"`
}

// LayerInfo is one layer of an operation: the original's image.
type LayerInfo struct {
	UUID    image.UUID    `json:"uuid"` // of the VHD that it becomes
	Layer   image.LayerID `json:"layer"`
	State   State         `json:"state"`
	Ordinal int           `json:"ordinal"` // 1 is the leaf's parent, the newest layer
	// What the caller of the original's interface gave; empty for our own operations.
	URL         string `json:"url,omitempty"`
	TransferURL string `json:"transfer_url,omitempty"`
	ServerCert  string `json:"server_cert,omitempty"`
	ClientCert  string `json:"client_cert,omitempty"`
	ClientKey   string `json:"client_key,omitempty"`
	Encrypt     bool   `json:"encrypt,omitempty"`
	Context     string `json:"context,omitempty"`
}

// DiskInfo is one disk of an operation.
type DiskInfo struct {
	UUID      image.UUID  `json:"uuid"` // of the golden VHD that is to be there in the end
	Role      image.Role  `json:"role,omitempty"`
	Direction string      `json:"direction"` // "down"
	Layers    []LayerInfo `json:"layers"`    // in the order of their ordinals
	Reason    Reason      `json:"reason,omitempty"`
}

// State returns the state of the disk.
func (d *DiskInfo) State() State {
	states := make([]State, len(d.Layers))
	for i := range d.Layers {
		states[i] = d.Layers[i].State
	}
	return Aggregate(states)
}

// Status is what an operation looks like at one moment.
type Status struct {
	ID       image.UUID       `json:"id"`
	Request  Request          `json:"request"`
	Created  time.Time        `json:"created"`
	State    State            `json:"state"`
	Active   bool             `json:"active"`           // queued or running
	Queued   bool             `json:"queued,omitempty"` // waits for its turn: as many operations run as may
	Image    string           `json:"image,omitempty"`
	VM       string           `json:"vm,omitempty"`
	Version  image.Version    `json:"version,omitempty"`
	Disks    []DiskInfo       `json:"disks"`
	Progress deploy.Progress  `json:"progress"`
	Rate     float64          `json:"rate"`              // bytes a second of the stage, at present
	Wire     float64          `json:"wire"`              // bytes a second from the Synchronizer, at present
	RetryAt  time.Time        `json:"retry_at,omitzero"` // when it is tried again by itself
	Ended    time.Time        `json:"ended,omitzero"`    // when its last run did
	Problem  *problem.Problem `json:"problem,omitempty"` // of a failed operation
	Receipt  *Receipt         `json:"receipt,omitempty"` // of a finished one
	Notes    []string         `json:"notes,omitempty"`   // what the user should know
}

// Outcome returns what an operation that is not active ended with: nil when it finished.
func (s *Status) Outcome() error {
	switch {
	case s.State == Finished:
		return nil
	case s.State == Failed && s.Problem != nil:
		return s.Problem
	}
	return problem.New("DS-STOPPED", problem.Interrupted, nil, "the operation is "+string(s.State), "what was done is kept",
		"go on with `disksyncmgr resume`")
}

// over reports whether nothing more will happen by itself.
func (s *Status) over() bool {
	return s.State == Finished || s.State == Failed || s.State == Stopped || s.State == Paused
}

// Operation is one piece of work on a VM: the original's disk group. It is safe for concurrent use.
type Operation struct {
	e  *Engine
	id image.UUID

	// storing is held while the status changes and is stored, so that the last change is the one that is stored last. It is taken
	// before mu.
	storing sync.Mutex

	mu      sync.Mutex
	status  Status
	tally   *deploy.Tally
	cancel  context.CancelCauseFunc // of the run; nil when there is none
	done    chan struct{}           // closed when the run ends
	queued  bool
	rate    meter
	wire    meter
	deleted bool
	asked   bool // by name, while the connection was metered

	own, metered *limit.Limiter   // of the request; of a metered connection
	hurry        syncclient.Hurry // ends pauses for the sake of the line
}

// Causes for the end of a run that are no failures.
var (
	errStop  = errors.New("stopped")
	errPause = errors.New("paused")
)

// ID returns the operation's id.
func (o *Operation) ID() image.UUID { return o.id }

// Status returns the present state.
func (o *Operation) Status() Status {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.snapshot()
}

// snapshot is called with mu held.
func (o *Operation) snapshot() Status {
	s := o.status
	s.Disks = slices.Clone(s.Disks)
	for i := range s.Disks {
		s.Disks[i].Layers = slices.Clone(s.Disks[i].Layers)
	}
	s.Notes = slices.Clone(s.Notes)
	s.Active, s.Queued = o.done != nil, o.queued
	if o.tally != nil {
		s.Progress = o.tally.Progress()
		if s.State == InProgress && s.Progress.Line != deploy.LineRunning {
			s.setState(State(s.Progress.Line))
		}
		if s.State == InProgress {
			s.Rate = o.rate.update(s.Progress.Done, o.e.now())
			s.Wire = o.wire.update(s.Progress.Bytes[deploy.Network], o.e.now())
		}
	}
	return s
}

// setState sets the operation's state, and that of the layer that is worked on: of each disk the lowest that is not finished.
// Those above it wait.
func (s *Status) setState(st State) {
	s.State = st
	for i := range s.Disks {
		layers := s.Disks[i].Layers
		working := true
		for k := len(layers) - 1; k >= 0; k-- {
			switch {
			case layers[k].State == Finished:
			case st == Finished:
				layers[k].State = Finished
			case working:
				layers[k].State, working = st, false
			default:
				layers[k].State = Stopped
			}
		}
		if !working && st == InProgress {
			break // disks are worked on one after the other
		}
	}
}

// meter measures a rate over the last seconds.
type meter struct {
	at   time.Time
	n    int64
	last float64
}

const meterWindow = time.Second

func (m *meter) update(n int64, now time.Time) float64 {
	gone := now.Sub(m.at)
	switch {
	case m.at.IsZero() || n < m.n:
		m.at, m.n, m.last = now, n, 0
	case gone >= meterWindow:
		rate := float64(n-m.n) / gone.Seconds()
		if m.last > 0 {
			rate = (rate + 2*m.last) / 3 // smooth, so that people can read it
		}
		m.at, m.n, m.last = now, n, rate
	}
	return m.last
}

// change changes the status under the lock, stores it when keep is set, and tells the watchers.
func (o *Operation) change(keep bool, do func(s *Status)) {
	if keep {
		o.storing.Lock()
		defer o.storing.Unlock()
	}
	o.mu.Lock()
	do(&o.status)
	s := o.snapshot()
	gone := o.deleted
	o.mu.Unlock()
	if keep && !gone {
		if err := o.e.saveOperation(s); err != nil {
			// A hint is lost, no work: after a restart the user asks again.
			o.e.log.Error("store operation", "operation", o.id, "error", err)
		}
	}
	o.e.watch.tell(s)
}

// forget keeps the operation from being stored again.
func (o *Operation) forget() {
	o.storing.Lock()
	defer o.storing.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.deleted = true
}

// Wait returns when the run that is queued or under way has ended, or ctx has.
func (o *Operation) Wait(ctx context.Context) error {
	o.mu.Lock()
	done := o.done
	o.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
