package deploy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"disksync/image"
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
	// MaxRange is the most that one request asks for, in bytes.
	MaxRange int64
	// GiveUp is how long the line may be interrupted before a transfer ends with an error; 0: it never does.
	GiveUp time.Duration
	// Line is told what the line is doing, from several goroutines; nil: nobody is.
	Line func(LineState)
}

const (
	// connections is how many ranges are fetched at once: enough to hide the time of a request, few enough to leave a poor line
	// its order.
	connections = 2
	// maxGap is how many unwanted bytes between two wanted frames are fetched along rather than asked for anew.
	maxGap = 16 << 10
)

func (n *Net) tell(s LineState) {
	if n.Line != nil {
		n.Line(s)
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
		ok, err := do()
		if err == nil {
			n.tell(LineRunning)
			return nil
		}
		if ok {
			moved, lies = time.Now(), 0
			pause.Reset()
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

// source returns the Synchronizer as the Source of the blocks of one layer.
func (n *Net) source(x *layer.Index) *netSource {
	s := &netSource{net: n, x: x, frames: make(map[image.Digest]int, x.Len())}
	for i := range x.Len() {
		if f := x.Frame(i); f.Codec != layer.Zero {
			s.frames[f.Digest] = i
		}
	}
	return s
}

type netSource struct {
	net    *Net
	x      *layer.Index
	frames map[image.Digest]int
}

func (s *netSource) Kind() string { return Network }

func (s *netSource) Name() string { return "the Synchronizer" }

func (s *netSource) Holds(d image.Digest) (int64, bool) {
	i, ok := s.frames[d]
	if !ok {
		return 0, false
	}
	return int64(s.x.Frame(i).Length), true
}

// stretch is a run of frames that one request brings.
type stretch []layer.Frame

func (t stretch) offset() int64 { return t[0].Offset }

func (t stretch) length() int64 {
	last := t[len(t)-1]
	return last.Offset + int64(last.Length) - t[0].Offset
}

// stretches joins frames that lie close to one another.
func (s *netSource) stretches(blocks []image.Digest) []stretch {
	indices := make([]int, 0, len(blocks))
	for _, d := range blocks {
		indices = append(indices, s.frames[d])
	}
	slices.Sort(indices)
	var out []stretch
	for _, i := range indices {
		f := s.x.Frame(i)
		if n := len(out) - 1; n >= 0 {
			t := out[n]
			end := t.offset() + t.length()
			if f.Offset-end <= maxGap && f.Offset+int64(f.Length)-t.offset() <= s.net.MaxRange {
				out[n] = append(t, f)
				continue
			}
		}
		out = append(out, stretch{f})
	}
	return out
}

// Fetch implements Source. A request that is cut off goes on behind the last whole frame.
func (s *netSource) Fetch(ctx context.Context, blocks []image.Digest, deliver func(image.Digest, layer.Frame, []byte, error) error) error {
	todo := s.stretches(blocks)
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for range connections {
		g.Go(func() error {
			for {
				mu.Lock()
				if len(todo) == 0 {
					mu.Unlock()
					return nil
				}
				t := todo[0]
				todo = todo[1:]
				mu.Unlock()
				if err := s.fetchStretch(ctx, t, deliver); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

func (s *netSource) fetchStretch(ctx context.Context, t stretch, deliver func(image.Digest, layer.Frame, []byte, error) error) error {
	var deliverErr error
	err := s.net.persist(ctx, func() (bool, error) {
		n, err := s.request(ctx, t, func(f layer.Frame, b []byte) error {
			deliverErr = deliver(f.Digest, f, b, nil)
			return deliverErr
		})
		t = t[n:]
		if deliverErr != nil || len(t) == 0 {
			return true, nil
		}
		return n > 0, err
	})
	if deliverErr != nil {
		return deliverErr
	}
	return err
}

// request fetches a run of frames and hands on each as soon as it is whole. It returns how many it handed on.
func (s *netSource) request(ctx context.Context, t stretch, take func(layer.Frame, []byte) error) (int, error) {
	body, err := s.net.Client.Range(ctx, s.x.Ref(), t.offset(), t.length())
	if err != nil {
		return 0, err
	}
	defer body.Close()
	s.net.tell(LineRunning)
	r := bufio.NewReaderSize(body, 64<<10)
	at := t.offset()
	for i, f := range t {
		if _, err := io.CopyN(io.Discard, r, f.Offset-at); err != nil {
			return i, fmt.Errorf("layer %s: %w", s.x.ID().Short(), err)
		}
		b := make([]byte, f.Length)
		if _, err := io.ReadFull(r, b); err != nil {
			return i, fmt.Errorf("layer %s: %w", s.x.ID().Short(), err)
		}
		at = f.Offset + int64(f.Length)
		if err := take(f, b); err != nil {
			return i + 1, err
		}
	}
	return len(t), nil
}
