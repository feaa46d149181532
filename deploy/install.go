package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
)

const (
	// inFlight bounds the bytes of frames that were got and are not yet in their place.
	inFlight = 24 << 20
	// syncEvery bounds what a loss of power can take back, in bytes of disk.
	syncEvery = 128 << 20
	// waiting is how many workers there are beyond one for each processor: while these wait for the disk, to write or to sync, as
	// many go on unpacking as there are processors.
	waiting = 4
	// readers is how many read back what was written while the transfer goes on: one of them compares while others wait for the disk.
	readers = 3
)

// guests are the sources of an install: those that are there when it begins, and those that come and go.
type guests struct {
	sources []Source
	visit   func(context.Context, *board) // returns when the board is done; nil: nobody comes or goes
	bad     func(Source, error)           // see board
}

// install builds the VHD of one layer from the sources, in the order of preference, checks it and names it. The caller sees to
// it that nobody else installs the same (see builders).
func (s *Store) install(ctx context.Context, y *site, from image.State, role image.Role, g guests, t *Tally) (*installed, error) {
	to, err := y.x.Apply(from)
	if err != nil {
		return nil, err
	}
	if err := y.start(nil, 0); err != nil {
		return nil, err
	}
	in := &installer{
		store: s, x: y.x, from: from, site: y, tally: t, role: role,
		budget: semaphore.NewWeighted(inFlight), dec: layer.NewDecoder(runtime.GOMAXPROCS(0)),
		processors: make(chan struct{}, runtime.GOMAXPROCS(0)), counted: map[image.Digest]bool{},
	}
	defer in.dec.Close()
	if in.p = y.part; in.p == nil {
		return nil, errNoPart
	}
	in.base = in.p.base(y.x)
	in.back = newReadBack(in)
	err = in.fill(ctx, g)
	y.attach(nil)
	if err == nil {
		err = in.back.finish(ctx)
	}
	if err == nil {
		err = s.nameGolden(to)
	}
	if err == nil {
		y.finish()
	}
	return in.outcome(), err
}

// nameGolden gives a part that is complete, synced and checked its name: the point at which its state counts as installed.
func (s *Store) nameGolden(to image.State) error {
	if err := s.writeState(to); err != nil {
		return err
	}
	id := image.VHDUUID(to.ID())
	if err := durable.Publish(s.fsys, partFile(id), vhdFile(id)); err != nil {
		return err
	}
	return s.fsys.Chmod(vhdFile(id), 0o444)
}

// installer fills one part.
type installer struct {
	store  *Store
	x      *layer.Index
	from   image.State
	site   *site
	p      *part
	tally  *Tally
	role   image.Role
	budget *semaphore.Weighted
	dec    *layer.Decoder
	// processors has room for those that unpack and compare, or wait for something to unpack.
	processors chan struct{}
	base       io.ReaderAt            // what frames may refer to
	board      *board                 // of the present level
	used       []*sourceState         // by the levels that are done
	blocks     map[image.Digest][]int // the blocks that a digest is wanted for
	work       map[image.Digest]int64 // a digest's share of the stage, bytes

	back *readBack

	mu       sync.Mutex
	unsynced []int                 // blocks that were written since the last sync
	now      *board                // the board while it is at work
	counted  map[image.Digest]bool // blocks that count as done
}

// installed says what an install did, by source.
type installed struct{ sources []*sourceState }

func (in *installer) outcome() *installed {
	return &installed{in.used}
}

// fill brings every block of the layer into the part and syncs it: level by level, since frames refer to blocks of lower ones.
func (in *installer) fill(ctx context.Context, g guests) error {
	if err := in.survey(ctx); err != nil {
		return err
	}
	sources := g.sources
	for _, digests := range in.byLevel() {
		in.begin(newBoard(sources, digests))
		in.board.bad = g.bad
		err := in.run(ctx, g.visit)
		in.used = append(in.used, in.board.all()...)
		if err != nil {
			// Blocks that are done are kept for the next run, so far as the disk has them already.
			return errors.Join(err, in.p.settle())
		}
		sources = in.board.alive()
	}
	return in.p.settle()
}

