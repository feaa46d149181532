package detect

import (
	"disksync/volume/exfat"
	"disksync/volume/ext"
	"disksync/volume/fat"
	"disksync/volume/iso9660"
	"disksync/volume/ntfs"
	"disksync/volume/udf"
)

// readers returns the readers in the order in which they are tried. UDF is before ISO 9660, which the same disc may be, too. What FAT is known
// by is the weakest mark, so that it is the last.
func readers() []Reader {
	return []Reader{udf.Open, iso9660.Open, ntfs.Open, exfat.Open, ext.Open, fat.Open}
}
