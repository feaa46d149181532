package udf_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// No program here makes metadata partitions, tables of virtual blocks with files, moved packets, chains of file entries, extended
// allocation descriptors or their continuation. The builder does. 7z and grub-fstest read what they know of it (TestBuilt).

// plan is what a volume shall be like.
type plan struct {
	blockSize  int
	kind       string // of partition: "physical", "sparable", "vat 1.50", "vat 2.00", "metadata"
	alloc      uint16 // of files: 0 short, 1 long, 2 extended, 3 inside if there is room
	extended   bool   // extended file entries
	chain      bool   // strategy 4096
	piece      int    // blocks of an extent at most
	perBlock   int    // allocation descriptors of a block at most, then comes the next
	holes      bool   // blocks of zeros are not allocated
	use        int    // bytes of implementation use with each name
	metaBlocks int    // of the metadata file, 3000 if it is 0
	loop       bool   // the root is in itself, under the name "loop"
}

type place struct {
	block uint32
	part  uint16
}

type builder struct {
	t testing.TB
	plan
	f    *os.File
	next uint32   // block of the physical partition
	vat  []uint32 // physical blocks
	meta []uint32 // of each metadata block the physical one
	copy []uint32 // and that in the mirror
	used int      // metadata blocks
}

const (
	mainSequence    = 96
	reserveSequence = 112
	partitionStart  = 320
	sparedPackets   = 40
	packetBlocks    = 32
)

var le = binary.LittleEndian

// build writes a volume with the files of a folder and returns the name of the image.
func build(t testing.TB, p plan, src string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disc.img")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if p.metaBlocks == 0 {
		p.metaBlocks = 3000
	}
	b := &builder{t: t, plan: p, f: f}
	if p.kind == "metadata" {
		b.reserveMetadata()
	}
	set := b.node()
	root := b.node()
	d := make([]byte, b.blockSize)
	d[44] = 1
	copy(d[400:], longAD(0, b.blockSize, root))
	b.put(set, tagged(256, d, set.block))
	b.folder(root, src, root)
	if p.kind[0] == 'v' {
		b.writeVAT()
	}
	end := b.next
	if p.kind == "sparable" {
		end = b.spare()
	}
	b.describe(set, end)
	return name
}

// tagged fills in the tag of a descriptor: checksum and CRC.
func tagged(id uint16, p []byte, location uint32) []byte {
	le.PutUint16(p, id)
	le.PutUint16(p[2:], 3)
	le.PutUint32(p[12:], location)
	return heal(p, len(p)-16)
}

// heal makes the checksums of a descriptor right.
func heal(p []byte, n int) []byte {
	c := uint16(0)
	for _, x := range p[16 : 16+n] {
		s := c>>8 ^ uint16(x)
		s ^= s >> 4
		c = c<<8 ^ s ^ s<<5 ^ s<<12
	}
	le.PutUint16(p[8:], c)
	le.PutUint16(p[10:], uint16(n))
	p[4] = 0
	for i, x := range p[:16] {
		if i != 4 {
			p[4] += x
		}
	}
	return p
}

func longAD(kind, n int, at place) []byte {
	p := make([]byte, 16)
	le.PutUint32(p, uint32(kind<<30|n))
	le.PutUint32(p[4:], at.block)
	le.PutUint16(p[8:], at.part)
	return p
}

// sector writes to a sector of the device.
func (b *builder) sector(n int64, p []byte) {
	if _, err := b.f.WriteAt(p, n*int64(b.blockSize)); err != nil {
		b.t.Fatal(err)
	}
}

// reserveMetadata puts the metadata file into pieces of 7 blocks, and its mirror into others.
func (b *builder) reserveMetadata() {
	b.next = 2 // their file entries
	for len(b.meta) < b.metaBlocks {
		for range 7 {
			b.meta = append(b.meta, b.block())
		}
		b.block()
		for range 7 {
			b.copy = append(b.copy, b.block())
		}
	}
	for i, blocks := range [][]uint32{b.meta, b.copy} {
		var ads []byte
		for k := 0; k < len(blocks); k += 7 {
			ad := make([]byte, 8)
			le.PutUint32(ad, uint32(7*b.blockSize))
			le.PutUint32(ad[4:], blocks[k])
			ads = append(ads, ad...)
		}
		b.entry(place{uint32(i), 0}, uint8(250+i), int64(len(blocks)*b.blockSize), 0, 8, ads)
	}
}

