package iso9660

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"disksync/volume"
)

// attributes is what Rock Ridge says of a file, as far as it matters here.
type attributes struct {
	name     []byte
	named    bool
	other    bool   // a link, or a device
	moved    bool   // a folder that is shown elsewhere, where the tree is too deep for ISO 9660
	child    uint32 // block of the folder that was moved from here
	packed   bool
	unpacked uint32 // bytes of it
	rock     bool   // there is any field of Rock Ridge
}

// nameOr is the alternate name. Its characters are those of who wrote it: UTF-8 today, else they are read as ISO 8859-1.
func (a *attributes) nameOr(plain string) string {
	switch {
	case !a.named:
		return plain
	case utf8.Valid(a.name):
		return string(a.name)
	}
	return latin(a.name)
}

// Bits of the kind of a file (RRIP 4.1.1, "POSIX File Mode").
const (
	modeType   = 0o170000
	modeFolder = 0o040000
	modeFile   = 0o100000
)

// maxContinued is how many areas continue the fields of a record; one is usual.
const maxContinued = 32

// attributes reads the system use fields of a record, and the areas that continue them (SUSP 4, 5.1).
func (l *lister) attributes(p []byte, skip int) (*attributes, error) {
	a := &attributes{}
	p = p[min(skip, len(p)):]
	for range maxContinued {
		next, err := a.fields(p)
		if err != nil {
			return nil, err
		}
		if next == nil {
			return a, nil
		}
		block, ok := both32(next[4:])
		off, ok2 := both32(next[12:])
		n, ok3 := both32(next[20:])
		if !ok || !ok2 || !ok3 || int64(off)+int64(n) > sector {
			return nil, volume.Damaged("a continuation of %d bytes at %d", n, off)
		}
		if p, err = l.continuation(block); err != nil {
			return nil, err
		}
		if int64(off)+int64(n) > int64(len(p)) {
			return nil, volume.Damaged("a continuation beyond the end of the disc")
		}
		p = p[off : off+n]
	}
	return nil, fmt.Errorf("%w: a record that is continued more than %d times", volume.ErrLimit, maxContinued)
}

// continuation reads the sector at a block, in which the continuations of many records are. It is overwritten by the next call.
func (l *lister) continuation(block uint32) ([]byte, error) {
	if l.more != nil && l.moreBlock == block {
		return l.more, nil
	}
	at := int64(block) * l.v.bs
	n := min(sector, l.v.d.Size()-at)
	if n <= 0 {
		return nil, volume.Damaged("a continuation beyond the end of the disc")
	}
	if err := l.b.Spend(n); err != nil {
		return nil, err
	}
	if l.more == nil {
		l.more = make([]byte, sector)
	}
	l.more, l.moreBlock = l.more[:n], block
	_, err := l.v.d.ReadAt(l.more, at)
	if err != nil {
		l.more = nil
	}
	return l.more, err
}

// fields reads one area, and returns the field that says where the next one is, or nil.
func (a *attributes) fields(p []byte) (next []byte, err error) {
	for len(p) >= 4 && p[0] != 0 {
		n := int(p[2])
		if n < 4 || n > len(p) {
			return nil, volume.Damaged("a system use field of %d bytes where %d are left", n, len(p))
		}
		f := p[:n]
		p = p[n:]
		switch id := string(f[:2]); {
		case id == "ST":
			return next, nil
		case id == "CE" && n >= 28:
			next = f
		case id == "ER" && n >= 8:
			a.rock = a.rock || bytes.Contains(f[8:], []byte("RRIP_1991A")) || bytes.Contains(f[8:], []byte("IEEE_P1282")) ||
				bytes.Contains(f[8:], []byte("IEEE_1282"))
		case id == "RR":
			a.rock = true
		case id == "PX" && n >= 12: // RRIP 4.1.1
			mode, ok := both32(f[4:])
			if !ok {
				return nil, volume.Damaged("the mode of a file contradicts itself")
			}
			a.rock = true
			a.other = a.other || mode&modeType != modeFile && mode&modeType != modeFolder
		case id == "SL": // 4.1.3
			a.other = true
		case id == "NM" && n >= 5: // 4.1.4: bits 1 and 2 are "." and ".."
			if f[4]&6 == 0 {
				a.name, a.named = append(a.name, f[5:]...), true
			}
			if len(a.name) > volume.MaxName {
				return nil, volume.Damaged("a name of more than %d bytes", volume.MaxName)
			}
		case id == "CL" && n >= 12: // 4.1.5.1
			block, ok := both32(f[4:])
			if !ok || block == 0 {
				return nil, volume.Damaged("the place of a folder contradicts itself")
			}
			a.child = block
		case id == "RE": // 4.1.5.3
			a.moved = true
		case id == "ZF" && n >= 16:
			a.packed = true
			a.unpacked, _ = both32(f[8:])
		}
	}
	return next, nil
}

// self reads the record of a folder for itself. In that of the root it is said whether the disc has Rock Ridge (SUSP 5.3, 5.5).
func (l *lister) self(r record) error {
	v := l.v
	if v.names != plain || v.checked {
		return nil
	}
	v.checked = true
	for _, skip := range []int{0, 14} { // CD-ROM XA has 14 bytes first
		if len(r.use) < skip+7 {
			return nil
		}
		if f := r.use[skip:]; string(f[:2]) != "SP" || f[2] < 7 || f[4] != 0xbe || f[5] != 0xef {
			continue
		}
		a, err := l.attributes(r.use, skip)
		if err != nil {
			l.damaged(err)
			return nil
		}
		if a.rock {
			v.names, v.skip = rockRidge, int(r.use[skip+6])
		}
		return nil
	}
	return nil
}

// relocated follows a folder to where it was moved: its first record there has its size.
func (v *reader) relocated(b *volume.Budget, at node) (node, error) {
	if at.relocate == 0 {
		return at, nil
	}
	p, err := b.Read(v.d, int64(at.relocate)*v.bs, v.bs)
	if err != nil {
		return at, err
	}
	n := int(p[0])
	if n > len(p) {
		return at, volume.Damaged("a folder that was moved is not at block %d", at.relocate)
	}
	r, err := readRecord(p[:n])
	if err != nil || len(r.id) != 1 || r.id[0] != 0 || r.block != at.relocate || r.flags&flagFolder == 0 {
		return at, volume.Damaged("a folder that was moved is not at block %d", at.relocate)
	}
	return v.nodeOf(r)
}
