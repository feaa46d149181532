// Package media writes what endpoints need of a version to a folder, such as the mount point of a stick.
//
// The files describe themselves, so names and folders carry no meaning for the endpoint; the names here are for people. Each
// file is written under a temporary name, synced, read back past the system's memory and checked frame by frame before it
// gets its name: a stick that keeps what it was given is worth more than one that was fast.
package media

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"disksync/api"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
	"disksync/layer"
	"disksync/syncclient"
)

// Options says what to write where.
type Options struct {
	Image   string
	Version image.Version
	Dir     string // made when it is not there
	// Progress is told what is done and how far it is, in bytes, by one goroutine at a time; nil: nobody is.
	Progress func(stage string, done, total int64)
}

// Result says what is on the medium now.
type Result struct {
	Dir   string `json:"dir"`
	Files []File `json:"files"`
}

// File is one file of a Result.
type File struct {
	Path    string        `json:"path"`
	Layer   image.LayerID `json:"layer"`
	Length  int64         `json:"length"`
	Blocks  int           `json:"blocks"`  // verified by reading them back
	Written bool          `json:"written"` // false: it was there already, and good
}

// Write writes the layers of a version and its manifest into the folder. What is there already and is good stays; what is not ours
// stays in any case, and when it has the name of one of the files, that file gets another.
func Write(ctx context.Context, c *syncclient.Client, o Options) (Result, error) {
	return write(ctx, c, o, func() (durable.FS, error) { return durable.MakeDirs(o.Dir, 0o755) })
}

// write is Write to the folder that open opens.
func write(ctx context.Context, c *syncclient.Client, o Options, open func() (durable.FS, error)) (Result, error) {
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	files, err := c.MediaFiles(ctx, o.Image, o.Version)
	if err != nil {
		return Result{}, fmt.Errorf("look up version %d of %s: %w", o.Version, o.Image, err)
	}
	env, err := manifest(ctx, c, o, files)
	if err != nil {
		return Result{}, fmt.Errorf("manifest of version %d of %s: %w", o.Version, o.Image, err)
	}
	fsys, err := open()
	if err != nil {
		return Result{}, fmt.Errorf("open the medium: %w", err)
	}
	w := &writer{Options: o, c: c, fsys: fsys}
	res := Result{Dir: o.Dir}
	for _, f := range files {
		done, err := w.file(ctx, f)
		if err != nil {
			return res, explain(err, o.Dir, f.Name, f)
		}
		res.Files = append(res.Files, done)
	}
	if err := w.manifest(env); err != nil {
		return res, explain(err, o.Dir, "the manifest", api.MediaFile{Length: int64(len(env))})
	}
	// The Synchronizer can make layers that suit those who have the medium. When it does not learn of it, nothing is lost.
	_ = c.NoteMedium(ctx, o.Image, o.Version)
	return res, nil
}

// manifest returns the signed manifest, which must speak of the very files: between the two requests an image can be deleted and
// made anew.
func manifest(ctx context.Context, c *syncclient.Client, o Options, files []api.MediaFile) ([]byte, error) {
	server, err := c.Server(ctx)
	if err != nil {
		return nil, err
	}
	env, err := c.Manifest(ctx, o.Image, o.Version)
	if err != nil {
		return nil, err
	}
	v, err := image.VerifyManifest(env, server.SigningKey)
	if err != nil {
		return nil, err
	}
	var listed, signed []image.LayerID
	for _, f := range files {
		listed = append(listed, f.Layer)
	}
	for _, d := range v.Manifest().Disks {
		for _, l := range d.Layers {
			signed = append(signed, l.ID)
		}
	}
	if v.Manifest().Image != o.Image || v.Manifest().Version != o.Version || !slices.Equal(listed, signed) {
		return nil, errors.New("it is not of this version any more; run the same command again")
	}
	return env, nil
}

type writer struct {
	Options
	c    *syncclient.Client
	fsys durable.FS
}

