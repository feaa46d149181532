package exfat

import (
	"encoding/binary"

	"disksync/volume"
)

// Types of entries (sections 6.2.1 and 7), and the bits they are made of.
const (
	EntryBytes = 32

	TypeEnd    = 0x00
	TypeBitmap = 0x81
	TypeUpcase = 0x82
	TypeLabel  = 0x83
	TypeFile   = 0x85
	TypeGUID   = 0xa0
	TypeStream = 0xc0
	TypeName   = 0xc1

	InUse     = 0x80
	Secondary = 0x40 // it belongs to the entry before
	Benign    = 0x20 // who does not know it may go on
)

// SetSum returns the checksum of the entries of a file (section 6.3.3).
func SetSum(b []byte) uint16 {
	var sum uint16
	for i, c := range b {
		if i != 2 && i != 3 {
			sum = sum<<15 | sum>>1 + uint16(c)
		}
	}
	return sum
}

// SetOK reports whether b begins with the entries of a file that belong together, and how many there are.
func SetOK(b []byte) (n int, ok bool) {
	n = int(b[1]) + 1
	return n, n >= 3 && n*EntryBytes <= len(b) && b[EntryBytes] == TypeStream && SetSum(b[:n*EntryBytes]) == binary.LittleEndian.Uint16(b[2:])
}

// SetName returns the name that the entries of a file hold, in UTF-16.
func SetName(b []byte) []byte {
	length := 2 * int(b[EntryBytes+3])
	var name []byte
	for e := b[2*EntryBytes:]; len(e) >= EntryBytes; e = e[EntryBytes:] {
		if e[0] == TypeName {
			name = append(name, e[2:EntryBytes]...)
		}
	}
	return name[:min(length, len(name))]
}

// parseSet reads the entries of a file, whose checksum is right. It is false for what is to be left out.
func parseSet(b []byte) (it volume.Item[node], ok bool, err error) {
	const inOnePiece, isFolder = 2, 0x10
	for e := b[2*EntryBytes:]; len(e) >= EntryBytes; e = e[EntryBytes:] {
		// Who does not know a critical entry must not use the set (section 6.2.1.2).
		if e[0] != TypeName && e[0]&Benign == 0 {
			return it, false, volume.Unsupported("an entry of the type %#x", e[0])
		}
	}
	le := binary.LittleEndian
	stream := b[EntryBytes:][:EntryBytes]
	it.Dir = le.Uint16(b[4:])&isFolder != 0
	size, valid := le.Uint64(stream[24:]), le.Uint64(stream[8:])
	name := SetName(b)
	if size > volume.MaxFile || valid > size || len(name) < 2*int(stream[3]) {
		return it, false, volume.Damaged("a file of %d bytes, of which %d are valid", size, valid)
	}
	it.Node = node{
		first: le.Uint32(stream[20:]), size: int64(size), valid: int64(valid), inOnePiece: stream[1]&inOnePiece != 0,
	}
	if !it.Dir {
		it.Size = it.Node.size
	}
	it.Name, ok = volume.UTF16(name)
	return it, ok, nil
}
