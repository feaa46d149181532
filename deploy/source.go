package deploy

import (
	"context"
	"fmt"

	"disksync/image"
	"disksync/layer"
)

// Kinds of sources, in the order in which they are used.
const (
	Local   = "local"   // another disk of this endpoint
	USB     = "usb"     //
	DVD     = "dvd"     //
	Network = "network" // the Synchronizer
)

// Kinds returns the kinds in the order of use.
func Kinds() []string { return []string{Local, USB, DVD, Network} }

// Source gives blocks by their digest. It may be wrong about what it has: whoever takes a block checks it.
type Source interface {
	Kind() string
	Name() string
	// Holds reports whether the source claims to have a block, and how many bytes it takes to get it.
	Holds(d image.Digest) (bytes int64, ok bool)
	// Fetch gets blocks in the order that suits the source, and hands each to deliver with its frame and the frame's bytes,
	// which are then deliver's, or with the error that kept it from getting that one. deliver may be called from several
	// goroutines. Fetch returns when all were delivered, or early with an error that concerns all of the rest.
	Fetch(ctx context.Context, blocks []image.Digest, deliver func(image.Digest, layer.Frame, []byte, error) error) error
}

// local is the Source of blocks that some installed disk has.
type local struct {
	store  *Store
	places map[image.Digest]localPlace
}

type localPlace struct {
	disk  image.UUID
	block int
}

// newLocal looks through the digests of all installed states for wanted blocks.
func (s *Store) newLocal(wanted map[image.Digest]bool) (*local, error) {
	l := &local{store: s, places: map[image.Digest]localPlace{}}
	ids, err := s.States()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		st, err := s.State(id)
		if err != nil {
			return nil, err
		}
		for block, d := range st.Blocks {
			if wanted[d] {
				l.places[d] = localPlace{image.VHDUUID(id), block}
			}
		}
	}
	return l, nil
}

func (l *local) Kind() string { return Local }

func (l *local) Name() string { return "this machine" }

func (l *local) Holds(d image.Digest) (int64, bool) {
	_, ok := l.places[d]
	return image.BlockSize, ok
}

func (l *local) Fetch(ctx context.Context, blocks []image.Digest, deliver func(image.Digest, layer.Frame, []byte, error) error) error {
	type opened struct {
		*chain
		err error // of a disk that cannot be read; others can
	}
	open := map[image.UUID]opened{}
	defer func() {
		for _, o := range open {
			if o.chain != nil {
				o.Close()
			}
		}
	}()
	for _, d := range blocks {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p := l.places[d]
		o, ok := open[p.disk]
		if !ok {
			o.chain, o.err = l.store.openChain(p.disk)
			open[p.disk] = o
		}
		f := layer.Frame{Block: p.block, Codec: layer.Stored, Length: image.BlockSize, Digest: d}
		var b []byte
		err := o.err
		if err == nil {
			b = make([]byte, image.BlockSize)
			err = readBlock(o, b, p.block)
		}
		if err := deliver(d, f, b, err); err != nil {
			return err
		}
	}
	return nil
}

// disk is content to read blocks of.
type disk interface {
	ReadAt(p []byte, off int64) (int, error)
	Size() int64
}

// readBlock reads a whole block; what lies behind the disk's end is zeros.
func readBlock(d disk, b []byte, block int) error {
	start := int64(block) * image.BlockSize
	n := max(min(int64(len(b)), d.Size()-start), 0)
	clear(b[n:])
	if n == 0 {
		return nil
	}
	if _, err := d.ReadAt(b[:n], start); err != nil {
		return fmt.Errorf("read block %d: %w", block, err)
	}
	return nil
}
