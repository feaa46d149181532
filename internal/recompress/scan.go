package recompress

import (
	"bytes"
	"encoding/binary"
	"errors"
)

const (
	// leastPlain is what a run has to unpack to: less does not pay.
	leastPlain = 512
	// maxOpen bounds what is kept of a block that is not at its end yet. Those of zlib and gzip are shorter.
	maxOpen = 256 << 10
	// maxHeader bounds the names and comments in a header, in bytes.
	maxHeader = 1024
	// tablesCost is the work of setting up the tables of a block, as bytes that are unpacked.
	tablesCost = 1024
)

// allowance is what one call of Scan may still do, so that nobody can have it take for ever, or all memory.
type allowance struct {
	vain   int // work on streams that turn out to be none: bytes read and unpacked, and tablesCost
	plain  int // bytes to unpack
	tokens int
	blocks int
}

// allowed is the allowance for scanning n bytes. What is in use is far from all of it.
func allowed(n int) allowance {
	return allowance{vain: 4 * n, plain: 12 << 20, tokens: 4 << 20, blocks: maxBlocks}
}

func (a *allowance) none() bool { return min(a.vain, a.plain, a.tokens, a.blocks) <= 0 }

// Scanner finds deflate streams: members of gzip files (RFC 1952), of zip archives, and those of zlib (RFC 1950). The zero value is ready; it
// is not safe for concurrent use. It has 128 KiB, and up to 300 more where a stream is open.
type Scanner struct {
	inflater
	tail   []byte // of the bytes before: the block of a stream that they ended in
	at     int    // where in tail that begins, bits
	window []byte // what was unpacked before it
	open   bool
	left   allowance
}

// Scan returns the runs in b, in order. follows says that b is what comes behind the bytes of the call before, so that a stream which those
// ended in goes on. It unpacks 12 MiB at most.
func (s *Scanner) Scan(b []byte, follows bool) []Run {
	var out []Run
	heads := newHeaders(b)
	s.left = allowed(len(b))
	take := func(r Run, work int) {
		if len(r.Plain()) < leastPlain {
			s.left.vain -= work
			return
		}
		out = append(out, r)
		s.left.plain -= len(r.Plain())
		s.left.tokens -= len(r.tokens)
		s.left.blocks -= len(r.blocks)
		heads.at = max(heads.at, (r.End+7)/8)
	}
	if follows && s.open {
		// The block that the bytes before ended in belongs to both.
		before := len(s.tail) * 8
		r, work := s.stream(append(s.tail, b...), s.at, s.window, before)
		r.Start -= before
		r.End -= before
		take(r, work)
	} else {
		s.open = false
	}
	for !s.open && !s.left.none() {
		from, ok := heads.stream()
		if !ok {
			break
		}
		take(s.stream(b, from*8, nil, 0))
	}
	return out
}

// stream takes a stream apart whose next block begins at the bit at; window is what was unpacked before. The run has the blocks that begin
// at the bit first or later; work is what they took. Where b ends within the stream, s is open.
func (s *Scanner) stream(b []byte, at int, window []byte, first int) (run Run, work int) {
	r := bitReader{b: b, at: at}
	run = Run{Start: at, End: at, bits: b}
	run.buf = append(run.buf, window...)
	run.window = len(window)
	s.open = false
	for {
		before, tokens := len(run.buf), len(run.tokens)
		from := r.at
		bl, buf, all, err := s.block(&r, run.buf, s.left.plain-len(run.Plain()), run.tokens)
		run.buf, run.tokens = buf, all
		cost := (r.at-from)/8 + len(buf) - before
		if bl.kind == dynamic {
			cost += tablesCost
		}
		if err != nil {
			s.left.vain -= cost
			run.buf, run.tokens = buf[:before], all[:tokens]
			if errors.Is(err, errEnd) && len(b)-from/8 <= maxOpen {
				s.leave(b, from, run.buf)
			}
			return run, work
		}
		work += cost
		if from < first { // it begins in the bytes before: what it unpacks to is the window of those behind
			run.buf = tail(run.buf)
			run.window = len(run.buf)
			run.Start, run.tokens = r.at, run.tokens[:0]
		} else {
			run.blocks = append(run.blocks, bl)
		}
		run.End = r.at
		if bl.final || len(run.blocks) >= s.left.blocks || len(run.tokens) >= s.left.tokens {
			return run, work
		}
	}
}

