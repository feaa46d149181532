package udf

import (
	"cmp"
	"errors"
	"fmt"

	"disksync/volume"
)

// identifier is a file identifier descriptor (4/14.4): a name, and where the file entry is.
type identifier struct {
	name string
	at   address
}

// folder is what a folder holds, and what was wrong with it.
type folder struct {
	names []identifier
	err   error
}

var errNoFolder = errors.New("not a folder")

// Characteristics of a file identifier (4/14.4.3). What is hidden are things of the volume, such as a file that keeps bad blocks; Linux does
// not show it either.
const (
	isHidden  = 1 << 0
	isDeleted = 1 << 2
	isParent  = 1 << 3
)

// maxIdentifier is the greatest length of a descriptor: its head, implementation use, the name, and padding.
const maxIdentifier = identifierHead + 1<<16 + 1<<8 + 3

const identifierHead = 38

// folder reads a folder, from the mirror if the first copy is damaged. The error is that of the folder, errNoFolder if it is none.
func (v *reader) folder(b *volume.Budget, at address) (folder, error) {
	if f, ok := v.folders.Get(at); ok {
		return f, f.err
	}
	f := v.folderIn(b, at, false)
	if f.err != nil && int(at.part) < len(v.parts) && v.parts[at.part].mirror != nil {
		if g := v.folderIn(b, at, true); g.err == nil {
			f = g
		}
	}
	bytes := int64(0)
	for _, x := range f.names {
		bytes += 32 + int64(len(x.name))
	}
	if f.err == nil || errors.Is(f.err, volume.ErrDamaged) {
		v.folders.Put(at, f, 64+bytes)
	}
	return f, f.err
}

func (v *reader) folderIn(b *volume.Budget, at address, mirror bool) folder {
	e, err := v.entry(b, at)
	if mirror && err == nil {
		e, err = v.entryIn(b, at, true)
	}
	if err != nil {
		return folder{err: err}
	}
	if e.kind != kindFolder {
		return folder{err: errNoFolder}
	}
	x, err := v.extents(b, e)
	if err != nil {
		return folder{err: err}
	}
	s := &stream{bs: v.bs, b: b, f: volume.NewFile(v.d, x, e.size, e.size), left: e.size, buf: make([]byte, min(e.size, 2*maxIdentifier))}
	var out folder
	seen := map[string]bool{}
	out.err = s.identifiers(func(x identifier) error {
		switch {
		case !volume.ValidName(x.name):
			return nil
		case seen[x.name]:
			return volume.Damaged("the name %q is there twice", x.name)
		case len(out.names) == volume.MaxEntries:
			return fmt.Errorf("%w: a folder with more than %d names", volume.ErrLimit, volume.MaxEntries)
		}
		seen[x.name] = true
		out.names = append(out.names, x)
		return nil
	})
	return out
}

// stream reads the content of a folder in ascending order.
type stream struct {
	bs   int64
	b    *volume.Budget
	f    volume.File
	off  int64  // of what comes after have
	left int64  // bytes from off on
	buf  []byte // memory
	have []byte // read and not yet used; part of buf
	bad  error  // the first of what could not be read
}

// fill sees to it that have holds a whole descriptor, if there is one.
func (s *stream) fill() error {
	if len(s.have) >= maxIdentifier || s.left == 0 {
		return nil
	}
	k := copy(s.buf, s.have)
	n := min(s.left, int64(len(s.buf)-k))
	s.have = s.buf[:k]
	if err := s.b.Spend(n); err != nil {
		return err
	}
	if _, err := s.f.ReadAt(s.buf[k:k+int(n)], s.off); err != nil {
		if err := s.fillByBlock(s.buf[k : k+int(n)]); err != nil {
			return err
		}
	}
	s.have, s.off, s.left = s.buf[:k+int(n)], s.off+n, s.left-n
	return nil
}

// fillByBlock reads what could not be read at once. Blocks that cannot be read are zeros, which is no descriptor.
func (s *stream) fillByBlock(p []byte) error {
	if err := s.b.Spend(int64(len(p))); err != nil {
		return err
	}
	for off := s.off; len(p) > 0; {
		n := min(s.bs-off%s.bs, int64(len(p)))
		if _, err := s.f.ReadAt(p[:n], off); err != nil {
			s.bad = cmp.Or(s.bad, err)
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
	return nil
}

// identifiers calls do for each name that is neither deleted nor hidden. Where a descriptor is damaged, it goes on with the next one that is whole,
// and returns the first error in the end; do's errors likewise, unless they are about a limit, which ends it.
func (s *stream) identifiers(do func(identifier) error) error {
	var first error
	lost := false // between a damaged descriptor and the next whole one
	for {
		if err := s.fill(); err != nil {
			return err
		}
		if len(s.have) == 0 {
			return cmp.Or(s.bad, first)
		}
		x, n, err := readIdentifier(s.have, lost)
		if err != nil {
			if s.left == 0 && s.bad == nil && int64(len(s.have)) < s.bs && allZero(s.have) {
				return first // some writers fill the last block
			}
			if first == nil {
				first = err
			}
			lost = true
			s.have = s.have[min(4, len(s.have)):]
			continue
		}
		lost = false
		s.have = s.have[n:]
		if x == nil {
			continue
		}
		if err := do(*x); errors.Is(err, volume.ErrLimit) {
			return err
		} else if first == nil {
			first = err
		}
	}
}

// readIdentifier reads the first descriptor of p and returns its length; nil if it is for no file. Where it lies is not compared, nor is
// the CRC unless sure is set: kernels never looked at these, and there are writers who get them wrong. A wrong name costs a file.
func readIdentifier(p []byte, sure bool) (x *identifier, n int, err error) {
	id, _, ok := tagHeader(p)
	if !ok || id != tagIdentifier || len(p) < identifierHead {
		return nil, 0, volume.Damaged("a name of a folder")
	}
	use, name := int(le.Uint16(p[36:])), int(p[19])
	end := identifierHead + use + name
	n = (end + 3) &^ 3
	if end > len(p) {
		return nil, 0, volume.Damaged("a name of a folder goes beyond its end")
	}
	n = min(n, len(p))
	if sure && (le.Uint16(p[10:]) == 0 || !tagContent(p[:n])) {
		return nil, 0, volume.Damaged("a name of a folder")
	}
	if p[18]&(isHidden|isDeleted|isParent) != 0 {
		return nil, n, nil
	}
	s, ok := text(p[identifierHead+use : end])
	ad := readLongAD(p[20:])
	if !ok || name == 0 || ad.bytes == 0 || ad.kind != extentRecorded {
		return nil, 0, volume.Damaged("a name of a folder")
	}
	return &identifier{s, ad.at}, n, nil
}
