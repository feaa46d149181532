package vhd

import "encoding/binary"

// maxDirtyBitmaps bounds the memory of a Disk that is written for long without Sync; WriteAt then syncs by itself.
const maxDirtyBitmaps = 4096

// crowded reports whether it is time for a sync.
func (d *Disk) crowded() bool {
	return len(d.fresh)+len(d.changed) > maxDirtyBitmaps || d.log.crowded()
}

// relieve syncs when it still is time for that.
func (d *Disk) relieve() error {
	d.syncing.Lock()
	defer d.syncing.Unlock()
	if ok, err := d.relieved(); ok || err != nil {
		return err
	}
	if err := d.sync(); err != nil {
		return err
	}
	if ok, err := d.relieved(); ok || err != nil {
		return err
	}
	// Others went on writing, so that the log could not be emptied. Little is left to be synced.
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.snapshot()
	return d.settle(s, s.store(d.f, true))
}

func (d *Disk) relieved() (bool, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return !d.crowded(), d.broken
}

// Sync makes everything written so far durable. Others may read and write meanwhile. After an error the Disk refuses all further
// writes: what a failed sync left behind is not known.
func (d *Disk) Sync() error {
	d.shape.RLock()
	defer d.shape.RUnlock()
	// Whoever comes while others wait shares the next sync with them.
	next := d.syncs.Load() + 1
	d.syncing.Lock()
	defer d.syncing.Unlock()
	if d.syncs.Load() >= next {
		d.mu.RLock()
		defer d.mu.RUnlock()
		return d.broken
	}
	return d.sync()
}

// sync is called with syncing held.
func (d *Disk) sync() error {
	d.syncs.Add(1)
	return d.bring(true)
}

// bring writes bitmaps and table to the file, while others write on.
func (d *Disk) bring(durable bool) error {
	d.mu.Lock()
	if d.broken != nil {
		defer d.mu.Unlock()
		return d.broken
	}
	s := d.snapshot()
	d.mu.Unlock()
	err := s.store(d.f, durable)
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.settle(s, err)
}

// WriteBack hands everything to the operating system without waiting for the disk. That is enough against the death of
// this process, not against the loss of power: then a block may be reachable whose data is not there. It is for a file
// whose content is checked before it is used.
func (d *Disk) WriteBack() error {
	d.shape.RLock()
	defer d.shape.RUnlock()
	d.syncing.Lock()
	defer d.syncing.Unlock()
	return d.bring(false)
}

// SyncBack does what [Disk.WriteBack] does, and returns when all of it is on stable storage. After an error the Disk refuses all
// further writes.
func (d *Disk) SyncBack() error {
	if err := d.WriteBack(); err != nil {
		return err
	}
	err := syncFile(d.f)
	if err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.broken = err
	}
	return err
}

// snapshot is what the file does not have yet of bitmaps and table, at one moment.
type snapshot struct {
	// Bitmaps by block, and where they go.
	fresh, changed map[int]placedBitmap
	table          map[int64][]uint32 // entries by their sector in the file
	logged         int64              // how far the log was
}

type placedBitmap struct {
	bits bitmap
	at   int64
}

func (d *Disk) snapshot() *snapshot {
	s := &snapshot{
		fresh: d.placed(d.fresh), changed: d.placed(d.changed), table: make(map[int64][]uint32, len(d.tableDue)), logged: d.log.written(),
	}
	for at := range d.tableDue {
		first := int(at-int64(d.leaf.header.TableOffset)) / 4
		s.table[at] = append([]uint32(nil), d.leaf.bat[first:min(first+sectorSize/4, len(d.leaf.bat))]...)
	}
	clear(d.tableDue)
	return s
}

func (d *Disk) placed(dirty map[int]bitmap) map[int]placedBitmap {
	out := make(map[int]placedBitmap, len(dirty))
	for block, b := range dirty {
		out[block] = placedBitmap{append(bitmap(nil), b...), int64(d.leaf.bat[block]) * sectorSize}
	}
	return out
}

// store writes the snapshot: first the bitmaps of blocks that nobody can reach, then what makes new content visible, which are bitmaps
// of blocks that were there, and the table. When it is to be durable, all data is on the disk before that, and this is at the end.
func (s *snapshot) store(f File, durable bool) error {
	if err := writeBitmaps(f, s.fresh); err != nil {
		return err
	}
	if durable {
		if err := syncFile(f); err != nil {
			return err
		}
	}
	if len(s.changed)+len(s.table) == 0 {
		return nil
	}
	if err := writeBitmaps(f, s.changed); err != nil {
		return err
	}
	for at, entries := range s.table {
		if err := writeTableSector(f, at, entries); err != nil {
			return err
		}
	}
	if !durable {
		return nil
	}
	return syncFile(f)
}

func writeBitmaps(f File, dirty map[int]placedBitmap) error {
	for _, b := range dirty {
		if err := writeAt(f, b.bits, b.at); err != nil {
			return err
		}
	}
	return nil
}

// writeTableSector writes one sector of the table; what lies behind the disk's own entries is kept as it is.
func writeTableSector(f File, at int64, entries []uint32) error {
	b := make([]byte, sectorSize)
	if len(entries) < sectorSize/4 {
		if err := readFull(f, b, at); err != nil {
			return err
		}
	}
	for i, e := range entries {
		binary.BigEndian.PutUint32(b[4*i:], e)
	}
	return writeAt(f, b, at)
}

// settle takes note of what store did. What was written meanwhile stays due; since bits are only ever set, a bitmap tells by itself
// whether that is so.
func (d *Disk) settle(s *snapshot, err error) error {
	if err != nil {
		d.broken = err
		return err
	}
	for block, was := range s.fresh {
		b := d.fresh[block]
		delete(d.fresh, block)
		if string(b) != string(was.bits) {
			d.changed[block] = b
		} else {
			d.leaf.unpin(block)
		}
	}
	for block, was := range s.changed {
		if string(d.changed[block]) == string(was.bits) {
			delete(d.changed, block)
			d.leaf.unpin(block)
		}
	}
	if d.log.written() == s.logged {
		if err := d.log.empty(); err != nil {
			d.broken = err
		}
	}
	return d.broken
}
