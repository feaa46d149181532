package udf

import (
	"sort"

	"disksync/volume"
)

// space is the logical blocks of a partition.
type space interface {
	// locate appends to x where n bytes are that begin at a block. Only the last block may be used in part.
	locate(x *volume.Extents, block, n int64) error
}

// partition is a space, and for metadata partitions the copy of it, which may be nil.
type partition struct {
	number       uint16 // of the partition descriptor
	main, mirror space
}

// locate appends to x where n bytes from a on are, in the copy that is asked for if there is one.
func (v *reader) locate(x *volume.Extents, a address, n int64, mirror bool) error {
	if int(a.part) >= len(v.parts) {
		return volume.Damaged("partition %d of %d", a.part, len(v.parts))
	}
	p := v.parts[a.part]
	if mirror && p.mirror != nil {
		return p.mirror.locate(x, int64(a.block), n)
	}
	if p.main == nil {
		return volume.Unsupported("partition %d is of an unknown kind", a.part)
	}
	return p.main.locate(x, int64(a.block), n)
}

// place returns where a block is.
func (v *reader) place(a address, mirror bool) (int64, error) {
	var x volume.Extents
	if err := v.locate(&x, a, v.bs, mirror); err != nil {
		return 0, err
	}
	place, _ := x.At(0)
	return place, nil
}

// physical is sectors of the device (UDF 2.1.4, 3/10.5). What lies behind its end is not refused here: it is read where the device has it.
type physical struct{ blockSize, start, blocks int64 }

func (s physical) locate(x *volume.Extents, block, n int64) error {
	return x.Append((s.start+block)*s.blockSize, n)
}

// sparable is sectors, of which some packets have gone bad and have been moved (UDF 2.2.9, 2.2.12).
type sparable struct {
	physical
	packet int64 // blocks
	spared []sparing
}

// sparing is a packet that was moved: its first block, and the sector where it now begins. They are in ascending order.
type sparing struct{ block, sector int64 }

func (s sparable) locate(x *volume.Extents, block, n int64) error {
	for n > 0 {
		packet := block - block%s.packet
		k := sort.Search(len(s.spared), func(i int) bool { return s.spared[i].block >= packet })
		if k < len(s.spared) && s.spared[k].block == packet {
			run := min(n, (packet+s.packet-block)*s.blockSize)
			if err := x.Append((s.spared[k].sector+block-packet)*s.blockSize, run); err != nil {
				return err
			}
			block, n = packet+s.packet, n-run
			continue
		}
		run := n
		if k < len(s.spared) {
			run = min(n, (s.spared[k].block-block)*s.blockSize)
		}
		if err := s.physical.locate(x, block, run); err != nil {
			return err
		}
		block, n = block+run/s.blockSize, n-run
	}
	return nil
}

// virtual is blocks that a table leads to, since on a disc that is written once nothing can be changed in its place (UDF 2.2.8, 2.2.11).
type virtual struct {
	table     []uint32 // blocks of the partition below
	below     space
	blockSize int64
}

// unused is a virtual block that has been deleted.
const unused = 0xffffffff

func (s virtual) locate(x *volume.Extents, block, n int64) error {
	for n > 0 {
		if block >= int64(len(s.table)) || s.table[block] == unused {
			return volume.Damaged("the virtual block %d is not in the table of %d", block, len(s.table))
		}
		run := min(n, s.blockSize)
		if err := s.below.locate(x, int64(s.table[block]), run); err != nil {
			return err
		}
		block, n = block+1, n-run
	}
	return nil
}

// metadata is the content of a file, in which all file entries and folders are kept together (UDF 2.2.10, 2.2.13).
type metadata struct {
	file      *volume.Extents
	blockSize int64
}

func (s metadata) locate(x *volume.Extents, block, n int64) error {
	off := block * s.blockSize
	if off > s.file.Size() || n > s.file.Size()-off {
		return volume.Damaged("%d bytes at block %d of the metadata file, which has %d bytes", n, block, s.file.Size())
	}
	for n > 0 {
		place, run := s.file.At(off)
		if place == volume.Hole {
			return volume.Damaged("block %d is in a hole of the metadata file", off/s.blockSize)
		}
		run = min(run, n)
		if err := x.Append(place, run); err != nil {
			return err
		}
		off, n = off+run, n-run
	}
	return nil
}
