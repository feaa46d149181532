package udf

import (
	"fmt"

	"disksync/volume"
)

// Types of extents (4/14.14.1.1).
const (
	extentRecorded = 0
	extentReserved = 1 // allocated, but not recorded: zeros
	extentHole     = 2 // not even allocated: zeros
	extentNext     = 3 // more allocation descriptors
)

// longAD is an allocation descriptor.
type longAD struct {
	kind  uint8
	bytes int64
	at    address
}

// splitLength parts the length field: type in the upper two bits.
func splitLength(n uint32) (kind uint8, bytes int64) { return uint8(n >> 30), int64(n & (1<<30 - 1)) }

// readLongAD reads 16 bytes (4/14.14.2).
func readLongAD(p []byte) longAD {
	kind, n := splitLength(le.Uint32(p))
	return longAD{kind, n, address{le.Uint32(p[4:]), le.Uint16(p[8:])}}
}

// readAD reads the first of the descriptors p.
func (e *entry) readAD(p []byte) (ad longAD, length int, err error) {
	switch e.alloc {
	case allocShort: // 4/14.14.1
		length = 8
	case allocLong:
		length = 16
	case allocExtended: // 4/14.14.3
		length = 20
	default:
		return ad, 0, volume.Unsupported("allocation descriptors of type %d", e.alloc)
	}
	if len(p) < length {
		return ad, len(p), nil // a rest too short for a descriptor ends them
	}
	switch e.alloc {
	case allocShort:
		ad.kind, ad.bytes = splitLength(le.Uint32(p))
		ad.at = address{le.Uint32(p[4:]), e.part}
	case allocLong:
		ad = readLongAD(p)
	case allocExtended:
		ad.kind, ad.bytes = splitLength(le.Uint32(p))
		ad.at = address{le.Uint32(p[12:]), le.Uint16(p[16:])}
		recorded, used := int64(le.Uint32(p[4:])&(1<<30-1)), int64(le.Uint32(p[8:]))
		if ad.kind == extentRecorded {
			if recorded != used {
				return ad, 0, volume.Unsupported("an extent of %d bytes that is recorded in %d, as if packed", used, recorded)
			}
			ad.bytes = min(ad.bytes, used)
		}
	}
	return ad, length, nil
}

// extents returns where the bytes of a file are.
func (v *reader) extents(b *volume.Budget, e *entry) (*volume.Extents, error) {
	return v.extentsUpTo(b, e, volume.MaxExtents)
}

// extentsUpTo is extents with a limit on the number of allocation descriptors. They end with one without length, at the end of the
// last block of them, or where the file has all its bytes; behind that there may be space that is reserved for it (4/12).
func (v *reader) extentsUpTo(b *volume.Budget, e *entry, most int) (*volume.Extents, error) {
	x := &volume.Extents{}
	if e.alloc == allocInside {
		if e.size > int64(len(e.ads)) {
			return nil, volume.Damaged("a file of %d bytes has %d beside its entry", e.size, len(e.ads))
		}
		return x, x.Append(e.place, e.size)
	}
	ads := e.ads
	var buf []byte
	for len(ads) > 0 && x.Size() < e.size {
		ad, n, err := e.readAD(ads)
		if err != nil {
			return nil, err
		}
		ads = ads[n:]
		if ad.bytes == 0 {
			break
		}
		if most--; most < 0 {
			return nil, fmt.Errorf("%w: a file with too many allocation descriptors", volume.ErrLimit)
		}
		if ad.kind == extentNext {
			if buf == nil {
				buf = make([]byte, v.bs)
			}
			if ads, err = v.moreADs(b, ad.at, e.mirror, buf); err != nil {
				return nil, err
			}
			continue
		}
		rest := e.size - x.Size()
		if ad.bytes < rest && ad.bytes%v.bs != 0 {
			return nil, volume.Damaged("an extent of %d bytes in the middle of a file, where blocks have %d", ad.bytes, v.bs)
		}
		if ad.kind == extentRecorded {
			err = v.locate(x, ad.at, min(ad.bytes, rest), e.mirror)
		} else {
			err = x.Append(volume.Hole, min(ad.bytes, rest))
		}
		if err != nil {
			return nil, err
		}
	}
	if x.Size() < e.size {
		return nil, volume.Damaged("of a file of %d bytes only %d are to be found", e.size, x.Size())
	}
	return x, nil
}

// moreADs reads a block of allocation descriptors (4/14.5).
func (v *reader) moreADs(b *volume.Budget, at address, mirror bool, p []byte) ([]byte, error) {
	const head = 24
	if _, err := v.block(b, at, mirror, p); err != nil {
		return nil, err
	}
	if err := wantTag(p, tagAllocation, at.block); err != nil {
		return nil, err
	}
	n := int64(le.Uint32(p[20:]))
	if n > int64(len(p))-head {
		return nil, volume.Damaged("%d bytes of allocation descriptors in a block", n)
	}
	return p[head : head+n], nil
}
