package deploy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/process"
	"disksync/vhd"
)

const (
	disksDir    = "disks"
	vhdSuffix   = ".vhd"
	logSuffix   = ".vhd.log"
	stateSuffix = ".state"
	partSuffix  = ".vhd.part"
)

// Store is an endpoint's VHD files and VM records. One process at a time has it (see durable.Lock); its methods are safe for
// concurrent use.
type Store struct {
	fsys  durable.FS
	now   func() time.Time
	boot  image.UUID // of the present run of the machine
	parts builders
	sites sites
	gate  gate

	mu       sync.Mutex            // one change of the records at a time, with the removal of what they no longer need
	holders  int                   // see Hold
	later    []image.UUID          // to be removed when nobody holds or uses them any more
	written  map[image.UUID]bool   // leaves that are open for writing; see Live
	occupied map[image.UUID]bool   // leaves of guests that wait for somebody to open them
	used     map[image.UUID]*lease // the VHDs that are open in a Live, or being merged
}

// OpenStore opens the store in fsys, making its folders where they are missing, and tidies up what a crash left behind.
func OpenStore(fsys durable.FS, now func() time.Time) (*Store, error) {
	s := &Store{fsys: fsys, now: now, written: map[image.UUID]bool{}, occupied: map[image.UUID]bool{}, used: map[image.UUID]*lease{}, boot: bootID()}
	for _, dir := range []string{disksDir, vmsDir, manifestsDir} {
		if err := durable.MakeDir(fsys, dir, 0o700); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
		if err := durable.RemoveTemps(fsys, dir); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	}
	if err := s.recoverFrozen(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := s.recoverLogs(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := s.removeStrayLeaves(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

func vhdFile(id image.UUID) string   { return disksDir + "/" + id.String() + vhdSuffix }
func stateFile(id image.UUID) string { return disksDir + "/" + id.String() + stateSuffix }
func logFile(id image.UUID) string   { return disksDir + "/" + id.String() + logSuffix }
func partFile(id image.UUID) string  { return disksDir + "/" + id.String() + partSuffix }

// Path returns the name of a VHD relative to the store's folder.
func Path(id image.UUID) string { return vhdFile(id) }

func (s *Store) exists(name string) (bool, error) {
	_, err := s.fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Installed reports whether the state is installed: its VHD has its name, so it was complete and verified when it got it.
func (s *Store) Installed(id image.StateID) (bool, error) {
	return s.exists(vhdFile(image.VHDUUID(id)))
}

// State returns the digests of an installed state.
func (s *Store) State(id image.StateID) (image.State, error) {
	if id.IsZero() {
		return image.State{}, nil
	}
	b, err := durable.ReadFile(s.fsys, stateFile(image.VHDUUID(id)), image.EncodedStateSize(image.MaxDiskSize))
	if err != nil {
		return image.State{}, fmt.Errorf("digests of state %s: %w", id.Short(), err)
	}
	return image.ParseState(b, id)
}

// writeState stores a digest list.
func (s *Store) writeState(st image.State) error {
	b, err := st.MarshalBinary()
	if err != nil {
		return err
	}
	return durable.WriteFile(s.fsys, stateFile(image.VHDUUID(st.ID())), b, 0o600)
}

// States returns the names of all installed states. A digest list without its VHD, or the other way round, does not count.
func (s *Store) States() ([]image.StateID, error) {
	entries, err := s.fsys.ReadDir(disksDir)
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var ids []image.StateID
	for _, e := range entries {
		text, ok := strings.CutSuffix(e.Name(), stateSuffix)
		if !ok {
			continue
		}
		b, err := durable.ReadFile(s.fsys, disksDir+"/"+e.Name(), image.EncodedStateSize(image.MaxDiskSize))
		if err != nil {
			return nil, fmt.Errorf("list disks: %w", err)
		}
		id := image.StateID(sha256.Sum256(b))
		if image.VHDUUID(id).String() != text {
			continue // damaged: it does not name what it is
		}
		if ok, err := s.Installed(id); err != nil {
			return nil, err
		} else if ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// chain is an open VHD chain of the store.
type chain struct {
	*vhd.Chain
	files []durable.File
	ids   []image.UUID // leaf first
	own   int          // how many at the top are not golden, where that is told; at least one
}

func (c *chain) Close() {
	for _, f := range c.files {
		f.Close()
	}
}

// openChain opens the VHD id and its parents for reading. Parents are found by uuid in the store, never by a path.
func (s *Store) openChain(id image.UUID) (*chain, error) {
	c := &chain{}
	leaf, err := c.add(s, id)
	if err == nil {
		c.Chain, err = vhd.Resolve(leaf, func(child *vhd.Image) (*vhd.Image, error) {
			return c.add(s, child.ParentUUID())
		})
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("open disk %s: %w", id, err)
	}
	return c, nil
}

func (c *chain) add(s *Store, id image.UUID) (*vhd.Image, error) {
	f, err := s.fsys.Open(vhdFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", vhd.NoParent, err)
	}
	if err != nil {
		return nil, err
	}
	c.files = append(c.files, f)
	c.ids = append(c.ids, id)
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	m, err := vhd.Open(f, size)
	if err == nil && m.UUID() != id {
		err = fmt.Errorf("the file says that it is %s", m.UUID())
	}
	return m, err
}

// createLeaf makes the VHD that a VM writes to, on top of the golden VHD base. The caller records it, or it is removed at the
// next start.
func (s *Store) createLeaf(base image.UUID, size int64) (image.UUID, error) {
	id := NewUUID()
	temp := vhdFile(id) + durable.TempSuffix
	f, err := s.fsys.Create(temp, 0o600)
	if err != nil {
		return id, fmt.Errorf("create leaf: %w", err)
	}
	err = vhd.Create(f, vhd.CreateOptions{
		Size: size, UUID: id, Timestamp: vhd.TimestampOf(s.now()),
		Parent: &vhd.Parent{UUID: base, Path: base.String() + vhdSuffix},
	})
	if err := errors.Join(err, f.Close()); err != nil {
		return id, fmt.Errorf("create leaf: %w", err)
	}
	return id, durable.Publish(s.fsys, temp, vhdFile(id))
}

// bootID returns the id of the present run of the machine. Where the system does not tell, it is one that nothing was logged under.
func bootID() image.UUID {
	if text, err := process.Boot(); err == nil {
		if id, err := image.ParseUUID(text); err == nil {
			return id
		}
	}
	return NewUUID()
}

// leafChanged reports whether a VM has written to its leaf.
func (s *Store) leafChanged(id image.UUID) (bool, error) {
	if logged, err := s.logged(id); logged || err != nil {
		return logged, err
	}
	f, err := s.fsys.Open(vhdFile(id))
	if err != nil {
		return false, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return false, err
	}
	m, err := vhd.Open(f, size)
	if err != nil {
		return false, err
	}
	return m.AllocatedBlocks() > 0, nil
}
