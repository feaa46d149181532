package nbd

import (
	"encoding/binary"
)

const (
	// seekHoles is the length, in bytes, from which on it pays to look for holes instead of sending their zeros.
	seekHoles = 64 << 10
	// maxChunks bounds the pieces of one answer; the last one takes the rest, holes or not.
	maxChunks = 16
	// maxDescriptors bounds an answer to block status.
	maxDescriptors = 4096
)

// readData is NBD_CMD_READ. Everything is read before anything is sent, so that an error is told as one and no wrong byte goes out.
func (t *session) readData(r *request) error {
	n := int(r.length)
	if t.structured && n >= seekHoles && r.flags&cmdFlagDF == 0 {
		runs, err := t.runs(r)
		if err != nil {
			return err
		}
		if len(runs) > 1 || runs[0].Zero {
			return t.readRuns(r, runs)
		}
	}
	if n > 0 {
		if err := t.readAt(r.buf.data(n), int64(r.off)); err != nil {
			return err
		}
	}
	b := r.buf.b[:headroom+n]
	switch {
	case !t.structured:
		b = b[headroom-16:]
		simple(b, r, 0)
	case n == 0:
		b = b[:20]
		chunk(b, r, replyFlagDone, replyTypeNone, 0)
	default:
		chunk(b, r, replyFlagDone, replyTypeOffsetData, uint32(8+n))
		binary.BigEndian.PutUint64(b[20:], r.off)
	}
	t.send(b)
	return nil
}

// runs returns where the range of a read has data and where zeros, maxChunks runs at most.
func (t *session) runs(r *request) ([]Extent, error) {
	var runs []Extent
	for e, err := range t.dev.Extents(int64(r.off), int64(r.length)) {
		if err != nil {
			return nil, err
		}
		last := len(runs) - 1
		if last >= 0 && (runs[last].Zero == e.Zero || last+1 == maxChunks) {
			runs[last].Length += e.Length
			runs[last].Zero = runs[last].Zero && e.Zero
			continue
		}
		runs = append(runs, e)
	}
	return runs, nil
}

// readRuns answers a read with a chunk for each run.
func (t *session) readRuns(r *request, runs []Extent) error {
	need := int(r.length) + len(runs)*headroom
	buf := newBuffer(need)
	defer buf.free()
	b := buf.b[:0]
	for i, e := range runs {
		flags := uint16(0)
		if i == len(runs)-1 {
			flags = replyFlagDone
		}
		h := b[len(b) : len(b)+headroom]
		binary.BigEndian.PutUint64(h[20:], uint64(e.Offset))
		if e.Zero {
			chunk(h, r, flags, replyTypeOffsetHole, 12)
			b = binary.BigEndian.AppendUint32(b[:len(b)+headroom], uint32(e.Length))
			continue
		}
		chunk(h, r, flags, replyTypeOffsetData, uint32(8+e.Length))
		start := len(b) + headroom
		b = b[:start+int(e.Length)]
		if err := t.readAt(b[start:], e.Offset); err != nil {
			return err
		}
	}
	t.send(b)
	return nil
}

// blockStatus is NBD_CMD_BLOCK_STATUS.
func (t *session) blockStatus(r *request) error {
	most := maxDescriptors
	if r.flags&cmdFlagReqOne != 0 {
		most = 1
	}
	b := make([]byte, 20+4, 20+4+8*16)
	binary.BigEndian.PutUint32(b[20:], contextID)
	var length uint64
	var state uint32
	count := 0
	for e, err := range t.dev.Extents(int64(r.off), int64(r.length)) {
		if err != nil {
			return err
		}
		s := uint32(0)
		if e.Hole {
			s |= stateHole
		}
		if e.Zero {
			s |= stateZero
		}
		if count > 0 && s == state {
			length += uint64(e.Length)
			continue
		}
		if count > 0 {
			b = appendDescriptor(b, length, state)
		}
		if count++; count > most {
			length = 0
			break
		}
		length, state = uint64(e.Length), s
	}
	if length > 0 {
		b = appendDescriptor(b, length, state)
	}
	chunk(b, r, replyFlagDone, replyTypeBlockStatus, uint32(len(b)-20))
	t.send(b)
	return nil
}

// appendDescriptor appends a run, which is never longer than a request.
func appendDescriptor(b []byte, length uint64, state uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, uint32(length)), state)
}
