package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"disksync/api"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/limit"
	"disksync/internal/mediachild"
	"disksync/internal/problem"
	"disksync/layer"
	"disksync/syncclient"
)

// Job makes one point.
type Job struct {
	Client *syncclient.Client
	Store  *deploy.Store
	VM     deploy.VM // as it was frozen
	Note   string    // about the point, for people
	Spool  string    // a folder with room for the packed changes
	// Seal returns how what is sent is encrypted, given what the image's policy wants: that it is, and recipients that can read it besides
	// the user. One without Recipients says that it is not since somebody wants that, nil that there is no key.
	Seal  func(encrypt bool, escrow []string) (*Seal, error)
	Tally *deploy.Tally
	// AllBlocks keeps what the file systems call free; without it, and unless the image's policy says the same, that is zeros, where they
	// are in order.
	AllBlocks bool
	// Reader finds out what of the disks is free.
	Reader mediachild.Options
	// Ask calls do until the Synchronizer answers, as long as the line is merely interrupted.
	Ask func(ctx context.Context, do func() error) error
}

// Result says what a Job made.
type Result struct {
	Line  image.UUID    `json:"line"`
	Point image.Version `json:"point"`
	// Nothing says that the newest point holds all of it already.
	Nothing     bool              `json:"nothing"`
	Made        time.Time         `json:"made"` // when the disks were frozen
	Consistency image.Consistency `json:"consistency"`
	Disks       []DiskResult      `json:"disks"`
	// Recipients can read what was sent, which is encrypted; none: it is not.
	Recipients []string `json:"recipients,omitempty"`
}

// DiskResult says what became of one disk.
type DiskResult struct {
	Role   image.Role    `json:"role"`
	State  image.StateID `json:"state"`
	From   image.StateID `json:"from,omitzero"`  // what the layer starts from; zero: nothing
	Layer  image.LayerID `json:"layer,omitzero"` // zero: State was there
	Read   int           `json:"read"`           // blocks that were written since, and so were read
	Blocks int           `json:"blocks"`         // in the layer
	Bytes  int64         `json:"bytes"`          // of the layer's file
	Freed  int64         `json:"freed"`          // bytes of what was read that the file systems call free, left out
	// Kept says of which volumes the free space is not left out, and why.
	Kept []string `json:"kept,omitempty"`
}

// Run makes the point. When it returns an error, there is none, or nobody knows; the next Run of the same VM finds out.
func (j *Job) Run(ctx context.Context) (*Result, error) {
	var err error
	for lower := range startLevels {
		r := &run{Job: j, lower: lower}
		var res *Result
		if res, err = r.run(ctx); syncclient.Code(err) != api.CodeConflict && !errors.Is(err, syncclient.ErrUploadDamaged) {
			return res, explain(err, j.VM.Name)
		}
		// The Synchronizer has lost what the layers start from, or has something else there than is here, or another point was made meanwhile.
	}
	return nil, explain(err, j.VM.Name)
}

func explain(err error, vm string) error {
	if err == nil {
		return nil
	}
	return syncclient.Explain(err, "the backup of VM "+vm+" is not complete", "the VM is as it was, and so are the backups before")
}

// run is a Job that runs.
type run struct {
	*Job
	lower  int // how many of the starts that a layer may have are left out
	line   api.BackupLine
	newest *api.BackupPoint // of the line; nil: it has none
	res    *Result
	disks  []api.PointDisk
	noted  []deploy.Noted
	opened []interface{ Close() }
	frozen map[image.Role]*deploy.Frozen

	sealing *Seal                          // nil: there is no key
	starts  map[image.Role][]image.StateID // that layers may start from, best first; nil: that was not asked
}

// startLevels is how many states there are that a layer may start from: what the newest backup holds, what was installed, nothing.
const startLevels = 3

func (r *run) run(ctx context.Context) (*Result, error) {
	r.res = &Result{Disks: []DiskResult{}, Consistency: image.Stopped}
	if i := r.VM.Instant; i != nil {
		r.res.Made, r.res.Consistency = i.At, i.Consistency
	}
	defer r.close()
	if err := r.freeze(); err != nil {
		return nil, err
	}
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	for _, d := range r.VM.Current.Disks {
		if err := r.disk(ctx, d); err != nil {
			return nil, fmt.Errorf("%s disk: %w", d.Role, err)
		}
	}
	return r.res, r.seal(ctx)
}

func (r *run) close() {
	for _, c := range r.opened {
		c.Close()
	}
}

// freeze opens what is frozen of the disks that are backed up.
func (r *run) freeze() error {
	r.frozen = map[image.Role]*deploy.Frozen{}
	for _, d := range r.VM.Current.Disks {
		if !deploy.BackedUp(r.VM.Current.Mode, d.Role) {
			continue
		}
		f, err := r.Store.OpenFrozen(d)
		if err != nil {
			return fmt.Errorf("%s disk: %w", d.Role, err)
		}
		r.opened = append(r.opened, f)
		r.frozen[d.Role] = f
	}
	return nil
}