// block allocates one of the physical partition.
func (b *builder) block() uint32 {
	b.next++
	return b.next - 1
}

// node allocates a block for a descriptor.
func (b *builder) node() place {
	switch {
	case b.kind == "metadata":
		if b.used++; b.used > len(b.meta) {
			b.t.Fatal("the metadata partition is full")
		}
		return place{uint32(b.used - 1), 1}
	case b.kind[0] == 'v':
		b.vat = append(b.vat, b.block())
		return place{uint32(len(b.vat) - 1), 1}
	}
	at := place{b.block(), 0}
	if b.chain {
		b.block() // for the indirect entry
	}
	return at
}

// put writes to a block of a partition, and to all copies.
func (b *builder) put(at place, p []byte) {
	switch {
	case at.part == 0:
		b.sector(int64(at.block)+partitionStart, p)
	case b.kind == "metadata":
		b.sector(int64(b.meta[at.block])+partitionStart, p)
		b.sector(int64(b.copy[at.block])+partitionStart, p)
	default:
		b.sector(int64(b.vat[at.block])+partitionStart, p)
	}
}

// entry writes a file entry, with the descriptors behind it as far as there is room.
func (b *builder) entry(at place, kind uint8, size int64, alloc uint16, adSize int, ads []byte) {
	if b.chain && at.part == 0 && b.kind != "metadata" {
		old := b.head(kind, 77, 0, nil)
		b.put(at, tagged(old.id, old.p, at.block))
		newer := b.node()
		ie := make([]byte, b.blockSize)
		copy(ie[36:], longAD(0, b.blockSize, newer))
		b.put(place{at.block + 1, 0}, tagged(259, ie, at.block+1))
		at = newer
	}
	h := b.head(kind, size, alloc, nil)
	room := len(h.p) - h.start
	if b.perBlock > 0 && alloc != 3 {
		room = min(room, b.perBlock*adSize)
	}
	first, rest := ads, []byte(nil)
	if len(ads) > room {
		room = room/adSize*adSize - adSize
		first, rest = ads[:room], ads[room:]
	}
	if rest != nil {
		first = append(bytes.Clone(first), b.more(at, adSize, rest)...)
	}
	h = b.head(kind, size, alloc, first)
	b.put(at, tagged(h.id, h.p, at.block))
}

// more writes blocks of allocation descriptors and returns the one that leads to them.
func (b *builder) more(owner place, adSize int, ads []byte) []byte {
	at := place{b.block(), 0}
	if owner.part == 1 && adSize == 8 {
		at = b.node()
	}
	room := (b.blockSize - 24) / adSize * adSize
	if b.perBlock > 0 {
		room = min(room, b.perBlock*adSize)
	}
	here := ads
	if len(ads) > room {
		room -= adSize
		here = append(bytes.Clone(ads[:room]), b.more(owner, adSize, ads[room:])...)
	}
	p := make([]byte, b.blockSize)
	le.PutUint32(p[20:], uint32(len(here)))
	copy(p[24:], here)
	b.put(at, tagged(258, p, at.block))
	return b.ad(3, b.blockSize, b.blockSize, at, adSize)
}

// ad makes an allocation descriptor of a size that says which kind it is.
func (b *builder) ad(kind, n, used int, at place, adSize int) []byte {
	p := make([]byte, adSize)
	le.PutUint32(p, uint32(kind<<30|n))
	switch adSize {
	case 8:
		le.PutUint32(p[4:], at.block)
	case 16:
		return longAD(kind, n, at)
	case 20:
		le.PutUint32(p[4:], uint32(used))
		le.PutUint32(p[8:], uint32(used))
		le.PutUint32(p[12:], at.block)
		le.PutUint16(p[16:], at.part)
	}
	return p
}

type head struct {
	id    uint16
	p     []byte
	start int // of the descriptors
}

