package deploy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

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
	s := &netSource{net: n, x: x, frames: make(map[image.Digest]int, x.Len()), transit: new(transit)}
	for i := range x.Len() {
		f := x.Frame(i)
		// Of two frames of a block that which refers to fewer others can be unpacked earlier.
		if k, there := s.frames[f.Digest]; f.Codec != layer.Zero && (!there || f.Level < x.Frame(k).Level) {
			s.frames[f.Digest] = i
		}
	}
	return s
}

type netSource struct {
	net    *Net
	x      *layer.Index
	frames map[image.Digest]int
	*transit
	// gate is what the source makes way at; nil: nowhere, since somebody waits for what it brings.
	gate *gate
	// skip reports whether a block is here already, whoever brought it; nil: none is.
	skip func(image.Digest) bool
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

// Fetch implements Source. The frames come in the order of the file; a request that is cut off goes on where it was. Blocks that came
// from elsewhere meanwhile are left out.
func (s *netSource) Fetch(ctx context.Context, blocks []image.Digest, deliver func(image.Digest, layer.Frame, []byte, error) error) error {
	todo := s.inOrder(blocks)
	gap := s.net.gap(todo)
	q := newQueue(&s.net.pace, s.net.Client.Bytes, s.gate)
	g, ctx := errgroup.WithContext(ctx)
	for len(todo) > 0 {
		turn, err := q.turn(ctx)
		var r *run
		if err == nil {
			r, todo, err = s.next(ctx, todo, gap)
		}
		if err != nil {
			g.Go(func() error { return err })
		}
		if r == nil {
			break
		}
		turn.expect(r.length)
		g.Go(func() error {
			defer turn.end()
			defer s.leave(r)
			return s.fetchRun(ctx, turn, r, deliver)
		})
	}
	return g.Wait()
}

// next makes a run of some of the frames that are still wanted, and returns the others. It waits while there are only such as somebody
// else asks for. Without any the run is nil.
func (s *netSource) next(ctx context.Context, todo []layer.Frame, gap int64) (*run, []layer.Frame, error) {
	for {
		if err := s.gate.wait(ctx); err != nil {
			return nil, nil, err
		}
		if todo = s.wanted(todo); len(todo) == 0 {
			return nil, nil, nil
		}
		for i := range todo {
			r := &run{gap: gap, short: s.gate.watched()}
			r.t, r.part = s.begin(todo[i:], func(free []layer.Frame, part []byte) int {
				spans, k := s.net.reach(free, int64(len(part)), gap, s.room())
				r.length = total(spans)
				return max(k, 1)
			})
			if r.t != nil {
				return r, append(slices.Clone(todo[:i]), todo[i+len(r.t):]...), nil
			}
		}
		if err := s.await(ctx, todo); err != nil {
			return nil, nil, err
		}
	}
}

// wanted leaves out what is here.
func (s *netSource) wanted(t []layer.Frame) []layer.Frame {
	if s.skip == nil {
		return t
	}
	return slices.DeleteFunc(slices.Clone(t), func(f layer.Frame) bool { return s.skip(f.Digest) })
}

// prepare gets a run ready for its next request.
func (s *netSource) prepare(ctx context.Context, turn *turn, r *run) error {
	if s.gate.watched() && !r.short {
		return errAnew
	}
	if err := s.makeWay(ctx, turn, r); err != nil {
		return err
	}
	if r.short {
		if t := s.wanted(r.t); len(t) < len(r.t) {
			s.leave(r) // somebody else has brought some of it
			r.t = t
			if err := s.comeBack(ctx, r); err != nil {
				return err
			}
		}
	}
	return turn.next(ctx)
}

// errAnew says that what is still to be fetched is to be asked for in shorter pieces, since demands may come now.
var errAnew = errors.New("deploy: in shorter pieces")

// makeWay has a run wait between two requests while somebody waits for something else on the line.
func (s *netSource) makeWay(ctx context.Context, turn *turn, r *run) error {
	if !s.gate.closed() {
		return nil
	}
	turn.expect(0)
	s.leave(r)
	return s.comeBack(ctx, r)
}

// comeBack takes a run up again when nobody waits any more.
func (s *netSource) comeBack(ctx context.Context, r *run) error {
	for {
		if err := s.gate.wait(ctx); err != nil {
			return err
		}
		if r.t = s.wanted(r.t); s.rejoin(r) {
			return nil
		}
		if err := s.await(ctx, r.t); err != nil {
			return err
		}
	}
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

// most returns how many bytes a request may ask for. A Synchronizer hangs up on who takes too little of an answer in two minutes, so
// that with a low limit an answer has to be short.
func (n *Net) most() int64 {
	if rate := n.Client.Rate(); rate > 0 {
		return min(n.MaxRange, max(int64(rate*answerTime.Seconds()), leastAnswer))
	}
	return n.MaxRange
}

const (
	answerTime  = time.Minute
	leastAnswer = 4 << 10
	// While demands may come, what is fetched ahead of them comes in answers that take so long about, but are not shorter than so many
	// bytes: a demand waits for one of them at most.
	shortAnswer      = 250 * time.Millisecond
	leastShortAnswer = 32 << 10
)

// room returns how many bytes the next request may ask for.
func (s *netSource) room() int64 {
	n := s.net.most()
	if s.gate.watched() {
		n = min(n, s.net.pace.short())
	}
	return n
}

// reach returns the ranges of a request that brings as many of the frames as one may, and their number; have bytes of the first one
// are here already, and room is the most that it may bring. When not even that one fits in, it is 0, and the range is a part of it.
func (n *Net) reach(t []layer.Frame, have, gap, room int64) (spans []syncclient.Span, frames int) {
	ranges := api.MaxRanges
	if n.oneRange.Load() {
		ranges = 1
	}
	first := syncclient.Span{Offset: t[0].Offset + have, Length: int64(t[0].Length) - have}
	if first.Length > room {
		first.Length = room
		return []syncclient.Span{first}, 0
	}
	spans = append(spans, first)
	room -= first.Length
	for i, f := range t[1:] {
		last := &spans[len(spans)-1]
		hole, more := f.Offset-last.Offset-last.Length, int64(f.Length)
		if hole > gap {
			if len(spans) == ranges || more > room {
				return spans, i + 1
			}
			spans = append(spans, syncclient.Span{Offset: f.Offset, Length: more})
		} else {
			if more += hole; more > room {
				return spans, i + 1
			}
			last.Length += more
		}
		room -= more
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

// run is frames that are to be fetched, with one request where the line holds and the Synchronizer agrees.
type run struct {
	t      []layer.Frame
	part   []byte // what is here of the first one
	gap    int64  // that is fetched along
	length int64  // of the first answer
	short  bool   // it was made when demands could come
}

// someWay is how much of a frame counts as progress when the whole of it did not come.
const someWay = 16 << 10

func (s *netSource) fetchRun(ctx context.Context, turn *turn, r *run, deliver deliverer) error {
	var deliverErr error
	take := func(f layer.Frame, b []byte) error {
		defer s.end(f) // who wanted the same finds it handed over
		deliverErr = deliver(f.Digest, f, b, nil)
		return deliverErr
	}
	err := s.net.persist(ctx, func() (bool, error) {
		frames, part := len(r.t), len(r.part)
		for len(r.t) > 0 {
			err := s.prepare(ctx, turn, r)
			if err == nil && len(r.t) > 0 {
				err = s.request(ctx, turn, r, take)
			}
			switch {
			case errors.Is(err, errAnew):
				deliverErr = err
				return true, nil
			case deliverErr != nil:
				return true, nil
			case err != nil && !errors.Is(err, errOneRange):
				return len(r.t) < frames || len(r.part) >= part+someWay, err
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

// request makes one request for a run and hands on each frame as soon as it is whole. What is left is the run's.
func (s *netSource) request(ctx context.Context, turn *turn, r *run, take func(layer.Frame, []byte) error) error {
	ctx, done := s.net.Client.WhileOpen(ctx)
	defer done()
	spans, frames := s.net.reach(r.t, int64(len(r.part)), r.gap, s.room())
	turn.ask(total(spans))
	body, err := s.net.Client.Ranges(ctx, s.x.Ref(), spans)
	if len(spans) > 1 && syncclient.Code(err) == api.CodeInvalid {
		s.net.oneRange.Store(true)
		return errOneRange
	}
	if err != nil {
		return err
	}
	defer body.Close()
	turn.answered()
	s.net.tell(LineRunning)
	err = r.read(bufio.NewReaderSize(turn.watch(body), 64<<10), spans, frames, take)
	if errors.Is(err, errMakeWay) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("layer %s: %w", s.x.ID().Short(), err)
	}
	return nil
}

// errMakeWay says that an answer was given up since somebody waits for something else.
var errMakeWay = errors.New("deploy: somebody waits")

// read takes frames out of an answer with these ranges, or a part of the first one when the number of frames is 0.
func (r *run) read(body io.Reader, spans []syncclient.Span, frames int, take func(layer.Frame, []byte) error) error {
	at := spans[0].Offset
	for i := range max(frames, 1) {
		f := r.t[0]
		if f.Offset >= spans[0].Offset+spans[0].Length {
			spans = spans[1:]
			at = spans[0].Offset
		}
		if r.part == nil {
			r.part = make([]byte, 0, f.Length)
		}
		if _, err := io.CopyN(io.Discard, body, f.Offset+int64(len(r.part))-at); err != nil {
			return err
		}
		want := f.Length - len(r.part)
		if i == 0 && frames == 0 {
			want = int(spans[0].Length)
		}
		n, err := io.ReadFull(body, r.part[len(r.part):len(r.part)+want])
		r.part = r.part[:len(r.part)+n]
		if err != nil {
			return err
		}
		if len(r.part) < f.Length {
			return nil
		}
		b := r.part
		at, r.t, r.part = frameEnd(f), r.t[1:], nil
		if err := take(f, b); err != nil {
			return err
		}
	}
	return nil
}
