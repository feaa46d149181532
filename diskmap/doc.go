// Package diskmap finds out which parts of a disk hold nothing: it reads the partition table and the allocation maps of the file
// systems, and what they call free is then read as zeros. Deleted files leave their bytes behind; nobody can see them any more,
// but they would have to be packed, sent and stored like everything else.
//
//	m, err := diskmap.Scan(disk)
//	for _, v := range m.Volumes() { … v.Kept says why a volume is kept as it is … }
//	view := m.Disk(disk) // Size, ReadAt and NextData, with zeros for what is free
//
// A volume's free space is left out only when its file system says that it was unmounted cleanly and everything that is looked at
// makes sense: sizes, checksums, counts, the places of the file system's own structures. In any doubt the whole volume is kept,
// and the reason is told. What lies outside of partitions is kept too, and so is a whole disk whose partitions cannot be made
// out, or on which a system sleeps that will go on with what it remembers.
//
// Disks come from anywhere. No content makes the package panic or loop, and its memory is bounded by MaxMapBytes and a few
// megabytes. It reads through an io.ReaderAt and returns values; it knows nothing of files.
package diskmap
