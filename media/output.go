package media

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
	"disksync/syncclient"
)

// Endings of names, for people.
const (
	layerSuffix = ".dsl"
	pieceSuffix = ".dsp"
)

// output is a file that goes onto a medium: a layer, or a piece of one.
type output struct {
	item
	x        *layer.Index
	first, n int // the frames of a piece; n is 0 for a whole layer
	key      *image.MediaKey
	name     string
}

// holding returns the form of the file; salt is that of a sealed one.
func (o *output) holding(salt [32]byte) *layer.Holding {
	switch {
	case o.n == 0:
		return layer.Whole(o.x)
	case o.key == nil:
		return layer.Piece(o.x, o.first, o.n)
	}
	return layer.Seal(o.x, o.first, o.n, *o.key, salt)
}

// size returns the length of the file in bytes.
func (o *output) size() int64 { return o.holding([32]byte{}).FileSize() }

// isIt reports whether a file is this one, was meant to be, or was until something damaged it. A file that names itself as
// something else is that, and stays.
func (o *output) isIt(in durable.File, size int64) bool {
	if o.n == 0 {
		return madeLayer(o.x.ID())(in, size)
	}
	var head [layer.PieceHeaderSize]byte
	n, _ := in.ReadAt(head[:], 0)
	if !layer.IsPiece(head[:n]) {
		return false
	}
	p, err := layer.ParsePiece(head[:n], size)
	if err != nil {
		return true
	}
	if o.key != nil {
		return p.Key == o.key.ID()
	}
	return p.Layer == o.x.ID()
}

// nameIt gives a file its name. That of a sealed one tells nothing to who has no key, and is the same in each run.
func (o *output) nameIt(part int) {
	switch {
	case o.key != nil:
		h := hmac.New(sha256.New, o.key[:])
		id := o.x.ID()
		h.Write(binary.BigEndian.AppendUint64(id[:], uint64(o.first)<<32|uint64(o.n)))
		o.name = "disksync-" + hex.EncodeToString(h.Sum(nil)[:8]) + pieceSuffix
	case o.n > 0:
		o.name = fmt.Sprintf("%s-part%02d%s", o.stem, part, pieceSuffix)
	default:
		o.name = o.stem + layerSuffix
	}
}

// loaded is an item with its index, and the key that it is to be sealed with.
type loaded struct {
	item
	x   *layer.Index
	key *image.MediaKey
}

// load fetches the indexes of what goes onto a medium.
func load(ctx context.Context, c *syncclient.Client, items []item, keys map[string]*image.MediaKey) ([]loaded, error) {
	out := make([]loaded, 0, len(items))
	for _, it := range items {
		var x *layer.Index
		err := patiently(ctx, func() error {
			var err error
			x, err = c.Index(ctx, it.ref)
			if _, liar := errors.AsType[*syncclient.ProtocolError](err); liar || errors.Is(err, layer.ErrFormat) {
				err = serverDamaged(it.ref.ID, err)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("index of layer %s: %w", it.ref.ID.Short(), err)
		}
		out = append(out, loaded{it, x, keys[it.image]})
	}
	return out, nil
}

// patiently calls do again as long as the line is merely interrupted.
func patiently(ctx context.Context, do func() error) error {
	var pause syncclient.Backoff
	for failures := 0; ; {
		err := do()
		if failures++; err == nil || !syncclient.Temporary(err) || failures > maxFailures {
			return err
		}
		if err := pause.Wait(ctx, err); err != nil {
			return err
		}
	}
}

// whole returns the layer as one file.
func (l loaded) whole() *output {
	o := &output{item: l.item, x: l.x, key: l.key}
	if l.key != nil {
		o.n = l.x.Len()
	}
	o.nameIt(0)
	if l.x.Len() == 0 {
		o.key = nil // a disk of zeros: there is nothing to seal
	}
	return o
}

// piece returns the piece with n frames from number first on.
func (l loaded) piece(first, n, part int) *output {
	o := &output{item: l.item, x: l.x, key: l.key, first: first, n: n}
	o.nameIt(part)
	return o
}

// errPart says that not even one frame has room in a file.
var errPart = errors.New("a part has no room for the index and one block")

// outputs cuts layers into files of at most limit bytes; 0: any size.
func outputs(layers []loaded, limit int64) ([]*output, error) {
	var out []*output
	for _, l := range layers {
		if o := l.whole(); limit == 0 || o.size() <= limit {
			out = append(out, o)
			continue
		}
		for first, part := 0, 1; first < l.x.Len(); part++ {
			n := layer.Fit(l.x, first, limit, l.key != nil)
			if n == 0 {
				return nil, fmt.Errorf("layer %s: parts of %d bytes: %w", l.x.ID().Short(), limit, errPart)
			}
			out = append(out, l.piece(first, n, part))
			first += n
		}
	}
	return out, nil
}
