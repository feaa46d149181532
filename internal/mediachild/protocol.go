package mediachild

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"disksync/volume"
)

// The two sides are one program, so that the version only tells of a mistake. Each message is its length in 4 bytes, big-endian like
// all numbers, and so many bytes. The parent asks, and the child answers in the order of the requests. Bytes of files are put into memory
// that both share, in as many slots as there may be reads on the way.
const (
	magic   = "dsmc"
	version = 1

	maxRequest  = 64 << 10
	maxAnswer   = 16 << 20 // a folder of volume.MaxEntries names
	maxText     = 1024     // bytes of the text of an error or a note
	maxError    = 5 + maxText
	maxNotes    = 64
	maxVolumes  = 16
	maxFiles    = 1024 // open at a time
	slots       = 8
	slotSize    = 256 << 10
	sharedBytes = slots * slotSize
)

// The requests: a byte for what is wanted, then
const (
	opVolumes = 'v' // notes, as a number 1 and texts, and volumes, each partition 2, type, label, id, note, and size of blocks 4
	opMap     = 'm' // the map of what is free, as diskmap.Map.Encode has it
	opList    = 'l' // volume 1, name: answered with entries, each folder 1, size 8, name
	opOpen    = 'o' // volume 1, name: file 4, size 8
	opRead    = 'r' // file 4, offset 8, length 4, slot 1, batch 4: count 4. After an error the rest of a batch is not tried.
	opPlace   = 'p' // file 4, offset 8: place 8
	opClose   = 'c' // file 4
)

// Kinds of errors in an answer: a byte, the error's number in 2 bytes, and its text. What else an answer says follows.
const (
	fine = iota
	isEOF
	isDamaged
	isUnsupported
	isLimit
	isMissing
	isInvalid
	isOther
	isNotTried
	isAny
)

var sentinels = []struct {
	kind byte
	err  error
}{
	{isEOF, io.EOF}, {isDamaged, volume.ErrDamaged}, {isUnsupported, volume.ErrUnsupported}, {isLimit, volume.ErrLimit},
	{isMissing, fs.ErrNotExist}, {isInvalid, fs.ErrInvalid}, {isOther, volume.ErrOther}, {isNotTried, errNotTried},
}

// errNonsense is what the other side says that has no meaning.
var errNonsense = errors.New("a wrong message")

var errNotTried = errors.New("not tried after an error before")

// remoteError is an error that the child told. It is what it was there, as far as there are words for it.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.is }

// message is one that is being written.
type message struct {
	b    []byte
	tail [][]byte // what follows, and is not copied
}

func (m *message) u8(v byte)    { m.b = append(m.b, v) }
func (m *message) u16(v uint16) { m.b = binary.BigEndian.AppendUint16(m.b, v) }
func (m *message) u32(v uint32) { m.b = binary.BigEndian.AppendUint32(m.b, v) }
func (m *message) i64(v int64)  { m.b = binary.BigEndian.AppendUint64(m.b, uint64(v)) }
func (m *message) text(s string, most int) {
	s = s[:min(len(s), most)]
	m.u16(uint16(len(s)))
	m.b = append(m.b, s...)
}

// list writes texts, up to maxNotes of them.
func (m *message) list(texts []string) {
	texts = texts[:min(len(texts), maxNotes)]
	m.u8(byte(len(texts)))
	for _, s := range texts {
		m.text(s, maxText)
	}
}

func (m *message) err(err error) {
	if err == nil {
		m.u8(fine)
		return
	}
	kind := byte(isAny)
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			kind = s.kind
			break
		}
	}
	m.u8(kind)
	errno, _ := errors.AsType[syscall.Errno](err)
	m.u16(uint16(errno))
	m.text(err.Error(), maxText)
}

// answer is a message that came. What is missing in it reads as zeros, and ok tells at the end whether it was as long as it should be.
type answer struct {
	b   []byte
	bad bool
}

func (a *answer) take(n int) []byte {
	if n < 0 || n > len(a.b) {
		a.bad, a.b = true, nil
		return make([]byte, min(max(n, 0), 8))
	}
	p := a.b[:n]
	a.b = a.b[n:]
	return p
}

func (a *answer) u8() byte    { return a.take(1)[0] }
func (a *answer) u16() uint16 { return binary.BigEndian.Uint16(a.take(2)) }
func (a *answer) u32() uint32 { return binary.BigEndian.Uint32(a.take(4)) }
func (a *answer) i64() int64  { return int64(binary.BigEndian.Uint64(a.take(8))) }

func (a *answer) text(most int) string {
	n := int(a.u16())
	if n > most || n > len(a.b) {
		a.bad = true
		return ""
	}
	return string(a.take(n))
}

// list reads texts.
func (a *answer) list() (texts []string) {
	for range a.u8() {
		texts = append(texts, a.text(maxText))
	}
	return texts
}

func (a *answer) ok() bool { return !a.bad && len(a.b) == 0 }

// err reads an error.
func (a *answer) err() error {
	kind := a.u8()
	if kind == fine {
		return nil
	}
	errno := syscall.Errno(a.u16())
	e := &remoteError{text: a.text(maxText)}
	for _, s := range sentinels {
		if s.kind == kind {
			e.is = append(e.is, s.err)
		}
	}
	if errno != 0 {
		e.is = append(e.is, errno)
	}
	return e
}

// send writes a message.
func send(w io.Writer, m *message) error {
	n := len(m.b)
	for _, p := range m.tail {
		n += len(p)
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(m.b)), uint32(n)), m.b...))
	for _, p := range m.tail {
		if err == nil {
			_, err = w.Write(p)
		}
	}
	return err
}

// receive reads a message of at most so many bytes.
func receive(r io.Reader, most int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if n > int64(most) {
		return nil, fmt.Errorf("%w: a message of %d bytes", errNonsense, n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("a message that ends early: %w", err)
	}
	return b, nil
}
