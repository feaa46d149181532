package synchronizer

import (
	"context"
	"time"

	"disksync/image"
)

// What is to be done for backups when nobody waits for it: one thing after the other, in the background. Nothing depends on when it is
// done, or how often: what fails or is cut off is found again an hour later, or at the next start.

// tick is how often somebody looks what is to be done.
const tick = time.Hour

// chores are what is to be done. They are guarded by Server.mu.
type chores struct {
	working bool // somebody works on them
	house   bool // to look what is to be done at all
	infos   bool // to enter descriptions that are missing
	lines   queue[string]
	opened  queue[string] // lines whose manifests are to be opened
	checks  queue[check]
	now     check          // that goes on
	asked   map[string]int // checks, with now, that were asked for a line
}

// queue has things in the order in which they came, each once.
type queue[T comparable] struct {
	order  []T
	inside map[T]bool
}

// push reports whether v was not there yet.
func (q *queue[T]) push(v T) bool {
	if q.inside[v] {
		return false
	}
	if q.inside == nil {
		q.inside = map[T]bool{}
	}
	q.inside[v] = true
	q.order = append(q.order, v)
	return true
}

// pop takes the first; there must be one.
func (q *queue[T]) pop() T {
	v := q.order[0]
	q.order = q.order[1:]
	delete(q.inside, v)
	return v
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
	s.addChore(func(c *chores) { c.lines.push(line) })
}

// checkLater has layers read back.
func (s *Server) checkLater(checks ...check) {
	s.addChore(func(c *chores) {
		for _, k := range checks {
			if k != c.now && c.checks.push(k) && k.line != "" {
				c.count(k.line, 1)
			}
		}
	})
}

// checking reports whether a check that was asked for a line goes on.
func (s *Server) checking(line string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chores.asked[line] > 0
}

// count adds to the checks that were asked for a line.
func (c *chores) count(line string, n int) {
	if c.asked == nil {
		c.asked = map[string]int{}
	}
	if c.asked[line] += n; c.asked[line] == 0 {
		delete(c.asked, line)
	}
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
	if c.now.line != "" {
		c.count(c.now.line, -1)
	}
	c.now = check{}
	switch {
	case s.live.Err() != nil:
	case c.house:
		c.house = false
		return "look what is to be done", "", s.lookAround
	case c.infos:
		c.infos = false
		return "describe what is there", "", s.fillInfos
	case len(c.lines.order) > 0:
		line := c.lines.pop()
		return "tidy up", line, func(ctx context.Context) error { return s.tidy(ctx, line) }
	case len(c.opened.order) > 0:
		line := c.opened.pop()
		return "open manifests", line, func(ctx context.Context) error { return s.openManifests(ctx, line) }
	case len(c.checks.order) > 0:
		k := c.checks.pop()
		c.now = k
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
	lines, err := column(ctx, s.db, "SELECT id FROM lines WHERE changes <> tidied OR again <> '' AND again <= ? ORDER BY id", stamp(s.now()))
	if err != nil {
		return err
	}
	for _, l := range lines {
		s.tidyLater(l)
	}
	if err := s.openImages(ctx); err != nil {
		return err
	}
	old, err := column(ctx, s.db, "SELECT id FROM lines WHERE opened <= ? ORDER BY opened", stamp(s.now().Add(-checkEvery)))
	if err != nil {
		return err
	}
	for _, l := range old {
		s.addChore(func(c *chores) { c.opened.push(l) })
	}
	due, err := s.checksDue(ctx)
	s.checkLater(due...)
	return err
}

// tidy removes the points of a line that its policy does not keep, and has its points need no states but their own. When that is done
// the line is left alone until something changes: points, the policy, or which of them are damaged; or until points have grown older.
func (s *Server) tidy(ctx context.Context, line string) error {
	var changes int64
	if err := s.db.QueryRowContext(ctx, "SELECT changes FROM lines WHERE id = ?", line).Scan(&changes); err != nil {
		return ignoreNone(err)
	}
	removed, again, err := s.prune(ctx, line)
	if err == nil {
		err = s.compact(ctx, line)
	}
	if err != nil {
		return err
	}
	changes += int64(len(removed)) // each is one
	_, err = s.db.ExecContext(ctx, "UPDATE lines SET tidied = ?1, again = ?2 WHERE id = ?3 AND (tidied <> ?1 OR again <> ?2)", changes, again, line)
	return err
}
