package deploy

import (
	"errors"
	"fmt"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
)

// lease is a VHD that is in use: this process does not remove it, and other programs that lock what they write, as vhd-util does, keep
// from it. There is one for each VHD, whoever uses it here.
type lease struct {
	file  durable.File // locked
	users int
}

// take counts a VHD as used until drop is called. For writing it must be nobody else's; otherwise others may read it. Whoever writes to
// one that is read here as well has to see to that. It is called with mu held.
func (s *Store) take(id image.UUID, writing bool) error {
	if l := s.used[id]; l != nil {
		l.users++
		return nil
	}
	open := s.fsys.Open
	if writing {
		open = s.fsys.OpenWrite // NFS locks against others only what is open for writing
	}
	f, err := open(vhdFile(id))
	if err != nil {
		return err
	}
	if err := f.Lock(writing); err != nil {
		if errors.Is(err, durable.ErrLocked) {
			err = problem.New("DS-IN-USE", problem.Busy, nil, "another program works on the file "+vhdFile(id), "nothing was changed",
				"end that program, such as `vhd-util`, and try again")
		}
		return errors.Join(err, f.Close())
	}
	s.used[id] = &lease{f, 1}
	return nil
}

// drop undoes a take. It is called with mu held.
func (s *Store) drop(id image.UUID) error {
	l := s.used[id]
	if l.users--; l.users > 0 {
		return nil
	}
	delete(s.used, id)
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("let go of disk %s: %w", id, err)
	}
	return nil
}

// alone returns when a VHD may be written to that is not open for writing in a Live. done lets go of it.
func (s *Store) alone(id image.UUID) (done func() error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.take(id, true); err != nil {
		return nil, err
	}
	return func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.drop(id)
	}, nil
}
