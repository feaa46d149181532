package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
	"disksync/syncclient"
	"disksync/vhd"
)

// chain is the path of layers to a disk of a version.
type chain struct {
	role image.Role
	want Want
	path []image.LayerRef
	made vhd.Timestamp
}

// plainVHD is a VHD that goes onto a medium: the disk that the last layer of the path leads to.
type plainVHD struct {
	name   string
	path   []layer.Source
	state  image.State
	parent *plainVHD // nil: it stands alone
	made   vhd.Timestamp
}

const vhdSuffix = ".vhd"

// WritePlain writes the wanted versions as plain VHD files that any program reads: for each disk a dynamic one and differencing ones
// upon it. Endpoints take them as media too. What is there and good stays.
func WritePlain(ctx context.Context, c *syncclient.Client, o Options) (Result, error) {
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	set, err := choose(ctx, c, o)
	if err != nil {
		return Result{}, err
	}
	layers, err := load(ctx, c, set.items, nil)
	if err != nil {
		return Result{}, err
	}
	files, err := plainFiles(ctx, c, set, layers)
	if err != nil {
		return Result{}, err
	}
	fsys, err := durable.MakeDirs(o.Dir, 0o755)
	if err != nil {
		return Result{}, fmt.Errorf("open the medium: %w", err)
	}
	w := &writer{Options: o, c: c, fsys: fsys}
	res := Result{Dir: o.Dir}
	limit := o.PartSize
	if limit == 0 {
		limit = largestFile(o.Dir)
	}
	if err := w.plainRoom(files, limit); err != nil {
		return res, explain(err, o.Dir, "the disks", limit)
	}
	for _, f := range files {
		done, err := w.plainFile(ctx, f)
		if err != nil {
			return res, explain(err, o.Dir, f.name, 0)
		}
		res.Files = append(res.Files, done)
	}
	if err := w.manifests(set); err != nil {
		return res, explain(err, o.Dir, "the manifest", 0)
	}
	note(ctx, c, set)
	return res, nil
}

// plainFiles lists the VHDs, parents first. A disk that two versions share is there once.
func plainFiles(ctx context.Context, c *syncclient.Client, set content, layers []loaded) ([]*plainVHD, error) {
	index := map[image.LayerID]loaded{}
	for _, l := range layers {
		index[l.x.ID()] = l
	}
	var out []*plainVHD
	byState := map[image.StateID]*plainVHD{}
	for _, ch := range set.chains {
		var path []layer.Source
		var at image.State
		var parent *plainVHD
		for i, ref := range ch.path {
			l := index[ref.ID]
			if !l.x.From().IsZero() && l.x.Size() < l.x.FromSize() {
				parent = nil // a differencing disk cannot be smaller than what it is upon
			}
			path = append(path[:len(path):len(path)], layer.Source{Index: l.x, R: c.ReaderAt(ctx, ref)})
			var err error
			if at, err = l.x.Apply(at); err != nil {
				return nil, fmt.Errorf("%s version %d: %w", ch.want.Image, ch.want.Version, err)
			}
			f := byState[ref.To]
			if f == nil {
				f = &plainVHD{
					name:  fmt.Sprintf("%s-%s-%03d-%s%s", ch.want.Image, ch.role, i+1, ref.To.Short(), vhdSuffix),
					state: at, path: path, parent: parent, made: ch.made,
				}
				byState[ref.To] = f
				out = append(out, f)
			}
			parent = f
		}
	}
	return out, nil
}

// uuid returns the uuid of the VHD, which follows from what it holds.
func (f *plainVHD) uuid() image.UUID { return image.VHDUUID(f.state.ID()) }

// most returns how many bytes the file can have at most.
func (f *plainVHD) most() int64 {
	blocks := 0
	if f.parent == nil {
		blocks = f.state.DataBlocks()
	} else {
		blocks = f.path[len(f.path)-1].Index.Len()
	}
	return int64(blocks)*(image.BlockSize+512) + int64(len(f.state.Blocks))*4 + 8192
}

// plainRoom returns an error unless everything fits.
func (w *writer) plainRoom(files []*plainVHD, limit int64) error {
	need := int64(0)
	for _, f := range files {
		if limit > 0 && f.most() > limit {
			return &fs.PathError{Op: "write", Path: f.name, Err: errTooLarge}
		}
		size := f.most()
		for _, name := range []string{f.name, f.name + durable.TempSuffix} {
			if st, err := w.fsys.Stat(name); err == nil {
				size = max(size-st.Size(), 0)
			}
		}
		need += size
	}
	free, err := w.fsys.Free()
	if err == nil && free < need {
		return noRoom(free, need)
	}
	return err
}

