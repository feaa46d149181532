package vhd

import "fmt"

// Fault is a kind of damage or contradiction in a file or a chain. It is an error, so that errors.Is(err, vhd.BadBAT) tells
// it from others.
type Fault int

// The faults.
const (
	// NotVHD: there is no footer, neither at the end nor at the start.
	NotVHD Fault = iota + 1
	// BadFooter: a footer is there but its checksum is wrong, and no other copy is good.
	BadFooter
	// Poisoned: the file was switched off by the tool that made it and must not be used as it is.
	Poisoned
	// BadVersion: a format version or a variant that this package does not know.
	BadVersion
	// BadType: a disk type other than fixed, dynamic or differencing.
	BadType
	// BadSize: a disk size that no disk can have, or that the file cannot hold.
	BadSize
	// BadHeader: the header of a dynamic disk is damaged or contradicts the file.
	BadHeader
	// BadBlockSize: a block size that is not a power of two of at least one sector.
	BadBlockSize
	// BadBAT: the block table points where no block can be.
	BadBAT
	// Truncated: the file ends before something that it refers to.
	Truncated
	// NoParent: the parent of a differencing disk was not found or not given.
	NoParent
	// WrongParent: the uuid of the parent is not the one that the child names.
	WrongParent
	// Cycle: a disk is its own ancestor.
	Cycle
	// TooDeep: more members than [MaxDepth].
	TooDeep
	// EndFooterMissing (a warning): the copy at the start was used; the end has none. The usual trace of an unclean shutdown.
	EndFooterMissing
	// EndFooterDamaged (a warning): the copy at the start was used; the checksum of the one at the end is wrong.
	EndFooterDamaged
	// CopyDamaged (a warning): the footer's copy at the start is damaged; the one at the end was used.
	CopyDamaged
	// CopyDiffers (a warning): both footers are good but differ; the one at the end was used.
	CopyDiffers
	// ChecksumStale (a warning): both footers are the same to the byte and have a wrong checksum, so an editor that keeps no
	// checksums made the file what it is; damage does not strike two places alike. The header's checksum then does not count
	// either.
	ChecksumStale
	// ShortFooter (a warning): the footer has 511 bytes, as very old versions of Virtual PC wrote it.
	ShortFooter
	// BlockDropped (a warning, with [Salvage] only): an entry of the block table was unusable and reads as not allocated.
	BlockDropped
)

var faultText = map[Fault]string{
	NotVHD:           "not a VHD: no footer at the end or at the start",
	BadFooter:        "footer damaged and no good copy",
	Poisoned:         "the file was disabled by the tool that made it",
	BadVersion:       "unknown format version",
	BadType:          "unknown disk type",
	BadSize:          "impossible disk size",
	BadHeader:        "dynamic header damaged",
	BadBlockSize:     "impossible block size",
	BadBAT:           "block table damaged",
	Truncated:        "file cut short",
	NoParent:         "parent not found",
	WrongParent:      "this is not the parent",
	Cycle:            "a disk is its own ancestor",
	TooDeep:          "chain too long",
	EndFooterMissing: "no footer at the end, its copy at the start was used",
	EndFooterDamaged: "footer at the end damaged, its copy at the start was used",
	CopyDamaged:      "footer copy at the start damaged, the one at the end was used",
	CopyDiffers:      "the two footers differ, the one at the end was used",
	ChecksumStale:    "checksums were not kept up to date by whoever changed the file",
	ShortFooter:      "footer of 511 bytes",
	BlockDropped:     "unusable block table entry left out",
}

// Error implements error.
func (f Fault) Error() string {
	if s, ok := faultText[f]; ok {
		return s
	}
	return fmt.Sprintf("fault %d", int(f))
}

// Error is a Fault with its place. As a warning it is returned by [Image.Warnings].
type Error struct {
	Fault  Fault
	Offset int64  // in the file, in bytes; -1 when it has no place
	Detail string // what was seen; may be empty
}

// Error implements error.
func (e *Error) Error() string {
	s := "vhd: " + e.Fault.Error()
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Offset >= 0 {
		s += fmt.Sprintf(" (at offset %d)", e.Offset)
	}
	return s
}

// Unwrap returns the Fault.
func (e *Error) Unwrap() error { return e.Fault }

func fault(f Fault, offset int64, format string, args ...any) *Error {
	return &Error{Fault: f, Offset: offset, Detail: fmt.Sprintf(format, args...)}
}
