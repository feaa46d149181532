package ntfs

import (
	"fmt"
	"io"
	"sync"

	"disksync/volume"
)

// compressed is a file in units that are compressed each for itself. The clusters of a unit are the bytes themselves when all of them
// are there, zeros when none is, and packed with LZNT1 when only the first ones are.
type compressed struct {
	d     *volume.Device
	x     *volume.Extents
	size  int64
	valid int64
	unit  int64
	place volume.File // the same clusters, for their places

	mu   sync.Mutex
	last int64  // the unit that was unpacked last for a part of it; -1: none
	text []byte // its bytes

	buffers sync.Pool // of what is read at once
}

// group is how much of a file is read at once, in bytes of the file.
const group = 1 << 20

func newCompressed(v *vol, s *stream) (volume.File, error) {
	const maxUnit = 64 << 10 // 16 clusters of 4 KiB; with larger clusters nobody compresses
	unit := v.boot.Cluster << min(s.Unit, 16)
	if s.Unit == 0 || s.Unit > 4 || unit > maxUnit {
		return nil, volume.Unsupported("the file is compressed in units of 2^%d clusters of %d bytes", s.Unit, v.boot.Cluster)
	}
	f := &compressed{d: v.d, x: &s.x, size: s.Size, valid: min(s.Written, s.Size), unit: unit, last: -1}
	f.place = volume.NewFile(v.d, &s.x, s.x.Size(), s.x.Size())
	f.buffers.New = func() any { b := make([]byte, group); return &b }
	return f, nil
}

func (f *compressed) Size() int64  { return f.size }
func (f *compressed) Close() error { return nil }

// Place returns where the unit begins that the byte is in.
func (f *compressed) Place(off int64) int64 {
	if off < 0 || off >= f.valid {
		return -1
	}
	return f.place.Place(off - off%f.unit)
}

func (f *compressed) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: before the start of the file", off)
	}
	done := 0
	for done < len(p) && off < f.size {
		part := p[done:]
		part = part[:min(int64(len(part)), f.size-off)]
		n, err := f.some(part, off)
		done += n
		if err != nil {
			return done, err
		}
		off += int64(n)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// some reads the first bytes of p, which is not empty and within the file: zeros, whole units, or a part of one.
func (f *compressed) some(p []byte, off int64) (int, error) {
	if off >= f.valid {
		clear(p)
		return len(p), nil
	}
	if place, n := f.x.At(off - off%f.unit); place == volume.Hole && n >= f.unit { // many units of zeros
		n = min(n/f.unit*f.unit-off%f.unit, int64(len(p)))
		clear(p[:n])
		return int(n), nil
	}
	if units := min(int64(len(p)), f.valid-off, group) / f.unit; off%f.unit == 0 && units > 0 {
		return f.units(p[:units*f.unit], off)
	}
	return f.part(p, off)
}

// part reads from one unit, and remembers it: who reads on in small pieces will want the rest.
func (f *compressed) part(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	start := off - off%f.unit
	if f.last != start {
		if f.text == nil {
			f.text = make([]byte, f.unit)
		}
		f.last = -1
		if _, err := f.units(f.text, start); err != nil {
			return 0, err
		}
		clear(f.text[min(f.valid-start, f.unit):])
		f.last = start
	}
	return copy(p, f.text[off-start:]), nil
}

// stored is how a unit lies on the device: so many bytes of it are there.
type stored struct {
	n     int64
	plain bool
}

// units reads whole units, no more than a group of them: what is stored of them first, in as few pieces as it lies in.
func (f *compressed) units(p []byte, off int64) (int, error) {
	buf := f.buffers.Get().(*[]byte)
	defer f.buffers.Put(buf)
	var list [group / 512 / 2]stored
	n := int64(len(p)) / f.unit
	var raw volume.Extents // the pieces, without the holes
	for i := range n {
		s, err := f.stored(&raw, off+i*f.unit)
		if err != nil {
			if i == 0 {
				return 0, err
			}
			n = i // those before it first; it is met again
			break
		}
		list[i] = s
	}
	got, failed := volume.NewFile(f.d, &raw, raw.Size(), raw.Size()).ReadAt((*buf)[:raw.Size()], 0)
	b := (*buf)[:got]
	for i, s := range list[:n] {
		at := int64(i) * f.unit
		if s.n > int64(len(b)) {
			return int(at), failed
		}
		out := p[at : at+f.unit]
		switch {
		case s.n == 0:
			clear(out)
		case s.plain:
			copy(out, b)
		case !unpack(out, b[:s.n]):
			return int(at), volume.Damaged("what is compressed at %d makes no sense", off+at)
		}
		b = b[s.n:]
	}
	return int(n * f.unit), nil
}

// stored adds the pieces of a unit to raw.
func (f *compressed) stored(raw *volume.Extents, start int64) (s stored, err error) {
	for off := start; off < start+f.unit; {
		place, n := f.x.At(off)
		n = min(n, start+f.unit-off)
		if place != volume.Hole {
			if off != start+s.n {
				return s, volume.Damaged("the compressed bytes at %d have a gap", start)
			}
			s.n += n
			if err := raw.Append(place, n); err != nil {
				return s, err
			}
		}
		off += n
	}
	s.plain = s.n == f.unit
	return s, nil
}
