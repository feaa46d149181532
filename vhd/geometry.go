package vhd

import "fmt"

// Geometry is the cylinder/head/sector geometry of a disk. It is a property: reading goes by the footer's current size.
type Geometry struct {
	Cylinders uint16
	Heads     uint8
	Sectors   uint8 // per track
}

// Size returns the number of bytes that the geometry can address.
func (g Geometry) Size() int64 {
	return int64(g.Cylinders) * int64(g.Heads) * int64(g.Sectors) * sectorSize
}

// String returns cylinders/heads/sectors.
func (g Geometry) String() string {
	return fmt.Sprintf("%d/%d/%d", g.Cylinders, g.Heads, g.Sectors)
}

// GeometryFor returns the geometry that the format's specification (Microsoft, 2006, appendix "CHS calculation") gives to
// a disk of size bytes. Its Size is at most size, and at most 127.5 GiB.
func GeometryFor(size int64) Geometry {
	total := min(size/sectorSize, 65535*16*255)
	if total >= 65535*16*63 {
		return Geometry{uint16(total / 255 / 16), 16, 255}
	}
	perTrack := int64(17)
	tracks := total / perTrack
	heads := max((tracks+1023)/1024, 4)
	if tracks >= heads*1024 || heads > 16 {
		perTrack, heads = 31, 16
		tracks = total / perTrack
	}
	if tracks >= heads*1024 {
		perTrack, heads = 63, 16
		tracks = total / perTrack
	}
	return Geometry{uint16(tracks / heads), uint8(heads), uint8(perTrack)}
}
