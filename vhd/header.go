package vhd

import (
	"encoding/binary"
	"math/bits"

	"disksync/image"
)

const (
	headerSize       = 1024
	headerCookie     = "cxsparse"
	headerChecksumAt = 36
	parentNameAt     = 64
	parentNameUnits  = 256 // UTF-16
	locatorsAt       = 576
	locatorCount     = 8
	locatorSize      = 24
)

// Header is the structure that a dynamic or differencing disk has besides the footer.
type Header struct {
	TableOffset     uint64
	Version         uint32
	MaxTableEntries uint32
	BlockSize       int64 // bytes
	ParentUUID      image.UUID
	ParentTimestamp Timestamp
	ParentName      string
	Locators        [locatorCount]Locator
	parentReserved  uint32
	dataOffset      uint64
	reserved        [headerSize - 768]byte
}

// parseHeader reads a header; stale leaves its checksum out of account.
func parseHeader(b []byte, stale bool) (*Header, error) {
	h, faults := readHeaderBytes(b, stale)
	if len(faults) > 0 {
		return nil, faults[0]
	}
	return h, nil
}

// readHeaderBytes reads a header and returns everything that keeps the disk from being read. The Header is nil when the bytes are
// no header at all.
func readHeaderBytes(b []byte, stale bool) (*Header, []*Error) {
	if string(b[:8]) != headerCookie {
		return nil, []*Error{fault(BadHeader, -1, "no cookie")}
	}
	var faults []*Error
	if got, want := checksum(b[:headerSize], headerChecksumAt), binary.BigEndian.Uint32(b[headerChecksumAt:]); got != want && !stale {
		faults = append(faults, fault(HeaderChecksum, -1, "checksum is %08x, want %08x", got, want))
	}
	h := &Header{
		dataOffset:      binary.BigEndian.Uint64(b[8:]),
		TableOffset:     binary.BigEndian.Uint64(b[16:]),
		Version:         binary.BigEndian.Uint32(b[24:]),
		MaxTableEntries: binary.BigEndian.Uint32(b[28:]),
		BlockSize:       int64(binary.BigEndian.Uint32(b[32:])),
		ParentUUID:      image.UUID(b[40:56]),
		ParentTimestamp: Timestamp(binary.BigEndian.Uint32(b[56:])),
		parentReserved:  binary.BigEndian.Uint32(b[60:]),
		ParentName:      decodeUTF16(b[parentNameAt:parentNameAt+2*parentNameUnits], binary.BigEndian),
		reserved:        [headerSize - 768]byte(b[768:headerSize]),
	}
	for i := range h.Locators {
		h.Locators[i] = parseLocator(b[locatorsAt+i*locatorSize:])
	}
	if h.Version>>16 != formatVersion>>16 {
		faults = append(faults, fault(BadVersion, -1, "header version %08x", h.Version))
	}
	if h.BlockSize < sectorSize || bits.OnesCount64(uint64(h.BlockSize)) != 1 {
		faults = append(faults, fault(BadBlockSize, -1, "%d bytes", h.BlockSize))
	}
	return h, faults
}

func (h *Header) marshal() []byte {
	b := make([]byte, headerSize)
	copy(b, headerCookie)
	binary.BigEndian.PutUint64(b[8:], h.dataOffset)
	binary.BigEndian.PutUint64(b[16:], h.TableOffset)
	binary.BigEndian.PutUint32(b[24:], h.Version)
	binary.BigEndian.PutUint32(b[28:], h.MaxTableEntries)
	binary.BigEndian.PutUint32(b[32:], uint32(h.BlockSize))
	copy(b[40:], h.ParentUUID[:])
	binary.BigEndian.PutUint32(b[56:], uint32(h.ParentTimestamp))
	binary.BigEndian.PutUint32(b[60:], h.parentReserved)
	copy(b[parentNameAt:], encodeUTF16(h.ParentName, binary.BigEndian, parentNameUnits))
	for i := range h.Locators {
		h.Locators[i].marshal(b[locatorsAt+i*locatorSize:])
	}
	copy(b[768:], h.reserved[:])
	binary.BigEndian.PutUint32(b[headerChecksumAt:], checksum(b, headerChecksumAt))
	return b
}

// bitmapSize is the length of a block's sector bitmap in the file: one bit a sector, rounded up to whole sectors.
func (h *Header) bitmapSize() int64 {
	return roundUp(max(h.BlockSize/sectorSize/8, 1), sectorSize)
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
