package ntfs

import (
	"slices"

	"disksync/volume"
	"disksync/volume/ntfs/format"
)

// stream is an attribute of a file with all its pieces.
type stream struct {
	format.Attribute // its first piece
	x                volume.Extents
	in               int64 // the record that has the first piece
	next             int64 // the cluster behind the last piece
}

// readList reads a file's list of attributes, when it has one.
func (v *vol) readList(b *volume.Budget, f *inode) error {
	a, err := find(f.rec, format.AttrList, "", 0)
	if a == nil || err != nil {
		return err
	}
	f.hasList = true
	if a.Size > format.MaxListBytes {
		return volume.Damaged("the list of attributes of file %d has %d bytes", f.rec.Number, a.Size)
	}
	f.list = a.Value
	if a.Resident {
		return nil
	}
	s := &stream{}
	if err := v.add(s, f.rec, a); err != nil {
		return err
	}
	f.list, err = v.content(b, s)
	return err
}

// content reads all of a short stream.
func (v *vol) content(b *volume.Budget, s *stream) ([]byte, error) {
	if s.Resident {
		return s.Value, nil
	}
	if err := b.Spend(s.Size); err != nil {
		return nil, err
	}
	p := make([]byte, s.Size)
	_, err := volume.NewFile(v.d, &s.x, s.Size, s.Written).ReadAt(p, 0)
	return p, err
}

// find returns the piece of an attribute that begins with the cluster first and that the record itself has; nil when it has none.
func find(rec *format.Record, kind uint32, name string, first int64) (*format.Attribute, error) {
	var found *format.Attribute
	err := rec.Each(func(a format.Attribute) error {
		if found == nil && a.Kind == kind && a.First == first && a.Name() == name {
			found = &a
		}
		return nil
	})
	return found, damaged(err)
}

// stream returns an attribute of a file; nil when the file has none of that kind and name.
func (v *vol) stream(b *volume.Budget, f *inode, kind uint32, name string) (*stream, error) {
	s := &stream{}
	if !f.hasList {
		a, err := find(f.rec, kind, name, 0)
		if a == nil || err != nil {
			return nil, err
		}
		return s, v.finish(s, v.add(s, f.rec, a))
	}
	var pieces []format.Listed
	err := format.EachListed(f.list, func(l format.Listed) error {
		if l.Kind == kind && l.Name == name {
			pieces = append(pieces, l)
		}
		return nil
	})
	if err != nil || len(pieces) == 0 {
		return nil, damaged(err)
	}
	return s, v.finish(s, v.addPieces(b, s, f, pieces))
}

// addPieces finds the pieces of a stream in their records.
func (v *vol) addPieces(b *volume.Budget, s *stream, f *inode, pieces []format.Listed) error {
	itself := func(l format.Listed) bool { return l.In.Number() == f.rec.Number }
	for len(pieces) > 0 {
		l := pieces[0]
		if itself(l) { // the record may be a copy of the one that is there
			if err := v.addPiece(s, f, l, f.rec); err != nil {
				return err
			}
			pieces = pieces[1:]
			continue
		}
		n := slices.IndexFunc(pieces, itself)
		if n < 0 {
			n = len(pieces)
		}
		isMFT := f.rec.Number == format.MFT && l.Kind == format.AttrData
		if isMFT { // where the next piece is may be in what is known now
			v.setMFT(s)
			n = 1
		}
		numbers := make([]int64, n)
		for i := range numbers {
			numbers[i] = pieces[i].In.Number()
		}
		err := v.records(b, numbers, func(i int, rec *format.Record, err error) error {
			if err != nil {
				return err
			}
			return v.addPiece(s, f, pieces[i], rec)
		})
		if err != nil {
			return err
		}
		pieces = pieces[n:]
	}
	return nil
}

// addPiece finds a piece of a stream in its record.
func (v *vol) addPiece(s *stream, f *inode, l format.Listed, rec *format.Record) error {
	number := f.rec.Number
	if rec == nil || !rec.InUse() || rec.Base() != number || l.In.Sequence() != 0 && l.In.Sequence() != rec.Sequence() ||
		!rec.IsBase() && rec.BaseRef().Sequence() != 0 && rec.BaseRef().Sequence() != f.rec.Sequence() {
		return volume.Damaged("file %d and file %d contradict each other", number, l.In.Number())
	}
	a, err := find(rec, l.Kind, l.Name, l.First)
	if err != nil {
		return err
	}
	if a == nil {
		return volume.Damaged("file %d lacks a part", number)
	}
	return v.add(s, rec, a)
}

// add appends a piece to a stream.
func (v *vol) add(s *stream, rec *format.Record, a *format.Attribute) error {
	if s.Kind == 0 {
		s.Attribute, s.in = *a, rec.Number
	} else if s.Resident || a.Resident {
		return volume.Damaged("file %d has two contents", rec.Base())
	}
	if a.Resident {
		return nil
	}
	if a.First != s.next {
		return volume.Damaged("file %d lacks a part", rec.Base())
	}
	s.next = a.Last + 1
	return damaged(a.EachRun(func(at, n int64) error {
		switch {
		case n > volume.MaxFile/v.boot.Cluster, at != format.Nowhere && (n > v.boot.Clusters || at > v.boot.Clusters-n):
			return volume.Damaged("%d clusters at %d of file %d are not on the volume", n, at, rec.Base())
		case at == format.Nowhere:
			return s.x.Append(volume.Hole, n*v.boot.Cluster)
		}
		return s.x.Append(at*v.boot.Cluster, n*v.boot.Cluster)
	}))
}

// finish checks a stream that has all its pieces.
func (v *vol) finish(s *stream, err error) error {
	if err == nil && !s.Resident && s.x.Size() < s.Size {
		return volume.Damaged("file %d has %d bytes, and clusters for %d", s.in, s.Size, s.x.Size())
	}
	return err
}
