package deploy

import (
	"context"
	"sync"

	"disksync/image"
	"disksync/internal/durable"
)

// Hold keeps every VHD from being removed until the returned function is called, once. Whoever plans, runs and commits does it
// under one Hold: until the record is there, nothing else says that the disks it stands on are needed. What a change of the
// records leaves without use meanwhile is removed when the last one lets go; a crash before that costs space only.
func (s *Store) Hold() (letGo func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holders++
	return func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.holders--
		if s.holders > 0 {
			return nil
		}
		return s.releaseLater()
	}
}

// builders sees to it that each VHD is built by one job at a time: two that write one file would spoil it for both, even behind
// its name.
type builders struct {
	mu   sync.Mutex
	busy map[image.UUID]chan struct{} // closed when that one is done
}

// start waits for its turn to build the VHD id.
func (b *builders) start(ctx context.Context, id image.UUID) (done func(), err error) {
	for {
		wait, done := b.try(id)
		if wait == nil {
			return done, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// try begins to build the VHD id, or returns a channel that is closed when another try may succeed.
func (b *builders) try(id image.UUID) (wait <-chan struct{}, done func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.busy[id]; c != nil {
		return c, nil
	}
	if b.busy == nil {
		b.busy = map[image.UUID]chan struct{}{}
	}
	c := make(chan struct{})
	b.busy[id] = c
	return nil, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.busy, id)
		close(c)
	}
}

// DropPart removes what was built of a VHD that is not complete, unless somebody is building it, or a VM stands on it.
func (s *Store) DropPart(id image.UUID) error {
	wait, done := s.parts.try(id)
	if wait != nil {
		return nil
	}
	defer done()
	if s.sites.building(id) {
		return nil
	}
	if wanted, err := s.partWanted(id); err != nil || wanted {
		return err
	}
	return durable.Remove(s.fsys, partFile(id))
}