func (b *builder) head(kind uint8, size int64, alloc uint16, ads []byte) head {
	const attributes = 24
	h := head{261, make([]byte, b.blockSize), 176 + attributes}
	lengths := 168
	if b.extended {
		h.id, h.start, lengths = 266, 216+attributes, 208
	}
	le.PutUint16(h.p[20:], 4)
	if b.chain && kind < 100 {
		le.PutUint16(h.p[20:], 4096)
	}
	le.PutUint16(h.p[24:], 1)
	h.p[27] = kind
	le.PutUint16(h.p[34:], alloc)
	le.PutUint32(h.p[44:], 0x1fff) // permissions
	le.PutUint16(h.p[48:], 1)
	le.PutUint64(h.p[56:], uint64(size))
	le.PutUint32(h.p[lengths:], attributes)
	le.PutUint32(h.p[lengths+4:], uint32(len(ads)))
	copy(h.p[h.start:], ads)
	return h
}

// content writes what a file or folder holds, and its entry.
func (b *builder) content(at place, kind uint8, size int64, r io.Reader) {
	room := b.blockSize - b.head(0, 0, 0, nil).start
	if b.alloc == 3 && size <= int64(room) {
		p := make([]byte, size)
		if _, err := io.ReadFull(r, p); err != nil {
			b.t.Fatal(err)
		}
		b.entry(at, kind, size, 3, 1, p)
		return
	}
	alloc := b.alloc % 3
	if at.part == 1 {
		alloc = 1 // another partition than the entry's
		if kind == 4 && b.kind == "metadata" {
			alloc = 0
		}
	}
	adSize := []int{8, 16, 20}[alloc]
	piece := b.piece
	if piece == 0 {
		piece = (1<<30 - 1) / b.blockSize
	}
	var ads []byte
	p := make([]byte, min(int64(piece)*int64(b.blockSize), 1<<20, max(size+int64(b.blockSize)-1, 1)/int64(b.blockSize)*int64(b.blockSize)))
	zeros := make([]byte, len(p))
	var last place // extent that may grow
	kindOf, have := 0, 0
	flush := func() {
		if have > 0 {
			ads = append(ads, b.ad(kindOf, (have+b.blockSize-1)/b.blockSize*b.blockSize*min(1, kindOf)+have*(1-min(1, kindOf)), have, last, adSize)...)
		}
		have = 0
	}
	for left := size; left > 0; {
		n := int(min(left, int64(len(p))))
		if kind == 4 && b.kind == "metadata" {
			n = int(min(left, int64(b.blockSize)))
		}
		if f, ok := r.(*os.File); ok && allHole(f, size-left, n) {
			clear(p)
			if _, err := f.Seek(int64(n), io.SeekCurrent); err != nil {
				b.t.Fatal(err)
			}
		} else if _, err := io.ReadFull(r, p[:n]); err != nil {
			b.t.Fatal(err)
		}
		clear(p[n:])
		blocks := (n + b.blockSize - 1) / b.blockSize
		isHole := b.holes && bytes.Equal(p[:n], zeros[:n])
		want := 0
		if isHole {
			want = 1 + len(ads)/adSize%2
		}
		if have > 0 && (kindOf != want && !(kindOf > 0 && isHole) || have+n > piece*b.blockSize || alloc == 0 && kind == 4) {
			flush()
			b.block() // so that they do not touch
		}
		if have == 0 {
			kindOf, last = want, place{}
		}
		if !isHole {
			at := place{b.next, 0}
			if kind == 4 && b.kind == "metadata" {
				at = b.node()
				b.put(at, p[:b.blockSize])
			} else {
				b.next += uint32(blocks)
				if !bytes.Equal(p[:n], zeros[:n]) {
					b.sector(int64(at.block)+partitionStart, p[:blocks*b.blockSize])
				}
			}
			if have == 0 {
				last = at
			}
		}
		have += n
		left -= int64(n)
	}
	flush()
	b.entry(at, kind, size, alloc, adSize, ads)
}

// allHole reports whether nothing was ever written to n bytes of a file.
func allHole(f *os.File, off int64, n int) bool {
	next, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	_, err2 := f.Seek(off, io.SeekStart)
	return err2 == nil && (errors.Is(err, unix.ENXIO) || err == nil && next >= off+int64(n))
}

