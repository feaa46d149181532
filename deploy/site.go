package deploy

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"disksync/image"
	"disksync/layer"
)

// sites are the VHDs that are being built, and the towers over them. It is safe for concurrent use.
type sites struct {
	mu     sync.Mutex
	open   map[image.UUID]*site
	towers map[image.StateID]*tower
}

// site is where the VHD that one layer leads to is built. Whoever installs the layer and whoever reads from it meanwhile share it, so
// that one disk writes the file and each block is put there once. It is safe for concurrent use.
type site struct {
	store *Store
	x     *layer.Index
	id    image.UUID
	transit
	places map[image.Digest][]int // of the blocks that need a source
	levels map[image.Digest]int   // the lowest on which the layer has a frame of them

	refs  int           // guarded by sites.mu
	freed chan struct{} // closed when refs has become 0

	use   sync.RWMutex          // held to open and close the part, and shared by who uses it
	part  *part                 // nil: not open
	owner atomic.Pointer[tower] // what the part stands on; nil: on what is installed
	done  atomic.Bool           // it has its name; the part is of no use any more

	mu      sync.Mutex
	cells   map[int]chan struct{}    // of blocks: nil when it is there, else closed when whoever looks after it is through
	flights map[image.Digest]*flight // demands that are being fetched
	in      *installer               // the one at work
	credit  int64                    // bytes of its stage that were counted before it began
}