// file sees to it that one layer is on the medium.
func (w *writer) file(ctx context.Context, f api.MediaFile) (File, error) {
	suffix := path.Ext(f.Name)
	for _, name := range numbered(strings.TrimSuffix(f.Name, suffix), suffix) {
		made := madeLayer(f.Layer)
		there := w.look(name, made)
		if there == foreign {
			continue
		}
		f.Name = name
		res := File{Path: filepath.Join(w.Dir, name), Layer: f.Layer, Length: f.Length}
		if there == ours {
			var err error
			if res.Blocks, err = w.check(ctx, name, f); err == nil || ctx.Err() != nil {
				return res, err
			}
		}
		if w.look(name+durable.TempSuffix, unfinished(made)) == foreign {
			continue
		}
		var err error
		res.Blocks, err = w.replace(ctx, f)
		res.Written = err == nil
		return res, err
	}
	return File{}, errNames
}

// errNames says that a medium has something else under every name that a file could get.
var errNames = errors.New("other files have all names that it could get")

// replace writes one layer, in place of nothing or of a file of ours that is no good. It returns the number of blocks.
func (w *writer) replace(ctx context.Context, f api.MediaFile) (int, error) {
	temp := f.Name + durable.TempSuffix
	if err := w.makeRoom(f, temp); err != nil {
		return 0, err
	}
	sum, err := w.copy(ctx, temp, f)
	if err != nil {
		return 0, errors.Join(err, durable.Remove(w.fsys, temp))
	}
	blocks, err := w.check(ctx, temp, f)
	if err != nil && ctx.Err() == nil {
		err = w.blame(err, temp, sum)
	}
	if err != nil {
		return 0, errors.Join(err, durable.Remove(w.fsys, temp))
	}
	return blocks, durable.Publish(w.fsys, temp, f.Name)
}

// manifest sees to it that the signed manifest is on the medium.
func (w *writer) manifest(env []byte) error {
	// A manifest is told by how it begins, so that one that was cut short is replaced.
	head, _, _ := bytes.Cut(env, []byte("payload"))
	made := func(in durable.File, _ int64) bool {
		b := make([]byte, len(head))
		n, _ := in.ReadAt(b, 0)
		return bytes.Equal(b[:n], head)
	}
	for _, name := range numbered(fmt.Sprintf("%s-v%d", w.Image, w.Version), ".manifest.json") {
		there := w.look(name, made)
		if there == foreign || w.look(name+durable.TempSuffix, unfinished(made)) == foreign {
			continue
		}
		if there == ours {
			if b, err := durable.ReadFile(w.fsys, name, image.MaxEnvelopeSize); err == nil && bytes.Equal(b, env) {
				return nil
			}
		}
		return durable.WriteFile(w.fsys, name, env, 0o644)
	}
	return errNames
}

// makeRoom returns an error unless the file fits. What an interrupted run left goes in any case, and the damaged file of the
// same name when there is no room beside it.
func (w *writer) makeRoom(f api.MediaFile, temp string) error {
	var free int64
	for _, garbage := range []string{temp, f.Name} {
		if err := durable.Remove(w.fsys, garbage); err != nil {
			return err
		}
		var err error
		if free, err = w.fsys.Free(); err != nil || free >= f.Length {
			return err
		}
	}
	return fmt.Errorf("%d bytes are free, %d are needed: %w", free, f.Length, syscall.ENOSPC)
}

// copy brings the layer's bytes onto the medium and returns their SHA-256.
func (w *writer) copy(ctx context.Context, temp string, f api.MediaFile) ([]byte, error) {
	out, err := w.fsys.Create(temp, 0o644)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	err = w.transfer(ctx, out, h, f)
	if err == nil {
		err = out.Sync()
	}
	return h.Sum(nil), errors.Join(err, out.Close())
}

// errKept says that a medium kept what was written to it, though that is not the layer.
var errKept = errors.New("the Synchronizer sends it so")

// blame finds out whose fault it is that a file does not pass the check: whether it reads as it was written.
func (w *writer) blame(err error, temp string, sum []byte) error {
	in, openErr := w.fsys.Open(temp)
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	defer in.Close()
	size, sizeErr := in.Size()
	h := sha256.New()
	if _, readErr := io.Copy(h, io.NewSectionReader(in, 0, size)); sizeErr != nil || readErr != nil {
		return errors.Join(err, sizeErr, readErr)
	}
	if bytes.Equal(h.Sum(nil), sum) {
		return fmt.Errorf("%w: %w", errKept, err)
	}
	return fmt.Errorf("read back: %w", err)
}

