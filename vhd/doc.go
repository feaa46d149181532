// Package vhd reads and writes Virtual Hard Disk files: fixed, dynamic and differencing disks, and chains of them.
//
// [Open] reads the metadata of one file and checks it; [NewChain] or [Resolve] put a leaf and its parents together;
// [Chain.ReadAt] reads the disk that they make up. [Create] makes a dynamic or differencing file, [OpenDisk] opens a chain
// whose leaf is written, and [Disk.WriteAt] and [Disk.Sync] change it in an order that survives a crash at any write.
//
//	f, err := os.Open("disk.vhd")
//	st, err := f.Stat()
//	m, err := vhd.Open(f, st.Size())
//	c, err := vhd.NewChain(m)            // or vhd.Resolve for a differencing file
//	_, err = c.ReadAt(buf, 0)
//
// A [Disk] is for many readers and writers at a time; [WithLog] makes what was written outlive the process.
//
// [Snapshot] makes a child of a disk, [Coalesce] merges children into an ancestor while the chain stays valid, [Disk.Resize]
// changes a disk's size and [Disk.Discard] makes a range of it zeros. [Convert] and [Stream] write a whole disk from any
// [Source]: the first to a file with holes, the second to anything that takes bytes. [Chain.Extents] tells which member holds
// what, [Chain.Changed] what differs from an ancestor.
//
// [Check] tells everything that is wrong with a file, also with one that does not open, and [Repair] mends what can be mended
// without doubt. [Relink] leads a differencing disk to a parent that moved, and [SetFields] changes fields of the footer. What
// other programs do differently, and what is done about it here, is in docs/vhd-interop.md.
//
// The package is pure: it takes io.ReaderAt and the like, and does no file, clock or network access of its own; package
// vhdfile opens files by name and finds their parents.
//
// Nothing that a file says is believed before it is checked: sizes and counts are compared with the file's length before
// memory is set aside, and a parent locator is data, never a path that this package would open. What is damaged is refused
// with an [Error] that names the [Fault]; what is unusual but safe to read is listed by [Image.Warnings]. Damage never
// reads as zeros.
//
// The size of a disk is its footer's current size, whoever made the file: the geometry is a property, not a size, unless
// [ByGeometry] asks for it.
package vhd
