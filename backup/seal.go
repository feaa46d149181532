package backup

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"
	"strings"

	"disksync/agefile"
	"disksync/api"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
	"disksync/syncclient"
)

// Seal says how what is sent is encrypted. The Synchronizer cannot read it, so all that takes reading is done here: to choose what a layer
// starts from, and to send now and then one that stands alone, so that those before it are not needed for ever.
type Seal struct {
	// Recipients can read it: the user first, of whom Keys has the identity, then those of escrow.
	Recipients []string
	Keys       []agefile.Identity
	// FS has the folder Dir for what was encrypted and not sent yet. To encrypt again gives other bytes; an upload that was interrupted
	// can only go on with the same.
	FS  durable.FS
	Dir string
	// Look is after how many more layers on the way to the newest backup it is tried whether one in their place pays; 0: lookEvery.
	Look int
	// Most is how many there are at most; 0: mostLayers.
	Most int
}

const (
	lookEvery  = 32
	mostLayers = 256
	// paysAt: a layer that stands alone is sent when it takes at most one part in so many of what is on the way already.
	paysAt = 2
)

// candidates returns the states that a layer to a disk could start from, best first.
func (r *run) candidates(f *deploy.Frozen) ([]image.StateID, error) {
	below, err := f.Below()
	if err != nil {
		return nil, err
	}
	var out []image.StateID
	for _, id := range append([]image.StateID{f.Held, f.Base}, below...) {
		if !slices.Contains(out, id) && (r.sealed() || r.mayLeadTo(f, id)) {
			out = append(out, id)
		}
	}
	return out, nil
}

// mayLeadTo reports whether a layer that is not encrypted could start from a state: not from the one of the newest point where that is
// encrypted, since the Synchronizer leads there over what is; nor from what a point held that is gone with its line.
func (r *run) mayLeadTo(f *deploy.Frozen, id image.StateID) bool {
	if r.newest == nil {
		return id != f.Held || id == f.Base
	}
	return !slices.ContainsFunc(r.newest.Disks, func(d api.DiskInfo) bool { return d.Role == f.Role && d.State == id && len(d.Sealed) > 0 })
}

// askStarts returns the request that asks about the candidates that there are.
func (r *run) askStarts() (api.NewBackup, error) {
	in := r.about()
	if r.sealed() {
		in.Sealed = r.sealing.Recipients
	}
	r.starts = map[image.Role][]image.StateID{}
	each := api.MaxStarts / max(len(r.frozen), 1)
	for role, f := range r.frozen {
		c, err := r.candidates(f)
		if err != nil {
			return in, err
		}
		r.starts[role] = c[:min(len(c), each)]
		in.Starts = append(in.Starts, r.starts[role]...)
	}
	return in, nil
}

// chooseStarts keeps those candidates from which a layer may start, and adds nothing, from which it may always.
func (r *run) chooseStarts() {
	for role, c := range r.starts {
		r.starts[role] = append(slices.DeleteFunc(c, func(id image.StateID) bool { return r.start(id) == nil }), image.StateID{})
	}
}

// start returns what the Synchronizer says of a state that layers may start from, nil when they may not.
func (r *run) start(id image.StateID) *api.Start {
	i := slices.IndexFunc(r.line.Starts, func(s api.Start) bool { return s.State == id })
	if i < 0 {
		return nil
	}
	return &r.line.Starts[i]
}

// spooled is a layer that was encrypted and is to be sent.
type spooled struct {
	Top    image.UUID     `json:"top"` // of what was frozen
	Ref    image.LayerRef `json:"ref"`
	Size   int64          `json:"size"` // of the disk
	Result DiskResult     `json:"result"`
	state  image.State
	to     *deploy.Content // what was packed
	file   durable.File
}

const maxSpooled = 1 << 20 // of the description

func (r *run) spoolName(role image.Role) string {
	return fmt.Sprintf("%s/%s-%s", r.sealing.Dir, r.VM.ID, role)
}

const (
	sealedSuffix = ".age"
	aboutSuffix  = ".json"
)

