package disc

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// SectorSize is that of every disc, in bytes.
const SectorSize = 2048

// Where the tables are, in sectors (UDF 1.02, 2.2.3 and 6.9).
const (
	isoAt       = 16 // volume descriptors of ISO 9660, then those that announce UDF
	mainAt      = 32 // volume descriptor sequence
	reserveAt   = 48 // its copy
	sequenceLen = 16
	integrityAt = 64
	anchorAt    = 256
	partitionAt = 257
	// padding is how many sectors follow the files: drives read ahead.
	padding = 150
	// dataAlign is what a DVD corrects errors in.
	dataAlign = 16
	// maxSectors is what a sector number of 32 bits reaches.
	maxSectors = 1<<32 - 1
	// maxFiles bounds the files of an image.
	maxFiles = 4096
)

// Blocks of the partition.
const (
	fileSetBlock = 0
	rootBlock    = 2
	rootDirBlock = 3
)

var (
	// ErrTooLarge says that files do not go onto any disc.
	ErrTooLarge = errors.New("too much for one image")
	namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)
	labelForm   = regexp.MustCompile(`^[A-Za-z0-9._-]{1,30}$`)
)

// File is a file of an image.
type File struct {
	Name string // at most 200 of A-Z a-z 0-9 . _ -; unique
	Size int64  // bytes
}

// Volume describes an image.
type Volume struct {
	Label string    // at most 30 of A-Z a-z 0-9 . _ -
	Set   string    // tells images apart: 16 hexadecimal digits
	Time  time.Time // of all files
	Files []File
}

// Layout says where everything of an image is.
type Layout struct {
	Volume
	entries []int64 // of the files' descriptors, blocks of the partition
	starts  []int64 // of the files, sectors
	iso     isoPlaces
	data    int64 // first sector behind the tables
	end     int64 // first sector behind the files
	last    int64 // sector of the image
}

// Plan lays out an image. It returns ErrTooLarge for what sector numbers do not reach.
func Plan(v Volume) (*Layout, error) {
	if err := v.check(); err != nil {
		return nil, err
	}
	v.Time = v.Time.UTC().Truncate(time.Second)
	l := &Layout{Volume: v}
	at := rootDirBlock + sectors(int64(len(l.directory())))
	for _, f := range v.Files {
		l.entries = append(l.entries, at)
		at += 1 + chained(f.Size)
	}
	at = l.placeISO(partitionAt + at)
	l.data = (at + dataAlign - 1) / dataAlign * dataAlign
	at = l.data
	for _, f := range v.Files {
		l.starts = append(l.starts, at)
		if f.Size > maxSectors*SectorSize || at > maxSectors {
			return nil, fmt.Errorf("%w: %d bytes in %s", ErrTooLarge, f.Size, f.Name)
		}
		at += sectors(f.Size)
	}
	l.end, l.last = at, at+padding
	if l.last > maxSectors {
		return nil, fmt.Errorf("%w: %d sectors", ErrTooLarge, l.last)
	}
	return l, nil
}

func (v *Volume) check() error {
	if !labelForm.MatchString(v.Label) || len(v.Set) != 16 {
		return fmt.Errorf("disc: label %q, set %q", v.Label, v.Set)
	}
	if len(v.Files) > maxFiles {
		return fmt.Errorf("%w: %d files", ErrTooLarge, len(v.Files))
	}
	if y := v.Time.Year(); y < 1970 || y > 2155 {
		return fmt.Errorf("disc: year %d", y) // a byte counts from 1900
	}
	seen := map[string]bool{}
	for _, f := range v.Files {
		if !namePattern.MatchString(f.Name) || seen[f.Name] || f.Size < 0 {
			return fmt.Errorf("disc: a file named %q with %d bytes", f.Name, f.Size)
		}
		seen[f.Name] = true
	}
	return nil
}

// sectors returns how many sectors so many bytes take.
func sectors(bytes int64) int64 { return (bytes + SectorSize - 1) / SectorSize }

// Size returns the length of the image in bytes.
func (l *Layout) Size() int64 { return (l.last + 1) * SectorSize }

// Offset returns where file number i begins, in bytes. Files are in the order of the offsets.
func (l *Layout) Offset(i int) int64 { return l.starts[i] * SectorSize }

// Head returns everything before the first file.
func (l *Layout) Head() []byte {
	b := make([]byte, l.data*SectorSize)
	put := func(sector int64, p []byte) { copy(b[sector*SectorSize:], p) }
	l.putISO(put)
	for i, id := range []string{"BEA01", "NSR02", "TEA01"} { // ECMA-167 2/9
		put(int64(isoAt+3+i), slices.Concat([]byte{0}, []byte(id), []byte{1}))
	}
	for i, d := range l.sequence() {
		put(int64(mainAt+i), d.at(int64(mainAt+i)))
		put(int64(reserveAt+i), d.at(int64(reserveAt+i)))
	}
	put(integrityAt, l.integrity().at(integrityAt))
	put(integrityAt+1, terminator().at(integrityAt+1))
	put(anchorAt, anchor().at(anchorAt))
	l.putFiles(put)
	return b
}

// Tail returns what is behind the end of the last file's last sector, and where that is, in bytes.
func (l *Layout) Tail() (off int64, b []byte) {
	b = make([]byte, (l.last+1-l.end)*SectorSize)
	copy(b[(l.last-l.end)*SectorSize:], anchor().at(l.last))
	return l.end * SectorSize, b
}
