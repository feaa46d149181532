package hotplug

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"disksync/internal/durable"
)

// recordFile is beside the state. It says what this program has mounted, so that the next run unmounts what is left after a crash. To lose
// it costs a medium that stays mounted.
const recordFile = "mounted.json"

const maxRecord = 1 << 20

// mounted is a medium that this program mounted, or is about to.
type mounted struct {
	ID     string `json:"id"` // see cache.Medium
	Device string `json:"device"`
	Dir    string `json:"dir,omitempty"` // empty: it was asked for, and perhaps done

	seen bool      // UDisks2 has told of the mount
	at   time.Time // when it was mounted
	path string    // of its object
}

// record is what is mounted by this program.
type record struct {
	fsys durable.FS // nil: nothing is stored
	all  []mounted
}

// load reads what an earlier run left. A file that is damaged says nothing.
func (r *record) load() error {
	if r.fsys == nil {
		return nil
	}
	b, err := durable.ReadFile(r.fsys, recordFile, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r.all)
	}
	if err != nil {
		r.all = nil
		return fmt.Errorf("which media were mounted is not known: %w", err)
	}
	return nil
}

func (r *record) find(device string) *mounted {
	i := slices.IndexFunc(r.all, func(m mounted) bool { return m.Device == device })
	if i < 0 {
		return nil
	}
	return &r.all[i]
}

func (r *record) put(m mounted) error {
	if old := r.find(m.Device); old != nil {
		*old = m
	} else {
		r.all = append(r.all, m)
	}
	return r.store()
}

func (r *record) drop(device string) error {
	r.all = slices.DeleteFunc(r.all, func(m mounted) bool { return m.Device == device })
	return r.store()
}

func (r *record) store() error {
	if r.fsys == nil {
		return nil
	}
	if len(r.all) == 0 {
		return durable.Remove(r.fsys, recordFile)
	}
	b, err := json.Marshal(r.all)
	if err != nil {
		return err
	}
	return durable.WriteFile(r.fsys, recordFile, b, 0o600)
}
