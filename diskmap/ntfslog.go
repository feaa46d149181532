package diskmap

import (
	"encoding/binary"

	"disksync/volume/ntfs/format"
)

// logFile checks that nothing in the log has to be carried out any more: it is empty, or its newer restart page says that it was
// closed.
func (v *ntfs) logFile() error {
	bad := keep("its log makes no sense")
	rec, err := v.record(format.Log)
	if err != nil {
		return err
	}
	a, err := v.file(rec, format.AttrData, "")
	if err != nil {
		return err
	}
	// Two restart pages and 48 others are the least that there may be.
	const leastLog = 50 * 4096
	if a.Resident || a.Flags != 0 || a.Size < leastLog || a.length()*v.cluster < a.Size {
		return bad
	}
	head := make([]byte, format.MaxLogPage)
	if err := v.stream(a.runs, a.Size).readAt(head, 0); err != nil {
		return err
	}
	switch format.ParseLog(head) {
	case format.LogClosed:
		return nil
	case format.LogOpen:
		return keep("its log still has to be carried out")
	}
	return bad
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