// folder writes a folder with all that is in it.
func (b *builder) folder(at place, dir string, parent place) {
	list, err := os.ReadDir(dir)
	if err != nil {
		b.t.Fatal(err)
	}
	data := b.identifier(1<<3|1<<1, "", parent)
	data = append(data, b.identifier(1<<2, "deleted", place{})...)
	data = append(data, b.identifier(1, "hidden", parent)...)
	if b.loop && at == parent {
		data = append(data, b.identifier(1<<1, "loop", at)...)
	}
	for _, e := range list {
		name := filepath.Join(dir, e.Name())
		child := b.node()
		switch {
		case e.IsDir():
			data = append(data, b.identifier(1<<1, e.Name(), child)...)
			b.folder(child, name, at)
		case e.Type().IsRegular():
			data = append(data, b.identifier(0, e.Name(), child)...)
			f, err := os.Open(name)
			if err != nil {
				b.t.Fatal(err)
			}
			st, err := f.Stat()
			if err != nil {
				b.t.Fatal(err)
			}
			b.content(child, 5, st.Size(), f)
			f.Close()
		default: // a symbolic link
			data = append(data, b.identifier(0, e.Name(), child)...)
			b.entry(child, 12, 6, 3, 1, []byte{5, 2, 0, 0, 8, 'x'})
		}
	}
	b.content(at, 4, int64(len(data)), bytes.NewReader(data))
}

// identifier makes a file identifier descriptor.
func (b *builder) identifier(characteristics byte, name string, at place) []byte {
	var text []byte
	if name != "" {
		text = []byte{8}
		for _, r := range name {
			if r > 255 {
				text = []byte{16}
				for _, u := range utf16.Encode([]rune(name)) {
					text = append(text, byte(u>>8), byte(u))
				}
				break
			}
			text = append(text, byte(r))
		}
	}
	p := make([]byte, (38+b.use+len(text)+3)&^3)
	p[16] = 1
	p[18], p[19] = characteristics, byte(len(text))
	copy(p[20:], longAD(0, b.blockSize, at))
	le.PutUint16(p[36:], uint16(b.use))
	copy(p[38+b.use:], text)
	return tagged(257, p, 0)
}

// spare moves every third packet somewhere else, leaves rubbish in its place, and writes an old and a new table of that. It returns
// the end of the partition.
func (b *builder) spare() uint32 {
	end := (b.next + packetBlocks - 1) / packetBlocks * packetBlocks
	to := int64(partitionStart) + int64(end) + 2 // behind the tables
	rubbish := bytes.Repeat([]byte("rubbish."), packetBlocks*b.blockSize/8)
	p := make([]byte, len(rubbish))
	table := make([]byte, b.blockSize)
	copy(table[17:], "*UDF Sparing Table")
	n := 0
	for packet := uint32(0); packet < end && n < sparedPackets; packet += 3 * packetBlocks {
		clear(p)
		if _, err := b.f.ReadAt(p, int64(packet+partitionStart)*int64(b.blockSize)); err != nil && err != io.EOF {
			b.t.Fatal(err)
		}
		b.sector(to, p)
		b.sector(int64(packet)+partitionStart, rubbish)
		le.PutUint32(table[56+8*n:], packet)
		le.PutUint32(table[60+8*n:], uint32(to))
		n, to = n+1, to+packetBlocks
	}
	le.PutUint32(table[56+8*n:], 0xffffffff)
	le.PutUint16(table[48:], uint16(n+1))
	le.PutUint32(table[52:], 8)
	b.sector(int64(partitionStart+end), tagged(0, bytes.Clone(table), partitionStart+end))
	le.PutUint16(table[48:], 0) // the older one knows of none
	le.PutUint32(table[52:], 7)
	b.sector(int64(partitionStart+end+1), tagged(0, table, partitionStart+end+1))
	return end
}

