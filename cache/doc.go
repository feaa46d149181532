// Package cache looks aside: it finds removable media, recognises what on them is of use to a transfer, and reads it.
//
// A [Finder] lists mounted media. [Scan] walks the root of one and two levels of folders below, and recognises layer files,
// parts of layer files and VHD files by their content; names and folders carry no meaning. [Inventory.Source] says which
// wanted blocks the medium has and reads them in one ascending pass.
//
// Nothing on a medium is trusted. A file claims to hold blocks; whoever reads them compares digests. Files are opened beneath
// the medium's root only, never through links, and only regular ones.
package cache
