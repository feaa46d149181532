// Package media writes what endpoints need of versions to media: to a folder, such as the mount point of a stick, and to images of
// discs; and it reads media back.
//
// The files describe themselves, so names and folders carry no meaning for the endpoint; the names here are for people. Each
// file is written under a temporary name, synced, read back past the system's memory and checked frame by frame before it
// gets its name: a stick that keeps what it was given is worth more than one that was fast. What an interrupted run left is a part
// of a layer that is of use already; the next run checks it and goes on behind its last good frame.
package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/syncclient"
)

// Options says what to write where.
type Options struct {
	Want []Want
	// Direct leaves out what leads from nothing: the medium is for endpoints that have an earlier version. From names those
	// versions; none: all of them.
	Direct bool
	From   []image.Version
	Dir    string // made when it is not there
	// PartSize is the most bytes that a file may have; 0: what the file system takes.
	PartSize int64
	// Encrypt seals everything; see docs/format-layer.md. NewKey does it with a new key.
	Encrypt, NewKey bool
	// Prune takes away what an earlier run wrote of these images and nobody needs any more.
	Prune bool
	// Image is the file that an image of a disc is written to, in place of a folder; Size is how many bytes it may have, 0: any
	// number. Split makes as many images as it takes.
	Image string
	Size  int64
	Split bool
	// Progress is told what is done and how far it is, in bytes, by one goroutine at a time; nil: nobody is.
	Progress func(stage string, done, total int64)

	here map[image.LayerID]bool // layers that the medium has and that cost nothing
}

// Result says what is on the medium now.
type Result struct {
	Dir   string `json:"dir"`
	Files []File `json:"files"`
	// Removed are the names of files that were superseded.
	Removed []string `json:"removed,omitempty"`
	// Volumes are the images of discs that the files are in.
	Volumes []Volume `json:"volumes,omitempty"`
}

// Volume is an image of a disc.
type Volume struct {
	Path   string `json:"path"`
	Length int64  `json:"length"`
}

// File is one file of a Result.
type File struct {
	Path    string        `json:"path"`
	Layer   image.LayerID `json:"layer"`
	Length  int64         `json:"length"`
	Blocks  int           `json:"blocks"`            // verified by reading them back
	Written bool          `json:"written"`           // false: it was there already, and good
	Resumed int           `json:"resumed,omitempty"` // blocks that an interrupted run had written
	Sealed  bool          `json:"sealed,omitempty"`  // encrypted
	// Part is set for a file that has only some of the layer's blocks.
	Part bool `json:"part,omitempty"`
}

// Write writes layers that lead to the wanted versions, and their manifests, into the folder. What is there already and is good
// stays; what is not ours stays in any case, and when it has the name of one of the files, that file gets another.
func Write(ctx context.Context, c *syncclient.Client, o Options) (Result, error) {
	return write(ctx, c, o, func() (durable.FS, error) { return durable.MakeDirs(o.Dir, 0o755) })
}

// write is Write to the folder that open opens.
func write(ctx context.Context, c *syncclient.Client, o Options, open func() (durable.FS, error)) (Result, error) {
	set, layers, err := gather(ctx, c, &o)
	if err != nil {
		return Result{}, err
	}
	fsys, err := open()
	if err != nil {
		return Result{}, fmt.Errorf("open the medium: %w", err)
	}
	if o.PartSize == 0 {
		o.PartSize = largestFile(o.Dir)
	}
	w := &writer{Options: o, c: c, fsys: fsys}
	res := Result{Dir: o.Dir}
	outs, err := outputs(layers, o.PartSize)
	if err != nil {
		return res, explain(err, o.Dir, "the layers", o.PartSize)
	}
	superseded, err := w.superseded(ctx, set, outs)
	if err == nil {
		err = w.checkRoom(outs, superseded, &res)
	}
	if err != nil {
		return res, explain(err, o.Dir, "the layers", 0)
	}
	for _, f := range outs {
		done, err := w.file(ctx, f)
		if err != nil {
			return res, explain(err, o.Dir, f.name, f.size())
		}
		res.Files = append(res.Files, done)
	}
	if err := w.manifests(set); err != nil {
		return res, explain(err, o.Dir, "the manifest", 0)
	}
	if err := w.remove(superseded, &res); err != nil {
		return res, explain(err, o.Dir, "what is superseded", 0)
	}
	note(ctx, c, set)
	return res, nil
}

// gather finds out what goes onto a medium, and with which keys.
func gather(ctx context.Context, c *syncclient.Client, o *Options) (content, []loaded, error) {
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	set, err := choose(ctx, c, *o)
	if err != nil {
		return set, nil, err
	}
	keys, err := keysFor(ctx, c, set, *o)
	if err != nil {
		return set, nil, err
	}
	layers, err := load(ctx, c, set.items, keys)
	return set, layers, err
}

// note tells the Synchronizer what was written: it can make layers that suit those who have the medium. When it does not learn of
// it, nothing is lost.
func note(ctx context.Context, c *syncclient.Client, set content) {
	for _, e := range set.manifests {
		_ = c.NoteMedium(ctx, e.Image, e.Version)
	}
}

type writer struct {
	Options
	c    *syncclient.Client
	fsys durable.FS
}

// file sees to it that one file is on the medium.
func (w *writer) file(ctx context.Context, o *output) (File, error) {
	ext := filepath.Ext(o.name)
	stem := o.name[:len(o.name)-len(ext)]
	for _, name := range numbered(stem, ext) {
		there := w.look(name, o.isIt)
		if there == foreign {
			continue
		}
		o.name = name
		res := File{
			Path: filepath.Join(w.Dir, name), Layer: o.x.ID(), Length: o.size(), Sealed: o.key != nil, Part: o.n > 0 && o.n < o.x.Len(),
		}
		if there == ours {
			var err error
			if res.Blocks, err = w.check(ctx, name, o); err == nil || ctx.Err() != nil {
				return res, err
			}
		}
		if w.look(name+durable.TempSuffix, unfinished(o.isIt)) == foreign {
			continue
		}
		err := w.replace(ctx, o, &res)
		res.Written = err == nil
		return res, err
	}
	return File{}, errNames
}