// sealedDisk packs, encrypts and uploads what was written to one disk.
func (r *run) sealedDisk(ctx context.Context, f *deploy.Frozen) error {
	starts := r.starts[f.Role]
	starts = starts[min(r.lower, len(starts)-1):]
	if f.Same() && starts[0] == f.Held && !(r.allBlocks() && f.Omits()) {
		r.add(DiskResult{Role: f.Role, State: f.Held, From: f.Held})
		return nil
	}
	sp, err := r.sealedLayer(ctx, f, starts)
	if errors.Is(err, layer.ErrSame) {
		// What was written is what was there.
		r.add(sp.Result)
		r.noted = append(r.noted, deploy.Noted{Top: f.Top, State: sp.state, To: sp.to})
		return nil
	}
	if err != nil {
		return noRoom(err)
	}
	defer sp.file.Close()
	res := sp.Result
	there, err := r.there(ctx, sp)
	if err == nil && there {
		res.Layer = image.LayerID{}
	} else if err == nil {
		err = r.send(ctx, f.Role, sp.Ref.Length, func(progress func(syncclient.UploadProgress)) error {
			return r.Client.UploadSealed(ctx, sp.Ref, sp.Size, sp.file, progress)
		})
	}
	if errors.Is(err, syncclient.ErrUploadDamaged) {
		err = errors.Join(err, r.dropSpooled(f.Role)) // it may be here that it was damaged
	}
	if err != nil {
		return err
	}
	r.add(res)
	r.noted = append(r.noted, deploy.Noted{Top: f.Top, State: sp.state, To: sp.to})
	return nil
}

// there reports whether the newest point has the disk, for all recipients to read: it was sealed by a run that did not get to note it.
func (r *run) there(ctx context.Context, sp *spooled) (bool, error) {
	if r.newest == nil || !slices.ContainsFunc(r.newest.Disks, func(d api.DiskInfo) bool { return d.State == sp.Ref.To }) {
		return false, nil
	}
	in := r.about()
	in.Starts, in.Sealed = []image.StateID{sp.Ref.To}, r.sealing.Recipients
	var l api.BackupLine
	err := r.Ask(ctx, func() error {
		var err error
		l, err = r.Client.OpenBackup(ctx, in)
		return err
	})
	return len(l.Starts) > 0, err
}

// sealedLayer returns the layer from the best start to a disk, encrypted: what an interrupted run has left, or a new one.
func (r *run) sealedLayer(ctx context.Context, f *deploy.Frozen, starts []image.StateID) (*spooled, error) {
	if sp := r.findSpooled(ctx, f, starts); sp != nil {
		return sp, nil
	}
	if err := context.Cause(ctx); err != nil { // what is there may be good
		return nil, err
	}
	if err := r.giveUpSpooled(ctx, f.Role); err != nil {
		return nil, err
	}
	if err := durable.MakeDir(r.sealing.FS, r.sealing.Dir, 0o700); err != nil {
		return nil, err
	}
	look, most := r.sealing.Look, r.sealing.Most
	if look == 0 {
		look = lookEvery
	}
	if most == 0 {
		most = mostLayers
	}
	way := r.start(starts[0])
	if way == nil || way.Layers < look || way.Layers%look != 0 && way.Layers < most {
		return r.sealLayer(ctx, f, starts[0])
	}
	// Whether a layer in the place of all of them pays, only packing it tells.
	i := slices.IndexFunc(starts, func(id image.StateID) bool {
		s := r.start(id)
		return s != nil && s.Layers < way.Layers/paysAt
	})
	if i < 0 {
		return r.sealLayer(ctx, f, starts[0])
	}
	sp, err := r.sealLayer(ctx, f, starts[i])
	if err != nil || way.Layers >= most || sp.Ref.Length <= way.Bytes/paysAt {
		return sp, err
	}
	if err := errors.Join(sp.file.Close(), r.dropSpooled(f.Role)); err != nil {
		return nil, err
	}
	return r.sealLayer(ctx, f, starts[0])
}