// site returns the one of a layer. Who has it calls release. It waits while the same VHD is being built in another way, and until
// nobody has the site of one that is complete.
func (s *Store) site(ctx context.Context, x *layer.Index) (*site, error) {
	for {
		y, wait := s.trySite(x, func(y *site) bool { return !y.done.Load() })
		if y != nil {
			return y, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// trySite returns the site of a layer when there is none of another layer to the same VHD, and fit agrees to the one that is there; else
// a channel that is closed when another try may succeed.
func (s *Store) trySite(x *layer.Index, fit func(*site) bool) (*site, <-chan struct{}) {
	id := image.VHDUUID(x.To())
	s.sites.mu.Lock()
	defer s.sites.mu.Unlock()
	y := s.sites.open[id]
	if y == nil {
		y = newSite(s, x)
		if s.sites.open == nil {
			s.sites.open = map[image.UUID]*site{}
		}
		s.sites.open[id] = y
	} else if y.x.ID() != x.ID() || !fit(y) {
		return nil, y.freed
	}
	y.refs++
	return y, nil
}

func newSite(s *Store, x *layer.Index) *site {
	y := &site{
		store: s, x: x, id: image.VHDUUID(x.To()), freed: make(chan struct{}),
		places: make(map[image.Digest][]int, x.Len()), levels: make(map[image.Digest]int, x.Len()),
		cells: map[int]chan struct{}{}, flights: map[image.Digest]*flight{},
	}
	for i := range x.Len() {
		f := x.Frame(i)
		if f.Codec == layer.Zero {
			continue
		}
		if l, ok := y.levels[f.Digest]; !ok || f.Level < l {
			y.levels[f.Digest] = f.Level
		}
		y.places[f.Digest] = append(y.places[f.Digest], f.Block)
	}
	return y
}

// release lets go of the site; the last one closes the part.
func (y *site) release() {
	s := &y.store.sites
	s.mu.Lock()
	defer s.mu.Unlock()
	if y.refs--; y.refs > 0 {
		return
	}
	y.shut()
	delete(s.open, y.id)
	close(y.freed)
}

// building reports whether somebody has the site of a VHD.
func (s *sites) building(id image.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[id] != nil
}

// start opens the part, unless it is open or of no use any more. It stands on the disk behind the first n sites of a tower, or, when
// that is nil, on what is installed.
func (y *site) start(t *tower, n int) error {
	y.use.Lock()
	defer y.use.Unlock()
	if y.part != nil || y.done.Load() {
		return nil
	}
	var below disk
	if t != nil {
		below = level{t, t.ctx, n}
	}
	p, err := y.store.openPart(y.x, below)
	if err == nil {
		y.part = p
		y.owner.Store(t)
	}
	return err
}

func (y *site) started() bool {
	y.use.RLock()
	defer y.use.RUnlock()
	return y.part != nil || y.done.Load()
}

// shut closes the part.
func (y *site) shut() {
	y.use.Lock()
	defer y.use.Unlock()
	if y.part != nil {
		y.part.Close()
		y.part = nil
	}
}

// finish notes that the VHD has its name.
func (y *site) finish() {
	y.done.Store(true)
	y.shut()
}

// errNoPart says that a site has no part any more.
var errNoPart = errors.New("deploy: internal error: the part is closed")

// using calls do with the part; it is not closed meanwhile. there is false when there is none any more, since it is complete.
func (y *site) using(do func(p *part) error) (there bool, err error) {
	y.use.RLock()
	defer y.use.RUnlock()
	if y.done.Load() {
		return false, nil
	}
	if y.part == nil {
		return true, errNoPart
	}
	return true, do(y.part)
}

// claim begins to look after a block; settle ends it. good is true when there is nothing to do.
func (y *site) claim(block int) (good bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for {
		busy, known := y.cells[block]
		switch {
		case !known:
			y.cells[block] = make(chan struct{})
			return false
		case busy == nil:
			return true
		}
		y.mu.Unlock()
		<-busy
		y.mu.Lock()
	}
}

func (y *site) settle(block int, good bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	close(y.cells[block])
	if good {
		y.cells[block] = nil
	} else {
		delete(y.cells, block)
	}
}

// has reports whether a block is known to be in its place.
func (y *site) has(block int) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.hasBlock(block)
}

// hasBlock is called with mu held.
func (y *site) hasBlock(block int) bool {
	busy, known := y.cells[block]
	return known && busy == nil || y.done.Load()
}

// hasAll reports whether a digest's blocks are known to be in their places.
func (y *site) hasAll(d image.Digest) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, block := range y.places[d] {
		if !y.hasBlock(block) {
			return false
		}
	}
	return true
}

// put makes block the content b, which has the right digest, unless somebody has done so. With whole nothing of it is to be read from
// below.
func (y *site) put(block int, b, scratch []byte, whole bool) error {
	_, err := y.using(func(p *part) error {
		if y.claim(block) {
			return nil
		}
		var err error
		if whole && p.parents != nil {
			err = p.putWhole(block, b)
		} else {
			err = p.put(block, b, scratch)
		}
		y.settle(block, err == nil)
		return err
	})
	return err
}

// look reports whether the right block is in its place, from an earlier run at the latest. What it stands on must be there. fresh is true
// when b has the content.
func (y *site) look(f layer.Frame, b []byte) (good, fresh bool, err error) {
	there, err := y.using(func(p *part) error {
		if y.claim(f.Block) {
			good = true
			return nil
		}
		var err error
		good, err = isThere(p, f, b)
		y.settle(f.Block, good && err == nil)
		fresh = good
		return err
	})
	return good || !there, fresh, err
}

// isThere reports whether an earlier run has put the right block in its place.
func isThere(p *part, f layer.Frame, b []byte) (bool, error) {
	if !p.Allocated(f.Block) {
		return false, nil
	}
	if err := readBlock(p, b, f.Block); err != nil {
		return false, err
	}
	return image.SumBlock(b) == f.Digest, nil
}

// attach has an installer told of what demands bring; nil: nobody.
func (y *site) attach(in *installer) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.in = in
}

// installer returns the one that is at work, if there is one.
func (y *site) installer() *installer {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.in
}

// inHand reports whether an installer has a block that is not yet in its place.
func (y *site) inHand(d image.Digest) bool {
	in := y.installer()
	return in != nil && in.inHand(d)
}

// landed tells who waits for a block that it is in its place.
func (y *site) landed(d image.Digest) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if f := y.flights[d]; f != nil {
		f.land()
	}
}
