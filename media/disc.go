package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"disksync/internal/durable"
	"disksync/internal/problem"
	"disksync/layer"
	"disksync/media/disc"
	"disksync/syncclient"
)

// WriteImage writes what Write does into images of discs, to be burned. What an interrupted run left of an image is gone on with.
func WriteImage(ctx context.Context, c *syncclient.Client, o Options) (Result, error) {
	return writeImage(ctx, c, o, func() (durable.FS, error) { return durable.MakeDirs(filepath.Dir(o.Image), 0o755) })
}

// writeImage is WriteImage to the folder that open opens.
func writeImage(ctx context.Context, c *syncclient.Client, o Options, open func() (durable.FS, error)) (Result, error) {
	set, layers, err := gather(ctx, c, &o)
	if err != nil {
		return Result{}, err
	}
	o.Dir = filepath.Dir(o.Image)
	all, err := volumes(layers, set, o)
	if err != nil {
		return Result{}, explain(err, o.Image, "the image", o.Size)
	}
	fsys, err := open()
	if err != nil {
		return Result{}, fmt.Errorf("open the folder: %w", err)
	}
	w := &writer{Options: o, c: c, fsys: fsys}
	res := Result{Dir: o.Dir}
	if err := w.imageRoom(all); err != nil {
		return res, explain(err, o.Dir, "the image", 0)
	}
	for _, v := range all {
		files, err := w.volume(ctx, v)
		if err != nil {
			return res, explain(err, o.Dir, filepath.Base(v.path), v.layout.Size())
		}
		res.Files = append(res.Files, files...)
		res.Volumes = append(res.Volumes, Volume{v.path, v.layout.Size()})
	}
	note(ctx, c, set)
	return res, nil
}

// imageRoom returns an error unless all images have room, and no file of somebody else has their names.
func (w *writer) imageRoom(all []*volume) error {
	need := int64(0)
	limit := largestFile(w.Dir)
	for _, v := range all {
		name := filepath.Base(v.path)
		for _, n := range []string{name, name + durable.TempSuffix} {
			if w.look(n, unfinished(madeImage)) == foreign {
				return problem.New("DS-MEDIA-EXISTS", problem.Busy, nil, problem.Printable(filepath.Join(w.Dir, n))+" is another file", "it is as it was",
					"give another name, or move it away")
			}
		}
		size := v.layout.Size()
		if limit > 0 && size > limit {
			return fmt.Errorf("%s: %w", name, errTooLarge)
		}
		if st, err := w.fsys.Stat(name + durable.TempSuffix); err == nil {
			size = max(size-st.Size(), 0)
		} else if st, err := w.fsys.Stat(name); err == nil && st.Size() == size {
			size = 0 // it is good, or there will be room in its place
		}
		need += size
	}
	free, err := w.fsys.Free()
	if err == nil && free < need {
		return noRoom(free, need)
	}
	return err
}

// madeImage reports whether a file is an image that was made here.
func madeImage(in durable.File, _ int64) bool {
	_, _, err := disc.Open(in)
	return err == nil || madeHere(in)
}

// madeHere reports whether a file begins as an image does that was made here, complete or not.
func madeHere(in io.ReaderAt) bool {
	b := make([]byte, disc.SectorSize)
	_, err := in.ReadAt(b, 16*disc.SectorSize)
	return err == nil && string(b[1:6]) == "CD001" && bytes.HasPrefix(b[574:], []byte("DISKSYNC"))
}

// volume sees to it that one image is there.
func (w *writer) volume(ctx context.Context, v *volume) ([]File, error) {
	name := filepath.Base(v.path)
	files := make([]File, len(v.outs))
	for i, o := range v.outs {
		files[i] = File{
			Path: filepath.Join(v.path, o.name), Layer: o.x.ID(), Length: o.size(), Sealed: o.key != nil, Part: o.n > 0 && o.n < o.x.Len(),
		}
	}
	if w.look(name, madeImage) == ours {
		if _, err := w.checkImage(ctx, name, v, files); err == nil || ctx.Err() != nil {
			return files, err
		}
		if free, err := w.fsys.Free(); err == nil && free < v.layout.Size() {
			if err := durable.Remove(w.fsys, name); err != nil {
				return nil, err
			}
		}
	}
	temp := name + durable.TempSuffix
	if err := w.fillImage(ctx, temp, v, files); err != nil {
		return nil, err
	}
	if o, err := w.checkImage(ctx, temp, v, files); err != nil {
		if ctx.Err() == nil {
			if o != nil {
				err = w.blame(ctx, err, o)
			}
			err = errors.Join(err, durable.Remove(w.fsys, temp))
		}
		return nil, err
	}
	for i := range files {
		files[i].Written = true
	}
	return files, durable.Publish(w.fsys, temp, name)
}

