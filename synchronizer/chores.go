package synchronizer

import (
	"context"
	"slices"
	"time"

	"disksync/image"
)

// What is to be done for backups when nobody waits for it: one thing after the other, in the background. Nothing depends on when it is
// done, or how often: what fails or is cut off is found again an hour later, or at the next start.

// tick is how often somebody looks what is to be done.
const tick = time.Hour

// chores are what is to be done. They are guarded by Server.mu.
type chores struct {
	working bool     // somebody works on them
	house   bool     // to look what is to be done at all
	lines   []string // to be tidied up
	checks  []check
	now     check // that goes on
}

// check is a layer to be read back.
type check struct {
	layer image.LayerID
	line  string // for which somebody asked for it; empty: nobody did
}

// keepHouse has everything looked after that is due.
func (s *Server) keepHouse() { s.addChore(func(c *chores) { c.house = true }) }

// keepTime calls keepHouse until the Server is closed.
func (s *Server) keepTime() {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.keepHouse()
		case <-s.live.Done():
			return
		}
	}
}

// tidyLater has a line tidied up: points that its policy does not keep go, and layers that its points need not.
func (s *Server) tidyLater(line string) {
	s.addChore(func(c *chores) {
		if !slices.Contains(c.lines, line) {
			c.lines = append(c.lines, line)
		}
	})
}

// checkLater has layers read back.
func (s *Server) checkLater(checks ...check) {
	s.addChore(func(c *chores) {
		for _, k := range checks {
			if k != c.now && !slices.Contains(c.checks, k) {
				c.checks = append(c.checks, k)
			}
		}
	})
}

// checking reports whether a check that was asked for a line goes on.
func (s *Server) checking(line string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chores.now.line == line || slices.ContainsFunc(s.chores.checks, func(k check) bool { return k.line == line })
}

func (s *Server) addChore(add func(c *chores)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live.Err() != nil {
		return // it is found at the next start
	}
	add(&s.chores)
	if !s.chores.working {
		s.chores.working = true
		s.work.Go(s.workOnChores)
	}
}

// workOnChores does one thing after the other until nothing is left.
func (s *Server) workOnChores() {
	for {
		what, of, do := s.nextChore()
		if do == nil {
			return
		}
		if err := do(s.live); err != nil && s.live.Err() == nil && !isNotFound(err) {
			s.log.Error("backups: "+what, "of", of, "error", err)
		}
	}
}

// nextChore takes what is to be done next: what frees room before what takes long.
func (s *Server) nextChore() (what, of string, do func(ctx context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.chores
	c.now = check{}
	switch {
	case s.live.Err() != nil:
	case c.house:
		c.house = false
		return "look what is to be done", "", s.lookAround
	case len(c.lines) > 0:
		line := c.lines[0]
		c.lines = c.lines[1:]
		return "tidy up", line, func(ctx context.Context) error { return s.tidy(ctx, line) }
	case len(c.checks) > 0:
		k := c.checks[0]
		c.checks, c.now = c.checks[1:], k
		return "read back", k.layer.String(), func(ctx context.Context) error { return s.checkLayer(ctx, k) }
	}
	c.working = false
	return "", "", nil
}

// lookAround removes what users sent and nobody used, and finds lines and layers that something is due for.
func (s *Server) lookAround(ctx context.Context) error {
	if err := s.sweep(ctx); err != nil {
		return err
	}
	lines, err := column(ctx, s.db, "SELECT id FROM lines ORDER BY id")
	if err != nil {
		return err
	}
	for _, l := range lines {
		s.tidyLater(l)
	}
	due, err := s.checksDue(ctx)
	s.checkLater(due...)
	return err
}

// tidy removes the points of a line that its policy does not keep, and has its points need no states but their own.
func (s *Server) tidy(ctx context.Context, line string) error {
	if _, err := s.prune(ctx, line); err != nil {
		return err
	}
	return s.compact(ctx, line)
}
