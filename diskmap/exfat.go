package diskmap

import (
	exfatfs "disksync/volume/exfat"
	fatfs "disksync/volume/fat"
)

// exfat is an exFAT volume. Its map of used clusters is a file; the FAT is only for files in several pieces.
type exfat struct {
	region
	*exfatfs.Boot
	fat     fat   // for its entries
	z       *zone // what the map says
	claimed *zone // clusters of the files so far, as if they were free
}

// openExFAT reads the map of an exFAT volume. It has no counts to compare the map with; so the clusters of all files are.
func openExFAT(s *scan, r region, _ *Volume) (*zone, error) {
	v := &exfat{region: r}
	if err := v.boot(); err != nil {
		return nil, err
	}
	var err error
	if v.z, err = s.zone(r, v.DataAt, v.Cluster, v.Clusters); err != nil {
		return nil, err
	}
	if v.claimed, err = s.zone(r, v.DataAt, v.Cluster, v.Clusters); err != nil {
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
	if v.Boot, err = exfatfs.ParseBoot(b); err != nil {
		return bad
	}
	v.fat = fat{region: v.region, Boot: &fatfs.Boot{
		Kind: fatfs.ExFAT, Cluster: v.Cluster, Clusters: v.Clusters, DataAt: v.DataAt, FATAt: v.FATAt, FATBytes: v.FATBytes,
	}}
	switch {
	case v.Size > v.size:
		return keep("it is larger than the place it is in")
	case v.FATs != 1:
		return keep("it has two FATs")
	case v.Flags&exfatfs.Dirty != 0:
		return keep("it was not unmounted cleanly")
	case v.Flags&exfatfs.Failed != 0:
		return keep("errors were found in it")
	}
	if b, err = v.bytes(0, exfatfs.BootSectors*v.Sector); err != nil {
		return err
	}
	if !exfatfs.BootSumOK(b, v.Sector) {
		return keep("the checksum of its boot sectors is wrong")
	}
	return nil
}
