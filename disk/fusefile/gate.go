package fusefile

import (
	"errors"
	"iter"
	"sync"

	"disksync/disk/nbd"
)

var errEnded = errors.New("fusefile: nobody serves the files any more")

// gate lets devices be used until it is shut.
type gate struct {
	mu   sync.RWMutex // held for reading by who uses a device
	shut bool
}

// close shuts the gate, and returns when nobody uses a device any more.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
}

// pass calls do with the gate held open.
func (g *gate) pass(do func() error) error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.shut {
		return errEnded
	}
	return do()
}

// gated is a device behind a gate. Its size is no use of it.
type gated struct {
	nbd.Device
	g *gate
}

func (d gated) ReadAt(p []byte, off int64) (n int, err error) {
	err = d.g.pass(func() error { n, err = d.Device.ReadAt(p, off); return err })
	return n, err
}

func (d gated) WriteAt(p []byte, off int64) (n int, err error) {
	err = d.g.pass(func() error { n, err = d.Device.WriteAt(p, off); return err })
	return n, err
}

func (d gated) Flush() error { return d.g.pass(d.Device.Flush) }

func (d gated) Zero(off, length int64) error {
	return d.g.pass(func() error { return d.Device.Zero(off, length) })
}

func (d gated) Extents(off, length int64) iter.Seq2[nbd.Extent, error] {
	return func(yield func(nbd.Extent, error) bool) {
		err := d.g.pass(func() error {
			d.Device.Extents(off, length)(yield)
			return nil
		})
		if err != nil {
			yield(nbd.Extent{}, err)
		}
	}
}
