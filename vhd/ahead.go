package vhd

import "errors"

// Ahead has [OpenDisk] take room in the file n bytes before it is needed, but not beyond a length of most, where the file is a [Reserver]:
// for a dynamic or differencing disk much of which is about to be written. Most file systems let nobody read or write a file that is being made longer or gets room
// in a hole, so a disk that is filled by some and read by others is faster that way, and each new block takes one small write less.
// [Disk.Trim] gives back what is too much. It matters to OpenDisk only.
func Ahead(n, most int64) Option { return func(o *options) { o.ahead, o.most = n, most } }

// Reserver is a [File] that can take room before something is written there.
type Reserver interface {
	Puncher
	// Reserve takes room for a range of the file, which may lie behind its end, so that writing there cannot find the file system full.
	// Neither length nor content change. It returns false when it could not, and then may have taken some.
	Reserve(off, length int64) bool
}

// extendAhead is extend for a file in which room is taken ahead; done is false for others. The zeros and the footer behind them are
// as [Disk.extend] has them, only more: after a crash they are what a crash leaves in any case.
func (d *Disk) extendAhead(at, next int64) (done bool, err error) {
	if next > d.zeroEnd {
		f, ok := d.f.(Reserver)
		if !ok || d.ahead == 0 {
			return false, nil
		}
		old := d.fileEnd
		ahead := min(next+d.ahead, d.most-FooterSize) / sectorSize * sectorSize
		to := roundUp(max(ahead, next, old-FooterSize), sectorSize)
		if err := d.moveFooter(to); err != nil {
			return false, err
		}
		d.fileEnd = to + FooterSize
		if err := d.clear(f, at, min(old, to)); err != nil {
			return false, err
		}
		d.zeroEnd = to
		if f.Reserve(at, to-at) {
			d.taken = to
		}
	}
	d.end = next
	return true, nil
}

// clear makes a range of the file zeros.
func (d *Disk) clear(f Puncher, from, to int64) error {
	if to <= from {
		return nil
	}
	err := f.Punch(from, to-from)
	if errors.Is(err, errors.ErrUnsupported) {
		return d.zero(from, to)
	}
	return err
}

// Trim gives back what the file has behind everything that is in use: room that was taken ahead, now or by a process that was killed. After
// an error the Disk refuses all further writes.
func (d *Disk) Trim() error {
	d.shape.Lock()
	defer d.shape.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil || d.leaf.header == nil {
		return d.broken
	}
	d.zeroEnd, d.taken = 0, 0
	d.broken = d.trim(roundUp(d.end, sectorSize))
	return d.broken
}
