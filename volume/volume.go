// Package volume reads file systems from devices and image files, without the help of the kernel.
//
// A reader of one kind of file system is a package below this one: it gives a [Volume]. Here is what they share: what a volume can
// do, the device under it, the extents of a file, the limits, and the kinds of errors.
//
// A medium may have been made to do harm. Readers take nothing on trust: every length and place is checked before it is used, what
// they remember and how much they read for one call is bounded, and folders that contain one another are told. What a file's bytes
// are worth is for their reader to find out, who compares digests.
package volume

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"unicode/utf8"
)

// Tree is folders and files that can be read. Names are paths of elements parted by slashes, as [fs.ValidPath] wants them; "." is the
// root. It may be used by one goroutine at a time; its open files by many.
type Tree interface {
	// ReadDir lists the regular files and the folders of a folder, in the order of the medium. Links, devices and what else
	// there is are left out. Of a folder with more than [MaxEntries] it returns the first, and an error that is ErrLimit; of one that
	// is damaged, what can be read of it, and an error that is ErrDamaged. A folder that is not there is fs.ErrNotExist.
	ReadDir(dir string) ([]Entry, error)
	// Open opens a regular file. Its name has to be as it was listed, the case of letters included.
	Open(name string) (File, error)
}

// Entry is one file or folder.
type Entry struct {
	Name string // one element of a path; see [ValidName]
	Dir  bool
	Size int64 // of a file, in bytes
}

// File is an open file. It is safe for concurrent use. ReadAt reads as io.ReaderAt says: what the device cannot read is its error, and a
// count of what came before it; what the file system says that cannot be is ErrDamaged.
type File interface {
	io.ReaderAt
	io.Closer
	// Size returns the length in bytes.
	Size() int64
	// Place returns about where on the device the byte at an offset is, in bytes, so that files can be read in one ascending pass; -1
	// where that is not known, or the byte is nowhere.
	Place(off int64) int64
}

// Info says what a volume is.
type Info struct {
	Type      string `json:"type"`            // as blkid has it: "udf", "iso9660", "ntfs", "vfat", "exfat", "ext4"
	Label     string `json:"label,omitempty"` // as it was given, without padding
	ID        string `json:"id,omitempty"`    // the file system's UUID or serial number, as blkid writes it
	BlockSize int    `json:"block_size"`      // bytes of the unit in which content lies on the device
	Note      string `json:"note,omitempty"`  // what is doubtful about it, for people
}

// Volume is one file system.
type Volume interface {
	Tree
	Info() Info
}

// Errors of volumes; they are wrapped in others that say what and where.
var (
	ErrOther       = errors.New("not a file system of this kind")
	ErrDamaged     = errors.New("the file system is damaged")
	ErrUnsupported = errors.New("not supported")
	ErrLimit       = errors.New("over a limit")
)

// Limits, against media made to waste time and memory. They are far above what a medium for images needs.
const (
	MaxEntries = 10_000    // of a folder that are listed
	MaxDepth   = 16        // elements of a path
	MaxName    = 1024      // bytes of a name
	MaxExtents = 1 << 19   // pieces of one file
	MaxWork    = 64 << 20  // bytes of the file system's own structures that are read for one call
	MaxCache   = 16 << 20  // bytes that a volume remembers of them
	MaxFile    = 1<<62 - 1 // bytes of a file
)

// ValidName reports whether a name may be listed: valid UTF-8 of a bounded length, one element of a path, and nothing in it that
// ends a string or a line.
func ValidName(name string) bool {
	if name == "" || name == "." || name == ".." || len(name) > MaxName || !utf8.ValidString(name) {
		return false
	}
	for _, c := range name {
		if c == '/' || c < ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// Damaged returns an error that is ErrDamaged.
func Damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// Unsupported returns an error that is ErrUnsupported.
func Unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}

// NotExist returns the error for a name that is not there.
func NotExist(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}
