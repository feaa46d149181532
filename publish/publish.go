package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"disksync/api"
	"disksync/diskmap"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
	"disksync/layer"
	"disksync/syncclient"
	"disksync/vhd"
)

// Options says what to publish.
type Options struct {
	Image string     // its name; made when it is not there
	Mode  image.Mode // of a new image
	Note  string
	Disks []Disk
	// Previous names files that have the disks of the newest version, or nearly: what they have of it need not come from the Synchronizer.
	Previous map[image.Role]string
	// Machine is what the VM is made of besides; nil: as in the version before.
	Machine *image.Machine
	// Boot are the blocks that a VM reads when it starts; a disk of which nothing is said keeps those of the version before.
	Boot image.BootTrace
	// AllBlocks publishes also what the file systems call free; without it that is zeros.
	AllBlocks bool
	// FindFree finds out what of a disk is free. The file systems on it may be those of somebody else, so it is best done where little can be
	// done, as mediachild.Map does it; nil: in this process. Where it fails, the disk is published with its free space.
	FindFree func(ctx context.Context, disk diskmap.Disk) (*diskmap.Map, error)
	// Spool is a folder with room for the packed difference; empty: the system's folder for temporary files.
	Spool string
	// Level is the compression level; 0: layer.Encode's own choice.
	Level zstd.EncoderLevel
	// Progress is told what is done, how far it is, and of how much; nil: nobody is.
	Progress func(stage string, done, total int64)
	// Warn is told of oddities that do not stop the work; nil: nobody is.
	Warn func(text string)
}

// Disk is one disk of a version.
type Disk struct {
	Role   image.Role
	Path   string
	Format Format
}

// Result says what was published.
type Result struct {
	Image     string        `json:"image"`
	Version   image.Version `json:"version"`
	Unchanged bool          `json:"unchanged"` // Version already has exactly this content; nothing was published
	Disks     []DiskResult  `json:"disks"`
}

// DiskResult says what became of one disk.
type DiskResult struct {
	Role      image.Role    `json:"role"`
	Format    Format        `json:"format"`
	Size      int64         `json:"size"` // of the disk, bytes
	State     image.StateID `json:"state"`
	Layer     image.LayerID `json:"layer,omitzero"`
	From      image.StateID `json:"from,omitzero"` // zero: a full image
	Blocks    int           `json:"blocks"`        // in the layer
	Bytes     int64         `json:"bytes"`         // of the layer's file
	Freed     int64         `json:"freed"`         // bytes that the file systems call free, published as zeros
	Unchanged bool          `json:"unchanged"`
}

// Run publishes a version. When it returns an error the catalog is as before; only when the line fails for good while the
// version is being sealed may it be there all the same, and running it again then finds nothing changed.
func Run(ctx context.Context, c *syncclient.Client, o Options) (Result, error) {
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	if o.FindFree == nil {
		o.FindFree = func(_ context.Context, d diskmap.Disk) (*diskmap.Map, error) { return diskmap.Scan(d) }
	}
	p := &run{Options: o, c: c}
	if err := p.lookUp(ctx); err != nil {
		return Result{}, err
	}
	res := Result{Image: o.Image, Version: p.newest.Version + 1}
	seal := api.Seal{Version: res.Version, Mode: o.Mode, Note: o.Note, Machine: o.Machine}
	for _, d := range o.Disks {
		dr, uuids, err := p.disk(ctx, d)
		if err != nil {
			return Result{}, fmt.Errorf("%s disk %s: %w", d.Role, d.Path, err)
		}
		res.Disks = append(res.Disks, dr)
		boot := o.Boot[d.Role]
		switch {
		case !dr.Unchanged:
			seal.Disks = append(seal.Disks, api.SealDisk{Role: d.Role, Layer: dr.Layer, VHDUUIDs: uuids, Boot: boot})
		case len(boot) > 0:
			seal.Disks = append(seal.Disks, api.SealDisk{Role: d.Role, Boot: boot})
		}
	}
	if len(seal.Disks) == 0 && seal.Machine == nil {
		res.Version, res.Unchanged = p.newest.Version, true
		return res, nil
	}
	if err := p.seal(ctx, seal); err != nil {
		return Result{}, fmt.Errorf("seal version %d: %w", res.Version, err)
	}
	return res, nil
}

