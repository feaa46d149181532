package ntfs

import (
	"encoding/binary"
	"io/fs"

	"disksync/volume"
	"disksync/volume/ntfs/format"
)

// inode is a file or a folder.
type inode struct {
	rec     *format.Record
	list    []byte // of attributes that other records have
	hasList bool
	kind    kind
	tag     uint32 // what kind of reparse point it is; 0: none
}

// kind is what a file is to those who list folders.
type kind int

const (
	other kind = iota // left out
	file              // regular
	folder
)

// firstUser is the first record that is not kept for the file system itself.
const firstUser = 16

// inode reads a file or a folder.
func (v *vol) inode(b *volume.Budget, ref format.Ref) (*inode, error) {
	rec, err := v.record(b, ref.Number())
	if err != nil {
		return nil, err
	}
	return v.newInode(b, ref, rec)
}

// newInode takes the record that a reference leads to.
func (v *vol) newInode(b *volume.Budget, ref format.Ref, rec *format.Record) (*inode, error) {
	if rec == nil || !rec.InUse() || !rec.IsBase() || ref.Sequence() != 0 && ref.Sequence() != rec.Sequence() {
		return nil, volume.Damaged("file %d is not there, though it is listed", ref.Number())
	}
	f := &inode{rec: rec}
	if err := v.readList(b, f); err != nil {
		return nil, err
	}
	attributes := uint32(0)
	err := rec.Each(func(a format.Attribute) error {
		if a.Kind == format.AttrStandard && len(a.Value) >= 36 {
			attributes = binary.LittleEndian.Uint32(a.Value[32:])
		}
		return nil
	})
	if err != nil {
		return nil, damaged(err)
	}
	return f, v.classify(b, f, attributes)
}

// classify finds out what a file is.
func (v *vol) classify(b *volume.Budget, f *inode, attributes uint32) error {
	f.kind = file
	if f.rec.IsFolder() {
		f.kind = folder
	}
	s, err := v.stream(b, f, format.AttrReparse, "")
	if err != nil {
		return err
	}
	if s != nil {
		const maxReparse = 16 << 10 // [MS-FSCC] 2.1.2
		if s.Size < 4 || s.Size > maxReparse {
			return volume.Damaged("the reparse point of file %d has %d bytes", f.rec.Number, s.Size)
		}
		p, err := v.content(b, s)
		if err != nil {
			return err
		}
		if f.tag = binary.LittleEndian.Uint32(p); isLink(f.tag) {
			f.kind = other
		}
		return nil
	}
	const hidden, system = 0x2, 0x4 // [MS-FSCC] 2.6
	if f.kind == file && attributes&(hidden|system) == system {
		return v.classifySystem(b, f)
	}
	return nil
}

// isLink reports whether a reparse point stands for another file or for none with content ([MS-FSCC] 2.1.2.1).
func isLink(tag uint32) bool {
	const surrogate = 1 << 29 // symbolic links and junctions
	switch tag {
	case 0x80000023, 0x80000024, 0x80000025, 0x80000026: // socket, pipe and devices of WSL
		return true
	}
	return tag&surrogate != 0
}

// refuse returns why a file or folder with a reparse point is not read.
func (f *inode) refuse() error {
	switch f.tag {
	case 0:
		return nil
	case 0x80000017:
		return volume.Unsupported("the file is compressed by Windows in a way of its own (CompactOS)")
	case 0x80000013:
		return volume.Unsupported("the file's content is deduplicated")
	}
	return volume.Unsupported("the content is not here, but behind a reparse point of type %#08x", f.tag)
}

// classifySystem leaves out the devices, pipes, sockets and symbolic links that Interix and ntfs-3g keep in the content of files which
// are marked as the system's and not as hidden.
func (v *vol) classifySystem(b *volume.Budget, f *inode) error {
	const most = 8 + 2*4096 // the mark and the longest target
	s, err := v.stream(b, f, format.AttrData, "")
	if err != nil || s == nil {
		return err
	}
	switch {
	case s.Size <= 1: // a pipe or a socket
		f.kind = other
		return nil
	case s.Size < 8 || s.Size > most || s.Flags&(format.Encrypted|format.Compressed) != 0:
		return nil
	}
	p, err := v.content(b, s)
	if err != nil {
		return err
	}
	switch string(p[:8]) {
	case "IntxLNK\x01", "IntxCHR\x00", "IntxBLK\x00":
		f.kind = other
	}
	return nil
}

// size returns the length of a file's content.
func (v *vol) size(b *volume.Budget, f *inode) (int64, error) {
	s, err := v.firstPiece(b, f)
	if err != nil {
		return 0, err
	}
	return s.Size, nil
}

// firstPiece returns the attribute that says the length of a file's content, and neither looks for its other pieces nor at its runs.
func (v *vol) firstPiece(b *volume.Budget, f *inode) (a *format.Attribute, err error) {
	rec := f.rec
	if f.hasList {
		var at format.Listed
		err := format.EachListed(f.list, func(l format.Listed) error {
			if at.In == 0 && l.Kind == format.AttrData && l.Name == "" && l.First == 0 {
				at = l
			}
			return nil
		})
		if err != nil {
			return nil, damaged(err)
		}
		if n := at.In.Number(); n != 0 && n != rec.Number {
			if rec, err = v.record(b, n); err != nil {
				return nil, err
			}
			if rec == nil || !rec.InUse() || rec.Base() != f.rec.Number {
				return nil, volume.Damaged("file %d and file %d contradict each other", f.rec.Number, n)
			}
		}
	}
	if a, err = find(rec, format.AttrData, "", 0); err == nil && a == nil {
		err = volume.Damaged("file %d has no content", f.rec.Number)
	}
	if err == nil && a.Size > volume.MaxFile {
		err = volume.Damaged("file %d has %d bytes", f.rec.Number, a.Size)
	}
	return a, err
}

// Open opens a regular file.
func (v *vol) Open(name string) (volume.File, error) {
	b := volume.NewBudget()
	f, err := v.walk(b, "open", name)
	if err != nil {
		return nil, err
	}
	data, err := v.open(b, f)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return data, nil
}

// open returns the content of a file.
func (v *vol) open(b *volume.Budget, f *inode) (volume.File, error) {
	if f.kind != file {
		return nil, fs.ErrInvalid
	}
	if err := f.refuse(); err != nil {
		return nil, err
	}
	s, err := v.stream(b, f, format.AttrData, "")
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		return nil, volume.Damaged("file %d has no content", f.rec.Number)
	case s.Flags&format.Encrypted != 0:
		return nil, volume.Unsupported("the file is encrypted (EFS)")
	case s.Resident:
		place := v.mft.Place(s.in * v.boot.RecordSize)
		if place >= 0 {
			place += s.At
		}
		return volume.Bytes(append([]byte(nil), s.Value...), place), nil
	case s.Flags&format.Compressed != 0:
		return newCompressed(v, s)
	}
	return volume.NewFile(v.d, &s.x, s.Size, s.Written), nil
}
