package udf

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"disksync/volume"
)

// Limits of what a volume keeps in memory; together with what volume.Recent remembers they stay under volume.MaxCache.
const (
	maxVAT       = 4 << 20 // bytes: a million files
	maxMetadata  = 1 << 16 // pieces of the metadata file
	maxPartition = 16
)

// openPartitions reads the partition maps (3/10.7): first those that are sectors, then those that lie in these.
func (v *reader) openPartitions(b *volume.Budget, s *sequence) error {
	type kind struct {
		name string
		data []byte
	}
	var kinds []kind
	for maps := s.maps; len(v.parts) < int(s.mapCount); {
		if len(maps) < 6 || int(maps[1]) < 6 || int(maps[1]) > len(maps) || len(v.parts) == maxPartition {
			return volume.Damaged("partition map %d of %d", len(v.parts), s.mapCount)
		}
		m := maps[:maps[1]]
		maps = maps[len(m):]
		k := kind{data: m}
		p := partition{}
		set := uint16(0)
		switch {
		case m[0] == 1: // 3/10.7.2
			set, p.number = le.Uint16(m[2:]), le.Uint16(m[4:])
			k.name = "*physical"
		case m[0] == 2 && len(m) == 64: // 3/10.7.3, UDF 2.2.8 to 2.2.10
			set, p.number = le.Uint16(m[36:]), le.Uint16(m[38:])
			k.name = string(bytes.TrimRight(m[5:28], "\x00"))
		}
		if k.name != "" && set != s.number {
			return volume.Unsupported("the volume goes on on disc %d of a set", set)
		}
		v.parts, kinds = append(v.parts, p), append(kinds, k)
	}
	for i, k := range kinds {
		ph, ok := s.partitions[v.parts[i].number]
		if !ok && k.name != "" {
			return volume.Damaged("partition %d is not described", v.parts[i].number)
		}
		switch k.name {
		case "*physical":
			v.parts[i].main = ph
		case "*UDF Sparable Partition":
			sp, err := v.readSparing(b, k.data, ph)
			if err != nil {
				return err
			}
			v.parts[i].main = sp
		}
	}
	for i, k := range kinds {
		below := slices.IndexFunc(v.parts, func(p partition) bool { return p.number == v.parts[i].number && p.main != nil })
		var err error
		switch {
		case k.name == "*UDF Virtual Partition" && below >= 0:
			err = v.openVirtual(b, i, below, s.partitions[v.parts[i].number].start)
		case k.name == "*UDF Metadata Partition" && below >= 0:
			err = v.openMetadata(b, i, below, k.data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readSparing reads the newest of the sparing tables that are whole (UDF 2.2.9, 2.2.12). Without one nothing is known to be where it
// seems to be.
func (v *reader) readSparing(b *volume.Budget, m []byte, ph physical) (sparable, error) {
	const head, entry = 56, 8
	s := sparable{physical: ph, packet: int64(le.Uint16(m[40:]))}
	count, size := int(m[42]), int64(le.Uint32(m[44:]))
	if s.packet == 0 || count < 1 || count > 4 || size < head || size > 1<<20 {
		return s, volume.Damaged("%d sparing tables of %d bytes for packets of %d blocks", count, size, s.packet)
	}
	var newest uint32
	var table []byte
	for i := range count {
		p, err := b.Read(v.d, int64(le.Uint32(m[48+4*i:]))*v.bs, size)
		if errors.Is(err, volume.ErrLimit) {
			return s, err
		}
		if err != nil {
			continue
		}
		n := int64(le.Uint16(p[48:]))
		if id, _, err := readTag(p); err != nil || id != tagSparing || !bytes.HasPrefix(p[17:], []byte("*UDF Sparing Table")) ||
			head+n*entry > size {
			continue
		}
		if number := le.Uint32(p[52:]); table == nil || number > newest {
			newest, table = number, p[head:head+n*entry]
		}
	}
	if table == nil {
		return s, volume.Damaged("none of %d sparing tables can be read", count)
	}
	for ; len(table) > 0; table = table[entry:] {
		if at := le.Uint32(table); at < 0xfffffff0 { // from there on: not in use, or defective
			s.spared = append(s.spared, sparing{int64(at), int64(le.Uint32(table[4:]))})
		}
	}
	slices.SortStableFunc(s.spared, func(a, b sparing) int { return cmp.Compare(a.block, b.block) })
	for _, x := range s.spared {
		if x.block%s.packet != 0 {
			return s, volume.Damaged("block %d is spared, which is not where a packet of %d begins", x.block, s.packet)
		}
	}
	return s, nil
}

// openMetadata reads where the metadata file and its mirror are. One of them is enough.
func (v *reader) openMetadata(b *volume.Budget, part, below int, m []byte) error {
	load := func(block uint32, kind uint8) (space, error) {
		e, err := v.entry(b, address{block, uint16(below)})
		if err != nil {
			return nil, err
		}
		if e.kind != kind {
			return nil, volume.Damaged("it is of type %d", e.kind)
		}
		x, err := v.extentsUpTo(b, e, maxMetadata)
		if err != nil {
			return nil, err
		}
		return metadata{x, v.bs}, nil
	}
	main, err := load(le.Uint32(m[40:]), kindMetadata)
	mirror, errMirror := load(le.Uint32(m[44:]), kindMirror)
	switch {
	case err == nil:
		v.parts[part].main = main
		if errMirror == nil {
			v.parts[part].mirror = mirror
		}
	case errMirror == nil:
		v.parts[part].main = mirror
	default:
		return fmt.Errorf("the metadata file: %w", err)
	}
	return nil
}
