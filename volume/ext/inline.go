package ext

import (
	"encoding/binary"

	"disksync/volume"
)

// inline returns content that is in the inode: the first 60 bytes where the map of blocks would be, the rest in the attribute
// system.data behind the inode's fields ("Inline Data").
func (v *Volume) inline(n Inode, size int64) (volume.File, error) {
	b := append([]byte(nil), n.blockMap()...)
	if size > int64(len(b)) {
		b = append(b, systemData(n.Raw)...)
	}
	if size > int64(len(b)) {
		return nil, volume.Damaged("inode %d: %d bytes are said to be in it, and %d are", n.Number, size, len(b))
	}
	return volume.Bytes(b[:size], -1), nil
}

// systemData returns the value of the attribute of that name in an inode ("Extended Attributes").
func systemData(raw []byte) []byte {
	const fields, attrMagic, system, entryBytes = 128, 0xea020000, 7, 16
	le := binary.LittleEndian
	if len(raw) < fields+2 {
		return nil
	}
	at := fields + int(le.Uint16(raw[fields:]))
	if at+4 > len(raw) || le.Uint32(raw[at:]) != attrMagic {
		return nil
	}
	values := raw[at+4:] // places of values are from the first entry on
	for e := values; len(e) >= entryBytes && le.Uint32(e) != 0; {
		length := int(e[0])
		if len(e) < entryBytes+length {
			return nil
		}
		if e[1] == system && string(e[entryBytes:entryBytes+length]) == "data" {
			from, n, elsewhere := int64(le.Uint16(e[2:])), int64(le.Uint32(e[8:])), le.Uint32(e[4:])
			if elsewhere != 0 || from+n > int64(len(values)) {
				return nil
			}
			return values[from : from+n]
		}
		e = e[min((entryBytes+length+3)&^3, len(e)):]
	}
	return nil
}
