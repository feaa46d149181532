// Package media writes what endpoints need of a version to a folder, such as the mount point of a stick.
//
// The files describe themselves, so names and folders carry no meaning for the endpoint; the names here are for people. Each
// file is written under a temporary name, synced, read back past the system's memory and checked frame by frame before it
// gets its name: a stick that keeps what it was given is worth more than one that was fast.
package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
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
	// Progress is told what is done and how far it is, in bytes; nil: nobody is.
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

// Write writes the layers of a version and its manifest into the folder. What is there already and is good stays.
func Write(ctx context.Context, c *syncclient.Client, o Options) (Result, error) {
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	files, err := c.MediaFiles(ctx, o.Image, o.Version)
	if err != nil {
		return Result{}, fmt.Errorf("look up version %d of %s: %w", o.Version, o.Image, err)
	}
	env, err := c.Manifest(ctx, o.Image, o.Version)
	if err != nil {
		return Result{}, fmt.Errorf("manifest of version %d of %s: %w", o.Version, o.Image, err)
	}
	fsys, err := durable.MakeDirs(o.Dir, 0o755)
	if err != nil {
		return Result{}, fmt.Errorf("open the medium: %w", err)
	}
	w := &writer{Options: o, c: c, fsys: fsys}
	res := Result{Dir: o.Dir}
	for _, f := range files {
		done, err := w.file(ctx, f)
		if err != nil {
			return res, explain(err, o.Dir, f)
		}
		res.Files = append(res.Files, done)
	}
	name := fmt.Sprintf("%s-v%d.manifest.json", o.Image, o.Version)
	return res, durable.WriteFile(fsys, name, env, 0o644)
}

type writer struct {
	Options
	c    *syncclient.Client
	fsys durable.FS
}

// file sees to it that one layer is on the medium.
func (w *writer) file(ctx context.Context, f api.MediaFile) (File, error) {
	res := File{Path: filepath.Join(w.Dir, f.Name), Layer: f.Layer, Length: f.Length}
	var err error
	if res.Blocks, err = w.check(ctx, f.Name, f); err == nil {
		return res, nil
	}
	if ctx.Err() != nil {
		return res, err
	}
	free, err := w.fsys.Free()
	if err != nil {
		return res, err
	}
	if free < f.Length {
		return res, fmt.Errorf("%d bytes are free, %d are needed: %w", free, f.Length, syscall.ENOSPC)
	}
	temp := f.Name + durable.TempSuffix
	if err := w.copy(ctx, temp, f); err != nil {
		return res, errors.Join(err, durable.Remove(w.fsys, temp))
	}
	if res.Blocks, err = w.check(ctx, temp, f); err != nil {
		return res, errors.Join(fmt.Errorf("read back: %w", err), durable.Remove(w.fsys, temp))
	}
	res.Written = true
	return res, durable.Publish(w.fsys, temp, f.Name)
}

// copy brings the layer's bytes onto the medium.
func (w *writer) copy(ctx context.Context, temp string, f api.MediaFile) error {
	out, err := w.fsys.Create(temp, 0o644)
	if err != nil {
		return err
	}
	err = w.transfer(ctx, out, f)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// transfer fetches the file, going on where the line broke as long as something moves.
func (w *writer) transfer(ctx context.Context, out io.WriterAt, f api.MediaFile) error {
	var pause syncclient.Backoff
	at, failures := int64(0), 0
	for at < f.Length {
		n, err := w.stretch(ctx, out, f, at)
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
func (w *writer) stretch(ctx context.Context, out io.WriterAt, f api.MediaFile, at int64) (int64, error) {
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
	err = layer.Verify(ctx, in, x, func(fr layer.Frame, err error) error {
		w.Progress("verify "+f.Name, fr.Offset+int64(fr.Length), f.Length)
		return err
	})
	return x.Len(), err
}

func explain(err error, dir string, f api.MediaFile) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return problem.New("DS-MEDIA-SPACE", problem.NoSpace, err, "no room on the medium "+dir, "files that are complete stay, and are good", "use a larger medium")
	case errors.Is(err, syscall.EFBIG):
		return problem.New("DS-MEDIA-FILESIZE", problem.NoSpace, err,
			fmt.Sprintf("the file system of %s takes no file of %d bytes", dir, f.Length), "files that are complete stay, and are good",
			"format the medium with NTFS, exFAT or ext4")
	case errors.Is(err, layer.ErrCorrupt):
		return problem.New("DS-MEDIA-BAD", problem.Damaged, err, "the medium "+dir+" does not keep what is written to it",
			"the damaged file was removed", "use another medium")
	}
	return fmt.Errorf("write %s: %w", f.Name, err)
}
