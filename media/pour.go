package media

import (
	"context"
	"errors"
	"fmt"
	"io"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
	"disksync/syncclient"
)

const (
	// maxFailures is how often in a row something is tried again without anything having moved.
	maxFailures = 6
	// pourChunk is how much is written at once, in bytes.
	pourChunk = 1 << 20
	// syncEvery bounds what is lost of a medium that is pulled out, in bytes.
	syncEvery = 64 << 20
)

// pouring is one file that is being written.
type pouring struct {
	*writer
	o    *output
	h    *layer.Holding
	out  io.WriterAt
	base int64        // where the file begins in out
	sync func() error // makes durable what was written

	at       int64 // of the file, up to where it was written
	unsynced int64
	buf      []byte // what comes next
}

// run writes the file from the frame number from on, which is the first for all of it.
func (p *pouring) run(ctx context.Context, from int) error {
	first, n := p.h.Range()
	if from == first {
		if err := p.put(p.h.Head()); err != nil {
			return err
		}
	} else {
		off, length := p.h.Place(from - 1)
		p.at = off + length
	}
	if err := p.frames(ctx, from, first+n); err != nil {
		return errors.Join(err, p.flush()) // what came is good for the next run
	}
	if err := p.put(p.h.Tail()); err != nil {
		return err
	}
	return p.flush()
}

// frames writes the frames from one number up to another.
func (p *pouring) frames(ctx context.Context, from, to int) error {
	if from == to {
		return nil
	}
	x := p.h.Index()
	last := x.Frame(to - 1)
	in := &feed{c: p.c, ref: image.LayerRef{ID: x.ID(), Length: x.FileSize()}, at: x.Frame(from).Offset, end: last.Offset + int64(last.Length)}
	defer in.close()
	dec := layer.NewDecoder(1)
	defer dec.Close()
	packed, block := make([]byte, image.BlockSize), make([]byte, image.BlockSize)
	for i := from; i < to; i++ {
		f := x.Frame(i)
		if err := in.read(ctx, packed[:f.Length]); err != nil {
			return err
		}
		if p.h.Sealed() {
			// Under one nonce only one thing may be sealed: not a damaged frame now, and a good one when the next run goes on here.
			if err := dec.Check(block, f, packed[:f.Length]); err != nil {
				return serverDamaged(x.ID(), err)
			}
		}
		if err := p.put(p.h.Pack(i, packed[:f.Length])); err != nil {
			return err
		}
	}
	return nil
}

// put adds bytes to the file.
func (p *pouring) put(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), pourChunk-len(p.buf))
		p.buf, b = append(p.buf, b[:n]...), b[n:]
		if len(p.buf) == pourChunk {
			if err := p.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pouring) flush() error {
	if len(p.buf) == 0 {
		return nil
	}
	if _, err := p.out.WriteAt(p.buf, p.base+p.at); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	p.at += int64(len(p.buf))
	p.unsynced += int64(len(p.buf))
	p.buf = p.buf[:0]
	if p.unsynced >= syncEvery {
		if err := p.sync(); err != nil {
			return fmt.Errorf("sync: %w", err)
		}
		p.unsynced = 0
	}
	p.Progress("write "+p.o.name, p.at, p.h.FileSize())
	return nil
}

// feed reads a stretch of a layer's file from the Synchronizer, going on where the line broke as long as something moves.
type feed struct {
	c        *syncclient.Client
	ref      image.LayerRef
	at, end  int64
	body     io.ReadCloser
	pause    syncclient.Backoff
	failures int
}

// read fills b.
func (f *feed) read(ctx context.Context, b []byte) error {
	for len(b) > 0 {
		n, err := f.some(ctx, b)
		f.at += int64(n)
		b = b[n:]
		if n > 0 {
			f.failures = 0
			f.pause.Reset()
		}
		if err == nil || len(b) == 0 {
			continue
		}
		f.close()
		if f.failures++; !syncclient.Temporary(err) || f.failures > maxFailures {
			return err
		}
		if err := f.pause.Wait(ctx, err); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (f *feed) some(ctx context.Context, b []byte) (int, error) {
	if f.body == nil {
		var err error
		if f.body, err = f.c.Range(ctx, f.ref, f.at, f.end-f.at); err != nil {
			return 0, err
		}
	}
	return io.ReadFull(f.body, b)
}

func (f *feed) close() {
	if f.body != nil {
		f.body.Close()
		f.body = nil
	}
}

// progressOf says how far an earlier run got with a file.
type progressOf struct {
	there bool     // there is something to go on with
	frame int      // the first frame that is still to be written
	salt  [32]byte // of a sealed file
}

// resume finds out how far an earlier run got. What it left of no use is removed.
func (w *writer) resume(ctx context.Context, temp string, o *output) (progressOf, error) {
	fresh := progressOf{frame: o.first, salt: newSalt()}
	in, err := w.fsys.Open(temp)
	if err != nil {
		return fresh, nil // what is wrong with it shows when it is made
	}
	defer in.Close()
	size, err := in.Size()
	if err == nil && size <= o.size() {
		in.DropCache()
		if at, ok := w.good(ctx, io.NewSectionReader(in, 0, size), o); ok {
			return at, ctx.Err()
		}
	}
	return fresh, durable.Remove(w.fsys, temp)
}

// good returns how far a file is good from its start. ok is false when nothing of it is of use.
func (w *writer) good(ctx context.Context, in *io.SectionReader, o *output) (at progressOf, ok bool) {
	at = progressOf{there: true, frame: o.first}
	if o.key != nil {
		var head [layer.PieceHeaderSize]byte
		n, _ := in.ReadAt(head[:], 0)
		p, err := layer.ParsePiece(head[:n], in.Size())
		if err != nil {
			return at, false
		}
		at.salt = p.Salt
	}
	h := o.holding(at.salt)
	head := make([]byte, len(h.Head()))
	if n, _ := in.ReadAt(head, 0); n < len(head) || string(head) != string(h.Head()) {
		return at, false
	}
	r := h.Reader(in)
	first, n := h.Range()
	dec := layer.NewDecoder(1)
	defer dec.Close()
	packed, block := make([]byte, image.BlockSize), make([]byte, image.BlockSize)
	for ; at.frame < first+n && ctx.Err() == nil; at.frame++ {
		f := h.Index().Frame(at.frame)
		off, length := h.Place(at.frame)
		if off+length > in.Size() {
			break
		}
		if k, _ := r.ReadAt(packed[:f.Length], f.Offset); k < f.Length || dec.Check(block, f, packed[:f.Length]) != nil {
			break
		}
		w.Progress("check "+o.name, off+length, h.FileSize())
	}
	return at, at.frame > first
}