// maxFailures is how often in a row sealing is tried again.
const maxFailures = 6

// seal has the version sealed. An answer that is lost on the way leaves it open whether that happened, so it is asked for again:
// a conflict with the very version that was asked for is a success.
func (p *run) seal(ctx context.Context, seal api.Seal) error {
	var pause syncclient.Backoff
	for failures := 0; ; failures++ {
		_, err := p.c.Seal(ctx, p.Image, seal)
		if failures > 0 && syncclient.Code(err) == api.CodeConflict && p.sealed(ctx, seal) {
			return nil
		}
		if !syncclient.Temporary(err) || failures == maxFailures {
			return err
		}
		if err := pause.Wait(ctx, err); err != nil {
			return err
		}
	}
}

// sealed reports whether the version is there with the layers of seal.
func (p *run) sealed(ctx context.Context, seal api.Seal) bool {
	im, err := p.c.Image(ctx, p.Image)
	if err != nil {
		return false
	}
	i := slices.IndexFunc(im.Versions, func(v api.VersionInfo) bool { return v.Version == seal.Version })
	return i >= 0 && !slices.ContainsFunc(seal.Disks, func(want api.SealDisk) bool {
		return !slices.ContainsFunc(im.Versions[i].Disks, func(d api.DiskInfo) bool {
			return d.Role == want.Role && (d.Layer == want.Layer || want.Layer == image.LayerID{})
		})
	})
}

type run struct {
	Options
	c      *syncclient.Client
	known  api.Image
	newest api.VersionInfo // the zero value when the image is new
}

// lookUp finds the newest version, and refuses what the Synchronizer would refuse after hours of work.
func (p *run) lookUp(ctx context.Context) error {
	if err := image.CheckName(p.Image); err != nil {
		return problem.New("DS-USAGE", problem.Usage, err, "this cannot be an image", "", "")
	}
	if len(p.Note) > api.MaxNote {
		return problem.New("DS-USAGE", problem.Usage, nil, fmt.Sprintf("a note has at most %d bytes", api.MaxNote), "nothing was published", "")
	}
	im, err := p.c.Image(ctx, p.Image)
	if syncclient.Code(err) == api.CodeNotFound {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up %s: %w", p.Image, err)
	}
	if p.Mode != "" && p.Mode != im.Mode {
		return problem.New("DS-CONFLICT", problem.Busy, nil, fmt.Sprintf("%s is a %s image; the mode is fixed by its first version", p.Image, im.Mode),
			"nothing was published", "leave the mode out, or give the image another name")
	}
	if n := len(im.Versions); n > 0 {
		p.known, p.newest = im, im.Versions[n-1]
	}
	return nil
}

// previous returns the state of a disk in the newest version, the empty one when it has none.
func (p *run) previous(ctx context.Context, r image.Role) (image.State, error) {
	for _, d := range p.newest.Disks {
		if d.Role == r {
			st, err := p.c.State(ctx, d.State)
			if err != nil {
				return image.State{}, fmt.Errorf("digests of version %d: %w", p.newest.Version, err)
			}
			return st, nil
		}
	}
	return image.State{}, nil
}

