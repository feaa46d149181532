package layer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"disksync/image"
)

// header returns the bytes that every layer file begins with.
func header() []byte {
	b := append(make([]byte, 0, HeaderSize), fileMagic...)
	b = binary.BigEndian.AppendUint32(b, formatVersion)
	return binary.BigEndian.AppendUint32(b, 0)
}

// trailer returns the bytes that a layer file with the index x ends with.
func (x *Index) trailer() []byte {
	b := make([]byte, 0, TrailerSize)
	b = binary.BigEndian.AppendUint64(b, uint64(x.IndexOffset()))
	b = binary.BigEndian.AppendUint64(b, uint64(len(x.raw)))
	b = append(b, x.id[:]...)
	b = binary.BigEndian.AppendUint32(b, formatVersion)
	b = binary.BigEndian.AppendUint32(b, 0)
	return append(b, trailerMagic...)
}

// IsHeader reports whether b begins as a layer file does, of whatever version.
func IsHeader(b []byte) bool { return len(b) >= HeaderSize && string(b[:8]) == fileMagic }

// CheckHeader returns an error unless b begins as a layer file does that this program reads.
func CheckHeader(b []byte) error {
	if !IsHeader(b) {
		return fmt.Errorf("%w: no magic at the start", ErrFormat)
	}
	if v := be32(b[8:]); v != formatVersion {
		return fmt.Errorf("%w: version %d, this program reads %d", ErrFormat, v, formatVersion)
	}
	if be32(b[12:]) != 0 {
		return fmt.Errorf("%w: unknown flags %08x", ErrFormat, be32(b[12:]))
	}
	return nil
}

// trailerFields reads a trailer: the place of the index and the layer's name.
func trailerFields(b []byte, fileSize int64) (off, length int64, id image.LayerID, err error) {
	if string(b[56:64]) != trailerMagic {
		return 0, 0, id, fmt.Errorf("%w: no trailer, the file is cut short", ErrFormat)
	}
	if v, flags := be32(b[48:]), be32(b[52:]); v != formatVersion || flags != 0 {
		return 0, 0, id, fmt.Errorf("%w: trailer of version %d with flags %08x", ErrFormat, v, flags)
	}
	o, n := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	room := uint64(fileSize - TrailerSize)
	if o < HeaderSize || o > room || n != room-o || n < indexHeaderSize || n > MaxIndexSize {
		return 0, 0, id, fmt.Errorf("%w: index of %d bytes at %d in a file of %d", ErrFormat, n, o, fileSize)
	}
	copy(id[:], b[16:])
	return int64(o), int64(n), id, nil
}

// ReadID returns the name of the layer in the first size bytes of r, as its trailer has it: three small reads tell which layer
// a file is. Nothing is verified but the form.
func ReadID(r io.ReaderAt, size int64) (image.LayerID, error) {
	_, _, id, err := readEnds(r, size)
	return id, err
}

func readEnds(r io.ReaderAt, size int64) (off, length int64, id image.LayerID, err error) {
	if size < HeaderSize {
		return 0, 0, id, fmt.Errorf("%w: %d bytes", ErrFormat, size)
	}
	var h [HeaderSize]byte
	if err := readFull(r, h[:], 0); err != nil {
		return 0, 0, id, err
	}
	if err := CheckHeader(h[:]); err != nil {
		return 0, 0, id, err
	}
	return readEnd(r, size)
}

func readEnd(r io.ReaderAt, size int64) (off, length int64, id image.LayerID, err error) {
	if size < HeaderSize+indexHeaderSize+TrailerSize {
		return 0, 0, id, fmt.Errorf("%w: %d bytes", ErrFormat, size)
	}
	var t [TrailerSize]byte
	if err := readFull(r, t[:], size-TrailerSize); err != nil {
		return 0, 0, id, err
	}
	return trailerFields(t[:], size)
}

// ReadIndex reads the index of the layer in the first size bytes of r, and checks it and the file's ends. The frames are
// checked when they are decoded.
func ReadIndex(r io.ReaderAt, size int64) (*Index, error) {
	off, length, id, err := readEnds(r, size)
	if err != nil {
		return nil, err
	}
	return readIndex(r, off, length, id)
}

// ReadLastIndex is [ReadIndex] for a file whose beginning costs too much to be looked at: the end alone says where the index is.
func ReadLastIndex(r io.ReaderAt, size int64) (*Index, error) {
	off, length, id, err := readEnd(r, size)
	if err != nil {
		return nil, err
	}
	return readIndex(r, off, length, id)
}

func readIndex(r io.ReaderAt, off, length int64, id image.LayerID) (*Index, error) {
	b := make([]byte, length)
	if err := readFull(r, b, off); err != nil {
		return nil, err
	}
	x, err := ParseIndex(b, id)
	if err != nil {
		return nil, err
	}
	if x.IndexOffset() != off {
		return nil, fmt.Errorf("%w: the frames end at %d, the index begins at %d", ErrFormat, x.IndexOffset(), off)
	}
	return x, nil
}

// readFull reads len(b) bytes at off; a file that ends inside them is not the layer that it claims to be.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it ends %d bytes too early", ErrFormat, len(b)-n)
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(b), off, err)
}
