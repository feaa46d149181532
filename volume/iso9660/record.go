package iso9660

import (
	"strings"

	"disksync/volume"
)

// record is a directory record (9.1).
type record struct {
	block, bytes uint32
	skip         uint8 // blocks of attributes before the content
	flags        uint8
	unit, gap    uint8 // of interleaved files
	set          uint16
	id           []byte
	use          []byte // system use
}

// Flags of a record (9.1.6).
const (
	flagFolder     = 1 << 1
	flagAssociated = 1 << 2
	flagMore       = 1 << 7
)

const recordHead = 33

// readRecord reads a record, which p holds and nothing else.
func readRecord(p []byte) (record, error) {
	if len(p) < recordHead+1 || int(p[32]) > len(p)-recordHead || p[32] == 0 {
		return record{}, volume.Damaged("a record of a folder has %d bytes", len(p))
	}
	r := record{skip: p[1], flags: p[25], unit: p[26], gap: p[27]}
	var ok [3]bool
	r.block, ok[0] = both32(p[2:])
	r.bytes, ok[1] = both32(p[10:])
	r.set, ok[2] = both16(p[28:])
	if ok != [3]bool{true, true, true} {
		return r, volume.Damaged("a record of a folder contradicts itself")
	}
	end := recordHead + int(p[32])
	r.id = p[recordHead:end]
	if use := (end + 1) &^ 1; use < len(p) { // 9.1.12: padded to an even place
		r.use = p[use:]
	}
	return r, nil
}

// nodeOf returns what a record stands for, if it has no others that continue it.
func (v *reader) nodeOf(r record) (node, error) {
	n := node{dir: r.flags&flagFolder != 0, size: int64(r.bytes)}
	switch {
	case r.unit != 0 || r.gap != 0:
		n.refused = volume.Unsupported("a file that is interleaved with others")
	case r.set != v.set && r.set != 0 && r.bytes > 0: // some writers leave it 0
		n.refused = volume.Unsupported("the content is on disc %d of a set", r.set)
	}
	if n.dir && n.refused != nil {
		return n, n.refused
	}
	if r.bytes > 0 {
		n.pieces = []piece{{r.block, uint32(r.skip), r.bytes}}
	}
	return n, nil
}

// join adds the next piece of a file of several (6.5.1).
func (n *node) join(m node) {
	n.size += m.size
	n.pieces = append(n.pieces, m.pieces...)
	if n.refused == nil {
		n.refused = m.refused
	}
}

// plainName is the name of a record without Rock Ridge: without the version, and without the dot that has nothing behind it (7.5.1).
func (v *reader) plainName(id []byte) (string, bool) {
	s := ""
	if v.names == joliet {
		if len(id)%2 != 0 {
			return "", false
		}
		s = ucs2(id)
	} else {
		s = latin(id)
	}
	s = strings.TrimSuffix(s, ";1")
	if t := strings.TrimRight(s, "."); t != "" {
		s = t
	}
	return s, true
}
