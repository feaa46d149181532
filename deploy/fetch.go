package deploy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"disksync/api"
	"disksync/image"
	"disksync/layer"
	"disksync/syncclient"
)

const (
	// pieceCost is what another range of a request costs, in bytes: its share of the request, and what the answer says around it.
	// What lies between two frames and is less is fetched along with them.
	pieceCost = 200
	// A Synchronizer that gives one range a request makes each of them cost a round trip. There, holes between frames are fetched
	// along, the smallest first, as long as none is larger than maxHole and all together are less than one in wasteShare of what
	// is wanted.
	maxHole    = 64 << 10
	wasteShare = 20
	// maxRequests is how many requests may be under way. A Synchronizer counts each as a transfer, and has room for 50.
	maxRequests = 4
)

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

// deliverer is what a Fetch hands its blocks to.
type deliverer func(image.Digest, layer.Frame, []byte, error) error

// Fetch implements Source. The frames come in the order of the file; a request that is cut off goes on behind the last whole one.
func (s *netSource) Fetch(ctx context.Context, blocks []image.Digest, deliver func(image.Digest, layer.Frame, []byte, error) error) error {
	todo := s.inOrder(blocks)
	gap := s.net.gap(todo)
	q := newQueue(&s.net.pace, s.net.Client.Bytes)
	g, ctx := errgroup.WithContext(ctx)
	for len(todo) > 0 {
		spans, k := s.net.reach(todo, gap)
		t := todo[:k]
		todo = todo[k:]
		turn, err := q.turn(ctx, total(spans))
		if err != nil {
			g.Go(func() error { return err })
			break
		}
		g.Go(func() error {
			defer turn.end()
			return s.fetchRun(ctx, turn, t, gap, deliver)
		})
	}
	return g.Wait()
}

// inOrder returns the frames of blocks in the order of the file.
func (s *netSource) inOrder(blocks []image.Digest) []layer.Frame {
	indices := make([]int, 0, len(blocks))
	for _, d := range blocks {
		indices = append(indices, s.frames[d])
	}
	slices.Sort(indices)
	out := make([]layer.Frame, 0, len(indices))
	for _, i := range slices.Compact(indices) {
		out = append(out, s.x.Frame(i))
	}
	return out
}

// gap returns how many unwanted bytes between two frames are fetched along.
func (n *Net) gap(t []layer.Frame) int64 {
	if !n.oneRange.Load() {
		return pieceCost
	}
	var wanted int64
	var holes []int64
	for i, f := range t {
		wanted += int64(f.Length)
		if i > 0 {
			holes = append(holes, f.Offset-frameEnd(t[i-1]))
		}
	}
	slices.Sort(holes)
	gap, waste := int64(0), int64(0)
	for i, h := range holes {
		waste += h
		if h > maxHole || waste > wanted/wasteShare {
			break
		}
		if i+1 == len(holes) || holes[i+1] > h { // of equals either all or none
			gap = h
		}
	}
	return max(gap, pieceCost)
}

func frameEnd(f layer.Frame) int64 { return f.Offset + int64(f.Length) }

// reach returns the ranges of a request that brings as many of the frames as one may, at least the first, and their number.
func (n *Net) reach(t []layer.Frame, gap int64) (spans []syncclient.Span, frames int) {
	most := api.MaxRanges
	if n.oneRange.Load() {
		most = 1
	}
	var all int64
	for i, f := range t {
		more, join := int64(f.Length), false
		k := len(spans) - 1
		if k >= 0 {
			hole := f.Offset - spans[k].Offset - spans[k].Length
			if join = hole <= gap; join {
				more += hole
			}
			if all+more > n.MaxRange || !join && len(spans) == most {
				return spans, i
			}
		}
		if join {
			spans[k].Length += more
		} else {
			spans = append(spans, syncclient.Span{Offset: f.Offset, Length: more})
		}
		all += more
	}
	return spans, len(t)
}

func total(spans []syncclient.Span) int64 {
	var n int64
	for _, s := range spans {
		n += s.Length
	}
	return n
}

// fetchRun fetches frames, with one request where the line holds and the Synchronizer agrees.
func (s *netSource) fetchRun(ctx context.Context, turn *turn, t []layer.Frame, gap int64, deliver deliverer) error {
	var deliverErr error
	err := s.net.persist(ctx, func() (bool, error) {
		moved := false
		for len(t) > 0 {
			n, err := s.request(ctx, turn, t, gap, func(f layer.Frame, b []byte) error {
				deliverErr = deliver(f.Digest, f, b, nil)
				return deliverErr
			})
			t = t[n:]
			moved = moved || n > 0
			switch {
			case deliverErr != nil:
				return true, nil
			case err != nil && !errors.Is(err, errOneRange):
				return moved, err
			}
		}
		return true, nil
	})
	if deliverErr != nil {
		return deliverErr
	}
	return err
}

// errOneRange says that a Synchronizer takes no request for several ranges.
var errOneRange = errors.New("one range a request")

// request makes one request for a run of frames and hands on each as soon as it is whole. It returns how many it handed on.
func (s *netSource) request(ctx context.Context, turn *turn, t []layer.Frame, gap int64, take func(layer.Frame, []byte) error) (int, error) {
	spans, frames := s.net.reach(t, gap)
	turn.ask(total(spans))
	body, err := s.net.Client.Ranges(ctx, s.x.Ref(), spans)
	if len(spans) > 1 && syncclient.Code(err) == api.CodeInvalid {
		s.net.oneRange.Store(true)
		return 0, errOneRange
	}
	if err != nil {
		return 0, err
	}
	defer body.Close()
	turn.answered()
	s.net.tell(LineRunning)
	r := bufio.NewReaderSize(turn.watch(body), 64<<10)
	at := spans[0].Offset
	for i, f := range t[:frames] {
		if f.Offset >= spans[0].Offset+spans[0].Length {
			spans = spans[1:]
			at = spans[0].Offset
		}
		if _, err := io.CopyN(io.Discard, r, f.Offset-at); err != nil {
			return i, fmt.Errorf("layer %s: %w", s.x.ID().Short(), err)
		}
		b := make([]byte, f.Length)
		if _, err := io.ReadFull(r, b); err != nil {
			return i, fmt.Errorf("layer %s: %w", s.x.ID().Short(), err)
		}
		at = frameEnd(f)
		if err := take(f, b); err != nil {
			return i + 1, err
		}
	}
	return frames, nil
}
