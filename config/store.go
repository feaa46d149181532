package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"sync"

	"github.com/pelletier/go-toml/v2"

	"disksync/internal/durable"
)

// File is the name of the settings' file in the endpoint's state folder. It is trusted, may be lost (then the defaults hold
// again), and may be written by hand while nothing runs.
const File = "settings.toml"

const maxFile = 64 << 10

// Store keeps settings in their file. It is safe for concurrent use.
type Store struct {
	fsys durable.FS

	mu      sync.Mutex
	current Settings
	// foreign are keys of a newer program; they are kept.
	foreign map[string]any
}

// Open reads the settings. A file that cannot be understood is an error: defaults in its place could turn on what the
// administrator has turned off.
func Open(fsys durable.FS) (*Store, error) {
	s := &Store{fsys: fsys, foreign: map[string]any{}}
	b, err := durable.ReadFile(fsys, File, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	values := map[string]any{}
	if err := toml.Unmarshal(b, &values); err != nil {
		return nil, fmt.Errorf("settings in %s: %w", File, err)
	}
	for name, v := range values {
		next, err := s.current.With(name, v)
		if errors.Is(err, ErrUnknown) {
			s.foreign[name] = v
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("settings in %s: %w", File, err)
		}
		s.current = next
	}
	return s, nil
}

// Current returns the settings in force.
func (s *Store) Current() Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Set changes a setting for good. When it returns an error, the old value is in force, though the file may have the new one.
func (s *Store) Set(name string, v any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := s.current.With(name, v)
	if err != nil {
		return err
	}
	all := maps.Clone(s.foreign)
	maps.Copy(all, next.values)
	b, err := toml.Marshal(all)
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	if err := durable.WriteFile(s.fsys, File, b, 0o644); err != nil {
		return fmt.Errorf("store settings: %w", err)
	}
	s.current = next
	return nil
}
