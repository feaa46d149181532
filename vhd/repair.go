package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"disksync/image"
)

// RepairOptions says what [Repair] does besides what is always safe. The zero value is good: it mends footers, checksums and the
// batmap, and touches nothing else.
type RepairOptions struct {
	// UUID is given to a disk that has none. Children name their parent by uuid: one that was made while the disk had none names
	// a raw parent now, and must be led to the disk anew with [Relink].
	UUID image.UUID
	// Geometry sets a geometry that does not belong to the size to the one that does. Virtual PC and older versions of
	// qemu take the geometry of some creators' disks for the size, so such a machine sees another size afterwards.
	Geometry bool
	// ZeroJunk overwrites with zeros what lies under clear bits of the bitmaps. By the format these bytes are not the disk's; but
	// if it was a bitmap that got damaged, they are all that is left of its block. Look at them first.
	ZeroJunk bool
	// Drop are blocks that are taken out of the block table: those of [Report.Unusable]. Their content is lost; they read as
	// zeros, or as what the parent has, which may be older. Keep the list until Repair returned without an error and give it
	// again after a crash: when only one of two blocks that overlap is gone, the other looks sound and is not.
	Drop []int
}

// RepairResult is what [Repair] did.
type RepairResult struct {
	// Mended are the findings that are gone, Left what a [Check] finds now.
	Mended, Left []*Error
	// Lost are the ranges of the disk that Drop cost.
	Lost []LostRange
	// Size is the length of the file in bytes.
	Size int64
}

// Repair mends what can be mended without doubt in the VHD in f, which is size bytes long. Nothing else may use f meanwhile.
//
// It mends a footer at the end that is missing or damaged, from the copy at the start; a copy that is damaged or differs, from
// the footer at the end, which is the one that readers go by; checksums that were not kept; a footer of 511 bytes; and a batmap
// that claims too much or has a wrong checksum. Other bytes of a footer stay as they are. Bytes behind the last structure are
// kept, as they may be all that is left of a block: a missing footer is then put behind them.
//
// A file with [Damage] is refused, and nothing is written: what a lost block, header or pair of footers held cannot be known,
// and a repair that made the file look sound would hide that it is gone. RepairOptions.Drop is the way to give blocks up.
//
// After a crash at any write the file opens as well as it did before, with the same content, and Repair can be called again; so
// after an error.
func Repair(f File, size int64, o RepairOptions) (*RepairResult, error) {
	deep := CheckOptions{Bitmaps: true, Data: o.ZeroJunk}
	before, err := Check(f, size, deep)
	if err != nil {
		return nil, err
	}
	r := &repair{f: f, m: before.Image, o: o, before: before, size: size, gone: map[int]bool{}}
	for _, block := range o.Drop {
		r.gone[block] = true
	}
	if err := r.refuse(); err != nil {
		return &RepairResult{Left: before.Findings, Size: size}, err
	}
	for _, step := range []func() error{r.header, r.batmap, r.drop, r.junk, r.footers} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("%w; the file is no worse than before, repair it again", err)
		}
	}
	after, err := Check(f, r.size, deep)
	if err != nil {
		return nil, err
	}
	res := &RepairResult{Left: after.Findings, Size: r.size, Lost: r.m.ranges(slices.Compact(slices.Sorted(slices.Values(o.Drop))))}
	for _, e := range before.Findings {
		if !after.Has(e.Fault) {
			res.Mended = append(res.Mended, e)
		}
	}
	return res, nil
}

type repair struct {
	f      File
	gone   map[int]bool // RepairOptions.Drop
	m      *Image       // as it was, without unusable blocks
	o      RepairOptions
	before *Report
	size   int64
}

// refuse returns why the file is not touched, nil when it may be.
func (r *repair) refuse() error {
	const nothing = "nothing was written"
	for _, e := range r.before.Findings {
		if e.Fault.Severity() == Damage && !e.Fault.ofChain() && (!e.Fault.Is(BadBAT) || r.m == nil) {
			return fmt.Errorf("%w: this cannot be repaired, %s", e, nothing)
		}
	}
	for _, block := range r.before.Unusable {
		if !r.gone[block] {
			return fmt.Errorf("%w: the content of block %d cannot be brought back, only given up; %s", r.before.damaged(), block, nothing)
		}
	}
	for _, block := range r.o.Drop {
		if block < 0 || block >= len(r.m.bat) {
			return fmt.Errorf("vhd: drop block %d: the disk has %d; %s", block, len(r.m.bat), nothing)
		}
	}
	return nil
}

// header brings the header's checksum up to date when nobody kept checksums. It is first: as soon as one of the footers is
// right, the header's checksum counts.
func (r *repair) header() error {
	if !r.m.stale {
		return nil
	}
	at := int64(r.m.footer.DataOffset)
	b := make([]byte, headerSize)
	if err := readFull(r.f, b, at); err != nil {
		return err
	}
	sum := checksum(b, headerChecksumAt)
	if sum == binary.BigEndian.Uint32(b[headerChecksumAt:]) {
		return nil
	}
	if err := writeAt(r.f, binary.BigEndian.AppendUint32(nil, sum), at+headerChecksumAt); err != nil {
		return err
	}
	return syncFile(r.f)
}