// disk packs and uploads what changed on one disk.
func (p *run) disk(ctx context.Context, d Disk) (DiskResult, []image.UUID, error) {
	from, err := p.previous(ctx, d.Role)
	if err != nil {
		return DiskResult{}, nil, err
	}
	var opened []io.Closer
	defer func() { closeAll(opened) }()
	src, err := Open(d.Path, d.Format, func(child *vhd.Image) (*vhd.Image, error) {
		m, c, err := p.publishedParent(ctx, child)
		opened = append(opened, c...)
		return m, err
	})
	if err != nil {
		return DiskResult{}, nil, err
	}
	opened = append(opened, src)
	if err := image.CheckBoot(p.Boot[d.Role], src.Size()); err != nil {
		return DiskResult{}, nil, problem.New("DS-USAGE", problem.Usage, err, "the boot trace is of another disk", "nothing was published",
			"record it with the disk that is published")
	}
	for _, w := range src.Warnings {
		p.Warn(d.Path + ": " + w)
	}
	freed, err := p.leaveOutFree(ctx, src, d.Path)
	if err != nil {
		return DiskResult{}, nil, err
	}
	res := DiskResult{Role: d.Role, Format: src.Format, Size: src.Size(), From: from.ID(), Freed: freed}
	spool, err := p.spoolFile()
	if err != nil {
		return DiskResult{}, nil, err
	}
	defer spool.Close()
	o := layer.EncodeOptions{
		Level:    p.Level,
		Progress: func(done int64) { p.Progress("pack "+string(d.Role), done, src.Size()) },
	}
	before, err := p.openFrom(ctx, d, from)
	opened = append(opened, before.opened...)
	if err != nil {
		return DiskResult{}, nil, err
	}
	o.FromDisk = before.disk
	out, err := layer.Encode(ctx, spool, from, src, o)
	for _, s := range append(before.files, src) {
		if changed := s.Unchanged(); changed != nil {
			return DiskResult{}, nil, changed
		}
	}
	before.warn()
	if errors.Is(err, layer.ErrSame) {
		res.State, res.Unchanged = out.State.ID(), true
		return res, nil, nil
	}
	if errors.Is(err, layer.ErrFrom) && (errors.Is(err, layer.ErrCorrupt) || errors.Is(err, layer.ErrFormat)) {
		return DiskResult{}, nil, problem.New("DS-SERVER-DAMAGED", problem.Damaged, err,
			fmt.Sprintf("the Synchronizer's copy of version %d, which the difference starts from, is damaged", p.newest.Version),
			"nothing was published", "the administrator of the Synchronizer has to look at its disk")
	}
	if err != nil {
		return DiskResult{}, nil, spoolError(err, p.Spool)
	}
	res.State, res.Layer, res.Blocks, res.Bytes = out.State.ID(), out.Index.ID(), out.Index.Len(), out.Bytes
	// The blocks that were unpacked take room, which the Synchronizer may need to check the layer, on the same disk.
	closeAll(opened)
	opened = nil
	if err := p.upload(ctx, d.Role, out, spool); err != nil {
		return DiskResult{}, nil, err
	}
	if src.UUID.IsZero() {
		return res, nil, nil
	}
	return res, []image.UUID{src.UUID}, nil
}

func closeAll(opened []io.Closer) {
	for _, c := range opened {
		c.Close()
	}
}

// upload sends the layer. What the Synchronizer holds of it from an earlier attempt may be damaged; then it is sent anew, once.
func (p *run) upload(ctx context.Context, r image.Role, out layer.Result, spool io.ReaderAt) error {
	sent := false
	show := func(u syncclient.UploadProgress) {
		if u.State == api.Uploading {
			p.Progress("upload "+string(r), u.Done, u.Total)
			sent = true
			return
		}
		if sent {
			p.Progress("upload "+string(r), u.Total, u.Total)
			sent = false
		}
		p.Progress("verify "+string(r), u.Done, u.Total)
	}
	err := p.c.Upload(ctx, out.Index.ID(), spool, out.Bytes, show)
	if errors.Is(err, syncclient.ErrUploadDamaged) {
		err = p.c.Upload(ctx, out.Index.ID(), spool, out.Bytes, show)
	}
	return err
}