// fillImage writes an image from where an earlier run was on, and syncs it.
func (w *writer) fillImage(ctx context.Context, temp string, v *volume, files []File) error {
	out, resumed, err := w.openImage(temp, v)
	if out == nil {
		return err
	}
	if err == nil {
		err = w.pourImage(ctx, out, v, files, resumed)
	}
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// openImage opens what an earlier run left of an image, or begins it with its tables. The caller closes out also when there is an
// error, unless it is nil.
func (w *writer) openImage(temp string, v *volume) (out durable.File, resumed bool, err error) {
	head := v.layout.Head()
	if out, err = w.fsys.OpenWrite(temp); err == nil {
		got := make([]byte, len(head))
		if n, _ := out.ReadAt(got, 0); n == len(head) && bytes.Equal(got, head) {
			out.DropCache()
			return out, true, v.putManifests(out) // the earlier run may not have come to them
		}
		out.Close() // nothing was written to it
	}
	if err := durable.Remove(w.fsys, temp); err != nil {
		return nil, false, err
	}
	if out, err = w.fsys.Create(temp, 0o644); err != nil {
		return nil, false, err
	}
	if _, err = out.WriteAt(head, 0); err == nil {
		err = v.putManifests(out)
	}
	if err == nil {
		err = out.Sync()
	}
	if err == nil {
		err = w.fsys.SyncDir(".")
	}
	return out, false, err
}

// putManifests writes the manifests of an image.
func (v *volume) putManifests(out io.WriterAt) error {
	for i, e := range v.manifests {
		if _, err := out.WriteAt(e.bytes, v.layout.Offset(i)); err != nil {
			return err
		}
	}
	return nil
}

// pourImage writes the layers of an image.
func (w *writer) pourImage(ctx context.Context, out durable.File, v *volume, files []File, resumed bool) error {
	size, err := out.Size()
	if err != nil {
		return err
	}
	for i, o := range v.outs {
		base := v.layout.Offset(v.file(i))
		at := progressOf{frame: o.first, salt: newSalt()}
		if resumed && base < size {
			got, ok := w.good(ctx, io.NewSectionReader(out, base, min(o.size(), size-base)), o)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if ok {
				at = got
			}
			resumed = ok && at.frame == o.first+frames(o) // what follows an unfinished file was not begun
		}
		files[i].Resumed = at.frame - o.first
		p := &pouring{writer: w, o: o, h: o.holding(at.salt), out: out, base: base, sync: out.Sync}
		if err := p.run(ctx, at.frame); err != nil {
			return err
		}
	}
	off, tail := v.layout.Tail()
	_, err = out.WriteAt(tail, off)
	return err
}

// frames returns how many frames a file has.
func frames(o *output) int {
	if o.n == 0 {
		return o.x.Len()
	}
	return o.n
}

// checkImage reads an image back past the system's memory and checks everything. With an error it returns the file that it is about,
// nil for the tables.
func (w *writer) checkImage(ctx context.Context, name string, v *volume, files []File) (*output, error) {
	in, err := w.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	in.DropCache()
	l, damaged, err := disc.Open(in)
	if err != nil || len(damaged) > 0 || l.Size() != v.layout.Size() || !bytes.Equal(l.Head(), v.layout.Head()) {
		return nil, errors.Join(fmt.Errorf("%w: the tables of the image read otherwise", layer.ErrFormat), err)
	}
	for i, e := range v.manifests {
		b := make([]byte, len(e.bytes))
		if _, err := in.ReadAt(b, l.Offset(i)); err != nil || !bytes.Equal(b, e.bytes) {
			return nil, errors.Join(fmt.Errorf("%w: the manifest reads otherwise", layer.ErrFormat), err)
		}
	}
	for i, o := range v.outs {
		n, err := w.checkIn(ctx, io.NewSectionReader(in, l.Offset(v.file(i)), o.size()), o)
		if err != nil {
			return o, err
		}
		files[i].Blocks = n
	}
	return nil, nil
}

// disc reads back an image of a disc, the disc itself, or a single file.
func (v *verifier) disc(ctx context.Context) error {
	fsys, err := durable.Dir(filepath.Dir(v.Path))
	if err != nil {
		return err
	}
	name := filepath.Base(v.Path)
	st, err := fsys.Stat(name)
	if err != nil {
		return err
	}
	in, err := fsys.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	in.DropCache()
	memory, ok := durable.Resident(in)
	if !ok || !st.Mode().IsRegular() {
		memory = -1 // of a drive
	}
	l, damaged, err := disc.Open(in)
	if errors.Is(err, disc.ErrFormat) && recognise(name, in, st.Size()) != "" && st.Mode().IsRegular() {
		return v.all(ctx, fsys, []candidate{{name, st.Size()}})
	}
	if err != nil {
		if !madeHere(in) {
			return nil // nothing of ours
		}
		c := Checked{Path: v.Path, Kind: KindDisc, Length: st.Size()}
		c.fail(FaultDamaged, err)
		v.out.Files = append(v.out.Files, c)
		return nil
	}
	v.out.Memory = memory
	tables := Checked{Path: v.Path, Kind: KindDisc, Length: l.Size(), Bad: len(damaged)}
	if len(damaged) > 0 {
		tables.fail(FaultDamaged, fmt.Errorf("sectors of the tables: %v", damaged[:min(len(damaged), 10)]))
	}
	v.out.Files = append(v.out.Files, tables)
	v.total = l.Size()
	for i, f := range l.Files {
		r := io.NewSectionReader(in, l.Offset(i), f.Size)
		kind := recognise(f.Name, r, f.Size)
		if kind == "" {
			c := Checked{Path: f.Name, Length: f.Size}
			c.fail(FaultDamaged, errors.New("its beginning is not that of one of our files"))
			v.out.Files = append(v.out.Files, c)
			continue
		}
		if err := v.file(ctx, f.Name, kind, r); err != nil {
			return err
		}
	}
	return v.plain(ctx)
}