// sealLayer packs and encrypts the layer from a state to a disk. Only when all of it is on the storage the file gets its name.
func (r *run) sealLayer(ctx context.Context, f *deploy.Frozen, from image.StateID) (*spooled, error) {
	res := DiskResult{Role: f.Role, From: from}
	start, err := f.Since(ctx, from, r.free(ctx, f, &res))
	if err != nil {
		return nil, err
	}
	name := r.spoolName(f.Role)
	temp := name + durable.TempSuffix
	file, err := r.sealing.FS.Create(temp, 0o600)
	if err != nil {
		return nil, err
	}
	sp := &spooled{Top: f.Top, Size: f.Size(), Ref: image.LayerRef{From: from, Sealed: r.sealing.Recipients}, Result: res, to: start.To, file: file}
	if err := r.encrypt(ctx, sp, f, start); err != nil {
		return sp, errors.Join(err, file.Close(), durable.Remove(r.sealing.FS, temp))
	}
	about, err := json.Marshal(sp)
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = durable.Publish(r.sealing.FS, temp, name+sealedSuffix)
	}
	if err == nil {
		err = durable.WriteFile(r.sealing.FS, name+aboutSuffix, about, 0o600)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return sp, nil
}

// encrypt writes the layer to the file of sp, and fills in what it then is.
func (r *run) encrypt(ctx context.Context, sp *spooled, f *deploy.Frozen, start deploy.Start) error {
	out := &summed{w: bufio.NewWriterSize(io.NewOffsetWriter(sp.file, 0), 1<<20), h: sha256.New()}
	w, err := agefile.Writer(out, r.sealing.Recipients)
	if err != nil {
		return err
	}
	packed, err := r.pack(ctx, w, f, start, &sp.Result)
	sp.state = packed.State
	if err != nil {
		return err
	}
	if err := errors.Join(w.Close(), out.w.Flush()); err != nil {
		return err
	}
	sp.Ref.To, sp.Ref.Length, sp.Ref.ID = packed.State.ID(), out.n, image.LayerID(out.h.Sum(nil))
	sp.Result.Layer, sp.Result.Blocks, sp.Result.Bytes = sp.Ref.ID, packed.Index.Len(), out.n
	return r.unseal(ctx, sp, start)
}

// unseal opens what was encrypted and unpacks all of it. Nobody else can before it is needed: the Synchronizer, which does so with other
// layers when they come, cannot read it.
func (r *run) unseal(ctx context.Context, sp *spooled, start deploy.Start) error {
	af, err := agefile.Open(sp.file, sp.Ref.Length, r.sealing.Keys)
	if err != nil {
		return err
	}
	x, err := layer.ReadIndex(af.Reader(), af.Size())
	if err != nil {
		return err
	}
	scratch, err := durable.Unnamed(r.Spool)
	if err != nil {
		return err
	}
	defer scratch.Close()
	return layer.Verify(ctx, af.Reader(), x, start.Disk, scratch, func(_ layer.Frame, err error) error { return err })
}

// summed counts what is written, and sums it up.
type summed struct {
	w *bufio.Writer
	h hash.Hash
	n int64
}

func (s *summed) Write(p []byte) (int, error) {
	s.h.Write(p)
	n, err := s.w.Write(p)
	s.n += int64(n)
	return n, err
}

// readSpooled reads what is noted of a layer that was encrypted; nil when there is none.
func (r *run) readSpooled(role image.Role) *spooled {
	sp := new(spooled)
	b, err := durable.ReadFile(r.sealing.FS, r.spoolName(role)+aboutSuffix, maxSpooled)
	if err != nil || json.Unmarshal(b, sp) != nil {
		return nil
	}
	return sp
}

