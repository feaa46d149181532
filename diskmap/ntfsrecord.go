package diskmap

import (
	"bytes"
	"encoding/binary"
	"unicode/utf16"
)

// Types of attributes.
const (
	attrList              = 0x20
	attrFileName          = 0x30
	attrVolumeInformation = 0x70
	attrData              = 0x80
	attrReparse           = 0xc0
	attrEnd               = 0xffffffff
)

// maxListBytes is the largest list of attributes that the file system allows.
const maxListBytes = 256 << 10

// record is a record of the master file table: a file, or a part of a file that has too much to say for one record.
type record struct {
	b      []byte
	number int64
}

// attribute is an attribute, or a piece of one.
type attribute struct {
	kind     uint32
	name     string
	flags    uint16 // compressed, encrypted, sparse
	resident bool
	value    []byte // when it is resident
	runs     []run
	first    int64 // the first cluster within the attribute that runs are of
	size     int64 // of the whole attribute; only its first piece says it
	written  int64 // how much of it was ever written; the rest is zeros, whatever is in its clusters
}

// length returns the clusters of the runs.
func (a *attribute) length() int64 {
	n := int64(0)
	for _, r := range a.runs {
		n += r.n
	}
	return n
}

// fixup puts back the ends of sectors, which were replaced to find out whether all were written.
func fixup(b []byte) bool {
	le := binary.LittleEndian
	at, n := int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	if n != len(b)/sector+1 || at < 8 || at+2*n > sector-2 || at%2 != 0 {
		return false
	}
	for i := 1; i < n; i++ {
		end := b[i*sector-2:][:2]
		if !bytes.Equal(end, b[at:at+2]) {
			return false
		}
		copy(end, b[at+2*i:])
	}
	return true
}

// parseRecord takes a record as it is on the disk. It is nil where none was ever written.
func parseRecord(b []byte, number int64) (*record, error) {
	if string(b[:4]) != "FILE" {
		if blankSince(b[:4], 0) {
			return nil, nil
		}
		return nil, keep("file %d is damaged", number)
	}
	le := binary.LittleEndian
	if !fixup(b) {
		return nil, keep("file %d was not written completely", number)
	}
	used := int(le.Uint32(b[24:]))
	if first := int(le.Uint16(b[20:])); used > len(b) || first < 42 || first%8 != 0 || first > used-4 {
		return nil, keep("file %d makes no sense", number)
	}
	return &record{b, number}, nil
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
	if err == nil && (rec == nil || !rec.inUse()) {
		err = keep("there is no file %d", number)
	}
	return rec, err
}

func (r *record) inUse() bool    { return r.b[22]&1 != 0 }
func (r *record) isFolder() bool { return r.b[22]&2 != 0 }

// base returns the number of the file that the record is a part of.
func (r *record) base() int64 {
	ref := binary.LittleEndian.Uint64(r.b[32:]) // with how often the record was used above the number
	if ref == 0 {
		return r.number
	}
	return int64(ref & (1<<48 - 1))
}

// content returns the part of a record that says something, but for what protects it against half writes.
func (r *record) content() []byte {
	le := binary.LittleEndian
	return r.b[le.Uint16(r.b[20:]):le.Uint32(r.b[24:])]
}

// each calls do for each attribute.
func (r *record) each(do func(a attribute) error) error {
	bad := keep("file %d makes no sense", r.number)
	le := binary.LittleEndian
	for b := r.content(); ; {
		if len(b) < 4 {
			return bad
		}
		kind := le.Uint32(b)
		if kind == attrEnd {
			return nil
		}
		if len(b) < 24 {
			return bad
		}
		length := int64(le.Uint32(b[4:]))
		if length < 24 || length%8 != 0 || length > int64(len(b)) {
			return bad
		}
		a, ok := parseAttribute(b[:length])
		if !ok {
			return bad
		}
		if err := do(a); err != nil {
			return err
		}
		b = b[length:]
	}
}

func parseAttribute(b []byte) (attribute, bool) {
	le := binary.LittleEndian
	a := attribute{kind: le.Uint32(b), flags: le.Uint16(b[12:]), resident: b[8] == 0}
	if n, at := 2*int(b[9]), int(le.Uint16(b[10:])); n > 0 {
		if at+n > len(b) {
			return a, false
		}
		a.name = utf16String(b[at : at+n])
	}
	if a.resident {
		n, at := int64(le.Uint32(b[16:])), int64(le.Uint16(b[20:]))
		if at+n > int64(len(b)) {
			return a, false
		}
		a.value, a.size, a.written = b[at:at+n], n, n
		return a, true
	}
	if len(b) < 64 {
		return a, false
	}
	a.first = int64(le.Uint64(b[16:]))
	last, at := int64(le.Uint64(b[24:])), int(le.Uint16(b[32:]))
	a.size, a.written = int64(le.Uint64(b[48:])), int64(le.Uint64(b[56:]))
	if a.first < 0 || last < a.first-1 || at < 64 || at > len(b) || a.size < 0 || a.written < 0 || a.written > a.size && a.first == 0 {
		return a, false
	}
	var ok bool
	a.runs, ok = parseRuns(b[at:], last-a.first+1)
	return a, ok
}