// tail returns what the bytes behind plain may refer to.
func tail(plain []byte) []byte {
	return plain[max(0, len(plain)-windowSize):]
}

// leave keeps what it takes to go on with the block at the bit from when more bytes are there.
func (s *Scanner) leave(b []byte, from int, plain []byte) {
	s.open = true
	s.window = append([]byte(nil), tail(plain)...)
	s.tail = append([]byte(nil), b[from/8:]...)
	s.at = from & 7
}

// headers finds those of streams in b, from at on. Most bytes begin none. So it knows where each kind's first byte is next, which is looked
// for many bytes at a time.
type headers struct {
	b    []byte
	at   int
	next [len(kinds)]int
}

// kinds are the first bytes of headers, and what gives their length from there on, 0 where there is none.
var kinds = [...]struct {
	first  byte
	length func(b []byte) int
}{{0x1f, gzipHeader}, {'P', zipHeader}, {0x78, zlibHeader}}

func newHeaders(b []byte) *headers { return &headers{b: b, next: [len(kinds)]int{-1, -1, -1}} }

// stream returns where the next deflate stream behind a header begins. What comes next is behind the header's beginning.
func (h *headers) stream() (from int, ok bool) {
	const least = 18 // bytes of a header and a stream
	for {
		soonest := 0
		for i := range kinds {
			if h.next[i] < h.at {
				h.next[i] = h.at + indexByte(h.b[min(h.at, len(h.b)):], kinds[i].first)
			}
			if h.next[i] < h.next[soonest] {
				soonest = i
			}
		}
		i := h.next[soonest]
		if i+least >= len(h.b) {
			return 0, false
		}
		h.at = i + 1
		if n := kinds[soonest].length(h.b[i:]); n > 0 && i+n < len(h.b) {
			return i + n, true
		}
	}
}

// indexByte is bytes.IndexByte, but for the length of b where c is not there.
func indexByte(b []byte, c byte) int {
	if i := bytes.IndexByte(b, c); i >= 0 {
		return i
	}
	return len(b)
}

// zlibHeader returns the length of the header of a stream of zlib, 0 where there is none: its second byte says the level, and makes the
// whole divisible.
func zlibHeader(b []byte) int {
	if h := binary.BigEndian.Uint16(b); h%31 == 0 && h&0x20 == 0 {
		return 2
	}
	return 0
}

// gzipHeader returns the length of the header of a gzip member, 0 where there is none.
func gzipHeader(b []byte) int {
	const (
		checked  = 1 << 1
		extra    = 1 << 2
		name     = 1 << 3
		comment  = 1 << 4
		reserved = 0xe0
	)
	if b[1] != 0x8b || b[2] != 8 || b[3]&reserved != 0 {
		return 0
	}
	flags, n := b[3], 10
	if flags&extra != 0 {
		n += 2 + int(binary.LittleEndian.Uint16(b[10:]))
	}
	for _, f := range []byte{name, comment} {
		if flags&f == 0 {
			continue
		}
		end := bytes.IndexByte(b[min(n, len(b)):min(n+maxHeader, len(b))], 0)
		if end < 0 {
			return 0
		}
		n += end + 1
	}
	if flags&checked != 0 {
		n += 2
	}
	return n
}

// zipHeader returns the length of the header of a deflated member of a zip archive, 0 where there is none.
func zipHeader(b []byte) int {
	const size, encrypted, deflated = 30, 1, 8
	if len(b) < size || string(b[:4]) != "PK\x03\x04" || b[6]&encrypted != 0 || binary.LittleEndian.Uint16(b[8:]) != deflated {
		return 0
	}
	return size + int(binary.LittleEndian.Uint16(b[26:])) + int(binary.LittleEndian.Uint16(b[28:]))
}
