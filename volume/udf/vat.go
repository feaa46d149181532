package udf

import (
	"bytes"
	"cmp"
	"errors"

	"disksync/volume"
)

// openVirtual finds the newest virtual allocation table, whose file entry is the last block that was written, and reads it. Drives and
// copies may have blocks behind it, so that some way back is searched: at first block by block, since such blocks may be unreadable.
func (v *reader) openVirtual(b *volume.Budget, part, below int, start int64) error {
	const near, far = 8, 512
	end := v.d.Size() / v.bs
	for at := end - 1; at >= max(end-near, start); at-- {
		if found, err := v.tryVAT(b, part, below, start, at, 1); found || err != nil {
			return err
		}
	}
	if from := max(end-far, start); from < end-near {
		if found, err := v.tryVAT(b, part, below, start, from, end-near-from); found || err != nil {
			return err
		}
	}
	return volume.Damaged("the table of virtual blocks is not in the last %d blocks: the disc may not have been closed", far)
}

// tryVAT looks for the table in the sectors from at on, beginning with the last. The error is for a limit only.
func (v *reader) tryVAT(b *volume.Budget, part, below int, start, at, sectors int64) (found bool, err error) {
	p, err := b.Read(v.d, at*v.bs, sectors*v.bs)
	for ; err == nil && sectors > 0; sectors-- {
		// The place is compared here whatever the CRC: a copy of an older table may lie about.
		block := at + sectors - 1 - start
		id, location, ok := tagHeader(p[(sectors-1)*v.bs:])
		if !ok || id != tagFile && id != tagExtended || int64(location) != block {
			continue
		}
		table, label, err := v.readVAT(b, address{location, uint16(below)})
		if errors.Is(err, volume.ErrLimit) {
			return false, err
		}
		if err != nil {
			continue
		}
		v.parts[part].main = virtual{table, v.parts[below].main, v.bs}
		v.info.Label = cmp.Or(label, v.info.Label)
		return true, nil
	}
	if errors.Is(err, volume.ErrLimit) {
		return false, err
	}
	return false, nil
}

// readVAT reads a table: in revision 1.50 it ends with the mark of its kind (UDF 1.50 2.2.10), from 2.00 on it begins with a header, in
// which the volume's newest label is (UDF 2.2.11).
func (v *reader) readVAT(b *volume.Budget, at address) (table []uint32, label string, err error) {
	const (
		trailer = 36 // entity identifier, block of the table before
		header  = 152
	)
	e, err := v.entry(b, at)
	if err != nil {
		return nil, "", err
	}
	if e.kind != kindAny && e.kind != kindVAT || e.size > maxVAT {
		return nil, "", volume.Damaged("a table of virtual blocks of type %d with %d bytes", e.kind, e.size)
	}
	x, err := v.extents(b, e)
	if err != nil {
		return nil, "", err
	}
	if err := b.Spend(e.size); err != nil {
		return nil, "", err
	}
	p := make([]byte, e.size)
	if _, err := volume.NewFile(v.d, x, e.size, e.size).ReadAt(p, 0); err != nil {
		return nil, "", err
	}
	switch {
	case e.kind == kindVAT && len(p) >= header && int(le.Uint16(p)) >= header && int(le.Uint16(p)) <= len(p):
		label = dstring(p[4:132])
		p = p[le.Uint16(p):]
	case e.kind == kindAny && len(p) >= trailer && bytes.HasPrefix(p[len(p)-trailer+1:], []byte("*UDF Virtual Alloc Tbl")):
		p = p[:len(p)-trailer]
	default:
		return nil, "", volume.Damaged("a file that is no table of virtual blocks")
	}
	table = make([]uint32, len(p)/4)
	for i := range table {
		table[i] = le.Uint32(p[4*i:])
	}
	return table, label, nil
}
