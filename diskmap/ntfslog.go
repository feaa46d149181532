package diskmap

import (
	"encoding/binary"
)

// logFile checks that nothing in the log has to be carried out any more: it is empty, or its newer restart page says that it was
// closed.
func (v *ntfs) logFile() error {
	bad := keep("its log makes no sense")
	rec, err := v.record(ntfsLog)
	if err != nil {
		return err
	}
	a, err := v.file(rec, attrData, "")
	if err != nil {
		return err
	}
	// Two restart pages and 48 others are the least that there may be.
	const leastLog, maxPage = 50 * 4096, 64 << 10
	if a.resident || a.flags != 0 || a.size < leastLog || a.length()*v.cluster < a.size {
		return bad
	}
	log := v.stream(a.runs, a.size)
	head := make([]byte, maxPage)
	if err := log.readAt(head, 0); err != nil {
		return err
	}
	if emptyLog(head) {
		return nil
	}
	le := binary.LittleEndian
	size := int64(le.Uint32(head[16:]))
	if !powerOfTwo(size, 512, maxPage/2) {
		return bad
	}
	one, two := parseRestart(head[:size], 0), parseRestart(head[size:2*size], 1)
	switch {
	case one == nil:
		return bad
	case two != nil && two.lsn > one.lsn:
		one = two
	}
	if !one.closed {
		return keep("its log still has to be carried out")
	}
	return nil
}

// emptyLog reports whether no page was ever written to the log, or it was made empty.
func emptyLog(head []byte) bool {
	for at := 0; at < len(head); at = max(2*at, sector) {
		if string(head[at:at+4]) != "\xff\xff\xff\xff" {
			return false
		}
	}
	return true
}

// restart is what a restart page of the log says.
type restart struct {
	lsn    int64 // how new it is
	closed bool
}

// parseRestart reads a restart page; nil when it is none, or damaged.
func parseRestart(page []byte, number int) *restart {
	le := binary.LittleEndian
	b := append([]byte(nil), page...)
	mark, count := string(b[:4]), le.Uint16(b[6:])
	checked := mark == "CHKD" // by chkdsk, which leaves the ends of the sectors as they are
	if mark != "RSTR" && !checked || !(checked && count == 0) && !fixup(b) {
		return nil
	}
	at := int(le.Uint16(b[24:]))
	if at%8 != 0 || at < 32 || at+48 > min(len(b), sector-2) {
		return nil
	}
	area := b[at:]
	r := &restart{lsn: int64(le.Uint64(area))}
	if checked {
		r.lsn = int64(le.Uint64(b[8:]))
	}
	// Version 2.0 says that Windows has kept some of the volume in its memory, whatever the flags are.
	const noClient, isClean = 0xffff, 0x0002
	minor, major := le.Uint16(b[26:]), le.Uint16(b[28:])
	r.closed = major == 1 && minor == 1 && (le.Uint16(area[12:]) == noClient || le.Uint16(area[14:])&isClean != 0)
	return r
}

// shadowMark begins what the shadow copies of Windows write to a volume.
const shadowMark = "\x6b\x87\x08\x38\x76\xc1\x48\x4e\xb7\xae\x04\x04\x6e\x6c\xc7\x52"

// shadowCopies checks that there are none. They need the content of clusters that were used when they were made, also of those
// that are free by now.
func (v *ntfs) shadowCopies() error {
	const headerAt, catalogBlock, entry, maxBlocks = 0x1e00, 16 << 10, 128, 64
	bad := keep("its catalog of shadow copies makes no sense")
	if v.size < headerAt+sector {
		return nil
	}
	b, err := v.bytes(headerAt, sector)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	if string(b[:16]) != shadowMark {
		return nil
	}
	at := int64(le.Uint64(b[48:]))
	for range maxBlocks {
		if at == 0 {
			return nil
		}
		if b, err = v.bytes(at, catalogBlock); err != nil {
			return err
		}
		if string(b[:16]) != shadowMark || le.Uint32(b[20:]) != 2 {
			return bad
		}
		for e := entry; e < catalogBlock; e += entry {
			if le.Uint64(b[e:]) > 1 { // neither empty nor unused
				return keep("it has shadow copies, which need what is free now")
			}
		}
		at = int64(le.Uint64(b[40:]))
	}
	return bad
}
