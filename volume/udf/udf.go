// Package udf reads volumes in the Universal Disk Format, revisions 1.02 to 2.60, as DVDs, Blu-ray discs and some sticks have it.
//
// The format is that of ECMA-167 (3rd edition; cited as "4/14.9": part 4, clause 14.9) with the rules of OSTA's "Universal Disk
// Format Specification" (cited as "UDF 2.2.10"; numbers are those of revision 2.60). All numbers are little-endian.
//
// A volume has partitions, which [space] turns into places on the device: physical, sparable (rewritable discs), virtual (discs that
// are written once) and metadata partitions. In them lie file entries, which say where the bytes of a file are, and folders, which
// are files of file identifiers.
package udf

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"disksync/volume"
)

// reader is a volume.
type reader struct {
	d       *volume.Device
	bs      int64 // bytes of a logical block, which in UDF is a sector
	parts   []partition
	root    address
	info    volume.Info
	folders volume.Recent[address, folder]
}

// address is a logical block of a partition (4/7.1). The partition is the index of its map.
type address struct {
	block uint32
	part  uint16
}

// Open opens the volume on a device. The error is volume.ErrOther where no recognition sequence says that there is one.
func Open(d *volume.Device) (volume.Volume, error) {
	b := volume.NewBudget()
	if err := recognise(d, b); err != nil {
		return nil, err
	}
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	for _, c := range anchorPlaces(d.Size()) {
		main, reserve, err := readAnchor(d, b, c)
		switch {
		case errors.Is(err, errNoAnchor):
			continue
		case errors.Is(err, volume.ErrLimit):
			return nil, err
		case err != nil:
			keep(err)
			continue
		}
		v, err := openSequences(d, b, c.blockSize, main, reserve)
		if err == nil {
			return v, nil
		}
		keep(err)
	}
	if first == nil {
		first = volume.Damaged("the device says it is UDF, but has no anchor that says where its description is")
	}
	return nil, first
}

// openSequences opens a volume by its main descriptors or, where these are damaged, by the reserve. Each is read with its damaged
// parts left out, since what is damaged may not be needed.
func openSequences(d *volume.Device, b *volume.Budget, blockSize int64, main, reserve extentAD) (*reader, error) {
	m, errMain := readSequence(d, b, blockSize, main)
	if errMain == nil {
		v, err := openVolume(d, b, blockSize, m)
		if err == nil {
			return v, nil
		}
		errMain = err
	}
	r, errReserve := readSequence(d, b, blockSize, reserve)
	for _, s := range []*sequence{r, m} {
		if s == nil || s == m && s.whole {
			continue
		}
		if v, err := openVolume(d, b, blockSize, s); err == nil {
			return v, nil
		}
	}
	if errMain == nil {
		errMain = errReserve
	}
	return nil, errMain
}

func openVolume(d *volume.Device, b *volume.Budget, blockSize int64, s *sequence) (*reader, error) {
	v := &reader{d: d, bs: blockSize}
	v.info = volume.Info{Type: "udf", Label: s.label, ID: s.id, BlockSize: int(blockSize)}
	if err := v.openPartitions(b, s); err != nil {
		return nil, err
	}
	if err := v.openFileSet(b, s.fileSet, s.fileSetBytes); err != nil {
		return nil, err
	}
	e, err := v.entry(b, v.root)
	if err != nil {
		return nil, fmt.Errorf("the root folder: %w", err)
	}
	if e.kind != kindFolder {
		return nil, volume.Damaged("the root folder is none, but of type %d", e.kind)
	}
	return v, nil
}

func (v *reader) Info() volume.Info { return v.info }

// walk returns the folder or file of a name.
func (v *reader) walk(b *volume.Budget, op, name string) (address, error) {
	return volume.Walk(op, name, v.root, func(at address, element string) (address, error) {
		f, err := v.folder(b, at)
		if errors.Is(err, errNoFolder) {
			return at, fs.ErrNotExist
		}
		for _, x := range f.names {
			if x.name == element {
				return x.at, nil
			}
		}
		return at, cmp.Or(err, fs.ErrNotExist)
	})
}

