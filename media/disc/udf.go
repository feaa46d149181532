package disc

// sequence returns the volume descriptors (ECMA-167 3/8.4.2).
func (l *Layout) sequence() []descriptor {
	return []descriptor{l.primary(), l.implementation(), l.partition(), l.logical(), unallocated(), terminator()}
}

// primary is ECMA-167 3/10.1.
func (l *Layout) primary() descriptor {
	d := newDescriptor(tagPrimary, 512)
	d.u32(16, 0)
	d.text(24, 32, l.Label)
	d.u16(56, 1)
	d.u16(58, 1)
	d.u16(60, 2)
	d.u16(62, 2)
	d.u32(64, 1)
	d.u32(68, 1)
	d.text(72, 128, l.Set+l.Label)
	d.charset(200)
	d.charset(264)
	d.entity(344, maker)
	d.time(376, l.Time)
	d.entity(388, maker)
	return d
}

// implementation is ECMA-167 3/10.4 as UDF 1.02, 2.2.7 uses it.
func (l *Layout) implementation() descriptor {
	d := newDescriptor(tagImplementation, 512)
	d.u32(16, 1)
	d.entity(20, "*UDF LV Info", revision...)
	d.charset(52)
	d.text(116, 128, l.Label)
	d.entity(352, maker)
	return d
}

// partition is ECMA-167 3/10.5.
func (l *Layout) partition() descriptor {
	d := newDescriptor(tagPartition, 512)
	d.u32(16, 2)
	d.u16(20, 1)
	d.entity(24, "+NSR02")
	d.u32(184, 1) // read only
	d.u32(188, partitionAt)
	d.u32(192, l.last-partitionAt)
	d.entity(196, maker)
	return d
}

// logical is ECMA-167 3/10.6.
func (l *Layout) logical() descriptor {
	d := newDescriptor(tagLogical, 446)
	d.u32(16, 3)
	d.charset(20)
	d.text(84, 128, l.Label)
	d.u32(212, SectorSize)
	d.entity(216, "*OSTA UDF Compliant", revision...)
	d.long(248, 2*SectorSize, fileSetBlock)
	d.u32(264, 6)
	d.u32(268, 1)
	d.entity(272, maker)
	d.extent(432, 2*SectorSize, integrityAt)
	copy(d.b[440:], []byte{1, 6, 1, 0, 0, 0}) // a partition map of type 1: volume 1, partition 0
	return d
}

// unallocated is ECMA-167 3/10.8: there is no such space.
func unallocated() descriptor {
	d := newDescriptor(tagUnallocated, 24)
	d.u32(16, 4)
	return d
}

// terminator is ECMA-167 3/10.9.
func terminator() descriptor { return newDescriptor(tagTerminating, 512) }

// anchor is ECMA-167 3/10.2.
func anchor() descriptor {
	d := newDescriptor(tagAnchor, 512)
	d.extent(16, sequenceLen*SectorSize, mainAt)
	d.extent(24, sequenceLen*SectorSize, reserveAt)
	return d
}

// integrity is ECMA-167 3/10.10, with what UDF 1.02, 2.2.6.4 adds: the volume is closed and full.
func (l *Layout) integrity() descriptor {
	d := newDescriptor(tagIntegrity, 134)
	d.time(16, l.Time)
	d.u32(28, 1)
	d.u64(40, firstUnique+int64(len(l.Files)))
	d.u32(72, 1)
	d.u32(76, 46)
	d.u32(84, l.last-partitionAt)
	d.entity(88, maker)
	d.u32(120, int64(len(l.Files)))
	d.u32(124, 1)
	for at := 128; at < 134; at += 2 {
		copy(d.b[at:], revision)
	}
	return d
}

// firstUnique is the lowest number that a file may have; UDF 1.02, 3.2.1.1.
const firstUnique = 16

// putFiles writes what the partition has before the files: the file set, the root folder and the files' entries.
func (l *Layout) putFiles(put func(int64, []byte)) {
	block := func(b int64, d descriptor) { put(partitionAt+b, d.at(b)) }
	block(fileSetBlock, l.fileSet())
	block(fileSetBlock+1, terminator())
	dir := l.directory()
	putEntry(block, rootBlock, l.entry(4, 0, int64(len(dir))), extents(int64(len(dir)), rootDirBlock))
	put(partitionAt+rootDirBlock, dir)
	for i, f := range l.Files {
		putEntry(block, l.entries[i], l.entry(5, firstUnique+int64(i), f.Size), extents(f.Size, l.starts[i]-partitionAt))
	}
}

