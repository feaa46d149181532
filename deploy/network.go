package deploy

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"disksync/image"
	"disksync/internal/limit"
	"disksync/layer"
	"disksync/syncclient"
)

// LineState is what the line to the Synchronizer is doing, in the original's words.
type LineState string

// The states of the line.
const (
	LineRunning LineState = "inprogress"
	LineStalled LineState = "network-stalled" // interrupted; it is tried again
	LineWaiting LineState = "admctl-stalled"  // the Synchronizer serves others first
)

// Net is the Synchronizer as a source of layers.
type Net struct {
	Client *syncclient.Client
	// MaxRange is the most that one request asks for, in bytes; at least one frame.
	MaxRange int64
	// GiveUp is how long the line may be interrupted before a transfer ends with an error; 0: it never does.
	GiveUp time.Duration
	// Line is told what the line is doing, from several goroutines; nil: nobody is.
	Line func(LineState)
	// Held is told why the Client's limit lets nothing through, and the zero Hold when it does again; nil: nobody is.
	Held func(limit.Hold)

	pace pace
	// oneRange is set when the Synchronizer gives one range a request only, as its first release did.
	oneRange atomic.Bool
}

func (n *Net) tell(s LineState) {
	if n.Line != nil {
		n.Line(s)
	}
}

func (n *Net) hold(h limit.Hold) {
	n.tell(LineRunning) // whatever it did before, nobody waits for it now
	if n.Held != nil {
		n.Held(h)
	}
}

// index fetches a layer's index, trying again as long as the line is merely interrupted.
func (n *Net) index(ctx context.Context, ref image.LayerRef) (*layer.Index, error) {
	var x *layer.Index
	err := n.persist(ctx, func() (bool, error) {
		var err error
		x, err = n.Client.Index(ctx, ref)
		return err == nil, err
	})
	return x, err
}

// maxLies is how often in a row an answer may make no sense, or the server fail, before that is the end: a line may be
// interrupted for days, but a server that answers nonsense will not get better by asking.
const maxLies = 5

// persist calls do until it succeeds, fails for good, or the line has been interrupted for too long. do reports whether
// anything moved.
func (n *Net) persist(ctx context.Context, do func() (moved bool, err error)) error {
	var pause syncclient.Backoff
	moved := time.Now()
	lies := 0
	for {
		if n.Client.Limited() {
			before := time.Now()
			if err := n.Client.WaitOpen(ctx, n.hold); err != nil {
				return err
			}
			moved = moved.Add(time.Since(before)) // holding back is no interruption
		}
		ok, err := do()
		if err == nil {
			n.tell(LineRunning)
			return nil
		}
		if ok {
			moved, lies = time.Now(), 0
			pause.Reset()
		}
		if errors.Is(err, limit.ErrOff) {
			n.Client.HangUp()
			continue
		}
		if !syncclient.Interrupted(err) {
			lies++
		}
		if !syncclient.Temporary(err) || lies > maxLies || n.GiveUp > 0 && time.Since(moved) > n.GiveUp {
			return err
		}
		if syncclient.Busy(err) {
			n.tell(LineWaiting)
			moved = time.Now() // waiting in the queue is no interruption
		} else {
			n.tell(LineStalled)
		}
		if err := pause.Wait(ctx, err); err != nil {
			return err
		}
	}
}