// describe writes what is before the partition.
func (b *builder) describe(set place, end uint32) {
	step := max(2048, b.blockSize)
	for i, id := range []string{"BEA01", "NSR03", "TEA01"} {
		p := make([]byte, 2048)
		copy(p[1:], id)
		p[6] = 1
		if _, err := b.f.WriteAt(p, int64(32768+i*step)); err != nil {
			b.t.Fatal(err)
		}
	}
	for _, start := range []uint32{mainSequence, reserveSequence} {
		at := start
		put := func(id uint16, p []byte) {
			le.PutUint32(p[16:], at-start)
			b.sector(int64(at), tagged(id, p, at))
			at++
		}
		p := make([]byte, b.blockSize)
		le.PutUint16(p[56:], 1)
		copy(p[72:], "\x080123456789abcdefBuilder")
		p[72+127] = 24
		put(1, p)
		p = make([]byte, b.blockSize)
		copy(p[25:], "+NSR03")
		le.PutUint32(p[188:], partitionStart)
		le.PutUint32(p[192:], end)
		put(5, p)
		p = make([]byte, b.blockSize)
		copy(p[84:], "\x08Built")
		p[84+127] = 6
		le.PutUint32(p[212:], uint32(b.blockSize))
		copy(p[217:], "*OSTA UDF Compliant")
		le.PutUint16(p[240:], 0x250)
		copy(p[248:], longAD(0, b.blockSize, set))
		maps := b.maps(end)
		le.PutUint32(p[264:], uint32(len(maps)))
		le.PutUint32(p[268:], uint32(1+len(maps)/70))
		copy(p[440:], maps)
		put(6, p)
		put(8, make([]byte, b.blockSize))
	}
	p := make([]byte, 512)
	for i, at := range []uint32{mainSequence, reserveSequence} {
		le.PutUint32(p[16+8*i:], uint32(16*b.blockSize))
		le.PutUint32(p[20+8*i:], at)
	}
	b.sector(256, tagged(2, p, 256))
	// Some readers want the file to reach to the end of the partition.
	if st, err := b.f.Stat(); err != nil || st.Size() < int64(partitionStart+end)*int64(b.blockSize) {
		if err := b.f.Truncate(int64(partitionStart+end) * int64(b.blockSize)); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *builder) maps(end uint32) []byte {
	plain := []byte{1, 6, 1, 0, 0, 0}
	m := make([]byte, 64)
	m[0], m[1], m[36] = 2, 64, 1
	switch {
	case b.kind == "sparable":
		copy(m[5:], "*UDF Sparable Partition")
		le.PutUint16(m[40:], packetBlocks)
		m[42] = 2
		le.PutUint32(m[44:], uint32(b.blockSize))
		le.PutUint32(m[48:], partitionStart+end)
		le.PutUint32(m[52:], partitionStart+end+1)
		return m
	case b.kind == "metadata":
		copy(m[5:], "*UDF Metadata Partition")
		le.PutUint32(m[44:], 1) // the mirror; the file itself is in block 0
		le.PutUint32(m[48:], unused)
		le.PutUint32(m[52:], 7)
		le.PutUint16(m[56:], 1)
		m[58] = 1 // they are two copies
		return append(plain, m...)
	case b.kind[0] == 'v':
		copy(m[5:], "*UDF Virtual Partition")
		le.PutUint16(m[28:], 0x150)
		if b.kind == "vat 2.00" {
			le.PutUint16(m[28:], 0x200)
		}
		return append(plain, m...)
	}
	return plain
}

const unused = 0xffffffff

// writeVAT writes the table of virtual blocks, with its file entry as the last block of all.
func (b *builder) writeVAT() {
	var p []byte
	for _, block := range b.vat {
		p = le.AppendUint32(p, block)
	}
	p = le.AppendUint32(p, unused)
	kind := uint8(0)
	if b.kind == "vat 1.50" {
		id := make([]byte, 36)
		copy(id[1:], "*UDF Virtual Alloc Tbl")
		p = append(p, id...)
	} else {
		kind = 248
		h := make([]byte, 152)
		le.PutUint16(h, 152)
		copy(h[4:], "\x08Newer label")
		h[4+127] = 12
		p = append(h, p...)
	}
	at := b.next
	b.next += uint32((len(p) + b.blockSize - 1) / b.blockSize)
	b.sector(int64(at)+partitionStart, p)
	ad := b.ad(0, len(p), 0, place{at, 0}, 8)
	b.entry(place{b.block(), 0}, kind, int64(len(p)), 0, 8, ad)
}

func (p plan) String() string {
	return fmt.Sprintf("%d %s alloc %d", p.blockSize, p.kind, p.alloc)
}