// putEntry writes a file entry with the extents of the file as short_ads (ECMA-167 4/14.14.1). Where they have no room the last place
// leads to the next block, which has more of them (ECMA-167 4/14.5).
func putEntry(block func(int64, descriptor), at int64, d descriptor, all []extent) {
	length, head, room := 172, 176, entryExtents
	for {
		n, more := len(all), len(all) > room
		if more {
			n = room - 1
		}
		for _, e := range all[:n] {
			d = d.short(e.bytes, e.block)
		}
		if all = all[n:]; more {
			d = d.short(moreFollow|SectorSize, at+1)
		}
		d.u32(length, int64(len(d.b)-head))
		block(at, d)
		if !more {
			return
		}
		at++
		d = newDescriptor(tagMoreExtents, 24)
		length, head, room = 20, 24, chainExtents
	}
}

// short returns d with a short_ad behind it.
func (d descriptor) short(bytes, block int64) descriptor {
	at := len(d.b)
	d.b = append(d.b, make([]byte, 8)...)
	d.extent(at, bytes, block)
	return d
}

// fileSet is ECMA-167 4/14.1.
func (l *Layout) fileSet() descriptor {
	d := newDescriptor(tagFileSet, 512)
	d.time(16, l.Time)
	d.u16(28, 3)
	d.u16(30, 3)
	d.u32(32, 1)
	d.u32(36, 1)
	d.charset(48)
	d.text(112, 128, l.Label)
	d.charset(240)
	d.text(304, 32, l.Label)
	d.long(400, SectorSize, rootBlock)
	d.entity(416, "*OSTA UDF Compliant", revision...)
	return d
}

// directory returns the entries of the root folder (ECMA-167 4/14.4), that of its parent, itself, first.
func (l *Layout) directory() []byte {
	var b []byte
	add := func(flags byte, icb int64, name string) {
		id := []byte(name)
		if name != "" {
			id = append([]byte{8}, id...)
		}
		d := newDescriptor(tagFileID, (38+len(id)+3)/4*4)
		d.u16(16, 1)
		d.u8(18, flags)
		d.u8(19, byte(len(id)))
		d.long(20, SectorSize, icb)
		copy(d.b[38:], id)
		b = append(b, d.at(rootDirBlock+int64(len(b))/SectorSize)...)
	}
	add(0x0a, rootBlock, "")
	for i, f := range l.Files {
		icb := int64(0)
		if i < len(l.entries) { // only the length counts before they are placed
			icb = l.entries[i]
		}
		add(0, icb, f.Name)
	}
	return b
}

// entry is an ECMA-167 4/14.9 file entry without extents.
func (l *Layout) entry(kind byte, unique, size int64) descriptor {
	d := newDescriptor(tagFileEntry, 176)
	d.u16(20, 4) // the strategy
	d.u16(24, 1)
	d.u8(27, kind)
	d.u32(36, -1) // nobody's
	d.u32(40, -1)
	d.u32(44, 0x1084) // all may read
	if kind == 4 {
		d.u32(44, 0x14a5)
	}
	d.u16(48, 1)
	d.u64(56, size)
	d.u64(64, sectors(size))
	for at := 72; at < 108; at += 12 {
		d.time(at, l.Time)
	}
	d.u32(108, 1)
	d.entity(128, maker)
	d.u64(160, unique)
	return d
}

// extent is a stretch of a file: bytes, and the first block of the partition.
type extent struct{ bytes, block int64 }

// maxExtent is the most that one extent has: 30 bits, and whole blocks.
const maxExtent = 1<<30 - SectorSize

// extents cuts a file into extents.
func extents(size, block int64) []extent {
	var out []extent
	for size > 0 {
		n := min(size, maxExtent)
		out = append(out, extent{n, block})
		size -= n
		block += n / SectorSize
	}
	return out
}

const (
	entryExtents = (SectorSize - 176) / 8 // that a file entry has room for
	chainExtents = (SectorSize - 24) / 8  // that a block of further ones has room for
	// moreFollow is the type of an extent that holds further ones (ECMA-167 4/12).
	moreFollow = 3 << 30
)

// chained returns how many blocks of further extents a file of so many bytes needs: the last place in each, and in the entry, leads
// to the next.
func chained(size int64) int64 {
	n := (size + maxExtent - 1) / maxExtent
	if n <= entryExtents {
		return 0
	}
	n -= entryExtents - 1
	blocks := int64(1)
	for n > chainExtents {
		n -= chainExtents - 1
		blocks++
	}
	return blocks
}
