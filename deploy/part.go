package deploy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
	"disksync/vhd"
)

// part is a golden VHD that is being built: an open file, the disk on top of its parents, and the parents.
type part struct {
	*vhd.Disk
	file    durable.File
	id      image.UUID
	parents disk // nil for a dynamic disk
	files   *chain
	tables  handOver
}

// openPart opens the part of the VHD for x's To, making it anew when there is none or it is of no use. below is the content of the
// disk that it stands on; nil: that is installed.
func (s *Store) openPart(x *layer.Index, below disk) (*part, error) {
	p := &part{id: image.VHDUUID(x.To())}
	var members []*vhd.Image
	switch base := image.VHDUUID(x.From()); {
	case x.From().IsZero():
	case below != nil:
		p.parents, members = below, []*vhd.Image{vhd.Content(base, below, below.Size())}
	default:
		var err error
		if p.files, err = s.openChain(base); err != nil {
			return nil, err
		}
		p.parents, members = p.files, p.files.Members()
	}
	err := p.open(s, x, members)
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("build disk %s: %w", p.id, err)
	}
	return p, nil
}

func (p *part) open(s *Store, x *layer.Index, below []*vhd.Image) error {
	f, err := s.fsys.OpenWrite(partFile(p.id))
	if err == nil {
		p.file = f
		p.direct()
		if err = p.resume(x, below); err == nil {
			return nil
		}
		// After a loss of power it may be anything. It costs time to build it anew, no more.
		f.Close()
		p.file = nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return p.create(s, x, below)
}

// resume opens what an earlier run has built. Salvage drops what a loss of power left unusable; what is left is compared
// with the digests before it counts.
func (p *part) resume(x *layer.Index, below []*vhd.Image) error {
	size, err := p.file.Size()
	if err != nil {
		return err
	}
	d, err := vhd.OpenDisk(p.file, size, below, vhd.Salvage(), p.ahead(x))
	if err != nil {
		return err
	}
	if d.Size() != x.Size() || d.Leaf().UUID() != p.id {
		return errors.New("the part is of another disk")
	}
	if err := checkOwn(d.Leaf(), x); err != nil {
		return err
	}
	p.Disk = d
	return nil
}

// checkOwn returns an error when a VHD has blocks that the layer x does not put there: what is compared with x's digests must
// be all that there is.
func checkOwn(m *vhd.Image, x *layer.Index) error {
	for block := range image.BlockCount(m.Size()) {
		if !m.Allocated(block) {
			continue
		}
		if _, ok := x.Find(block); !ok {
			return fmt.Errorf("%w: it has block %d, which layer %s does not change", ErrDiskLies, block, x.ID().Short())
		}
	}
	return nil
}

func (p *part) create(s *Store, x *layer.Index, below []*vhd.Image) error {
	f, err := s.fsys.Create(partFile(p.id), 0o600)
	if err != nil {
		return err
	}
	p.file = f
	p.direct()
	o := vhd.CreateOptions{Size: x.Size(), UUID: p.id, Timestamp: vhd.TimestampOf(s.now())}
	if !x.From().IsZero() {
		base := image.VHDUUID(x.From())
		o.Parent = &vhd.Parent{UUID: base, Path: base.String() + vhdSuffix}
	}
	if err := vhd.Create(f, o); err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	p.Disk, err = vhd.OpenDisk(f, size, below, p.ahead(x))
	return err
}

// Close closes the files. What was not synced may be lost.
func (p *part) Close() {
	p.tables.close()
	if p.file != nil {
		p.file.Close()
	}
	if p.files != nil {
		p.files.Close()
	}
}

// direct has a full image written straight to the disk. Of a difference frames may refer to what was just written, which had better be
// in memory still.
func (p *part) direct() {
	if p.parents == nil {
		p.file.Direct()
	}
}

// takeAhead is how much room a full image takes in the file before it is needed, in bytes: what is written straight to the disk while
// other blocks are read back goes several at a time only where there is room already.
const takeAhead = 64 << 20

// ahead says how much of that is taken: no more than a plan has counted, so that it goes from nobody else.
func (p *part) ahead(x *layer.Index) vhd.Option {
	if p.parents != nil {
		return vhd.Ahead(0, 0)
	}
	return vhd.Ahead(takeAhead, blockSpace(x.Len())+emptyVHD(x.Size()))
}

// settle syncs the part, and gives back the room that it does not need.
func (p *part) settle() error {
	if err := p.Trim(); err != nil {
		return err
	}
	return p.Sync()
}

// base returns what the frames of the part's layer x may refer to; nil for a full image.
func (p *part) base(x *layer.Index) io.ReaderAt {
	if p.parents == nil {
		return nil
	}
	return layer.Join(p.parents, x.FromSize(), p)
}

// put makes block the content b. On a differencing disk exactly the sectors that differ from what the disk has there are written,
// so that it owns no others.
func (p *part) put(block int, b, scratch []byte) error {
	start := int64(block) * image.BlockSize
	b = b[:min(image.BlockSize, p.Size()-start)]
	next := nextContent
	if p.parents != nil || p.Allocated(block) {
		if err := readBlock(p, scratch, block); err != nil {
			return err
		}
		next = func(b []byte, at int) (from, to int) { return nextChange(b, scratch, at) }
	}
	for from, to := next(b, 0); from < len(b); from, to = next(b, to) {
		if _, err := p.WriteAt(b[from:to], start+int64(from)); err != nil {
			return fmt.Errorf("write block %d: %w", block, err)
		}
	}
	// From then on the block survives the end of this process.
	return p.tables.soon(p.WriteBack)
}

// putWhole makes block the content b with all its sectors, so that nothing of it is read from below.
func (p *part) putWhole(block int, b []byte) error {
	start := int64(block) * image.BlockSize
	if _, err := p.WriteAt(b[:min(image.BlockSize, p.Size()-start)], start); err != nil {
		return fmt.Errorf("write block %d: %w", block, err)
	}
	return p.tables.soon(p.WriteBack)
}

// owns reports whether nothing of a block is read from below.
func (p *part) owns(block int) (bool, error) {
	for x, err := range p.Extents(int64(block)*image.BlockSize, image.BlockSize) {
		if err != nil || x.Member != 0 {
			return false, err
		}
	}
	return true, nil
}

const (
	// grain is the unit in which a new block of a full image is written, in bytes: what is not zeros, with whole clusters.
	grain = 4096
	// leastHole is the shortest run of zeros that is left out of a block, in bytes. To begin another write costs more than to write
	// a shorter one along.
	leastHole = 64 << 10
)

// nextContent returns the first run of b at or behind at that begins and ends with a grain that is not zeros and has no long hole.
// from is len(b) when there is none.
func nextContent(b []byte, at int) (from, to int) {
	from, to = len(b), len(b)
	for i := at; i < len(b); i += grain {
		end := min(i+grain, len(b))
		switch {
		case !image.IsZero(b[i:end]):
			from, to = min(from, i), end
		case from < i && end-to >= leastHole:
			return from, to
		}
	}
	return from, to
}

// nextChange returns the first run of sectors at or behind at where b and old differ. from is len(b) when there is none.
func nextChange(b, old []byte, at int) (from, to int) {
	from = nextDifference(b, old, at)
	return from, nextEqual(b, old, from)
}

// nextDifference returns the offset of the first sector at or behind at where a and b differ.
func nextDifference(a, b []byte, at int) int {
	for at < len(a) && string(a[at:at+image.SectorSize]) == string(b[at:at+image.SectorSize]) {
		at += image.SectorSize
	}
	return at
}

func nextEqual(a, b []byte, at int) int {
	for at < len(a) && string(a[at:at+image.SectorSize]) != string(b[at:at+image.SectorSize]) {
		at += image.SectorSize
	}
	return at
}