// plainFile sees to it that one VHD is on the medium. Its parents are.
func (w *writer) plainFile(ctx context.Context, f *plainVHD) (File, error) {
	made := func(in durable.File, size int64) bool {
		m, err := vhd.Open(in, size, vhd.Salvage())
		return err == nil && m.UUID() == f.uuid()
	}
	unfinishedVHD := func(in durable.File, size int64) bool { return true } // our temporary name, and no VHD yet
	stem := f.name[:len(f.name)-len(vhdSuffix)]
	for _, name := range numbered(stem, vhdSuffix) {
		there := w.look(name, made)
		if there == foreign || w.look(name+durable.TempSuffix, unfinishedVHD) == foreign {
			continue
		}
		f.name = name
		last := f.path[len(f.path)-1].Index
		res := File{Path: filepath.Join(w.Dir, name), Layer: last.ID(), Blocks: len(f.state.Blocks)}
		var err error
		if there == ours {
			if res.Length, err = w.checkPlain(ctx, name, f); err == nil || ctx.Err() != nil {
				return res, err
			}
		}
		temp := name + durable.TempSuffix
		if err = w.convert(ctx, temp, f); err == nil {
			if res.Length, err = w.checkPlain(ctx, temp, f); err == nil {
				res.Written = true
				return res, durable.Publish(w.fsys, temp, name)
			}
		}
		return res, errors.Join(err, durable.Remove(w.fsys, temp))
	}
	return File{}, errNames
}

// convert writes the VHD. Blocks are unpacked to a temporary file of this machine.
func (w *writer) convert(ctx context.Context, temp string, f *plainVHD) error {
	r, free, err := unpacked(f.path)
	if err != nil {
		return err
	}
	defer free()
	src := &difference{Reader: r, x: f.path[len(f.path)-1].Index}
	o := vhd.CreateOptions{Size: f.state.Size, UUID: f.uuid(), Timestamp: f.made}
	if f.parent != nil {
		below, free, err := unpacked(f.path[:len(f.path)-1])
		if err != nil {
			return err
		}
		defer free()
		src.below = below
		o.Parent = &vhd.Parent{UUID: f.parent.uuid(), Path: f.parent.name}
	}
	out, err := w.fsys.Create(temp, 0o644)
	if err != nil {
		return err
	}
	err = vhd.Convert(ctx, out, src, o, vhd.CopyOptions{Progress: func(done, total int64) { w.Progress("write "+f.name, done, total) }})
	return errors.Join(err, out.Close())
}

// unpacked opens the disk that a path leads to. The caller calls free when it is done.
func unpacked(path []layer.Source) (r *layer.Reader, free func(), err error) {
	scratch, err := os.CreateTemp("", "disksync-*") //nolint:forbidigo // not a persistent file, it loses its name below
	if err != nil {
		return nil, nil, fmt.Errorf("room to unpack blocks: %w", err)
	}
	if err = os.Remove(scratch.Name()); err == nil { //nolint:forbidigo // the same
		r, err = layer.NewReader(path, scratch)
	}
	if err != nil {
		scratch.Close()
		return nil, nil, err
	}
	return r, func() { r.Close(); scratch.Close() }, nil
}

// checkPlain reads a VHD and its parents back from the medium and compares every block. It returns its length.
func (w *writer) checkPlain(ctx context.Context, name string, f *plainVHD) (int64, error) {
	byID := map[image.UUID]*vhd.Image{}
	var leaf *vhd.Image
	length := int64(0)
	for at := f; at != nil; at = at.parent {
		if at != f {
			name = at.name
		}
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
		m, err := vhd.Open(io.NewSectionReader(in, 0, size), size)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", layer.ErrFormat, err)
		}
		if byID[at.uuid()] = m; at == f {
			leaf, length = m, size
		}
	}
	st, err := readState(ctx, leaf, byID, func(done, total int64) { w.Progress("verify "+f.name, done, total) })
	if err == nil && st.ID() != f.state.ID() {
		err = fmt.Errorf("%w: the disk reads otherwise", layer.ErrCorrupt)
	}
	return length, err
}
