package udf

import (
	"encoding/binary"

	"disksync/internal/crcitut"
	"disksync/volume"
)

var le = binary.LittleEndian

// Identifiers of descriptors (3/7.2.1, 4/7.2.1).
const (
	tagSparing    = 0 // UDF 2.2.12
	tagPrimary    = 1
	tagAnchor     = 2
	tagPointer    = 3
	tagPartition  = 5
	tagLogical    = 6
	tagTerminator = 8
	tagFileSet    = 256
	tagIdentifier = 257
	tagAllocation = 258
	tagIndirect   = 259
	tagTerminal   = 260
	tagFile       = 261
	tagExtended   = 266
)

// tagSize is the length of what every descriptor begins with (3/7.2).
const tagSize = 16

// readTag checks the beginning of a descriptor, and its content by the CRC, and returns what it is. p is the descriptor and what follows
// it in its block.
func readTag(p []byte) (id uint16, location uint32, err error) {
	id, location, ok := tagHeader(p)
	if !ok {
		return 0, 0, volume.Damaged("the checksum of a descriptor is wrong")
	}
	if !tagContent(p) {
		return 0, 0, volume.Damaged("the CRC of a descriptor (type %d) is wrong", id)
	}
	return id, location, nil
}

// tagHeader checks the tag alone.
func tagHeader(p []byte) (id uint16, location uint32, ok bool) {
	if len(p) < tagSize {
		return 0, 0, false
	}
	sum := byte(0)
	for i, c := range p[:tagSize] {
		if i != 4 {
			sum += c
		}
	}
	if version := le.Uint16(p[2:]); sum != p[4] || version != 2 && version != 3 {
		return 0, 0, false
	}
	return le.Uint16(p), le.Uint32(p[12:]), true
}

// tagContent checks the CRC. A length of 0 means that there is none.
func tagContent(p []byte) bool {
	n := int(le.Uint16(p[10:]))
	return n <= len(p)-tagSize && crcitut.Sum(p[tagSize:tagSize+n]) == le.Uint16(p[8:])
}

// wantTag checks a descriptor that has to be of one type, and to lie where it says. Some writers say that wrongly: where the CRC
// covers the content this is let pass.
func wantTag(p []byte, id uint16, location uint32) error {
	got, at, err := readTag(p)
	switch {
	case err != nil:
		return err
	case got != id:
		return volume.Damaged("a descriptor has the type %d, not %d", got, id)
	case at != location && le.Uint16(p[10:]) == 0:
		return volume.Damaged("a descriptor of type %d at block %d says that it lies at %d", got, location, at)
	}
	return nil
}
