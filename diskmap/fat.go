package diskmap

import (
	"bytes"

	fatfs "disksync/volume/fat"
)

// fat is a FAT12, FAT16 or FAT32.
type fat struct {
	region
	*fatfs.Boot
	raw     []byte // the boot sector
	table   []byte
	tableAt int64 // what table is of
	jumps   int   // how often another piece of the FAT was needed
	z       *zone
}

const firstCluster = fatfs.FirstCluster

var fatKinds = map[fatfs.Kind]Kind{fatfs.FAT12: FAT12, fatfs.FAT16: FAT16, fatfs.FAT32: FAT32}

// openFAT reads the FAT, which is the map of what is used.
func openFAT(s *scan, r region, v *Volume) (*zone, error) {
	f := &fat{region: r}
	if err := f.geometry(); err != nil {
		return nil, err
	}
	v.Kind = fatKinds[f.Boot.Kind]
	var err error
	if f.z, err = s.zone(r, f.DataAt, f.Cluster, f.Clusters); err != nil {
		return nil, err
	}
	for _, step := range []func() error{f.clean, f.copies, f.readMap, f.count, f.vanish} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return f.z, nil
}

// geometry reads the boot sector.
func (f *fat) geometry() error {
	var err error
	if f.raw, err = f.bytes(0, sector); err != nil {
		return err
	}
	f.Boot, err = fatfs.ParseBoot(f.raw)
	switch {
	case f.Boot != nil && f.Size > f.size:
		return keep("it is larger than the place it is in")
	case err != nil:
		return keep("its boot sector makes no sense")
	case (f.Clusters+firstCluster)*f.bits() > f.FATBytes*8:
		return keep("its FAT is too short for it")
	}
	return nil
}

// clean checks the marks that the volume was unmounted, and has not met an error. FAT12 has one of them.
func (f *fat) clean() error {
	mark := f.raw[37] // what Windows and Linux set while they use it
	if f.Kind == fatfs.FAT32 {
		mark = f.raw[65]
	}
	two, err := f.entry(1)
	if err != nil {
		return err
	}
	var clean, noError uint32
	switch f.Kind {
	case fatfs.FAT16:
		clean, noError = 0x8000, 0x4000
	case fatfs.FAT32:
		clean, noError = 0x08000000, 0x04000000
	}
	switch {
	case mark&1 != 0 || two&clean != clean:
		return keep("it was not unmounted cleanly")
	case mark&2 != 0 || two&noError != noError:
		return keep("errors were found in it")
	}
	one, err := f.entry(0)
	if err != nil {
		return err
	}
	if byte(one) != f.raw[21] {
		return keep("its FAT makes no sense")
	}
	return nil
}

// copies checks that all FATs are the same.
func (f *fat) copies() error {
	if f.Active >= 0 {
		return keep("its FATs are not copies of one another")
	}
	one, other := make([]byte, pieceBytes), make([]byte, pieceBytes)
	for i := int64(1); i < f.FATs; i++ {
		for off := int64(0); off < f.FATBytes; off += pieceBytes {
			n := min(f.FATBytes-off, pieceBytes)
			if err := f.read(one[:n], f.FATAt+off); err != nil {
				return err
			}
			if err := f.read(other[:n], f.FATAt+i*f.FATBytes+off); err != nil {
				return err
			}
			if !bytes.Equal(one[:n], other[:n]) {
				return keep("its FATs differ")
			}
		}
	}
	return nil
}
