package endpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"disksync/cache"
	"disksync/deploy"
	"disksync/layer"
)

// shelf keeps the media of a running job as they are in the machine: what is put in joins, what is pulled out or turned off leaves.
type shelf struct {
	e     *Engine
	job   *deploy.Job
	named []string
	tell  func(note string) // called from the shelf's goroutine

	all  []shelved // of that goroutine
	stop func()
	work sync.WaitGroup
}

// follow begins to keep the media of a mission as they are, telling what happens in words, until the mission is closed.
func (m *mission) follow(ctx context.Context, tell func(note string)) {
	ctx, stop := context.WithCancel(ctx)
	s := &shelf{e: m.e, job: m.job, named: m.named, all: m.shelved, tell: tell, stop: stop}
	m.shelf = s
	wake := make(chan struct{}, 1)
	end := m.e.watchMedia(func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	s.work.Go(func() {
		defer end()
		for {
			s.update(ctx)
			select {
			case <-wake:
			case <-ctx.Done():
				return
			}
		}
	})
}

// close ends it; nil is none.
func (s *shelf) close() {
	if s == nil {
		return
	}
	s.stop()
	s.work.Wait()
}

// update compares what the job has with what there is.
func (s *shelf) update(ctx context.Context) {
	use, notes, err := s.e.media(s.named)
	if err != nil || ctx.Err() != nil {
		return // the folders were named right at the start
	}
	s.all = slices.DeleteFunc(s.all, func(h shelved) bool {
		if has(use, h.Medium) {
			return false
		}
		s.remove(h)
		return true
	})
	for _, m := range use {
		if slices.ContainsFunc(s.all, func(h shelved) bool { return h.Is(m) }) {
			continue
		}
		inv, err := s.e.scan(ctx, m)
		if ctx.Err() != nil {
			if inv != nil {
				inv.Close()
			}
			return
		}
		if absent(err) {
			continue
		}
		s.all = append(s.all, shelved{m, inv})
		for _, n := range notes {
			if m.Dir == "" && strings.HasPrefix(n, m.Device+" ") {
				s.tell(n)
			}
		}
		if err != nil {
			s.tell(fmt.Sprintf("%s was put in and is not used: %v", m.Place(), err))
			continue
		}
		s.tell(fmt.Sprintf("%s was put in: %s", m.Place(), inv.Summary()))
		s.job.Plug(inv)
	}
}

// remove takes a medium out of the job.
func (s *shelf) remove(h shelved) {
	if h.inv == nil {
		return
	}
	why, note := cache.ErrGone, "%s is gone; what is still wanted of it comes from elsewhere"
	if !s.e.allowed(h.Kind) {
		why, note = turnedOff(h.Kind), "%s is not used any more: "+turnedOff(h.Kind).Error()
	}
	s.job.Unplug(h.inv, why)
	s.tell(fmt.Sprintf(note, h.Place()))
}

// isDamage tells bytes that are not what they should be from those that could not be read.
func isDamage(err error) bool { return errors.Is(err, layer.ErrCorrupt) }

// watchMedia calls tell when media have come or gone, or the settings about them have changed, until end is called.
func (e *Engine) watchMedia(tell func()) (end func()) {
	off := e.hotplug.Watch(tell)
	e.mu.Lock()
	defer e.mu.Unlock()
	id := e.nextShelf
	e.nextShelf++
	e.shelves[id] = tell
	return func() {
		off()
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.shelves, id)
	}
}

// mediaSettings takes notice of a changed setting: at once for what runs, then for what is mounted.
func (e *Engine) mediaSettings() {
	e.mu.Lock()
	for _, tell := range e.shelves {
		tell()
	}
	e.mu.Unlock()
	e.hotplug.Recheck()
}