func (v *reader) ReadDir(dir string) ([]volume.Entry, error) {
	b := volume.NewBudget()
	at, err := v.walk(b, "list", dir)
	if err != nil {
		return nil, err
	}
	f, err := v.folder(b, at)
	if errors.Is(err, errNoFolder) {
		return nil, volume.NotExist("list", dir)
	}
	if err != nil {
		err = fmt.Errorf("folder %s: %w", dir, err)
	}
	entries, errEntries := v.entries(b, f.names)
	if errEntries != nil {
		errEntries = fmt.Errorf("folder %s: %w", dir, errEntries)
	}
	out := make([]volume.Entry, 0, len(entries))
	for i, e := range entries {
		switch e.kind {
		case kindFolder:
			out = append(out, volume.Entry{Name: f.names[i].name, Dir: true})
		case kindAny, kindFile, kindRealTime:
			out = append(out, volume.Entry{Name: f.names[i].name, Size: e.size})
		}
	}
	return out, cmp.Or(err, errEntries)
}

// summary is what a listing needs of a file entry.
type summary struct {
	kind uint8
	size int64
}

// entries reads the file entries of names, in the order in which they lie, and neighbours at once: a seek of a disc takes as long as
// reading a MB. What cannot be read has the kind kindNone, and the first error is returned.
func (v *reader) entries(b *volume.Budget, names []identifier) ([]summary, error) {
	const most, gap = 256 << 10, 2 << 10
	type item struct {
		i     int
		place int64
	}
	out := slices.Repeat([]summary{{kind: kindNone}}, len(names))
	var items []item
	var first error
	failed := func(i int, err error) {
		if first == nil {
			first = fmt.Errorf("%q: %w", names[i].name, err)
		}
	}
	for i, x := range names {
		place, err := v.place(x.at, false)
		if err != nil {
			failed(i, err)
			continue
		}
		items = append(items, item{i, place})
	}
	slices.SortStableFunc(items, func(a, b item) int { return cmp.Compare(a.place, b.place) })
	var buf []byte
	start := int64(0) // of buf
	for k, it := range items {
		if it.place+v.bs > start+int64(len(buf)) || len(buf) == 0 {
			start = it.place
			end := start + v.bs
			for _, next := range items[k:] {
				if next.place > end+gap || next.place+v.bs > start+most || next.place+v.bs > v.d.Size() {
					break
				}
				end = next.place + v.bs
			}
			if err := b.Spend(end - start); err != nil {
				return out, err
			}
			buf = slices.Grow(buf[:0], int(end-start))[:end-start]
			if _, err := v.d.ReadAt(buf, start); err != nil {
				buf = buf[:0] // each is read alone below, so that one bad sector costs one file
			}
		}
		at := names[it.i].at
		if len(buf) > 0 {
			block := buf[it.place-start:][:v.bs]
			if e, err := v.parseEntry(block, it.place, at); err == nil && e.strategy == strategyPlain {
				out[it.i] = summary{e.kind, e.size}
				continue
			}
		}
		e, err := v.entry(b, at)
		if err != nil {
			failed(it.i, err)
			continue
		}
		out[it.i] = summary{e.kind, e.size}
	}
	return out, first
}

func (v *reader) Open(name string) (volume.File, error) {
	b := volume.NewBudget()
	at, err := v.walk(b, "open", name)
	if err != nil {
		return nil, err
	}
	e, err := v.entry(b, at)
	if err == nil && e.kind != kindFile && e.kind != kindRealTime && e.kind != kindAny {
		return nil, volume.NotExist("open", name)
	}
	var x *volume.Extents
	if err == nil {
		x, err = v.extents(b, e)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return volume.NewFile(v.d, x, e.size, e.size), nil
}