// byLevel returns the digests of the blocks to get, by the lowest level on which the layer has a frame of them, without levels where
// there is nothing to do.
func (in *installer) byLevel() [][]image.Digest {
	levels := make([][]image.Digest, layer.MaxLevel+1)
	lowest := make(map[image.Digest]int, len(in.blocks))
	for i := range in.x.Len() {
		f := in.x.Frame(i)
		if l, ok := lowest[f.Digest]; in.blocks[f.Digest] != nil && (!ok || f.Level < l) {
			lowest[f.Digest] = f.Level
		}
	}
	for d, l := range lowest {
		levels[l] = append(levels[l], d)
	}
	return slices.DeleteFunc(levels, func(l []image.Digest) bool { return len(l) == 0 })
}

// survey finds out what an earlier run has left to do. Blocks that become zero need no source and are done here.
func (in *installer) survey(ctx context.Context) error {
	in.blocks, in.work = map[image.Digest][]int{}, map[image.Digest]int64{}
	todo := make([]layer.Frame, 0, in.x.Len())
	var total, had int64
	var mu sync.Mutex
	kept, zero := 0, 0
	zeros := getBlock()
	defer putBlock(zeros)
	clear(zeros[:])
	err := eachFrame(ctx, in.x, func(f layer.Frame, b []byte) error {
		good, fresh, err := in.site.look(f, b)
		if err != nil {
			return err
		}
		if fresh {
			in.back.sums.note(b, f.Block)
		}
		if !good && f.Codec == layer.Zero {
			if err := in.site.put(f.Block, zeros[:], b, false); err != nil {
				return err
			}
		}
		mu.Lock()
		defer mu.Unlock()
		total += int64(f.Length)
		switch {
		case f.Codec == layer.Zero:
			zero++
		case good:
			kept++
			had += int64(f.Length)
		default:
			todo = append(todo, f)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range todo {
		in.blocks[f.Digest] = append(in.blocks[f.Digest], f.Block)
		in.work[f.Digest] += int64(f.Length)
	}
	in.tally.begin(StageTransfer, in.role, total)
	in.tally.had(had - in.site.takeCredit())
	in.tally.count(0, kept, zero)
	in.site.attach(in)
	return nil
}

// job is a frame that was got and is to be unpacked and put in its place.
type job struct {
	source int
	frame  layer.Frame
	packed []byte
}

// run lets the sources fetch and the workers unpack, check and write until every block is done or has no source left.
func (in *installer) run(ctx context.Context, visit func(context.Context, *board)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Waiters on the board hear of the end through stop.
	stopBoard := context.AfterFunc(ctx, in.board.stop)
	defer stopBoard()
	// jobs is never closed: a source that delivers when its Fetch has ended must not bring everything down.
	jobs, fetched := make(chan job), make(chan struct{})
	var fetchers sync.WaitGroup
	fetchers.Go(func() {
		in.board.attend(func(i int) { fetchers.Go(func() { in.fetch(ctx, i, jobs) }) })
	})
	if visit != nil {
		fetchers.Go(func() { visit(ctx, in.board) })
	}
	var workers errgroup.Group
	for range runtime.GOMAXPROCS(0) + waiting {
		workers.Go(func() error {
			err := in.place(ctx, jobs, fetched)
			if err != nil {
				cancel(err) // lets go of those who want to hand over a job
			}
			return err
		})
	}
	var reading errgroup.Group
	for range readers {
		reading.Go(func() error {
			err := in.back.run(ctx)
			if err != nil {
				cancel(err)
			}
			return err
		})
	}
	fetchers.Wait()
	close(fetched)
	err := workers.Wait()
	in.back.close()
	if err := errors.Join(err, reading.Wait()); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return in.board.err()
}

// fetch is the life of one source.
func (in *installer) fetch(ctx context.Context, i int, jobs chan<- job) {
	for {
		ctx, cancel := context.WithCancel(ctx)
		batch := in.board.take(i, cancel)
		if batch == nil {
			cancel()
			return
		}
		d := &delivery{in: in, source: i, jobs: jobs, open: make(map[image.Digest]bool, len(batch))}
		for _, b := range batch {
			d.open[b] = true
		}
		err := in.board.source(i).Fetch(ctx, batch, func(b image.Digest, f layer.Frame, packed []byte, err error) error {
			return d.take(ctx, b, f, packed, err)
		})
		cancel()
		n := in.board.wanted(i, d.end())
		if errors.Is(err, errAnew) {
			in.board.anew(i)
		}
		if in.board.recalled(i) {
			continue
		}
		if err == nil && n > 0 {
			err = fmt.Errorf("it left out %d blocks that it had", n)
		}
		if err != nil {
			in.board.abandon(i, err)
		}
	}
}

// delivery is what one Fetch is to bring.
type delivery struct {
	in     *installer
	source int
	jobs   chan<- job

	mu    sync.Mutex
	open  map[image.Digest]bool // not yet delivered
	ended bool
	busy  sync.WaitGroup // takes of blocks that were open
}

// take is the deliver of a Fetch.
func (d *delivery) take(ctx context.Context, b image.Digest, f layer.Frame, packed []byte, err error) error {
	if d.in.board.over(b) || !d.begin(b) {
		return ctx.Err() // it was not asked for, or is here already
	}
	defer d.busy.Done()
	if err == nil && f.Digest != b {
		err = fmt.Errorf("%w: block %s in the place of %s", layer.ErrCorrupt, f.Digest.Short(), b.Short())
	}
	if err != nil {
		d.in.board.fail(d.source, b, 0, err)
		return ctx.Err()
	}
	n := int64(len(packed))
	// A frame larger than the whole budget could never be taken in; none is.
	if err := d.in.budget.Acquire(ctx, n); err != nil {
		d.putBack(b)
		return err
	}
	d.in.board.handOver(d.source, b)
	select {
	case d.jobs <- job{d.source, f, packed}:
		return nil
	case <-ctx.Done():
		d.in.budget.Release(n)
		d.in.board.takeBack(d.source, b)
		d.putBack(b)
		return ctx.Err()
	}
}

// begin reports whether a block was asked for and is not here yet.
func (d *delivery) begin(b image.Digest) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended || !d.open[b] {
		return false
	}
	delete(d.open, b)
	d.busy.Add(1)
	return true
}

func (d *delivery) putBack(b image.Digest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open[b] = true
}

// end returns the blocks that were not delivered. Later ones are not taken any more.
func (d *delivery) end() map[image.Digest]bool {
	d.mu.Lock()
	d.ended = true
	d.mu.Unlock()
	d.busy.Wait()
	return d.open
}

// place unpacks frames, checks them, and writes them. An error of the disk that is written ends the transfer; anything else
// is the source's.
func (in *installer) place(ctx context.Context, jobs <-chan job, fetched <-chan struct{}) error {
	block, scratch := getBlock(), getBlock()
	defer putBlock(block)
	defer putBlock(scratch)
	for {
		in.processors <- struct{}{}
		select {
		case j := <-jobs:
			err := in.unpack(j, block[:])
			<-in.processors
			err = in.placeOne(ctx, j, block[:], scratch[:], err)
			in.budget.Release(int64(len(j.packed)))
			if err != nil {
				return err
			}
		case <-fetched:
			<-in.processors
			return nil
		}
	}
}

// placeOne writes a block, or deals with the error that unpacking it gave.
func (in *installer) placeOne(ctx context.Context, j job, block, scratch []byte, err error) error {
	d, n := j.frame.Digest, int64(len(j.packed))
	kind := in.board.source(j.source).Kind()
	if errors.Is(err, layer.ErrFrom) || errors.Is(err, ErrDiskLies) {
		return err
	}
	if err != nil {
		in.tally.wasted(kind, n)
		in.board.fail(j.source, d, n, err)
		return nil
	}
	if ctx.Err() != nil {
		return nil // the block is not lost, it was never there
	}
	for _, at := range in.blocks[d] {
		if err := in.site.put(at, block, scratch, false); err != nil {
			return err
		}
	}
	in.site.landed(d)
	if first, healed := in.board.done(j.source, d, n); first && in.count(d) {
		in.tally.got(kind, n, in.work[d], healed)
	} else {
		in.tally.wasted(kind, n)
	}
	return in.syncSometimes(in.blocks[d]...)
}

// unpack unpacks a frame and compares the block with its digest. It has a processor.
func (in *installer) unpack(j job, block []byte) error {
	err := in.dec.Block(block, j.frame, j.packed, in.base)
	if err != nil {
		return in.blame(j, block, err)
	}
	in.board.right(j.source)
	in.back.sums.note(block, in.blocks[j.frame.Digest]...)
	return nil
}

// blame finds out whose fault it is that a frame does not give its block. One with the right check sum that refers to the disk
// below, or to what was put in its place on a lower level, is good, so it is this machine's disk that must be looked at before the
// source is.
func (in *installer) blame(j job, block []byte, err error) error {
	if errors.Is(err, layer.ErrFrom) {
		return err
	}
	for _, ref := range layer.References(j.frame, j.packed) {
		if !ref.To {
			err := readBlock(in.p.parents, block, ref.Block)
			if err == nil {
				err = layer.CheckBlock(block, ref.Block, in.from.Block(ref.Block))
			}
			if err != nil {
				return fmt.Errorf("%w: %w", layer.ErrFrom, err)
			}
			continue
		}
		f, ok := in.x.Find(ref.Block)
		if !ok || f.Level >= j.frame.Level {
			continue // a layer that cannot be unpacked
		}
		err := readBlock(in.p, block, ref.Block)
		if err == nil {
			err = layer.CheckBlock(block, ref.Block, f.Digest)
		}
		if err != nil {
			return fmt.Errorf("%w: what was just written: %w", ErrDiskLies, err)
		}
	}
	return err
}

// syncSometimes syncs the part when enough was written, and has read back what is synced.
func (in *installer) syncSometimes(written ...int) error {
	in.mu.Lock()
	in.unsynced = append(in.unsynced, written...)
	var due []int
	if int64(len(in.unsynced))*image.BlockSize >= syncEvery {
		due, in.unsynced = in.unsynced, nil
	}
	in.mu.Unlock()
	if due == nil {
		return nil
	}
	if err := in.p.SyncBack(); err != nil {
		return err
	}
	in.back.add(due)
	return nil
}

// blocks recycles the buffers of workers: a path may have hundreds of layers, each of which needs a few.
var blocks = sync.Pool{New: func() any { return new([image.BlockSize]byte) }}

func getBlock() *[image.BlockSize]byte { return blocks.Get().(*[image.BlockSize]byte) }

func putBlock(b *[image.BlockSize]byte) { blocks.Put(b) }

// eachFrame calls do with each frame of x on all processors, with a buffer of a block.
func eachFrame(ctx context.Context, x *layer.Index, do func(f layer.Frame, b []byte) error) error {
	return inParallel(ctx, x.Len(), func(i int, b []byte) error { return do(x.Frame(i), b) })
}

// inParallel calls do with 0 … n−1 on all processors, roughly in order, with a buffer of a block. It ends early with the first
// error or ctx's.
func inParallel(ctx context.Context, n int, do func(i int, b []byte) error) error {
	g, ctx := errgroup.WithContext(ctx)
	next := make(chan int)
	g.Go(func() error {
		defer close(next)
		for i := range n {
			select {
			case next <- i:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			b := getBlock()
			defer putBlock(b)
			for i := range next {
				if err := do(i, b[:]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}