// spoolFile makes a file without a name. The Synchronizer removes what a crash leaves of one in its own folder at its start.
func (p *run) spoolFile() (*os.File, error) {
	f, err := durable.Unnamed(p.Spool)
	if err != nil {
		return nil, spoolError(err, p.Spool)
	}
	return f, nil
}

func spoolError(err error, where string) error {
	if durable.IsFull(err) {
		return problem.New("DS-PUBLISH-SPACE", problem.NoSpace, err, "no room for unpacked blocks and the packed difference in "+where,
			"nothing was published", "name a folder with more room with --spool")
	}
	if errors.Is(err, syscall.EFBIG) {
		return problem.New("DS-PUBLISH-SPACE", problem.NoSpace, err, "no file in "+where+" can be as large as the packed difference",
			"nothing was published", "name a folder on another file system with --spool")
	}
	return err
}

// publishedParent finds the parent of a differencing VHD among the versions of the image, and reads it from the
// Synchronizer.
func (p *run) publishedParent(ctx context.Context, child *vhd.Image) (*vhd.Image, []io.Closer, error) {
	id := child.ParentUUID()
	found := p.published(func(d api.DiskInfo) bool { return id == image.VHDUUID(d.State) })
	if len(found) == 0 && !id.IsZero() {
		found = p.published(func(d api.DiskInfo) bool { return slices.Contains(d.VHDUUIDs, id) })
	}
	if len(found) == 0 {
		return nil, nil, vhd.NoParent
	}
	at := found[0]
	for _, other := range found[1:] {
		// The file was changed in place and published again; its child may belong to either content.
		if other.disk.State != at.disk.State {
			p.Warn(fmt.Sprintf("the parent %s was published with different contents, as versions %d and %d; only the file itself will do",
				id, at.version, other.version))
			return nil, nil, vhd.NoParent
		}
	}
	p.Warn(fmt.Sprintf("the parent %s is not beside its child; reading version %d of %s in its place", id, at.version, p.Image))
	rd, opened, err := p.openVersion(ctx, at.version, at.disk.Role)
	if err != nil {
		return nil, opened, err
	}
	return vhd.Content(id, rd, rd.Size()), opened, nil
}

// versionDisk is a disk of a version.
type versionDisk struct {
	version image.Version
	disk    api.DiskInfo
}

// published returns the disks of all versions that is says yes to.
func (p *run) published(is func(api.DiskInfo) bool) []versionDisk {
	var out []versionDisk
	for _, v := range p.known.Versions {
		for _, d := range v.Disks {
			if is(d) {
				out = append(out, versionDisk{v.Version, d})
			}
		}
	}
	return out
}

// openVersion opens the disk of a version for reading at random: its blocks are got and unpacked when they are asked for. The
// caller closes what it returns, with an error as well.
func (p *run) openVersion(ctx context.Context, v image.Version, r image.Role) (*layer.Reader, []io.Closer, error) {
	files, err := p.c.MediaFiles(ctx, p.Image, v)
	if err != nil {
		return nil, nil, err
	}
	var path []layer.Source
	for _, f := range files {
		if f.Role != r {
			continue
		}
		at := p.c.ReaderAt(ctx, image.LayerRef{ID: f.Layer, Length: f.Length})
		x, err := layer.ReadIndex(at, f.Length)
		if err == nil && x.ID() != f.Layer {
			err = layer.ErrMismatch
		}
		if err != nil {
			return nil, nil, fmt.Errorf("layer %s: %w", f.Layer.Short(), err)
		}
		path = append(path, layer.Source{Index: x, R: at})
	}
	scratch, err := p.spoolFile()
	if err != nil {
		return nil, nil, err
	}
	rd, err := layer.NewReader(path, scratch)
	if err != nil {
		return nil, []io.Closer{scratch}, err
	}
	return rd, []io.Closer{scratch, closer(rd.Close)}, nil
}

type closer func()

func (c closer) Close() error { c(); return nil }
