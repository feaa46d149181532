package diskmap

import (
	"errors"

	"disksync/volume/ntfs/format"
)

// record is a record of the master file table: a file, or a part of a file that has too much to say for one record.
type record struct{ *format.Record }

// attribute is an attribute with the runs of all its pieces, or a piece of one.
type attribute struct {
	format.Attribute
	runs []run
}

// length returns the clusters of the runs.
func (a *attribute) length() int64 {
	n := int64(0)
	for _, r := range a.runs {
		n += r.n
	}
	return n
}

// parseRecord takes a record as it is on the disk. It is nil where none was ever written.
func parseRecord(b []byte, number int64) (*record, error) {
	rec, err := format.ParseRecord(b, number)
	if err != nil {
		return nil, keep("%v", err)
	}
	if rec == nil {
		return nil, nil
	}
	return &record{rec}, nil
}

// record reads a record that must be there.
func (v *ntfs) record(number int64) (*record, error) {
	if number < 0 || number >= v.mftSize/v.recordSize {
		return nil, keep("there is no file %d", number)
	}
	b := make([]byte, v.recordSize)
	if err := v.mft.readAt(b, number*v.recordSize); err != nil {
		return nil, err
	}
	rec, err := parseRecord(b, number)
	if err == nil && (rec == nil || !rec.InUse()) {
		err = keep("there is no file %d", number)
	}
	return rec, err
}

// each calls do for each attribute.
func (r *record) each(do func(a attribute) error) error {
	err := r.Each(func(f format.Attribute) error {
		a := attribute{Attribute: f}
		if !f.Resident {
			err := f.EachRun(func(at, n int64) error {
				a.runs = append(a.runs, run{at, n})
				return nil
			})
			if err != nil {
				return keep("file %d makes no sense", r.Number)
			}
		}
		return do(a)
	})
	return keepFault(err)
}

// keepFault makes what the parser says a reason to keep the volume.
func keepFault(err error) error {
	if f, ok := errors.AsType[format.Fault](err); ok {
		return keep("%v", f)
	}
	return err
}

// attribute returns the first piece of an attribute that the record itself has; nil when it has none.
func (r *record) attribute(kind uint32, name string) (*attribute, error) {
	var found *attribute
	err := r.each(func(a attribute) error {
		if a.Kind == kind && a.Name() == name && found == nil {
			found = &a
		}
		return nil
	})
	return found, err
}

// isPlain reports whether a file has one name, a short form of it aside, and is no link to another.
func (r *record) isPlain() (bool, error) {
	const shortName = 2
	names, links := 0, 0
	err := r.each(func(a attribute) error {
		switch {
		case a.Kind == format.AttrReparse:
			links++
		case a.Kind == format.AttrFileName && len(a.Value) > 65 && a.Value[65] != shortName:
			names++
		}
		return nil
	})
	return names == 1 && links == 0, err
}

// file returns an attribute of a file with all its pieces, which may be in several records.
func (v *ntfs) file(base *record, kind uint32, name string) (*attribute, error) {
	missing := keep("file %d lacks a part", base.Number)
	list, err := base.attribute(format.AttrList, "")
	if err != nil {
		return nil, err
	}
	if list == nil {
		a, err := base.attribute(kind, name)
		if err == nil && (a == nil || a.First != 0) {
			err = missing
		}
		return a, err
	}
	text := list.Value
	if !list.Resident {
		if list.Size > format.MaxListBytes {
			return nil, missing
		}
		text = make([]byte, list.Size)
		if err := v.stream(list.runs, list.Size).readAt(text, 0); err != nil {
			return nil, err
		}
	}
	var whole *attribute
	next := int64(0)
	err = format.EachListed(text, func(l format.Listed) error {
		if l.Kind != kind || l.Name != name {
			return nil
		}
		a, err := v.piece(base, l.In.Number(), kind, name, l.First)
		if err != nil {
			return err
		}
		if a == nil || a.First != next {
			return missing
		}
		next += a.length()
		if whole == nil {
			whole = a
			return nil
		}
		if whole.Resident || a.Resident || len(whole.runs)+len(a.runs) > maxRuns {
			return missing
		}
		whole.runs = append(whole.runs, a.runs...)
		if base.Number == format.MFT && kind == format.AttrData { // what it names next may be in what is known now
			v.mft.runs = whole.runs
			v.mftSize = min(whole.Size, whole.length()*v.cluster)
		}
		return nil
	})
	if err != nil {
		return nil, keepFault(err)
	}
	if whole == nil {
		return nil, missing
	}
	return whole, nil
}

// piece returns the piece of an attribute that begins with the cluster first and is in the record number.
func (v *ntfs) piece(base *record, number int64, kind uint32, name string, first int64) (*attribute, error) {
	rec := base
	if number != base.Number {
		var err error
		if rec, err = v.record(number); err != nil {
			return nil, err
		}
		if rec.Base() != base.Number {
			return nil, keep("file %d and file %d contradict each other", base.Number, number)
		}
	}
	var found *attribute
	err := rec.each(func(a attribute) error {
		if a.Kind == kind && a.Name() == name && a.First == first {
			found = &a
		}
		return nil
	})
	return found, err
}

func utf16String(b []byte) string { return format.UTF16(b) }