// transfer fetches the file, going on where the line broke as long as something moves.
func (w *writer) transfer(ctx context.Context, out io.WriterAt, h io.Writer, f api.MediaFile) error {
	var pause syncclient.Backoff
	at, failures := int64(0), 0
	for at < f.Length {
		n, err := w.stretch(ctx, out, h, f, at)
		at += n
		if n > 0 {
			failures = 0
			pause.Reset()
		}
		if err == nil {
			continue
		}
		if failures++; !syncclient.Temporary(err) || failures > maxFailures {
			return err
		}
		if err := pause.Wait(ctx, err); err != nil {
			return err
		}
	}
	return nil
}

const maxFailures = 6

// stretch copies from at as far as one request gets.
func (w *writer) stretch(ctx context.Context, out io.WriterAt, h io.Writer, f api.MediaFile, at int64) (int64, error) {
	body, err := w.c.Range(ctx, image.LayerRef{ID: f.Layer, Length: f.Length}, at, f.Length-at)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	buf := make([]byte, 1<<20)
	var n int64
	for {
		k, readErr := io.ReadFull(body, buf)
		if _, err := out.WriteAt(buf[:k], at+n); err != nil {
			return n, fmt.Errorf("write: %w", err)
		}
		_, _ = h.Write(buf[:k]) // a hash takes everything
		n += int64(k)
		w.Progress("write "+f.Name, at+n, f.Length)
		if errors.Is(readErr, io.EOF) || errors.Is(readErr, io.ErrUnexpectedEOF) && at+n == f.Length {
			return n, nil
		}
		if readErr != nil {
			return n, readErr
		}
	}
}

// check reads a file of the medium past the system's memory and checks every block. It returns the number of blocks.
func (w *writer) check(ctx context.Context, name string, f api.MediaFile) (int, error) {
	in, err := w.fsys.Open(name)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	size, err := in.Size()
	if err != nil {
		return 0, err
	}
	in.DropCache()
	x, err := layer.ReadIndex(in, size)
	if err != nil {
		return 0, err
	}
	if x.ID() != f.Layer {
		return 0, fmt.Errorf("it holds layer %s, not %s", x.ID().Short(), f.Layer.Short())
	}
	var mu sync.Mutex
	done := int64(0)
	// The disks that differences start from need not be unpacked for this: their frames have check sums.
	err = layer.Verify(ctx, in, x, nil, nil, func(fr layer.Frame, err error) error {
		mu.Lock()
		defer mu.Unlock()
		done += int64(fr.Length)
		w.Progress("verify "+f.Name, done, f.Length)
		return err
	})
	if err == nil {
		w.Progress("verify "+f.Name, f.Length, f.Length) // the index is read as well
	}
	return x.Len(), err
}

func explain(err error, dir, what string, f api.MediaFile) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return problem.New("DS-MEDIA-SPACE", problem.NoSpace, err, "no room on the medium "+dir, "files that are complete stay, and are good", "use a larger medium")
	case errors.Is(err, syscall.EFBIG):
		return problem.New("DS-MEDIA-FILESIZE", problem.NoSpace, err,
			fmt.Sprintf("the file system of %s takes no file of %d bytes", dir, f.Length), "files that are complete stay, and are good",
			"format the medium with NTFS, exFAT or ext4")
	case errors.Is(err, errKept):
		return problem.New("DS-SERVER-DAMAGED", problem.Damaged, err, fmt.Sprintf("what the Synchronizer has as layer %s is not that layer", f.Layer.Short()),
			"the file was removed from the medium; files that are complete stay, and are good", "the administrator of the Synchronizer has to look at its disk")
	case errors.Is(err, layer.ErrCorrupt), errors.Is(err, layer.ErrFormat), errors.Is(err, syscall.EIO):
		return problem.New("DS-MEDIA-BAD", problem.Damaged, err, "the medium "+dir+" does not keep what is written to it",
			"the damaged file was removed", "use another medium")
	}
	return fmt.Errorf("write %s: %w", what, err)
}