// findSpooled returns what an interrupted run has encrypted, when it is what is to be sent now; nil when not.
func (r *run) findSpooled(ctx context.Context, f *deploy.Frozen, starts []image.StateID) *spooled {
	sp := r.readSpooled(f.Role)
	if sp == nil || sp.Top != f.Top || !slices.Contains(starts, sp.Ref.From) || !slices.Equal(sp.Ref.Sealed, r.sealing.Recipients) {
		return nil
	}
	file, err := r.sealing.FS.Open(r.spoolName(f.Role) + sealedSuffix)
	if err != nil {
		return nil
	}
	sp.file = file
	if err := r.reopen(ctx, sp, f); err != nil {
		file.Close()
		return nil
	}
	return sp
}

// reopen makes sure that the layer is still what was unpacked when it was encrypted, finds the state that it leads to, and compares that
// with the disk, by which it is known again what was left out.
func (r *run) reopen(ctx context.Context, sp *spooled, f *deploy.Frozen) error {
	if err := sp.intact(ctx); err != nil {
		return err
	}
	af, err := agefile.Open(sp.file, sp.Ref.Length, r.sealing.Keys)
	if err != nil {
		return err
	}
	x, err := layer.ReadIndex(af.Reader(), af.Size())
	if err != nil {
		return err
	}
	var res DiskResult
	start, err := f.Since(ctx, sp.Ref.From, r.free(ctx, f, &res))
	if err != nil {
		return err
	}
	sp.to = start.To
	if sp.state, err = x.Apply(start.State); err != nil {
		return err
	}
	if sp.state.ID() != sp.Ref.To {
		return errors.New("another state")
	}
	buf := make([]byte, image.BlockSize)
	for i, want := range sp.state.Blocks {
		if start.Changed != nil && !start.Changed(i) {
			continue
		}
		off := int64(i) * image.BlockSize
		b := buf[:min(image.BlockSize, f.Size()-off)]
		if n, err := start.To.ReadAt(b, off); n < len(b) {
			return err
		}
		clear(buf[len(b):])
		if image.SumBlock(buf) != want {
			return fmt.Errorf("block %d is another", i)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// intact reads the file and compares it with its name.
func (sp *spooled) intact(ctx context.Context) error {
	size, err := sp.file.Size()
	if err != nil || size != sp.Ref.Length {
		return errors.Join(err, fmt.Errorf("%d bytes, not %d", size, sp.Ref.Length))
	}
	h, in := sha256.New(), io.NewSectionReader(sp.file, 0, size)
	for err == nil {
		_, err = io.CopyN(h, in, 8<<20)
		err = cmp.Or(context.Cause(ctx), err)
	}
	if err != io.EOF {
		return err
	}
	if image.LayerID(h.Sum(nil)) != sp.Ref.ID {
		return errors.New("it is not what was written")
	}
	return nil
}

// giveUpSpooled removes what is of no use, here and at the Synchronizer.
func (r *run) giveUpSpooled(ctx context.Context, role image.Role) error {
	if sp := r.readSpooled(role); sp != nil {
		// What stays there goes after a day.
		_ = r.Client.DropUpload(ctx, sp.Ref.ID)
	}
	return r.dropSpooled(role)
}

func (r *run) dropSpooled(role image.Role) error {
	name := r.spoolName(role)
	return errors.Join(durable.Remove(r.sealing.FS, name+aboutSuffix), durable.Remove(r.sealing.FS, name+sealedSuffix))
}

// forgetSpooled removes what a point has now.
func (r *run) forgetSpooled() error {
	if r.sealing == nil {
		return nil
	}
	var errs []error
	for role := range r.frozen {
		errs = append(errs, r.dropSpooled(role))
	}
	return errors.Join(errs...)
}

// Tidy removes from a spool folder what was encrypted of VMs that are not there any more. Other backups may go on meanwhile.
func Tidy(fsys durable.FS, dir string, there func(vm image.UUID) bool) error {
	entries, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		id, err := image.ParseUUID(name[:min(len(name), 36)])
		if err != nil || there(id) || !strings.HasSuffix(name, sealedSuffix) && !strings.HasSuffix(name, aboutSuffix) {
			continue
		}
		if err := durable.Remove(fsys, dir+"/"+name); err != nil {
			return err
		}
	}
	return nil
}