// errNames says that a medium has something else under every name that a file could get.
var errNames = errors.New("other files have all names that it could get")

// replace writes one file, in place of nothing or of a file of ours that is no good.
func (w *writer) replace(ctx context.Context, o *output, res *File) error {
	temp := o.name + durable.TempSuffix
	at, err := w.resume(ctx, temp, o)
	if err == nil {
		err = w.makeRoom(o, temp)
	}
	if err != nil {
		return err
	}
	if err := w.fill(ctx, temp, o, at); err != nil {
		if errors.Is(err, syscall.EFBIG) || errors.Is(err, errKept) {
			err = errors.Join(err, durable.Remove(w.fsys, temp)) // it would be of no use to the next run
		}
		return err
	}
	if res.Blocks, err = w.check(ctx, temp, o); err != nil {
		if ctx.Err() == nil {
			err = errors.Join(w.blame(ctx, err, o), durable.Remove(w.fsys, temp))
		}
		return err
	}
	res.Resumed = at.frame - o.first
	return durable.Publish(w.fsys, temp, o.name)
}

// fill writes a temporary file from where an earlier run was on, and syncs it.
func (w *writer) fill(ctx context.Context, temp string, o *output, at progressOf) error {
	var out durable.File
	var err error
	if at.there {
		out, err = w.fsys.OpenWrite(temp)
	} else {
		out, err = w.fsys.Create(temp, 0o644)
		if err == nil {
			// From now on what is synced is found, whenever the medium is pulled out.
			err = w.fsys.SyncDir(".")
		}
	}
	if err != nil {
		return err
	}
	p := &pouring{writer: w, o: o, h: o.holding(at.salt), out: out, sync: out.Sync}
	err = p.run(ctx, at.frame)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// makeRoom returns an error unless the file fits. The damaged file of the same name goes when there is no room beside it.
func (w *writer) makeRoom(o *output, temp string) error {
	need := o.size()
	if st, err := w.fsys.Stat(temp); err == nil {
		need -= st.Size()
	}
	free, err := w.fsys.Free()
	if err != nil || free >= need {
		return err
	}
	if err := durable.Remove(w.fsys, o.name); err != nil {
		return err
	}
	if free, err = w.fsys.Free(); err != nil || free >= need {
		return err
	}
	return noRoom(free, need)
}

func noRoom(free, need int64) error {
	return fmt.Errorf("%d bytes are free, %d are needed: %w", free, need, syscall.ENOSPC)
}

// checkRoom returns an error unless everything fits, before anything is written. Where it does not fit beside what is superseded,
// that goes first.
func (w *writer) checkRoom(outs []*output, superseded []string, res *Result) error {
	need := int64(0)
	for _, o := range outs {
		size := o.size()
		for _, name := range []string{o.name, o.name + durable.TempSuffix} {
			if w.look(name, o.isIt) != ours {
				continue
			}
			if st, err := w.fsys.Stat(name); err == nil && st.Size() <= size {
				size -= st.Size() // it is good, or it goes, or it is gone on with
				break
			}
		}
		need += size
	}
	free, err := w.fsys.Free()
	if err != nil || free >= need {
		return err
	}
	if len(superseded) > 0 {
		if err := w.remove(superseded, res); err != nil {
			return err
		}
		if free, err = w.fsys.Free(); err != nil || free >= need {
			return err
		}
	}
	return noRoom(free, need)
}

// manifests sees to it that the signed manifests are on the medium. They tell people, and nothing is needed from them, so that a
// sealed medium has none.
func (w *writer) manifests(set content) error {
	if w.Encrypt {
		return nil
	}
	for _, e := range set.manifests {
		if err := w.manifest(e); err != nil {
			return err
		}
	}
	return nil
}

// manifestName returns the name of a manifest without its ending.
func manifestName(want Want) string { return fmt.Sprintf("%s-v%d", want.Image, want.Version) }

const manifestSuffix = ".manifest.json"

func (w *writer) manifest(e envelope) error {
	made := madeManifest(e.bytes)
	for _, name := range numbered(manifestName(e.Want), manifestSuffix) {
		there := w.look(name, made)
		if there == foreign || w.look(name+durable.TempSuffix, unfinished(made)) == foreign {
			continue
		}
		if there == ours {
			if b, err := durable.ReadFile(w.fsys, name, image.MaxEnvelopeSize); err == nil && bytes.Equal(b, e.bytes) {
				return nil
			}
		}
		return durable.WriteFile(w.fsys, name, e.bytes, 0o644)
	}
	return errNames
}

// madeManifest returns the test for manifests. They are told by how they begin, so that one that was cut short is replaced.
func madeManifest(env []byte) func(durable.File, int64) bool {
	head, _, _ := bytes.Cut(env, []byte("payload"))
	return func(in durable.File, _ int64) bool {
		b := make([]byte, len(head))
		n, _ := in.ReadAt(b, 0)
		return bytes.Equal(b[:n], head)
	}
}

// remove removes superseded files.
func (w *writer) remove(names []string, res *Result) error {
	for _, name := range names {
		if slices.Contains(res.Removed, name) {
			continue
		}
		if err := durable.Remove(w.fsys, name); err != nil {
			return err
		}
		res.Removed = append(res.Removed, name)
	}
	return nil
}
