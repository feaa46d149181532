package diskmap

import (
	"bytes"
	"encoding/binary"
	"errors"

	exfatfs "disksync/volume/exfat"
	fatfs "disksync/volume/fat"
)

// opener reads the allocation map of a file system.
type opener func(s *scan, r region, v *Volume) (*zone, error)

// headBytes is how much of a volume's start is looked at for the marks of file systems.
const headBytes = 68 << 10

// others are what is recognised by name only. Free space is not told for them: XFS and btrfs keep it in trees of their own, and
// the rest are containers whose content is elsewhere, or scrambled.
var others = []struct {
	at   int
	mark string
	kind Kind
}{
	{0, "XFSB", "xfs"}, {0x10040, "_BHRfS_M", "btrfs"}, {3, "-FVE-FS-", "BitLocker"}, {424, bitLockerToGo, "BitLocker"},
	{0, "LUKS\xba\xbe", "LUKS"}, {3, "ReFS\x00", "ReFS"}, {0x400, "\x10\x20\xf5\xf2", "f2fs"}, {32, "NXSB", "apfs"},
	{0x400, "H+\x00\x04", "hfs+"}, {0x400, "HX\x00\x05", "hfs+"}, {0x8001, "CD001", "iso9660"}, {0, "hsqs", "squashfs"},
	{0, "LABELONE", "LVM"}, {0x200, "LABELONE", "LVM"}, {0x400, "LABELONE", "LVM"}, {0x600, "LABELONE", "LVM"},
	{0, raidMark, "software RAID"}, {0x1000, raidMark, "software RAID"},
}

const (
	bitLockerToGo = "\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01"
	raidMark      = "\xfc\x4e\x2b\xa9"
)

// marks are the file systems that can be read. A volume that has the marks of two is neither.
var marks = []struct {
	is   func(head []byte) bool
	kind Kind
	open opener
}{
	{isExt, Ext4, openExt},
	{isNTFS, NTFS, openNTFS},
	{exfatfs.IsBoot, ExFAT, openExFAT},
	{fatfs.IsBoot, FAT32, openFAT},
	{isSwap, Swap, openSwap},
}

// Identify returns the kind of what a disk or partition begins with, and Unknown when nothing is recognised. An error is one of reading it.
func Identify(d Disk) (Kind, error) {
	kind, _, err := identify(region{d, 0, d.Size()})
	if _, ok := errors.AsType[*kept](err); ok {
		err = nil
	}
	return kind, err
}

// identify tells what is in a volume from what it begins with. The opener is nil for what has nothing to tell.
func identify(r region) (Kind, opener, error) {
	head, err := r.bytes(0, min(headBytes, r.size))
	if err != nil {
		return Unknown, nil, err
	}
	if kind, err := raidAtEnd(r); err != nil {
		return kind, nil, err
	}
	// What other software claims comes first: within a container there may be what looks like a file system.
	for _, o := range others {
		if o.kind != "btrfs" && o.kind != "iso9660" && hasMark(head, o.at, o.mark) {
			return o.kind, nil, keep("what is free in it cannot be told for %s", o.kind)
		}
	}
	var kind Kind
	var open opener
	for _, m := range marks {
		if !m.is(head) {
			continue
		}
		if open != nil {
			return Unknown, nil, keep("it has the marks of %s and of %s", kind, m.kind)
		}
		kind, open = m.kind, m.open
	}
	if open != nil {
		return kind, open, nil
	}
	// These marks are so far in that they may be left of something older.
	for _, o := range others {
		if hasMark(head, o.at, o.mark) {
			return o.kind, nil, keep("what is free in it cannot be told for %s", o.kind)
		}
	}
	if len(bytes.Trim(head, "\x00")) == 0 {
		return Blank, nil, nil
	}
	return Unknown, nil, keep("it holds no file system that is known")
}

func hasMark(head []byte, at int, mark string) bool {
	return len(head) >= at+len(mark) && string(head[at:at+len(mark)]) == mark
}

// raidAtEnd finds the mark of a software RAID whose data begins like a file system, but goes on elsewhere.
func raidAtEnd(r region) (Kind, error) {
	const version0, version1, unit = 64 << 10, 8 << 10, 4 << 10
	for _, at := range []int64{r.size&^(version0-1) - version0, (r.size - version1) &^ (unit - 1)} {
		if at < 0 {
			continue
		}
		b, err := r.bytes(at, int64(len(raidMark)))
		if err != nil {
			return Unknown, err
		}
		big := binary.BigEndian.Uint32(b) == binary.LittleEndian.Uint32([]byte(raidMark))
		if string(b) == raidMark || big {
			return "software RAID", keep("it is a part of a software RAID")
		}
	}
	return Unknown, nil
}