// parseRuns reads pairs of a length and a distance from the place before, each with as many bytes as it needs. They must be for
// want clusters.
func parseRuns(b []byte, want int64) ([]run, bool) {
	const maxCluster = 1 << 48
	var out []run
	at := int64(0)
	for len(b) > 0 && b[0] != 0 {
		lengthBytes, placeBytes := int(b[0]&15), int(b[0]>>4)
		if lengthBytes == 0 || lengthBytes > 8 || placeBytes > 8 || 1+lengthBytes+placeBytes > len(b) {
			return nil, false
		}
		n := signed(b[1 : 1+lengthBytes])
		if n <= 0 || n > want {
			return nil, false
		}
		want -= n
		if placeBytes == 0 {
			out = append(out, run{-1, n})
		} else {
			step := signed(b[1+lengthBytes:][:placeBytes])
			if step > maxCluster || step < -maxCluster {
				return nil, false
			}
			if at += step; at < 0 || at > maxCluster {
				return nil, false
			}
			out = append(out, run{at, n})
		}
		b = b[1+lengthBytes+placeBytes:]
	}
	return out, want == 0
}

// signed reads a number of 1 to 8 bytes.
func signed(b []byte) int64 {
	n := int64(int8(b[len(b)-1]))
	for i := len(b) - 2; i >= 0; i-- {
		n = n<<8 | int64(b[i])
	}
	return n
}

// attribute returns the first piece of an attribute that the record itself has; nil when it has none.
func (r *record) attribute(kind uint32, name string) (*attribute, error) {
	var found *attribute
	err := r.each(func(a attribute) error {
		if a.kind == kind && a.name == name && found == nil {
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
		case a.kind == attrReparse:
			links++
		case a.kind == attrFileName && len(a.value) > 65 && a.value[65] != shortName:
			names++
		}
		return nil
	})
	return names == 1 && links == 0, err
}

// file returns an attribute of a file with all its pieces, which may be in several records.
func (v *ntfs) file(base *record, kind uint32, name string) (*attribute, error) {
	missing := keep("file %d lacks a part", base.number)
	list, err := base.attribute(attrList, "")
	if err != nil {
		return nil, err
	}
	if list == nil {
		a, err := base.attribute(kind, name)
		if err == nil && (a == nil || a.first != 0) {
			err = missing
		}
		return a, err
	}
	text := list.value
	if !list.resident {
		if list.size > maxListBytes {
			return nil, missing
		}
		text = make([]byte, list.size)
		if err := v.stream(list.runs, list.size).readAt(text, 0); err != nil {
			return nil, err
		}
	}
	var whole *attribute
	next := int64(0)
	for le := binary.LittleEndian; len(text) >= 26; {
		length, at, n := int(le.Uint16(text[4:])), int(text[7]), 2*int(text[6])
		if length < 26 || length > len(text) || at+n > length {
			return nil, missing
		}
		entry := text[:length]
		text = text[length:]
		if le.Uint32(entry) != kind || n > 0 && utf16String(entry[at:at+n]) != name || n == 0 && name != "" {
			continue
		}
		a, err := v.piece(base, int64(le.Uint64(entry[16:])&(1<<48-1)), kind, name, int64(le.Uint64(entry[8:])))
		if err != nil {
			return nil, err
		}
		if a == nil || a.first != next {
			return nil, missing
		}
		next += a.length()
		if whole == nil {
			whole = a
			continue
		}
		if whole.resident || a.resident || len(whole.runs)+len(a.runs) > maxRuns {
			return nil, missing
		}
		whole.runs = append(whole.runs, a.runs...)
		if base.number == ntfsMFT && kind == attrData { // what it names next may be in what is known now
			v.mft.runs = whole.runs
			v.mftSize = min(whole.size, whole.length()*v.cluster)
		}
	}
	if whole == nil {
		return nil, missing
	}
	return whole, nil
}

// piece returns the piece of an attribute that begins with the cluster first and is in the record number.
func (v *ntfs) piece(base *record, number int64, kind uint32, name string, first int64) (*attribute, error) {
	rec := base
	if number != base.number {
		var err error
		if rec, err = v.record(number); err != nil {
			return nil, err
		}
		if rec.base() != base.number {
			return nil, keep("file %d and file %d contradict each other", base.number, number)
		}
	}
	var found *attribute
	err := rec.each(func(a attribute) error {
		if a.kind == kind && a.name == name && a.first == first {
			found = &a
		}
		return nil
	})
	return found, err
}

func utf16String(b []byte) string {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}
