package exfat

import (
	"encoding/binary"

	"disksync/volume"
	"disksync/volume/fat"
)

// SectorBytes is the length of what ParseBoot reads, whatever a sector is.
const SectorBytes = 512

// Flags of a volume (section 3.1.13).
const (
	SecondFAT = 1 // the second FAT is in use
	Dirty     = 2
	Failed    = 4
)

// Boot is what a boot sector says; places and lengths are in bytes from the start of the volume.
type Boot struct {
	Sector   int64
	Cluster  int64
	Clusters int64 // numbered from 2
	Size     int64 // of the volume
	FATAt    int64
	FATBytes int64 // of one FAT
	FATs     int
	DataAt   int64  // of cluster 2
	Root     uint32 // the first cluster of the root folder
	Serial   uint32
	Flags    byte
}

// IsBoot reports whether a volume begins with the mark.
func IsBoot(b []byte) bool { return len(b) >= SectorBytes && string(b[3:11]) == "EXFAT   " }

// ParseBoot reads a boot sector (exFAT file system specification, section 3.1). It checks that the numbers go together, not that they fit
// where the volume is. Errors are ErrOther and ErrDamaged.
func ParseBoot(b []byte) (*Boot, error) {
	if !IsBoot(b) {
		return nil, volume.ErrOther
	}
	bad := volume.Damaged("the boot sector makes no sense")
	le := binary.LittleEndian
	sectorShift, clusterShift := int(b[108]), int(b[109])
	blank := true
	for _, c := range b[11:64] {
		blank = blank && c == 0
	}
	if sectorShift < 9 || sectorShift > 12 || clusterShift > 25-sectorShift || le.Uint16(b[510:]) != 0xaa55 || !blank || b[105] != 1 {
		return nil, bad
	}
	v := &Boot{
		Sector: 1 << sectorShift, Cluster: 1 << (sectorShift + clusterShift), Clusters: int64(le.Uint32(b[92:])),
		FATs: int(b[110]), Root: le.Uint32(b[96:]), Serial: le.Uint32(b[100:]), Flags: b[106],
	}
	sectors := le.Uint64(b[72:])
	if sectors == 0 || sectors > volume.MaxFile>>sectorShift {
		return nil, bad
	}
	v.Size = int64(sectors) * v.Sector
	v.FATAt, v.FATBytes = int64(le.Uint32(b[80:]))*v.Sector, int64(le.Uint32(b[84:]))*v.Sector
	v.DataAt = int64(le.Uint32(b[88:])) * v.Sector
	switch {
	case v.Clusters < 1 || v.Clusters > 0xfffffff5 || int64(v.Root) < fat.FirstCluster || int64(v.Root) >= v.Clusters+fat.FirstCluster,
		v.FATAt < 24*v.Sector || v.FATBytes < (v.Clusters+fat.FirstCluster)*4 || v.DataAt < v.FATAt+v.FATBytes,
		v.DataAt > v.Size || v.Clusters > (v.Size-v.DataAt)/v.Cluster:
		return nil, bad
	}
	return v, nil
}

// BootSectors is how many sectors belong together at the start; as many follow that are the same.
const BootSectors = 12

// BootSumOK checks the sum of the boot sectors, which are b (section 3.4).
func BootSumOK(b []byte, sector int64) bool {
	var sum uint32
	covered, sums := b[:(BootSectors-1)*sector], b[(BootSectors-1)*sector:]
	for i, c := range covered {
		if i != 106 && i != 107 && i != 112 { // what changes while it is used
			sum = sum<<31 | sum>>1 + uint32(c)
		}
	}
	for ; len(sums) >= 4; sums = sums[4:] {
		if binary.LittleEndian.Uint32(sums) != sum {
			return false
		}
	}
	return true
}

// readBoot reads the boot sectors, or those that are there in case the first are damaged.
func readBoot(d *volume.Device) (boot *Boot, spare bool, err error) {
	head := make([]byte, SectorBytes)
	if d.Size() < SectorBytes {
		return nil, false, volume.ErrOther
	}
	if _, err := d.ReadAt(head, 0); err != nil {
		return nil, false, err
	}
	if !IsBoot(head) {
		return nil, false, volume.ErrOther
	}
	boot, err = bootAt(d, 0, 0)
	if err == nil {
		return boot, false, nil
	}
	for sector := int64(512); sector <= 4096; sector *= 2 {
		if spare, e := bootAt(d, BootSectors*sector, sector); e == nil {
			return spare, true, nil
		}
	}
	return nil, false, err
}

// bootAt reads the boot sectors at a place, where the sectors must be so long, unless that is 0.
func bootAt(d *volume.Device, at, sector int64) (*Boot, error) {
	b := make([]byte, SectorBytes)
	if _, err := d.ReadAt(b, at); err != nil {
		return nil, err
	}
	boot, err := ParseBoot(b)
	if err != nil {
		return nil, err
	}
	if sector != 0 && boot.Sector != sector {
		return nil, volume.Damaged("the spare boot sectors are in the wrong place")
	}
	all := make([]byte, BootSectors*boot.Sector)
	if _, err := d.ReadAt(all, at); err != nil {
		return nil, err
	}
	if !BootSumOK(all, boot.Sector) {
		return nil, volume.Damaged("the checksum of the boot sectors is wrong")
	}
	return boot, nil
}
