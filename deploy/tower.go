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

	"disksync/image"
	"disksync/layer"
)

// tower is the disk at the end of a path of layers while these are being installed: what it stands on, and the site of each layer. A
// block is given by the topmost layer that has a frame for it; what that frame refers to is in the disks below, so a read may need
// blocks of several layers, each of which is brought to its place in its part before anything is returned. All jobs that bring the same
// disk share one tower. It is safe for concurrent use.
type tower struct {
	store *Store
	dp    DiskPlan
	sites []*site
	dec   *layer.Decoder

	ctx  context.Context //nolint:containedctx // of all that is fetched for the tower
	stop context.CancelCauseFunc
	busy sync.WaitGroup // flights

	refs int // guarded by sites.mu

	files  sync.RWMutex   // held to change chains, and shared by who reads them
	chains map[int]*chain // of the state behind so many sites, as far as they are open

	mu        sync.Mutex
	suppliers []*supplier
	changed   chan struct{} // closed when there may be something new to try
	waits     map[*flight]string
}

// errRetired says that the disk is reached over another path now.
var errRetired = errors.New("deploy: another path is taken")

// tower returns the one for a disk of a plan, which is made if there is none. Who has it calls release.
func (s *Store) tower(ctx context.Context, dp *DiskPlan) (*tower, error) {
	for {
		if t := s.standing(dp.State); t != nil {
			return t, nil
		}
		t, wait, err := s.build(ctx, dp)
		if err != nil {
			return nil, err
		}
		if wait == nil && s.erect(t) {
			return t, nil
		}
		t.close()
		if wait == nil {
			continue
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// build makes a tower, or as much of it as is free, and then returns what is closed when another try may succeed.
func (s *Store) build(ctx context.Context, dp *DiskPlan) (t *tower, wait <-chan struct{}, err error) {
	t = &tower{
		store: s, dp: *dp, dec: layer.NewDecoder(runtime.GOMAXPROCS(0)), chains: map[int]*chain{}, changed: make(chan struct{}),
		waits: map[*flight]string{}, refs: 1,
	}
	t.ctx, t.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	for i := range dp.Steps {
		// A part that stands on another tower falls with it.
		y, wait := s.trySite(dp.Steps[i].index, func(y *site) bool { return y.owner.Load() == nil || y.done.Load() })
		if y == nil {
			return t, wait, nil
		}
		t.sites = append(t.sites, y)
		there, err := s.Installed(dp.Steps[i].To)
		if err != nil {
			t.close()
			return nil, nil, err
		}
		if there {
			y.finish()
		}
	}
	return t, nil, nil
}

// standing returns the tower of a state, if there is one, for one more user.
func (s *Store) standing(id image.StateID) *tower {
	s.sites.mu.Lock()
	defer s.sites.mu.Unlock()
	t := s.sites.towers[id]
	if t != nil {
		t.refs++
	}
	return t
}

// erect makes a tower the one of its state, unless there is another.
func (s *Store) erect(t *tower) bool {
	s.sites.mu.Lock()
	defer s.sites.mu.Unlock()
	if s.sites.towers[t.dp.State] != nil {
		return false
	}
	if s.sites.towers == nil {
		s.sites.towers = map[image.StateID]*tower{}
	}
	s.sites.towers[t.dp.State] = t
	return true
}

// release lets go of the tower; the last one closes it.
func (t *tower) release() {
	s := &t.store.sites
	s.mu.Lock()
	t.refs--
	last := t.refs == 0
	if last && s.towers[t.dp.State] == t {
		delete(s.towers, t.dp.State)
	}
	s.mu.Unlock()
	if last {
		t.close()
	}
}

// retire takes the tower down, since its path turned out to be of no use: who reads goes on with the next one.
func (t *tower) retire() {
	s := &t.store.sites
	s.mu.Lock()
	if s.towers[t.dp.State] == t {
		delete(s.towers, t.dp.State)
	}
	s.mu.Unlock()
	t.stop(errRetired)
}

func (t *tower) close() {
	t.stop(errRetired)
	t.busy.Wait()
	for _, y := range t.sites {
		y.release()
	}
	t.files.Lock()
	defer t.files.Unlock()
	for _, c := range t.chains {
		c.Close()
	}
	clear(t.chains)
	t.dec.Close()
}

// where says who gives a block of the disk behind the first n sites: site number at, or, when that is negative, what is installed: the
// disk behind ^at sites. ok is false when the block is zero.
func (t *tower) where(n, block int) (at int, f layer.Frame, ok bool) {
	for i := n - 1; i >= 0; i-- {
		y := t.sites[i]
		if block >= image.BlockCount(y.x.Size()) {
			return 0, f, false // a disk that was once shorter had nothing there
		}
		if y.done.Load() {
			return ^(i + 1), f, true
		}
		if f, ok := y.x.Find(block); ok {
			return i, f, f.Codec != layer.Zero
		}
	}
	return ^0, f, !t.dp.Start.IsZero()
}

// size returns the size of the disk behind the first n sites.
func (t *tower) size(n int) int64 {
	if n > 0 {
		return t.sites[n-1].x.Size()
	}
	if len(t.sites) > 0 {
		return t.sites[0].x.FromSize()
	}
	return t.dp.Size
}

// level is the disk behind the first n sites, for who waits as long as ctx.
type level struct {
	t   *tower
	ctx context.Context //nolint:containedctx // an io.ReaderAt has no room for it
	n   int
}

// Size returns the size of the disk in bytes.
func (l level) Size() int64 { return l.t.size(l.n) }

// ReadAt implements io.ReaderAt.
func (l level) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("deploy: negative offset")
	}
	size, n := l.Size(), 0
	for n < len(p) {
		at := off + int64(n)
		if at >= size {
			return n, io.EOF
		}
		in := at % image.BlockSize
		want := p[n:min(int64(len(p)), int64(n)+min(image.BlockSize-in, size-at))]
		if err := l.t.read(l.ctx, l.n, want, int(at/image.BlockSize), in); err != nil {
			return n, err
		}
		n += len(want)
	}
	return n, nil
}

// read reads from one block of the disk behind the first n sites.
func (t *tower) read(ctx context.Context, n int, p []byte, block int, in int64) error {
	for {
		at, f, ok := t.where(n, block)
		off := int64(block)*image.BlockSize + in
		switch {
		case !ok:
			clear(p)
			return nil
		case at < 0:
			return t.readInstalled(^at, p, off)
		}
		if err := t.ensure(ctx, at, f, true); err != nil {
			return err
		}
		there, err := t.sites[at].using(func(d *part) error {
			_, err := io.ReadFull(io.NewSectionReader(d, off, int64(len(p))), p)
			return err
		})
		if there {
			return err
		}
	}
}

// readInstalled reads from the disk behind the first n sites, which is installed.
func (t *tower) readInstalled(n int, p []byte, off int64) error {
	for {
		t.files.RLock()
		c := t.chains[n]
		if c != nil {
			defer t.files.RUnlock()
			whole := len(p)
			p = p[:max(min(int64(whole), c.Size()-off), 0)]
			clear(p[len(p):whole])
			if len(p) == 0 {
				return nil
			}
			_, err := c.ReadAt(p, off)
			return err
		}
		t.files.RUnlock()
		if err := t.openInstalled(n); err != nil {
			return err
		}
	}
}

// openInstalled opens the disk behind the first n sites. Those below it are read no more, or seldom.
func (t *tower) openInstalled(n int) error {
	t.files.Lock()
	defer t.files.Unlock()
	if t.chains[n] != nil {
		return nil
	}
	id := t.dp.Start
	if n > 0 {
		id = t.sites[n-1].x.To()
	}
	c, err := t.store.openChain(image.VHDUUID(id))
	if err != nil {
		return err
	}
	for k, old := range t.chains {
		if k < n {
			old.Close()
			delete(t.chains, k)
		}
	}
	t.chains[n] = c
	return nil
}

// here reports whether a block of the disk behind the first n sites can be read without fetching anything.
func (t *tower) here(n, block int) bool {
	at, _, ok := t.where(n, block)
	return !ok || at < 0 || t.sites[at].has(block)
}

// open opens the part of a site.
func (t *tower) open(i int) error {
	y := t.sites[i]
	if y.started() {
		return nil
	}
	if there, err := t.store.Installed(y.x.From()); err != nil || there {
		return errors.Join(err, y.start(nil, 0))
	}
	return y.start(t, i)
}

// ensure brings a block to its place in the part of a site, unless it is there. f is the site's frame for it. With urgent somebody waits.
func (t *tower) ensure(ctx context.Context, i int, f layer.Frame, urgent bool) error {
	y := t.sites[i]
	for !y.has(f.Block) {
		if err := t.open(i); err != nil {
			return err
		}
		if good, err := t.left(ctx, i, f, urgent); good || err != nil {
			return err
		}
		fl := t.demand(i, f, urgent)
		select {
		case <-fl.done:
			if fl.err != nil && (t.ctx.Err() != nil || !errors.Is(fl.err, errRetired)) {
				return fl.err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// left reports whether an earlier run has left a block in its place.
func (t *tower) left(ctx context.Context, i int, f layer.Frame, urgent bool) (bool, error) {
	var some, whole bool
	there, err := t.sites[i].using(func(p *part) (err error) {
		if some = p.Allocated(f.Block); some {
			whole, err = p.owns(f.Block)
		}
		return err
	})
	if err != nil || !there || !some {
		return !there, err
	}
	if !whole {
		if err := t.ensureBlock(ctx, i, f.Block, urgent); err != nil {
			return false, err
		}
	}
	b := getBlock()
	defer putBlock(b)
	good, _, err := t.sites[i].look(f, b[:])
	return good, err
}

// ensureBlock brings a block of the disk behind the first n sites to where it can be read.
func (t *tower) ensureBlock(ctx context.Context, n, block int, urgent bool) error {
	at, f, ok := t.where(n, block)
	if !ok || at < 0 {
		return nil
	}
	return t.ensure(ctx, at, f, urgent)
}

// references brings everything to its place that a frame of site i refers to. It refuses references that are not to lower levels, so
// that no block waits for itself.
func (t *tower) references(ctx context.Context, i int, f layer.Frame, packed []byte, urgent bool) error {
	y := t.sites[i]
	refs := layer.References(f, packed)
	for _, ref := range refs {
		if g, ok := y.x.Find(ref.Block); ref.To && ok && g.Codec != layer.Zero && y.levels[g.Digest] >= y.levels[f.Digest] {
			return fmt.Errorf("%w: block %d is referred to by one that it may need itself", layer.ErrCorrupt, ref.Block)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(referencesAtOnce)
	for _, ref := range refs {
		n := i
		if ref.To {
			n = i + 1
		}
		g.Go(func() error { return t.ensureBlock(ctx, n, ref.Block, urgent) })
	}
	return g.Wait()
}

// referencesAtOnce is how many of the blocks are fetched at once that one frame refers to.
const referencesAtOnce = 4

// renew has a supplier look for its sources anew, and tries them.
func (t *tower) renew(p *supplier) {
	p.renew()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.news()
}

// supply adds a supplier; remove takes it away.
func (t *tower) supply(p *supplier) (remove func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.suppliers = append(t.suppliers, p)
	slices.SortStableFunc(t.suppliers, func(a, b *supplier) int { return b.rank - a.rank })
	t.news()
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.suppliers = slices.DeleteFunc(t.suppliers, func(q *supplier) bool { return q == p })
		t.news()
	}
}

// news wakes the flights that wait. It is called with mu held.
func (t *tower) news() {
	close(t.changed)
	t.changed = make(chan struct{})
}