// batmap makes tapdisk's batmap true, when it is not.
func (r *repair) batmap() error {
	if r.m.header == nil || len(r.o.Drop) == 0 && !r.before.Has(BatmapWrong) && !r.before.Has(BatmapDamaged) {
		return nil
	}
	b, err := r.m.loadBatmap()
	if b == nil {
		if errors.Is(err, BatmapDamaged) {
			return nil // there is no place for it; the finding stays
		}
		return err
	}
	wrong := make(bitmap, len(b.bits))
	bits := make(bitmap, r.m.blocks.bitmapSize)
	for block := range len(b.bits) * 8 {
		if !b.full(block) {
			continue
		}
		if block < len(r.m.bat) && r.m.bat[block] != unallocated && !r.gone[block] {
			if err := readFull(r.f, bits, int64(r.m.bat[block])*sectorSize); err != nil {
				return err
			}
			if r.m.whole(block, bits) {
				continue
			}
		}
		wrong.set(int64(block), 1)
	}
	return b.retract(r.f, func(block int) bool { return wrong.get(int64(block)) })
}

// drop takes blocks out of the table, each with one write within a sector.
func (r *repair) drop() error {
	for _, block := range r.o.Drop {
		at := int64(r.m.header.TableOffset) + 4*int64(block)
		if err := writeAt(r.f, []byte{0xff, 0xff, 0xff, 0xff}, at); err != nil {
			return err
		}
		r.m.bat[block] = unallocated
	}
	if len(r.o.Drop) == 0 {
		return nil
	}
	return syncFile(r.f)
}

// junk zeros what lies under clear bits.
func (r *repair) junk() error {
	if !r.o.ZeroJunk || r.m.header == nil {
		return nil
	}
	b := make(bitmap, r.m.blocks.bitmapSize)
	zeros, data := make([]byte, junkChunk), make([]byte, junkChunk)
	for block, e := range r.m.bat {
		if e == unallocated {
			continue
		}
		if err := readFull(r.f, b, int64(e)*sectorSize); err != nil {
			return err
		}
		err := r.m.junk(block, b, data, func(at, n int64) error { return writeAt(r.f, zeros[:n], at) })
		if err != nil {
			return err
		}
	}
	return syncFile(r.f)
}

// footers writes both footers. A good one is never overwritten before the other is good and on the disk.
func (r *repair) footers() error {
	seen := r.m.seen
	endGood := seen.end != nil && seen.endErr == nil
	p := &footerPair{f: r.f, copied: r.m.footer.Type != Fixed, endAt: seen.endAt}
	from, n := int64(0), FooterSize
	if endGood || r.m.stale {
		from, n = seen.endAt, seen.endLen
	} else {
		var err error
		if p.endAt, err = r.slot(); err != nil {
			return err
		}
	}
	raw := make([]byte, FooterSize)
	if err := readFull(r.f, raw[:n], from); err != nil {
		return err
	}
	edited := r.edit(raw)
	if endGood && (r.before.Has(CopyDamaged) || r.before.Has(CopyDiffers)) {
		if err := p.writeCopy(raw); err != nil {
			return err
		}
	}
	if !p.copied && !bytes.Equal(edited, raw) && p.endAt%sectorSize != 0 {
		return fault(OddFileSize, p.endAt, "the only footer lies on two sectors, and a crash could cost it")
	}
	r.size = max(r.size, p.endAt+FooterSize)
	return p.write(edited)
}

// edit returns the footer's bytes with what is to be changed.
func (r *repair) edit(raw []byte) []byte {
	b := bytes.Clone(raw)
	if r.before.Has(NilUUID) {
		copy(b[uuidAt:], r.o.UUID[:])
	}
	if r.o.Geometry && r.before.Has(WrongGeometry) {
		putGeometry(b, GeometryFor(r.m.footer.Size))
	}
	if !bytes.Equal(b, raw) || r.m.stale {
		binary.BigEndian.PutUint32(b[footerChecksumAt:], checksum(b, footerChecksumAt))
	}
	return b
}

// slot returns where the footer at the end goes when there is none: over the last sector of the file when that is what is left
// of a footer, else behind everything.
func (r *repair) slot() (int64, error) {
	var used int64
	if r.m.header != nil {
		used = r.m.structureEnd()
	}
	last := r.size - FooterSize
	if last >= used && last%sectorSize == 0 {
		b := make([]byte, FooterSize)
		if err := readFull(r.f, b, last); err != nil {
			return 0, err
		}
		// tapdisk fills its footer with one byte while it has the file open.
		one := bytes.Count(b, b[:1]) == len(b) && (b[0] == 0 || b[0] == 0xc7)
		if one || r.m.seen.end != nil {
			return last, nil
		}
	}
	if r.m.header == nil || used > r.size+r.m.blocks.blockSize {
		used = 0 // only the last block may reach behind the end, where the disk ends inside it
	}
	return roundUp(max(r.size, used), sectorSize), nil
}

// ranges returns what blocks are of the disk, neighbours joined; they are in rising order.
func (m *Image) ranges(blocks []int) []LostRange {
	var out []LostRange
	for _, i := range blocks {
		at := int64(i) * m.blocks.blockSize
		n := min(m.blocks.blockSize, m.footer.Size-at)
		if last := len(out) - 1; last >= 0 && out[last].Offset+out[last].Length == at {
			out[last].Length += n
		} else {
			out = append(out, LostRange{at, n})
		}
	}
	return out
}
