package endpoint

import (
	"context"
	"time"

	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
)

// Store returns the engine's disks.
func (e *Engine) Store() *deploy.Store { return e.store }

// AskPolicies asks the Synchronizer when backups are due.
func (e *Engine) AskPolicies(ctx context.Context) { e.askPolicies(ctx) }

// LookForRoom has encrypted backups stand alone after that many layers.
func (e *Engine) LookForRoom(look, most int) { e.sealLook, e.sealMost = look, most }

// EarlyLeaf is a leaf of a VM that is written while the VM is downloaded.
type EarlyLeaf struct {
	*deploy.Live
	v *early
}

// OpenEarly opens a leaf of a VM that is downloaded; nil: the VM is complete.
func (e *Engine) OpenEarly(name string, r image.Role) (*EarlyLeaf, error) {
	vm, err := e.vm(name)
	if err != nil {
		return nil, err
	}
	v := e.early(vm)
	if v == nil {
		return nil, nil
	}
	d, _ := vm.Current.Disk(r)
	l, err := v.openLeaf(*d)
	return &EarlyLeaf{l, v}, err
}

// WhenWhole has swap called when the VM is complete.
func (l *EarlyLeaf) WhenWhole(swap func() error) error { return l.v.whenWhole(swap) }

// Leave lets go of what is downloaded.
func (l *EarlyLeaf) Leave() { l.v.leave() }

// KeyFile is what a file of keys says.
type KeyFile struct {
	Recipients []string
	Off        bool
}

// ReadKeyFile reads the file of keys in a state folder.
func ReadKeyFile(fsys durable.FS) (KeyFile, error) {
	r, err := readKeyring(fsys)
	return KeyFile{r.recipients(), r.off}, err
}

// OverKeys returns an engine that has keys, and nothing else.
func OverKeys(fsys durable.FS) (*Engine, error) {
	store, err := deploy.OpenStore(fsys, time.Now)
	if err != nil {
		return nil, err
	}
	e := &Engine{fsys: fsys, now: time.Now, store: store}
	e.ring, err = readKeyring(fsys)
	return e, err
}
