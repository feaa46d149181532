package format

import (
	"bytes"
	"encoding/binary"
)

// Types of attributes.
const (
	AttrStandard   = 0x10
	AttrList       = 0x20
	AttrFileName   = 0x30
	AttrVolumeName = 0x60
	AttrVolumeInfo = 0x70
	AttrData       = 0x80
	AttrIndexRoot  = 0x90
	AttrIndexAlloc = 0xa0
	AttrBitmap     = 0xb0
	AttrReparse    = 0xc0
	attrEnd        = 0xffffffff
)

// Flags of attributes.
const (
	Compressed = 0x00ff // any of these
	Encrypted  = 0x4000
	Sparse     = 0x8000
)

// MaxListBytes is the largest list of attributes that the file system allows.
const MaxListBytes = 256 << 10

// Ref names a record: its number, and in the 16 bits above how often it was used for another file.
type Ref uint64

// Number returns the number of the record.
func (r Ref) Number() int64 { return int64(r & (1<<48 - 1)) }

// Sequence returns how often the record was used; 0 is any.
func (r Ref) Sequence() uint16 { return uint16(r >> 48) }

// Record is a record of the master file table: a file, or a part of a file that has too much to say for one record.
type Record struct {
	Number int64
	b      []byte
}

// Fixup puts back the ends of sectors, which were replaced to find out whether all were written. It fails where one was not.
func Fixup(b []byte) bool {
	le := binary.LittleEndian
	at, n := int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	if n != len(b)/Sector+1 || at < 8 || at+2*n > Sector-2 || at%2 != 0 {
		return false
	}
	for i := 1; i < n; i++ {
		end := b[i*Sector-2:][:2]
		if !bytes.Equal(end, b[at:at+2]) {
			return false
		}
		copy(end, b[at+2*i:])
	}
	return true
}

// ParseRecord takes a record as it is on the disk, and changes b. It is nil where none was ever written.
func ParseRecord(b []byte, number int64) (*Record, error) {
	if string(b[:4]) != "FILE" {
		if len(bytes.Trim(b[:4], "\x00")) == 0 {
			return nil, nil
		}
		return nil, fault("file %d is damaged", number)
	}
	le := binary.LittleEndian
	if !Fixup(b) {
		return nil, fault("file %d was not written completely", number)
	}
	used := int64(le.Uint32(b[24:]))
	if first := int64(le.Uint16(b[20:])); used > int64(len(b)) || first < 42 || first%8 != 0 || first > used-4 {
		return nil, fault("file %d makes no sense", number)
	}
	return &Record{number, b}, nil
}

// InUse reports whether the record is that of a file, and not of one that was deleted.
func (r *Record) InUse() bool { return r.b[22]&1 != 0 }

// IsFolder reports whether the file is a folder.
func (r *Record) IsFolder() bool { return r.b[22]&2 != 0 }

// Sequence returns how often the record was used.
func (r *Record) Sequence() uint16 { return binary.LittleEndian.Uint16(r.b[16:]) }

// IsBase reports whether the record is not merely a part of a file.
func (r *Record) IsBase() bool { return r.BaseRef() == 0 }

// BaseRef returns the file that the record is a part of; 0 when it is not merely a part.
func (r *Record) BaseRef() Ref { return Ref(binary.LittleEndian.Uint64(r.b[32:])) }

// Base returns the number of the file that the record is, or is a part of.
func (r *Record) Base() int64 {
	if r.IsBase() {
		return r.Number
	}
	return r.BaseRef().Number()
}

// Content returns the part of a record that says something, but for what protects it against half writes.
func (r *Record) Content() []byte {
	le := binary.LittleEndian
	return r.b[le.Uint16(r.b[20:]):le.Uint32(r.b[24:])]
}

// Attribute is an attribute, or a piece of one. What it refers to is in the memory of its record.
type Attribute struct {
	Kind     uint32
	name     []byte
	Flags    uint16 // Compressed, Encrypted, Sparse
	Resident bool
	Value    []byte // when it is resident
	At       int64  // where the value is in the record, bytes

	// Of one that is not resident:
	First, Last int64 // clusters within the attribute that the runs are of; Last is First-1 where there are none
	Unit        uint8 // when it is compressed: so many clusters, as a power of two, are compressed together
	runs        []byte

	Size    int64 // of the whole attribute; only its first piece says it
	Written int64 // how much of it was ever written; the rest is zeros, whatever is in its clusters
}

// Name returns the name, which is empty for the most.
func (a *Attribute) Name() string { return UTF16(a.name) }

