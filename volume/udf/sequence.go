package udf

import (
	"errors"

	"disksync/volume"
)

// The recognition sequence (2/8, 2/9): descriptors of 2048 bytes, or of a block if that is larger, from byte 32768 on.
const (
	recognitionStart = 32768
	recognitionStep  = 2048
	recognitionSteps = 32
)

// recognise looks for the mark of ECMA-167 in the recognition sequence. An anchor alone is not enough: it outlives the next
// file system that a stick gets.
func recognise(d *volume.Device, b *volume.Budget) error {
	n := min(recognitionSteps*recognitionStep, d.Size()-recognitionStart)
	for at := int64(0); at+recognitionStep <= n; at += recognitionStep {
		p, err := b.Read(d, recognitionStart+at, 8)
		if err != nil {
			return err
		}
		if id := string(p[1:6]); p[0] == 0 && (id == "NSR02" || id == "NSR03") {
			return nil
		}
	}
	return volume.ErrOther
}

// extentAD is an extent of sectors (3/7.1).
type extentAD struct{ bytes, sector uint32 }

func readExtentAD(p []byte) extentAD { return extentAD{le.Uint32(p), le.Uint32(p[4:])} }

// anchorPlace is a sector that may hold an anchor.
type anchorPlace struct{ blockSize, sector int64 }

// anchorPlaces are the sectors 256, the last, the last - 256 (3/8.4.2.1), and 512, for all sizes of sectors. Drives count the
// unreadable end of some discs as sectors, so the end is looked for in several places.
func anchorPlaces(size int64) []anchorPlace {
	sizes := []int64{2048, 512, 4096, 1024}
	var out []anchorPlace
	add := func(blockSize, sector int64) {
		if sector > 0 && (sector+1)*blockSize <= size {
			out = append(out, anchorPlace{blockSize, sector})
		}
	}
	for _, s := range sizes {
		add(s, 256)
	}
	for _, s := range sizes {
		add(s, 512)
		for _, back := range []int64{0, 2, 150, 152} {
			last := size/s - 1 - back
			add(s, last)
			add(s, last-256)
			add(s, last+1-256)
		}
	}
	return out
}

var errNoAnchor = errors.New("no anchor")

// readAnchor reads an anchor (3/10.2), which has to say the sector in which it lies: that gives the size of sectors, too.
func readAnchor(d *volume.Device, b *volume.Budget, at anchorPlace) (main, reserve extentAD, err error) {
	p, err := b.Read(d, at.sector*at.blockSize, 512)
	if err != nil {
		return main, reserve, err
	}
	if id, sector, err := readTag(p); err != nil || id != tagAnchor || int64(sector) != at.sector {
		return main, reserve, errNoAnchor
	}
	return readExtentAD(p[16:]), readExtentAD(p[24:]), nil
}

// sequence is what a volume descriptor sequence says (3/8.4.2).
type sequence struct {
	whole        bool // nothing in it was damaged
	label, id    string
	number       uint16 // of the volume in its set
	partitions   map[uint16]physical
	maps         []byte // partition maps (3/10.7)
	mapCount     uint32
	fileSet      address
	fileSetBytes uint32
}

// maxDescriptors is how many are read of one sequence; 16 blocks are usual.
const maxDescriptors = 1024

// readSequence reads volume descriptors. Of several of a kind that with the highest sequence number prevails (3/8.4.3). Damaged ones are
// left out, and the sequence is not whole then; it is an error when what is needed is not among the others.
func readSequence(d *volume.Device, b *volume.Budget, blockSize int64, at extentAD) (*sequence, error) {
	s := &sequence{whole: true, partitions: map[uint16]physical{}}
	newest := map[uint32]uint32{} // sequence number + 1, by type, and for partitions by number
	var primary, logical []byte
	p := make([]byte, blockSize)
	var first error
	sector, left := int64(at.sector), int64(at.bytes)/blockSize
	for n := 0; left > 0 && n < maxDescriptors; n++ {
		if err := b.Spend(blockSize); err != nil {
			return nil, err
		}
		_, err := d.ReadAt(p, sector*blockSize)
		if err == nil && allZero(p[:tagSize]) {
			break // never written
		}
		id := uint16(0)
		if err == nil {
			id, _, err = readTag(p)
		}
		sector, left = sector+1, left-1
		if err != nil {
			s.whole = false
			if first == nil {
				first = err
			}
			continue
		}
		number := le.Uint32(p[16:]) + 1
		key := uint32(id)
		if id == tagPartition {
			key |= uint32(le.Uint16(p[22:])) << 16
		}
		if id == tagTerminator {
			break
		}
		if number < newest[key] {
			continue
		}
		newest[key] = number
		switch id {
		case tagPointer:
			next := readExtentAD(p[20:])
			sector, left = int64(next.sector), int64(next.bytes)/blockSize
		case tagPrimary:
			primary = append(primary[:0], p...)
		case tagLogical:
			logical = append(logical[:0], p...)
		case tagPartition:
			s.partitions[le.Uint16(p[22:])] = physical{blockSize, int64(le.Uint32(p[188:])), int64(le.Uint32(p[192:]))}
		}
	}
	if logical == nil || len(s.partitions) == 0 {
		if first == nil {
			first = volume.Damaged("the volume has no description of its partitions")
		}
		return nil, first
	}
	return s, s.describe(primary, logical, blockSize)
}

// describe reads the primary (3/10.1) and the logical volume descriptor (3/10.6).
func (s *sequence) describe(primary, logical []byte, blockSize int64) error {
	const head = 440
	if n := int64(le.Uint32(logical[212:])); n != blockSize {
		return volume.Damaged("logical blocks have %d bytes, sectors %d", n, blockSize)
	}
	n := le.Uint32(logical[264:])
	if int64(n) > blockSize-head {
		return volume.Damaged("partition maps of %d bytes", n)
	}
	s.maps, s.mapCount = logical[head:head+n], le.Uint32(logical[268:])
	s.fileSetBytes = le.Uint32(logical[248:])
	s.fileSet = address{le.Uint32(logical[252:]), le.Uint16(logical[256:])}
	s.label = dstring(logical[84:212])
	s.number = 1
	if primary != nil {
		s.number = le.Uint16(primary[56:])
		s.id = volumeID(dstring(primary[72:200]))
	}
	return nil
}

func allZero(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}
