package vhdfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"disksync/image"
	"disksync/vhd"
)

// The journal that vhd-util of XenServer keeps while it resizes a disk holds everything that it overwrites, as it was.
const (
	journalCookie     = "vjournal"
	journalHeaderSize = 512
	entryCookie       = 0xaaaa12344321aaaa
	entryHeaderSize   = 32
	dataEntry         = 8
	footerEntry       = 1
	mostEntryBytes    = 64 << 20
)

// ErrBadJournal is returned for a journal that is damaged, or is another disk's. Nothing was changed.
var ErrBadJournal = errors.New("the journal cannot be used; nothing was changed")

type journalEntry struct {
	kind, size uint32
	offset     int64
	at         int64 // of its bytes in the journal
}

// RevertJournal writes back to the VHD at name what the journal at journal kept of it, and syncs it. All of the journal is read and
// checked first; what is written back is the same each time, so that after a crash it can be done again. The journal stays:
// removing it when the disk is good is left to the caller.
func RevertJournal(name, journal string) error {
	j, size, err := regular(func() (*os.File, error) { return os.Open(journal) })
	if err != nil {
		return fmt.Errorf("open %s: %w", journal, err)
	}
	defer j.Close()
	length, entries, err := readJournal(j, size)
	if err != nil {
		return fmt.Errorf("%s: %w", journal, err)
	}
	f, _, err := regular(func() (*os.File, error) { return OpenWritable(name) })
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	if err := belongs(f, j, entries); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", journal, err), f.Close())
	}
	if err := restore(f, j, entries, length); err != nil {
		return errors.Join(fmt.Errorf("write %s back: %w", name, err), f.Close())
	}
	return f.Close()
}

// readJournal checks the journal and returns the length that the file had.
func readJournal(j io.ReaderAt, size int64) (length int64, entries []journalEntry, err error) {
	b := make([]byte, journalHeaderSize)
	if _, err := j.ReadAt(b, 0); err != nil || string(b[:8]) != journalCookie {
		return 0, nil, fmt.Errorf("%w: it is none", ErrBadJournal)
	}
	be := binary.BigEndian
	length = int64(be.Uint64(b[24:])) + vhd.FooterSize
	data, meta := be.Uint32(b[32:]), be.Uint32(b[36:])
	if length < vhd.FooterSize || length > 1<<42 || length%image.SectorSize != 0 {
		return 0, nil, fmt.Errorf("%w: the footer was at %d", ErrBadJournal, length-vhd.FooterSize)
	}
	at := int64(journalHeaderSize)
	for i := range uint64(data) + uint64(meta) {
		e, err := readEntry(j, at, size)
		if err != nil {
			return 0, nil, fmt.Errorf("%w: entry %d: %w", ErrBadJournal, i, err)
		}
		if isData := i >= uint64(meta); isData != (e.kind == dataEntry) {
			return 0, nil, fmt.Errorf("%w: entry %d is of kind %d, for %d bytes at %d", ErrBadJournal, i, e.kind, e.size, e.offset)
		}
		entries = append(entries, e)
		at = e.at + int64(e.size)
	}
	return length, entries, nil
}

// readEntry checks one entry with its bytes.
func readEntry(j io.ReaderAt, at, size int64) (journalEntry, error) {
	h := make([]byte, entryHeaderSize)
	if _, err := j.ReadAt(h, at); err != nil {
		return journalEntry{}, err
	}
	be := binary.BigEndian
	e := journalEntry{kind: be.Uint32(h[8:]), size: be.Uint32(h[12:]), offset: int64(be.Uint64(h[16:])), at: at + entryHeaderSize}
	switch {
	case be.Uint64(h) != entryCookie:
		return e, errors.New("there is none")
	case e.size == 0 || e.size%image.SectorSize != 0 || e.size > mostEntryBytes || e.at+int64(e.size) > size || e.offset < 0 || e.offset > 1<<42:
		return e, fmt.Errorf("%d bytes at %d", e.size, e.offset)
	}
	b := make([]byte, e.size)
	if _, err := j.ReadAt(b, e.at); err != nil {
		return e, err
	}
	if want, got := be.Uint32(h[24:]), complement(append(h, b...), 24, 28); want != got {
		return e, fmt.Errorf("checksum %08x, want %08x", got, want)
	}
	return e, nil
}

// belongs compares the uuid of the footer in the journal with that of the disk, which may be half way through a change: then its
// footer, at either place, is switched off, but keeps the uuid.
func belongs(f *os.File, j io.ReaderAt, entries []journalEntry) error {
	if len(entries) == 0 || entries[0].kind != footerEntry || entries[0].size != vhd.FooterSize {
		return fmt.Errorf("%w: it keeps no footer", ErrBadJournal)
	}
	kept := make([]byte, vhd.FooterSize)
	if _, err := j.ReadAt(kept, entries[0].at); err != nil {
		return err
	}
	size, err := Size(f)
	if err != nil {
		return err
	}
	for _, at := range []int64{size - vhd.FooterSize, entries[0].offset, 0} {
		b := make([]byte, vhd.FooterSize)
		if _, err := f.ReadAt(b, max(at, 0)); err == nil && hasCookie(b) && footerFields(b).UUID == footerFields(kept).UUID {
			return nil
		}
	}
	return fmt.Errorf("%w: it is of disk %s", ErrBadJournal, footerFields(kept).UUID)
}

// restore writes the data first and the footers last: until they are there the disk stays switched off.
func restore(f *os.File, j io.ReaderAt, entries []journalEntry, length int64) error {
	for i := len(entries) - 1; i >= 0; i-- {
		e := entries[i]
		if e.kind <= footerEntry+1 {
			if err := f.Sync(); err != nil {
				return err
			}
		}
		b := make([]byte, e.size)
		if _, err := j.ReadAt(b, e.at); err != nil {
			return err
		}
		if _, err := f.WriteAt(b, e.offset); err != nil {
			return err
		}
	}
	if device, err := isDevice(f); err != nil || device {
		return errors.Join(err, f.Sync())
	}
	if err := f.Truncate(length); err != nil {
		return err
	}
	return f.Sync()
}