// open finds the VM's line, or begins it.
func (r *run) open(ctx context.Context) error {
	if err := r.openLine(ctx, r.about()); err != nil {
		return err
	}
	var err error
	if r.sealing, err = r.Seal(r.line.Encrypt, r.line.Recipients); err != nil {
		return err
	}
	if r.sealing == nil && r.sealedBefore() {
		return problem.New("DS-BACKUP-KEY", problem.NeedsLogin, nil, "the backups of VM "+r.VM.Name+" are encrypted, and there is no key here for the next one",
			"the VM is as it was, and so are the backups before; nothing was sent",
			"import the key with `disksyncmgr key import FILE`, or make another one with `disksyncmgr key new`; with `disksyncmgr key disable` "+
				"backups are not encrypted any more")
	}
	if r.sealed() {
		r.res.Recipients = r.sealing.Recipients
	}
	// What is not encrypted follows what is not. Whether that is so of a line's points is known; what a VM that was restored starts from may be
	// another line's.
	if r.sealed() || r.sealedBefore() || r.newest == nil {
		in, err := r.askStarts()
		if err == nil {
			err = r.openLine(ctx, in)
		}
		if err != nil {
			return err
		}
	}
	r.res.Line = r.line.ID
	r.chooseStarts()
	return r.Store.BeginLine(r.VM.ID, r.line.ID)
}

// sealed reports whether the new point is encrypted.
func (r *run) sealed() bool { return r.sealing != nil && len(r.sealing.Recipients) > 0 }

// sealedBefore reports whether the newest point is encrypted. A key that got lost must not have the next one sent in the clear.
func (r *run) sealedBefore() bool {
	return r.newest != nil && slices.ContainsFunc(r.newest.Disks, func(d api.DiskInfo) bool { return len(d.Sealed) > 0 })
}

func (r *run) openLine(ctx context.Context, in api.NewBackup) error {
	return r.Ask(ctx, func() error {
		var err error
		r.line, err = r.Client.OpenBackup(ctx, in)
		if n := len(r.line.Points); n > 0 {
			r.newest = &r.line.Points[n-1]
		}
		return err
	})
}

func (r *run) about() api.NewBackup {
	return api.NewBackup{VM: r.VM.ID, Name: r.VM.Name, Image: r.VM.Image, ImageID: r.VM.ImageID, Mode: r.VM.Current.Mode}
}

// holds reports whether the newest point has a state of a disk, and has it in the clear when the new point does.
func (r *run) holds(role image.Role, id image.StateID) bool {
	return r.newest != nil && r.has(*r.newest, role, id)
}

func (r *run) has(p api.BackupPoint, role image.Role, id image.StateID) bool {
	return slices.ContainsFunc(p.Disks, func(d api.DiskInfo) bool {
		return d.Role == role && d.State == id && (r.sealed() || len(d.Sealed) == 0)
	})
}

// known reports whether some point of the line has a state of a disk.
func (r *run) known(ctx context.Context, role image.Role, id image.StateID) (bool, error) {
	if r.newest == nil || r.holds(role, id) {
		return r.newest != nil, nil
	}
	var line api.BackupLine
	err := r.Ask(ctx, func() error {
		var err error
		line, err = r.Client.Backup(ctx, r.line.ID)
		return err
	})
	return slices.ContainsFunc(line.Points, func(p api.BackupPoint) bool { return r.has(p, role, id) }), err
}

// disk packs and uploads what was written to one disk.
func (r *run) disk(ctx context.Context, d deploy.InstalledDisk) error {
	f := r.frozen[d.Role]
	if f == nil {
		r.add(DiskResult{Role: d.Role, State: d.State})
		return nil
	}
	if r.sealed() {
		return r.sealedDisk(ctx, f)
	}
	if r.sealing != nil { // what was encrypted before somebody turned that off
		if err := r.giveUpSpooled(ctx, f.Role); err != nil {
			return err
		}
	}
	from, err := r.clearStart(ctx, f)
	if err != nil {
		return err
	}
	if f.Same() && from == f.Held && !(r.allBlocks() && f.Omits()) {
		r.add(DiskResult{Role: d.Role, State: f.Held, From: f.Held})
		return nil
	}
	return r.layer(ctx, f, from)
}

// clearStart returns the state that a layer which is not encrypted starts from.
func (r *run) clearStart(ctx context.Context, f *deploy.Frozen) (image.StateID, error) {
	if starts, asked := r.starts[f.Role]; asked {
		return starts[min(r.lower, len(starts)-1)], nil
	}
	starts := []image.StateID{f.Base, f.Base, {}}
	if f.Held != f.Base && r.lower == 0 {
		ok, err := r.known(ctx, f.Role, f.Held)
		if err != nil {
			return image.StateID{}, err
		}
		if ok {
			starts[0] = f.Held
		}
	}
	return starts[r.lower], nil
}

func (r *run) add(d DiskResult) {
	r.res.Disks = append(r.res.Disks, d)
	r.disks = append(r.disks, api.PointDisk{Role: d.Role, State: d.State, Layer: d.Layer})
}

