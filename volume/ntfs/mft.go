package ntfs

import (
	"errors"

	"disksync/volume"
	"disksync/volume/ntfs/format"
)

// openMFT finds the master file table through its own first record, or through the copy of it.
func (v *vol) openMFT(b *volume.Budget) (copied bool, err error) {
	if err = v.openMFTAt(b, v.boot.MFT); err == nil {
		return false, nil
	}
	if v.openMFTAt(b, v.boot.Mirror) == nil {
		return true, nil
	}
	return false, err
}

func (v *vol) openMFTAt(b *volume.Budget, cluster int64) error {
	v.mft, v.count = nil, 0
	rec, err := v.recordAt(b, format.MFT, cluster*v.boot.Cluster)
	if err != nil {
		return err
	}
	if rec == nil {
		return volume.Damaged("it has no master file table")
	}
	f := &inode{rec: rec}
	if err := v.readList(b, f); err != nil {
		return err
	}
	s, err := v.stream(b, f, format.AttrData, "")
	if err != nil {
		return err
	}
	if s == nil || s.Resident || s.Flags&(format.Compressed|format.Encrypted) != 0 || s.Size < format.Own*v.boot.RecordSize {
		return volume.Damaged("its master file table makes no sense")
	}
	v.setMFT(s)
	return nil
}

// setMFT makes what is known of the master file table the one that records are read from.
func (v *vol) setMFT(s *stream) {
	v.mft = volume.NewFile(v.d, &s.x, min(s.Size, s.x.Size()), s.Written)
	v.count = min(s.Written, s.Size, s.x.Size()) / v.boot.RecordSize
}

// recordAt reads a record that is at a place on the device, which may be nil as those of format.ParseRecord.
func (v *vol) recordAt(b *volume.Budget, number, place int64) (*format.Record, error) {
	p, err := b.Read(v.d, place, v.boot.RecordSize)
	if err != nil {
		return nil, err
	}
	rec, err := format.ParseRecord(p, number)
	return rec, damaged(err)
}

// record reads one record.
func (v *vol) record(b *volume.Budget, number int64) (rec *format.Record, err error) {
	e := v.records(b, []int64{number}, func(_ int, r *format.Record, e error) error {
		rec, err = r, e
		return nil
	})
	return rec, errors.Join(e, err)
}

// Records that are near one another are read together, up to piece bytes, and what is between them is read along when it is no more
// than gap: that costs less than another request, and not much of a call's budget.
const (
	piece = 64 << 10
	gap   = 2 << 10
)

// takeRecord is told of a record that was asked for: rec is nil where none was ever written, or err says why it cannot be read.
type takeRecord func(i int, rec *format.Record, err error) error

// records reads records and hands them to do in the order of their numbers here. An error of do ends it, and so does an exhausted
// budget.
func (v *vol) records(b *volume.Budget, numbers []int64, do takeRecord) error {
	for i := 0; i < len(numbers); {
		n := v.together(numbers[i:])
		err := v.neighbours(b, numbers[i:i+n], func(k int, rec *format.Record, err error) error { return do(i+k, rec, err) })
		if err != nil {
			return err
		}
		i += n
	}
	return nil
}

// together returns how many records, at least one, can be read at once.
func (v *vol) together(numbers []int64) int {
	first, last, size := numbers[0], numbers[0], v.boot.RecordSize
	if first < 0 || first >= v.count {
		return 1
	}
	for n, next := range numbers {
		if next < last || next >= v.count || (next-last-1)*size > gap || (next-first+1)*size > max(piece, size) {
			return n
		}
		last = next
	}
	return len(numbers)
}

// neighbours reads records that ascend in one piece.
func (v *vol) neighbours(b *volume.Budget, numbers []int64, do takeRecord) error {
	first, last, size := numbers[0], numbers[len(numbers)-1], v.boot.RecordSize
	if first < 0 || last >= v.count {
		return do(0, nil, volume.Damaged("there is no file %d", first))
	}
	if err := b.Spend((last - first + 1) * size); err != nil {
		return err
	}
	p := make([]byte, (last-first+1)*size)
	_, err := v.mft.ReadAt(p, first*size)
	if err != nil && len(numbers) > 1 { // one that is damaged is not the others' fault
		for i := range numbers {
			one := func(_ int, rec *format.Record, err error) error { return do(i, rec, err) }
			if err := v.neighbours(b, numbers[i:i+1], one); err != nil {
				return err
			}
		}
		return nil
	}
	var rec *format.Record
	for i, n := range numbers {
		if err == nil && (i == 0 || n != numbers[i-1]) { // parsing changes the bytes
			at := (n - first) * size
			var fault error
			if rec, fault = format.ParseRecord(p[at:at+size:at+size], n); fault != nil {
				rec, fault = nil, damaged(fault)
			}
			if e := do(i, rec, fault); e != nil {
				return e
			}
			continue
		}
		if e := do(i, rec, err); e != nil {
			return e
		}
	}
	return nil
}
