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
	// HeaderChecksum: the checksum of the dynamic header is wrong. The header has no copy.
	HeaderChecksum
	// BadBlockSize: a block size that is not a power of two of at least one sector.
	BadBlockSize
	// BadBAT: the block table is not where the header says, is too small, or points where no block can be. The three faults that
	// follow are kinds of it: errors.Is(err, BadBAT) holds for them too.
	BadBAT
	// BlockInMetadata: a block lies on the footer's copy, the header, the table, a locator or the batmap.
	BlockInMetadata
	// BlockPastEnd: a block ends behind the end of the file's data, as when the file was cut short.
	BlockPastEnd
	// BlocksOverlap: two blocks share bytes, so one of them was overwritten by the other.
	BlocksOverlap
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

	// The faults below are found by [Check] only.

	// TrailingData: bytes behind the last structure that nothing refers to, such as the trace of an unclean shutdown.
	TrailingData
	// WrongGeometry: the geometry is not the one that the specification gives to the size. Some programs take the disk for
	// smaller than it is.
	WrongGeometry
	// NilUUID: the disk has no uuid, so no child can be sure of it.
	NilUUID
	// FutureTimestamp: the disk was made later than now.
	FutureTimestamp
	// SavedState: the disk belongs to a machine that was suspended.
	SavedState
	// JunkUnderClearBits: sectors that are not the file's own, as its bitmap says, hold bytes. Some programs show them.
	JunkUnderClearBits
	// BatmapDamaged: the checksum of tapdisk's batmap is wrong; it is not used.
	BatmapDamaged
	// BatmapWrong: tapdisk's batmap calls a block full that is not, so tapdisk would show bytes that are not the disk's.
	BatmapWrong
	// BadLocator: a parent locator points outside the file or has an impossible length.
	BadLocator
	// ParentChanged: the parent's file was modified after the child was made, or its time was not kept by a copy.
	ParentChanged
	// SizeDiffers: parent and child have different sizes.
	SizeDiffers
	// BadParent: the parent is damaged itself.
	BadParent
	// OddFileSize: the file is not a whole number of sectors.
	OddFileSize
	// OddFooter: a field of the footer has a value that the specification does not give it, and that nobody needs.
	OddFooter
	// Encrypted: tapdisk's batmap header holds a key's hash, so the sectors are encrypted. They read as they are stored.
	Encrypted
	// NoLocator: a differencing disk does not say in any readable form where its parent was.
	NoLocator
)

// Severity says what a fault means for whoever uses the disk.
type Severity int

// The severities, in rising order.
const (
	Note    Severity = iota // unusual, and of no consequence here; other programs may differ
	Warning                 // something is not as it should be; the content is whole
	Damage                  // content is lost or in doubt, or the disk cannot be opened
)

// String returns the severity's name.
func (s Severity) String() string { return [...]string{"note", "warning", "damage"}[s] }

// Severity returns what the fault means.
func (f Fault) Severity() Severity {
	switch f {
	case TrailingData, WrongGeometry, FutureTimestamp, SavedState, ParentChanged, SizeDiffers, ShortFooter,
		OddFileSize, OddFooter, NoLocator:
		return Note
	case EndFooterMissing, EndFooterDamaged, CopyDamaged, CopyDiffers, ChecksumStale, NilUUID, JunkUnderClearBits, BatmapDamaged,
		BatmapWrong, BadLocator, BlockDropped, Encrypted:
		return Warning
	}
	return Damage
}

// Repairable reports whether [Repair] can mend the fault and lose nothing that the disk's size, table and bitmaps call content.
// Some faults it mends only when asked; see [RepairOptions].
func (f Fault) Repairable() bool {
	switch f {
	case EndFooterMissing, EndFooterDamaged, CopyDamaged, CopyDiffers, ChecksumStale, ShortFooter, NilUUID, WrongGeometry,
		JunkUnderClearBits, BatmapDamaged, BatmapWrong:
		return true
	}
	return false
}

// Is makes errors.Is(err, BadBAT) hold for every kind of BadBAT.
func (f Fault) Is(target error) bool {
	switch f {
	case BlockInMetadata, BlockPastEnd, BlocksOverlap:
		return target == BadBAT
	}
	return false
}

// ofChain reports whether the fault is one of the disk's place among others, not of the file.
func (f Fault) ofChain() bool {
	switch f {
	case NoParent, WrongParent, Cycle, TooDeep, BadParent:
		return true
	}
	return false
}

var faultText = map[Fault]string{
	NotVHD:           "not a VHD: no footer at the end or at the start",
	BadFooter:        "footer damaged and no good copy",
	Poisoned:         "the file was disabled by the tool that made it",
	BadVersion:       "unknown format version",
	BadType:          "unknown disk type",
	BadSize:          "impossible disk size",
	BadHeader:        "dynamic header damaged",
	HeaderChecksum:   "checksum of the dynamic header wrong",
	BadBlockSize:     "impossible block size",
	BadBAT:           "block table damaged",
	BlockInMetadata:  "block table damaged: a block lies on metadata",
	BlockPastEnd:     "block table damaged: a block lies behind the end of the file's data",
	BlocksOverlap:    "block table damaged: two blocks share bytes",
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

	TrailingData:       "bytes behind the end that nothing refers to",
	WrongGeometry:      "geometry does not belong to the size",
	NilUUID:            "no uuid",
	FutureTimestamp:    "made in the future",
	SavedState:         "belongs to a suspended machine",
	JunkUnderClearBits: "bytes in sectors that are not the disk's own",
	BatmapDamaged:      "batmap damaged",
	BatmapWrong:        "batmap calls a block full that is not",
	BadLocator:         "parent locator outside the file",
	ParentChanged:      "parent modified after the child was made",
	SizeDiffers:        "parent and child have different sizes",
	BadParent:          "parent damaged",
	OddFileSize:        "not a whole number of sectors",
	OddFooter:          "unusual value in the footer",
	Encrypted:          "encrypted by tapdisk",
	NoLocator:          "no readable hint where the parent was",
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
