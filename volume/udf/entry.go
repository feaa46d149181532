package udf

import (
	"fmt"

	"disksync/volume"
)

// Types of files (4/14.6.6, UDF 2.3.5.2).
const (
	kindAny      = 0
	kindFolder   = 4
	kindFile     = 5
	kindVAT      = 248
	kindRealTime = 249 // a file that has to be read at a steady rate
	kindMetadata = 250
	kindMirror   = 251
	kindNone     = 255 // ours: a file entry that could not be read
)

// Strategies of changing a file entry (4/14.6.2): in its place, or by a chain of new ones.
const (
	strategyPlain = 4
	strategyChain = 4096
)

// How the bytes of a file are described (4/14.6.8).
const (
	allocShort    = 0
	allocLong     = 1
	allocExtended = 2
	allocInside   = 3
)

// entry is a file entry (4/14.9) or an extended one (4/14.17).
type entry struct {
	kind     uint8
	strategy uint16
	alloc    uint16
	size     int64
	part     uint16 // partition it was found in, which short descriptors mean
	ads      []byte // allocation descriptors, or the content; part of the block that was read
	place    int64  // of ads on the device
	mirror   bool   // it was read from the copy of a metadata partition, and so is what it refers to there
}

// maxChain is how many file entries a chain may have.
const maxChain = 4096

// entry reads the file entry at a block, from the mirror if the first copy is damaged.
func (v *reader) entry(b *volume.Budget, at address) (*entry, error) {
	e, err := v.entryIn(b, at, false)
	if err != nil && int(at.part) < len(v.parts) && v.parts[at.part].mirror != nil {
		if e, err := v.entryIn(b, at, true); err == nil {
			return e, nil
		}
	}
	return e, err
}

// entryIn reads the file entry at a block in one copy, and follows the chain of its versions to the newest.
func (v *reader) entryIn(b *volume.Budget, at address, mirror bool) (*entry, error) {
	p := make([]byte, v.bs)
	var next []byte
	for range maxChain {
		place, err := v.block(b, at, mirror, p)
		if err != nil {
			return nil, err
		}
		e, err := v.parseEntry(p, place, at)
		if err != nil {
			return nil, err
		}
		e.mirror = mirror
		if e.strategy != strategyChain {
			return e, nil
		}
		// The block behind it says where the next version is, or was never written (4/14.6.2, UDF 2.3.5.1).
		if next == nil {
			next = make([]byte, v.bs)
		}
		behind := address{at.block + 1, at.part}
		if _, err := v.block(b, behind, mirror, next); err != nil {
			return nil, err
		}
		if allZero(next[:tagSize]) {
			return e, nil
		}
		switch id, _, err := readTag(next); {
		case err != nil:
			return nil, err
		case id != tagIndirect:
			return e, nil
		}
		ad := readLongAD(next[36:])
		if ad.bytes == 0 {
			return e, nil
		}
		at = ad.at
	}
	return nil, fmt.Errorf("%w: a chain of more than %d file entries", volume.ErrLimit, maxChain)
}

// block reads a block into p, which has its size, and returns where it is on the device.
func (v *reader) block(b *volume.Budget, at address, mirror bool, p []byte) (place int64, err error) {
	place, err = v.place(at, mirror)
	if err != nil {
		return 0, err
	}
	if err := b.Spend(int64(len(p))); err != nil {
		return 0, err
	}
	_, err = v.d.ReadAt(p, place)
	return place, err
}

// parseEntry reads a file entry from the block p, which lies at place and is called at.
func (v *reader) parseEntry(p []byte, place int64, at address) (*entry, error) {
	head, lengths := 176, 168
	if id := le.Uint16(p); id == tagExtended {
		head, lengths = 216, 208
		if err := wantTag(p, id, at.block); err != nil {
			return nil, err
		}
	} else if err := wantTag(p, tagFile, at.block); err != nil {
		return nil, err
	}
	size := le.Uint64(p[56:])
	attributes, ads := int64(le.Uint32(p[lengths:])), int64(le.Uint32(p[lengths+4:]))
	if room := int64(len(p) - head); size > volume.MaxFile || attributes > room || ads > room-attributes {
		return nil, volume.Damaged("a file entry with %d bytes of attributes and %d of descriptors for a file of %d", attributes, ads, size)
	}
	start := int64(head) + attributes
	e := &entry{
		kind:     p[27],
		strategy: le.Uint16(p[20:]),
		alloc:    le.Uint16(p[34:]) & 7,
		size:     int64(size),
		part:     at.part,
		ads:      p[start : start+ads],
		place:    place + start,
	}
	if e.strategy != strategyPlain && e.strategy != strategyChain {
		return nil, volume.Unsupported("a file entry with the strategy %d", e.strategy)
	}
	return e, nil
}
