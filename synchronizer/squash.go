package synchronizer

import (
	"context"
	"fmt"
	"slices"

	"disksync/api"
	"disksync/image"
)

// squash is a layer in the making that leads directly from one version of an image to another. Its fields are guarded by Server.mu.
type squash struct {
	image string
	api.Squash
	keep   bool
	cancel context.CancelFunc // of the work on it; nil before
}

// maxSquashes bounds those that are remembered of an image after they ended.
const maxSquashes = 32

func (s *Server) getSquashes(c *call) error {
	name, err := c.imageName()
	if err != nil {
		return err
	}
	if _, err := imageID(c.Context(), s.db, name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []api.Squash{}
	for _, q := range s.squashes {
		if q.image == name {
			out = append(out, q.Squash)
		}
	}
	return c.reply(out)
}

// postSquash has layers made. They are asked for with GET.
func (s *Server) postSquash(c *call) error {
	name, err := c.imageName()
	if err != nil {
		return err
	}
	var in api.NewSquash
	if err := c.decode(&in); err != nil {
		return err
	}
	id, err := imageID(c.Context(), s.db, name)
	if err != nil {
		return err
	}
	if in.To == 0 {
		if in.To, err = newest(c.Context(), s.db, id); err != nil {
			return err
		}
	}
	c.subject = fmt.Sprintf("%s version %d to %d", name, in.From, in.To)
	roles, err := s.squashRoles(c.Context(), id, in)
	if err != nil {
		return err
	}
	out := []api.Squash{}
	for _, r := range roles {
		out = append(out, s.addSquash(name, api.Squash{From: in.From, To: in.To, Role: r, State: api.SquashWaiting}, in.Keep))
	}
	return c.reply(out)
}

func newest(ctx context.Context, q querier, id string) (v image.Version, err error) {
	return v, q.QueryRowContext(ctx, "SELECT MAX(version) FROM versions WHERE image = ?", id).Scan(&v)
}

// squashRoles returns the disks that a request is about, and refuses what makes no sense.
func (s *Server) squashRoles(ctx context.Context, id string, in api.NewSquash) ([]image.Role, error) {
	if in.From >= in.To {
		return nil, invalid("a layer leads from nothing or an older version to a newer one, not from %d to %d", in.From, in.To)
	}
	to, err := s.manifest(ctx, id, in.To)
	if err != nil {
		return nil, err
	}
	from := to
	if in.From != 0 {
		if from, err = s.manifest(ctx, id, in.From); err != nil {
			return nil, err
		}
	}
	var roles []image.Role
	for _, d := range to.Disks {
		if in.Role != "" && in.Role != d.Role {
			continue
		}
		// A disk that the older version did not have has nothing to start from.
		if _, ok := from.Disk(d.Role); ok {
			roles = append(roles, d.Role)
		}
	}
	if len(roles) == 0 {
		return nil, notFound("versions %d and %d have no such disk in common", in.From, in.To)
	}
	return roles, nil
}

// addSquash puts a squash into the queue, unless it is there, and sees to it that somebody works on it.
func (s *Server) addSquash(name string, in api.Squash, keep bool) api.Squash {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.squashes {
		if q.image == name && q.From == in.From && q.To == in.To && q.Role == in.Role && !q.State.Over() {
			q.keep, q.Own = q.keep || keep, q.Own && in.Own
			return q.Squash
		}
	}
	same := func(q *squash) bool {
		return q.image == name && q.From == in.From && q.To == in.To && q.Role == in.Role
	}
	if in.Own && slices.ContainsFunc(s.squashes, same) {
		return in // it was tried
	}
	s.squashes = slices.DeleteFunc(s.squashes, same)
	ended := 0
	for i := len(s.squashes) - 1; i >= 0; i-- {
		if s.squashes[i].State.Over() {
			if ended++; ended >= maxSquashes {
				s.squashes = slices.Delete(s.squashes, i, i+1)
			}
		}
	}
	s.squashes = append(s.squashes, &squash{image: name, Squash: in, keep: keep})
	if !s.squashing {
		s.squashing = true
		s.work.Go(s.workOnSquashes)
	}
	return in
}

// workOnSquashes makes one after the other until none is left.
func (s *Server) workOnSquashes() {
	for {
		ctx, q := s.nextSquash()
		if q == nil {
			return
		}
		err := s.makeSquash(ctx, q)
		s.mu.Lock()
		q.cancel()
		if err != nil && q.State != api.SquashStored {
			q.State, q.Error = api.SquashFailed, wireError(err)
		}
		done := q.Squash
		s.mu.Unlock()
		switch {
		case s.live.Err() != nil: // what a policy asked for is asked for again at the next start
		case err != nil:
			s.log.Error("squash failed", "image", q.image, "from", done.From, "to", done.To, "role", done.Role, "error", err)
		default:
			s.log.Info("squash", "image", q.image, "from", done.From, "to", done.To, "role", done.Role, "state", done.State,
				"bytes", done.Bytes, "path", done.PathBytes)
		}
	}
}

func (s *Server) nextSquash() (context.Context, *squash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// What an administrator waits for comes first.
	for _, own := range []bool{false, true} {
		for _, q := range s.squashes {
			if q.State == api.SquashWaiting && q.Own == own && s.live.Err() == nil {
				q.State = api.SquashRunning
				var ctx context.Context
				ctx, q.cancel = context.WithCancel(s.live)
				return ctx, q
			}
		}
	}
	s.squashing = false
	return nil, nil
}

// forgetSquashes ends the work for an image that is going to be deleted.
func (s *Server) forgetSquashes(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.squashes = slices.DeleteFunc(s.squashes, func(q *squash) bool {
		if q.image == name && q.cancel != nil {
			q.cancel()
		}
		return q.image == name
	})
}

// change changes a squash under the lock.
func (s *Server) change(q *squash, do func(q *squash)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do(q)
}
