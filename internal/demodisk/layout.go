package demodisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const sectorBytes = 512

// Places in the boot sector.
const (
	bootSectorBytes    = 11
	bootClusterSectors = 13
	bootReserved       = 14 // sectors before the first table
	bootSectors        = 32 // of the file system
	bootTableSectors   = 36
)

// A layout says where in an image the parts of its file system are.
type layout struct {
	start        int64    // of the partition
	tables       [2]int64 // the copies of the allocation table
	data         int64    // the first cluster
	clusters     int
	clusterBytes int
}

// readLayout reads the layout of a partition from its boot sector.
func readLayout(image io.ReaderAt, start, size int64) (layout, error) {
	boot := make([]byte, sectorBytes)
	if _, err := image.ReadAt(boot, start); err != nil {
		return layout{}, fmt.Errorf("read boot sector: %w", err)
	}
	clusterSectors := int64(boot[bootClusterSectors])
	reserved := int64(binary.LittleEndian.Uint16(boot[bootReserved:]))
	sectors := int64(binary.LittleEndian.Uint32(boot[bootSectors:]))
	tableSectors := int64(binary.LittleEndian.Uint32(boot[bootTableSectors:]))
	data := reserved + 2*tableSectors
	if binary.LittleEndian.Uint16(boot[bootSectorBytes:]) != sectorBytes || clusterSectors == 0 ||
		sectors < data || sectors*sectorBytes > size {
		return layout{}, errors.New("read boot sector: sizes are wrong")
	}
	clusters := (sectors - data) / clusterSectors
	if (firstCluster+clusters)*entryBytes > tableSectors*sectorBytes {
		return layout{}, errors.New("read boot sector: table is too small")
	}
	return layout{
		start:        start,
		tables:       [2]int64{start + reserved*sectorBytes, start + (reserved+tableSectors)*sectorBytes},
		data:         start + data*sectorBytes,
		clusters:     int(clusters),
		clusterBytes: int(clusterSectors * sectorBytes),
	}, nil
}

// place returns where a cluster is in the image.
func (l *layout) place(cluster uint32) int64 {
	return l.data + int64(cluster-firstCluster)*int64(l.clusterBytes)
}
