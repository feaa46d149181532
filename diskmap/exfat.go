package diskmap

import (
	"encoding/binary"
)

// exfat is an exFAT volume. Its map of used clusters is a file; the FAT is only for files in several pieces.
type exfat struct {
	region
	fat      fat // for its entries
	cluster  int64
	clusters int64
	root     int64
	dataAt   int64
	z        *zone // what the map says
	claimed  *zone // clusters of the files so far, as if they were free
}

func isExFAT(head []byte) bool { return hasMark(head, 3, "EXFAT   ") }

// openExFAT reads the map of an exFAT volume. It has no counts to compare the map with; so the clusters of all files are.
func openExFAT(s *scan, r region, _ *Volume) (*zone, error) {
	v := &exfat{region: r}
	if err := v.boot(); err != nil {
		return nil, err
	}
	var err error
	if v.z, err = s.zone(r, v.dataAt, v.cluster, v.clusters); err != nil {
		return nil, err
	}
	if v.claimed, err = s.zone(r, v.dataAt, v.cluster, v.clusters); err != nil {
		return nil, err
	}
	defer func() { s.room += int64(len(v.claimed.free)) }()
	if err := v.readMap(); err != nil {
		return nil, err
	}
	files, err := v.walk()
	if err != nil {
		return nil, err
	}
	return v.z, v.z.vanish(files)
}

// boot reads the boot sector, and checks the sum of the twelve that belong together.
func (v *exfat) boot() error {
	bad := keep("its boot sector makes no sense")
	if v.size < sector {
		return bad
	}
	b, err := v.bytes(0, sector)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	sectorShift, clusterShift := int(b[108]), int(b[109])
	if sectorShift < 9 || sectorShift > 12 || clusterShift > 25-sectorShift || le.Uint16(b[510:]) != 0xaa55 || !blankSince(b[11:64], 0) || b[105] != 1 {
		return bad
	}
	bytesPerSector, total := int64(1)<<sectorShift, int64(le.Uint64(b[72:]))
	if total <= 0 || total > v.size/bytesPerSector {
		return keep("it is larger than the place it is in")
	}
	v.cluster, v.clusters, v.root = bytesPerSector<<clusterShift, int64(le.Uint32(b[92:])), int64(le.Uint32(b[96:]))
	v.dataAt = int64(le.Uint32(b[88:])) * bytesPerSector
	v.fat = fat{
		region: v.region, kind: ExFAT, cluster: v.cluster, clusters: v.clusters, dataAt: v.dataAt,
		fatAt: int64(le.Uint32(b[80:])) * bytesPerSector, fatBytes: int64(le.Uint32(b[84:])) * bytesPerSector,
	}
	switch {
	case v.clusters < 1 || v.clusters > 0xfffffff5 || v.root < firstCluster || v.root >= v.clusters+firstCluster,
		v.fat.fatAt < 24*bytesPerSector || v.fat.fatBytes < (v.clusters+firstCluster)*4 || v.dataAt < v.fat.fatAt+v.fat.fatBytes,
		v.dataAt > total*bytesPerSector || v.clusters > (total*bytesPerSector-v.dataAt)/v.cluster:
		return bad
	case b[110] != 1:
		return keep("it has two FATs")
	}
	const dirty, failed = 2, 4
	switch flags := b[106]; {
	case flags&dirty != 0:
		return keep("it was not unmounted cleanly")
	case flags&failed != 0:
		return keep("errors were found in it")
	}
	return v.bootSum(bytesPerSector)
}

func (v *exfat) bootSum(bytesPerSector int64) error {
	b, err := v.bytes(0, 12*bytesPerSector)
	if err != nil {
		return err
	}
	var sum uint32
	for i, c := range b[:11*bytesPerSector] {
		if i != 106 && i != 107 && i != 112 { // what changes while it is used
			sum = sum<<31 | sum>>1 + uint32(c)
		}
	}
	for at := 11 * bytesPerSector; at < 12*bytesPerSector; at += 4 {
		if binary.LittleEndian.Uint32(b[at:]) != sum {
			return keep("the checksum of its boot sectors is wrong")
		}
	}
	return nil
}
