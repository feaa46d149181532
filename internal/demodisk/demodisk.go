// Package demodisk makes a real disk image to demonstrate and test with.
//
// No root, no loop device and no network are needed: the image is an ordinary sparse file that holds an MBR, one
// partition at 1 MiB, and in it a FAT32 file system filled with a real directory tree (the Go toolchain's own, unless
// told otherwise). [Build] makes it, [Update] changes it in place the way an update of a system does, and [Check] reads
// the files back:
//
//	report, err := demodisk.Build(ctx, "v1.raw", demodisk.Options{})
//	// keep a copy of v1.raw
//	report, err = demodisk.Update(ctx, "v1.raw", demodisk.Options{Seed: 1})
//	files, err := demodisk.Check(ctx, "v1.raw")
//
// The same source tree, options and seed give the same bytes.
//
// An image is scratch data. Its allocation table is written last, so a Build that fails removes its file and an Update
// that fails leaves one to be thrown away.
//
// # How go-diskfs is used
//
// The file system is go-diskfs's, and so are its limits. Version 1.9.4 was tried at 15,000 files; what it gets wrong, and
// what this package does about it:
//
//   - ext4: Remove frees the inode after the one removed, which destroys a neighbour's content; Rename and truncation are
//     missing. An image that changes in place cannot use it, hence FAT32.
//   - Every allocation writes both tables whole and every path is walked from the root: a minute for 15,000 files. Our
//     own table keeps the entries in memory and lets a directory be the start of the walk (table.go).
//   - An operation parses and rewrites its directory: a folder of many files is stored in parts (source.go).
//   - The library would allocate clusters past the end of the partition; our table ends where the partition does.
//   - Remove forgets the file's clusters: remove frees them (volume.go).
//   - Rename stays inside one directory: a move is a copy and a removal (update.go).
//   - An empty file gets a cluster, which checkers reject: empty files are left out (source.go).
//   - Short names may be empty or collide, and a lookup then finds the wrong file: names are chosen (names.go).
//   - The ".." of a top folder names a wrong cluster, free space is not counted, and times are those of the clock: all
//     are put right at the end (tidy.go).
package demodisk

import "time"

// Options says what an image is made of. The zero value is a good default.
type Options struct {
	// Source is the directory whose files fill the image; empty means the root of the Go toolchain. Only Build reads it.
	Source string
	// MaxBytes limits the bytes of content taken from Source, in the order of the sorted paths; a file that does not
	// fit is passed over. Zero means all. Only Build uses it.
	MaxBytes int64
	// Size is the size of the image; zero means half as much again as the content needs, and at least 320 MiB (the
	// file is sparse). Only Build uses it.
	Size int64
	// Seed decides what an Update does: other seeds choose other files and write other content.
	Seed uint64
}

// A Count is a number of files with the bytes in them.
type Count struct {
	Files int
	Bytes int64
}

func (c *Count) add(bytes int64) {
	c.Files++
	c.Bytes += bytes
}

// A Report says what is in an image after a call, and what the call did.
type Report struct {
	Size    int64 // of the image
	Total   Count // files in the image
	Skipped int   // Build: source files left out: empty, not regular, or beyond MaxBytes
	Renamed int   // Build: source files stored under another path

	Replaced Count // Update: files with new content, and its size
	Added    Count // Update: files that are new
	Moved    Count // Update: files that went to another folder
	Deleted  Count // Update: files that are gone
}

// Times in the image do not come from the clock, so that images are reproducible: a Build is dated buildTime, and each
// Update updateInterval later than what was there before.
var buildTime = time.Date(2020, time.January, 1, 12, 0, 0, 0, time.UTC)

const updateInterval = 30 * 24 * time.Hour
