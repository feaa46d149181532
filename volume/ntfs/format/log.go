package format

import "encoding/binary"

// MaxLogPage is how much of the log's start says whether it was closed.
const MaxLogPage = 64 << 10

// LogState is what the log says about the volume ("$LogFile").
type LogState int

// The states of a log.
const (
	LogDamaged LogState = iota // it makes no sense
	LogClosed                  // nothing in it has to be carried out any more
	LogOpen                    // something has, or Windows keeps a part of the volume in its memory
)

// ParseLog takes the first MaxLogPage bytes of the log, of which the newer restart page says whether it was closed.
func ParseLog(head []byte) LogState {
	if emptyLog(head) {
		return LogClosed
	}
	size := int64(binary.LittleEndian.Uint32(head[16:]))
	if !powerOfTwo(size, Sector, MaxLogPage/2) {
		return LogDamaged
	}
	one, two := parseRestart(head[:size]), parseRestart(head[size:2*size])
	switch {
	case one == nil:
		return LogDamaged
	case two != nil && two.lsn > one.lsn:
		one = two
	}
	if one.closed {
		return LogClosed
	}
	return LogOpen
}

// emptyLog reports whether no page was ever written to the log, or it was made empty.
func emptyLog(head []byte) bool {
	for at := 0; at < len(head); at = max(2*at, Sector) {
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
func parseRestart(page []byte) *restart {
	le := binary.LittleEndian
	b := append([]byte(nil), page...)
	mark, count := string(b[:4]), le.Uint16(b[6:])
	checked := mark == "CHKD" // by chkdsk, which leaves the ends of the sectors as they are
	if mark != "RSTR" && !checked || !(checked && count == 0) && !Fixup(b) {
		return nil
	}
	at := int(le.Uint16(b[24:]))
	if at%8 != 0 || at < 32 || at+48 > min(len(b), Sector-2) {
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