// layer makes the layer from a state to a disk and sends it.
func (r *run) layer(ctx context.Context, f *deploy.Frozen, from image.StateID) error {
	res := DiskResult{Role: f.Role, From: from}
	start, err := f.Since(ctx, from, r.free(ctx, f, &res))
	if err != nil {
		return err
	}
	spool, err := durable.Unnamed(r.Spool)
	if err != nil {
		return noRoom(err)
	}
	defer spool.Close()
	out, err := r.pack(ctx, spool, f, start, &res)
	if errors.Is(err, layer.ErrSame) {
		r.add(res) // what was written is what was there
		r.noted = append(r.noted, deploy.Noted{Top: f.Top, State: out.State, To: start.To})
		return nil
	}
	if err != nil {
		return noRoom(err)
	}
	res.Layer, res.Blocks, res.Bytes = out.Index.ID(), out.Index.Len(), out.Bytes
	if err := r.upload(ctx, f.Role, spool, out); err != nil {
		return err
	}
	r.add(res)
	r.noted = append(r.noted, deploy.Noted{Top: f.Top, State: out.State, To: start.To})
	return nil
}

// pack writes the layer from a start to a disk, and fills in what it has read and left out.
func (r *run) pack(ctx context.Context, w io.Writer, f *deploy.Frozen, start deploy.Start, res *DiskResult) (layer.Result, error) {
	res.Read = start.Count(f.Size())
	r.Tally.Begin(deploy.StagePack, f.Role, f.Size())
	out, err := layer.Encode(ctx, w, start.State, start.To, layer.EncodeOptions{
		FromDisk: start.Disk, Changed: start.Changed, New: start.Bytes, Near: near(start), Fast: true, Workers: workers(start), Progress: r.Tally.Done,
	})
	res.State, res.Freed = out.State.ID(), start.To.LeftOut()
	return out, err
}

// nearShare: where less than one byte of so many was written, what is similar is looked for nearby only.
const nearShare = 8

// near reports whether it would cost more to read all of what a layer starts from than there is to pack.
func near(s deploy.Start) bool {
	return s.Bytes < int64(s.State.DataBlocks())*image.BlockSize/nearShare
}

// workers returns how many processors pack: what is soon done is left to one, since each takes some 30 MiB for its tables, and somebody
// works at the machine.
func workers(s deploy.Start) int {
	if s.Bytes < littleWork {
		return 1
	}
	return 0
}

// littleWork is packed by one processor in a second or two.
const littleWork = 32 << 20

// upload sends a layer, unless the newest point has the disk, which then was sent before an interruption.
func (r *run) upload(ctx context.Context, role image.Role, spool *os.File, out layer.Result) error {
	if r.holds(role, out.State.ID()) {
		return nil
	}
	return r.send(ctx, role, out.Bytes, func(progress func(syncclient.UploadProgress)) error {
		return r.Client.Upload(ctx, out.Index.ID(), spool, out.Bytes, progress)
	})
}

// send calls upload until it succeeds or fails for good.
func (r *run) send(ctx context.Context, role image.Role, length int64, upload func(progress func(syncclient.UploadProgress)) error) error {
	r.Tally.Begin(deploy.StageUpload, role, length)
	again := true
	return r.Ask(ctx, func() error {
		if err := r.Client.WaitOpen(ctx, func(h limit.Hold) { r.Tally.SetHeld(h.String()) }); err != nil {
			return err
		}
		err := upload(func(u syncclient.UploadProgress) {
			if u.State == api.Uploading {
				r.Tally.Done(u.Done)
			}
		})
		if errors.Is(err, syncclient.ErrUploadDamaged) && again {
			again = false
			err = upload(nil)
		}
		return err
	})
}

// seal makes the point, and notes it. A point that was sealed by a run that did not get to note it is found by its states.
func (r *run) seal(ctx context.Context) error {
	fresh := func(d api.PointDisk) bool { return !r.holds(d.Role, d.State) || r.sealed() && !d.Layer.IsZero() }
	if r.newest != nil && !slices.ContainsFunc(r.disks, fresh) {
		r.res.Nothing, r.res.Point = true, r.newest.Point
		return r.note()
	}
	in := api.SealPoint{
		Point: r.line.Newest + 1, Version: r.VM.Current.Version, Consistency: r.res.Consistency, Note: r.Note, Disks: r.disks,
	}
	err := r.Ask(ctx, func() error {
		_, err := r.Client.SealPoint(ctx, r.line.ID, in)
		return err
	})
	if err != nil {
		return err
	}
	r.res.Point = in.Point
	return r.note()
}

func (r *run) note() error {
	b := deploy.Backup{Line: r.line.ID, Point: r.res.Point, Made: r.res.Made}
	if err := r.Store.NotePoint(r.VM.ID, b, r.noted); err != nil {
		return err
	}
	return r.forgetSpooled()
}

// noRoom explains an error of the folder for the packed changes.
func noRoom(err error) error {
	if durable.IsFull(err) {
		return problem.New("DS-SPACE", problem.NoSpace, err, "there is no room for the packed changes of the backup", "the VM is as it was",
			"free some space; then run the same command again")
	}
	return err
}
