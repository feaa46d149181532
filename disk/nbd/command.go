package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"
)

// allowedFlags are the flags of each command ("Command flags"). FUA is accepted everywhere, and means something for writes only.
var allowedFlags = [...]uint16{
	cmdRead:        cmdFlagFUA | cmdFlagDF,
	cmdWrite:       cmdFlagFUA,
	cmdDisc:        cmdFlagFUA,
	cmdFlush:       cmdFlagFUA,
	cmdTrim:        cmdFlagFUA,
	cmdCache:       cmdFlagFUA,
	cmdWriteZeroes: cmdFlagFUA | cmdFlagNoHole | cmdFlagFastZero,
	cmdBlockStatus: cmdFlagFUA | cmdFlagReqOne,
}

// names of commands in reports.
var commandName = [...]string{
	cmdRead: "read", cmdWrite: "write", cmdDisc: "disconnect", cmdFlush: "flush", cmdTrim: "trim", cmdCache: "cache",
	cmdWriteZeroes: "write zeroes", cmdBlockStatus: "block status",
}

// errRefused has the error value that a client gets for a request that is no good.
type errRefused uint32

func (e errRefused) Error() string { return fmt.Sprintf("nbd: request refused with %d", uint32(e)) }

// check says whether a request can be done, before the device sees it.
func (t *session) check(r *request) error {
	if int(r.cmd) >= len(allowedFlags) || r.flags&^allowedFlags[r.cmd] != 0 {
		return errRefused(errnoINVAL)
	}
	writes := r.cmd == cmdWrite || r.cmd == cmdTrim || r.cmd == cmdWriteZeroes
	if writes && t.srv.o.ReadOnly {
		return errRefused(errnoPERM)
	}
	if r.cmd == cmdFlush {
		return nil
	}
	if r.tooLong {
		return errRefused(errnoINVAL)
	}
	if r.off > t.size || uint64(r.length) > t.size-r.off {
		if r.cmd == cmdWrite || r.cmd == cmdWriteZeroes {
			return errRefused(errnoNOSPC)
		}
		return errRefused(errnoINVAL)
	}
	if r.cmd == cmdBlockStatus && (!t.status || r.length == 0) {
		return errRefused(errnoINVAL)
	}
	return nil
}

// handle does one request and answers it.
func (t *session) handle(r *request) {
	err := t.check(r)
	if err == nil {
		switch r.cmd {
		case cmdRead:
			if err = t.readData(r); err == nil {
				return
			}
		case cmdBlockStatus:
			if err = t.blockStatus(r); err == nil {
				return
			}
		default:
			err = t.change(r)
		}
	}
	if errors.Is(err, ErrHangUp) {
		t.conn.Close()
		return
	}
	t.finish(r, t.errno(r, err))
}

// change does the commands that are answered without data.
func (t *session) change(r *request) error {
	off, length := int64(r.off), int64(r.length)
	var err error
	switch r.cmd {
	case cmdWrite:
		_, err = t.dev.WriteAt(r.buf.data(int(r.length)), off)
	case cmdTrim:
		err = t.dev.Zero(off, length)
	case cmdWriteZeroes:
		err = t.zero(r)
	case cmdCache:
		return t.cache(off, length)
	case cmdFlush:
		return t.dev.Flush()
	}
	if err == nil && r.flags&cmdFlagFUA != 0 {
		err = t.dev.Flush()
	}
	return err
}

// zero is NBD_CMD_WRITE_ZEROES. It is fast where nothing is stored.
func (t *session) zero(r *request) error {
	off, length := int64(r.off), int64(r.length)
	if r.flags&cmdFlagFastZero != 0 {
		for e, err := range t.dev.Extents(off, length) {
			if err != nil {
				return err
			}
			if !e.Zero || r.flags&cmdFlagNoHole != 0 {
				return errRefused(errnoNOTSUP)
			}
		}
	}
	if p, ok := t.dev.(Provisioner); ok && r.flags&cmdFlagNoHole != 0 {
		return p.ZeroStored(off, length)
	}
	return t.dev.Zero(off, length)
}

// Provisioner is a [Device] that can set room aside (NBD_CMD_FLAG_NO_HOLE).
type Provisioner interface {
	// ZeroStored makes a range read as zeros for which there is room, so that no write to it fails for want of space.
	ZeroStored(off, length int64) error
}

// cache is NBD_CMD_CACHE: reading brings everything here that is somewhere else.
func (t *session) cache(off, length int64) error {
	const step = 256 << 10
	b := newBuffer(step)
	defer b.free()
	for end := off + length; off < end; off += step {
		if err := t.readAt(b.data(int(min(step, end-off))), off); err != nil {
			return err
		}
	}
	return nil
}

// readAt fills p, or fails.
func (t *session) readAt(p []byte, off int64) error {
	n, err := t.dev.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return fmt.Errorf("%d bytes of %d at %d: %w", n, len(p), off, io.ErrUnexpectedEOF)
	}
	return err
}

// errno returns the error value for the client, and reports errors of the device.
func (t *session) errno(r *request, err error) uint32 {
	var refused errRefused
	switch {
	case err == nil:
		return 0
	case errors.As(err, &refused):
		return uint32(refused)
	case errors.Is(err, ErrShutdown):
		return errnoSHUTDOWN
	}
	t.srv.o.Report(t.name, commandName[r.cmd], err)
	if errors.Is(err, ErrNoSpace) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
		return errnoNOSPC
	}
	return errnoIO
}

// finish answers a request without data. Only reads and block status must be answered in the structured way, once it was
// negotiated.
func (t *session) finish(r *request, errno uint32) {
	if t.structured && (r.cmd == cmdRead || r.cmd == cmdBlockStatus) {
		var b [26]byte
		chunk(b[:], r, replyFlagDone, replyTypeError, 6)
		binary.BigEndian.PutUint32(b[20:], errno) // and no message
		t.send(b[:])
		return
	}
	var b [16]byte
	simple(b[:], r, errno)
	t.send(b[:])
}

// simple puts a simple reply's header ("Simple reply message").
func simple(b []byte, r *request, errno uint32) {
	binary.BigEndian.PutUint32(b, magicSimple)
	binary.BigEndian.PutUint32(b[4:], errno)
	binary.BigEndian.PutUint64(b[8:], r.cookie)
}

// chunk puts the header of a chunk with length bytes behind it ("Structured reply chunk message").
func chunk(b []byte, r *request, flags, kind uint16, length uint32) {
	binary.BigEndian.PutUint32(b, magicStructured)
	binary.BigEndian.PutUint16(b[4:], flags)
	binary.BigEndian.PutUint16(b[6:], kind)
	binary.BigEndian.PutUint64(b[8:], r.cookie)
	binary.BigEndian.PutUint32(b[16:], length)
}

// send sends a reply, or part of one that ends behind it. A client that does not take it is gone: the reader sees that, too.
func (t *session) send(b []byte) {
	t.writing.Lock()
	defer t.writing.Unlock()
	if _, err := t.conn.Write(b); err != nil {
		_ = t.conn.Close()
	}
}