// Each calls do for each attribute, until it returns an error. Its own errors are Faults.
func (r *Record) Each(do func(a Attribute) error) error {
	bad := func() error { return fault("file %d makes no sense", r.Number) }
	le := binary.LittleEndian
	content := r.Content()
	start := int64(le.Uint16(r.b[20:]))
	for b := content; ; {
		if len(b) < 4 {
			return bad()
		}
		kind := le.Uint32(b)
		if kind == attrEnd {
			return nil
		}
		if len(b) < 24 {
			return bad()
		}
		length := int64(le.Uint32(b[4:]))
		if length < 24 || length%8 != 0 || length > int64(len(b)) {
			return bad()
		}
		a, ok := parseAttribute(b[:length])
		if !ok {
			return bad()
		}
		a.At += start + int64(len(content)-len(b))
		if err := do(a); err != nil {
			return err
		}
		b = b[length:]
	}
}

func parseAttribute(b []byte) (Attribute, bool) {
	le := binary.LittleEndian
	a := Attribute{Kind: le.Uint32(b), Flags: le.Uint16(b[12:]), Resident: b[8] == 0}
	if n, at := 2*int(b[9]), int(le.Uint16(b[10:])); n > 0 {
		if at+n > len(b) {
			return a, false
		}
		a.name = b[at : at+n]
	}
	if a.Resident {
		n, at := int64(le.Uint32(b[16:])), int64(le.Uint16(b[20:]))
		if at+n > int64(len(b)) {
			return a, false
		}
		a.Value, a.At, a.Size, a.Written = b[at:at+n], at, n, n
		return a, true
	}
	if len(b) < 64 {
		return a, false
	}
	a.First, a.Last, a.Unit = int64(le.Uint64(b[16:])), int64(le.Uint64(b[24:])), b[34]
	at := int(le.Uint16(b[32:]))
	a.Size, a.Written = int64(le.Uint64(b[48:])), int64(le.Uint64(b[56:]))
	if a.First < 0 || a.Last < a.First-1 || at < 64 || at > len(b) || a.Size < 0 || a.Written < 0 || a.Written > a.Size && a.First == 0 {
		return a, false
	}
	a.runs = b[at:]
	return a, true
}

// Nowhere is the place of a run that lies nowhere: its clusters read as zeros.
const Nowhere = -1

// EachRun calls do for each run: n clusters that begin with the one at, or lie Nowhere. The runs are pairs of a length and of a
// distance from the place before, each with as many bytes as it needs. They have to be for as many clusters as the attribute says; an
// error of do ends it.
func (a *Attribute) EachRun(do func(at, n int64) error) error {
	const bad, maxCluster = Fault("a list of runs makes no sense"), 1 << 48
	at, want := int64(0), a.Last-a.First+1
	for b := a.runs; len(b) > 0 && b[0] != 0; {
		lengthBytes, placeBytes := int(b[0]&15), int(b[0]>>4)
		if lengthBytes == 0 || lengthBytes > 8 || placeBytes > 8 || 1+lengthBytes+placeBytes > len(b) {
			return bad
		}
		n := signed(b[1 : 1+lengthBytes])
		if n <= 0 || n > want {
			return bad
		}
		want -= n
		there := int64(Nowhere)
		if placeBytes > 0 {
			step := signed(b[1+lengthBytes:][:placeBytes])
			if step > maxCluster || step < -maxCluster {
				return bad
			}
			if at += step; at < 0 || at > maxCluster {
				return bad
			}
			there = at
		}
		if err := do(there, n); err != nil {
			return err
		}
		b = b[1+lengthBytes+placeBytes:]
	}
	if want != 0 {
		return bad
	}
	return nil
}

// signed reads a number of 1 to 8 bytes.
func signed(b []byte) int64 {
	n := int64(int8(b[len(b)-1]))
	for i := len(b) - 2; i >= 0; i-- {
		n = n<<8 | int64(b[i])
	}
	return n
}

// Listed is an entry of a list of attributes: a piece of an attribute, and the record that has it.
type Listed struct {
	Kind  uint32
	Name  string
	First int64 // the first cluster of the piece within the attribute
	In    Ref
}

// EachListed calls do for each entry of a list of attributes, until it returns an error. Its own errors are Faults.
func EachListed(list []byte, do func(l Listed) error) error {
	const least, bad = 26, Fault("a list of attributes makes no sense")
	for le := binary.LittleEndian; len(list) >= least; {
		length, at, n := int(le.Uint16(list[4:])), int(list[7]), 2*int(list[6])
		if length < least || length > len(list) || n > 0 && at+n > length {
			return bad
		}
		l := Listed{Kind: le.Uint32(list), First: int64(le.Uint64(list[8:])), In: Ref(le.Uint64(list[16:]))}
		if n > 0 {
			l.Name = UTF16(list[at : at+n])
		}
		if err := do(l); err != nil {
			return err
		}
		list = list[length:]
	}
	return nil
}
