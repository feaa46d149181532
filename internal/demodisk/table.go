package demodisk

import (
	"encoding/binary"

	"github.com/diskfs/go-diskfs/filesystem/fat12"
)

// Values of a FAT32 table entry; the upper four bits are reserved.
const (
	entryBytes  = 4
	entryMask   = 0x0fffffff
	entryFree   = 0
	entryEnd    = 0x0fffffff // what we write at the end of a chain
	entryMinEnd = 0x0ffffff8 // what ends a chain when read
	entryMedia  = 0x0ffffff8 // entry 0: a fixed disk

	firstCluster = 2
	rootCluster  = 2
)

// A table is the FAT of a volume, held in memory and written once, by volume.close.
//
// It differs from the library's in three ways, each for a reason. Bytes is empty, because the library writes the result
// to both copies after every single allocation. It ends at the last cluster of the partition, where the library's ends
// with the last sector of the table. And the "root directory" is whatever directory we say, because the library walks
// and parses every directory from the root at each call.
type table struct {
	entries []uint32
	dir     uint32
	dropped []uint32 // freed by the library: the ends of directories that it shortens; see volume.wipe
}

var _ fat12.FATTable = (*table)(nil)

func newTable(clusters int) *table {
	return &table{entries: make([]uint32, firstCluster+clusters), dir: rootCluster}
}

// ClusterValue returns the entry of cluster n.
func (t *table) ClusterValue(n uint32) uint32 { return t.entries[n] }

// SetCluster changes the entry of cluster n.
func (t *table) SetCluster(n, value uint32) {
	if value == entryFree {
		t.dropped = append(t.dropped, n)
	}
	t.entries[n] = value
}

// IsEOC reports whether an entry ends a chain.
func (t *table) IsEOC(value uint32) bool { return value >= entryMinEnd }

// EOCMarker returns the entry that ends a chain.
func (t *table) EOCMarker() uint32 { return entryEnd }

// UnusedMarker returns the entry of a free cluster.
func (t *table) UnusedMarker() uint32 { return entryFree }

// MaxCluster returns the number of the last cluster.
func (t *table) MaxCluster() uint32 { return uint32(len(t.entries) - 1) }

// FATID returns entry 0.
func (t *table) FATID() uint32 { return entryMedia }

// RootDirCluster returns the directory in which the library looks up paths.
func (t *table) RootDirCluster() uint32 { return t.dir }

// Size returns the bytes of the entries in use.
func (t *table) Size() uint32 { return uint32(len(t.entries) * entryBytes) }

// Bytes returns nothing; see table.
func (t *table) Bytes() []byte { return nil }

// FromBytes sets all entries from those on disk.
func (t *table) FromBytes(b []byte) {
	for i := range t.entries {
		t.entries[i] = binary.LittleEndian.Uint32(b[i*entryBytes:]) & entryMask
	}
}

// onDisk returns the entries as they are stored.
func (t *table) onDisk() []byte {
	b := make([]byte, 0, t.Size())
	for _, e := range t.entries {
		b = binary.LittleEndian.AppendUint32(b, e)
	}
	return b
}

// free returns the number of free clusters, and the first.
func (t *table) free() (count, first uint32) {
	for n := t.MaxCluster(); n >= firstCluster; n-- {
		if t.entries[n] == entryFree {
			count, first = count+1, n
		}
	}
	return count, first
}
