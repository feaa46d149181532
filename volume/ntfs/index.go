package ntfs

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"disksync/volume"
	"disksync/volume/ntfs/format"
)

// A folder is a B+ tree of names, the index "$I30": its root is in the folder's record ($INDEX_ROOT), the other nodes are blocks of
// a stream ($INDEX_ALLOCATION), with a map of those that are used ($BITMAP).
const (
	indexName = "$I30"
	nameBytes = 66 // of a $FILE_NAME, before the name
	maxLevels = 32
	maxAtOnce = 4 << 20  // a stream up to this length is read in one piece
	maxBitmap = 64 << 10 // bytes; that is for 2 GiB of blocks of 4 KiB
)

// index is a folder that is being listed.
type index struct {
	b      *volume.Budget
	number int64 // of the folder
	block  int64 // bytes of a node
	unit   int64 // bytes that the numbers of nodes count
	nodes  volume.File
	known  []byte // all of nodes, when they are few
	used   []byte // the map; the bits of nodes that were seen are cleared
	out    []entry
	err    error // the first that does not keep from going on
}

func refAt(b []byte) format.Ref { return format.Ref(binary.LittleEndian.Uint64(b)) }

// readIndex lists the names in a folder. What can be read is returned with an error, too.
func (v *vol) readIndex(b *volume.Budget, f *inode) ([]entry, error) {
	root, err := v.stream(b, f, format.AttrIndexRoot, indexName)
	if err != nil {
		return nil, err
	}
	x := &index{b: b, number: f.rec.Number}
	if root == nil || !root.Resident || len(root.Value) < 32 || binary.LittleEndian.Uint32(root.Value) != format.AttrFileName {
		return nil, x.bad()
	}
	x.block = int64(binary.LittleEndian.Uint32(root.Value[8:]))
	if x.block < format.Sector || x.block > 64<<10 || x.block&(x.block-1) != 0 {
		return nil, x.bad()
	}
	if x.unit = v.boot.Cluster; x.unit > x.block {
		x.unit = format.Sector
	}
	if err := v.openNodes(x, f); err != nil {
		x.err = err // there may be names in the root all the same
	}
	err = x.node(root.Value[16:], 0)
	return x.out, cmp.Or(err, x.err)
}

func (x *index) bad() error { return volume.Damaged("the index of folder %d makes no sense", x.number) }

// openNodes opens what a folder has besides the root of its index, when it has.
func (v *vol) openNodes(x *index, f *inode) error {
	s, err := v.stream(x.b, f, format.AttrIndexAlloc, indexName)
	if s == nil || err != nil {
		return err
	}
	used, err := v.stream(x.b, f, format.AttrBitmap, indexName)
	if err != nil {
		return err
	}
	if used == nil || s.Resident || s.Flags&(format.Compressed|format.Encrypted) != 0 || used.Size > maxBitmap {
		return x.bad()
	}
	if x.used, err = v.content(x.b, used); err != nil {
		return err
	}
	x.used = append([]byte(nil), x.used...) // those of the record stay as they are
	x.nodes = volume.NewFile(v.d, &s.x, s.Size, s.Written)
	if s.Size <= maxAtOnce {
		// What cannot be read at once is read node by node, for a part of them.
		if x.known, err = v.content(x.b, s); err != nil {
			x.known = nil
			if errors.Is(err, volume.ErrLimit) {
				return err
			}
		}
	}
	return nil
}

// node takes the names of a node and of those below it, in their order. An error ends the listing; that of a node below does not.
func (x *index) node(b []byte, level int) error {
	const hasNode, isLast = 1, 2
	le := binary.LittleEndian
	if level > maxLevels || len(b) < 16 {
		return x.note(x.bad())
	}
	first, used := int64(le.Uint32(b)), int64(le.Uint32(b[4:]))
	if first < 16 || first > used || used > int64(len(b)) {
		return x.note(x.bad())
	}
	for e := b[first:used]; ; {
		if len(e) < 16 {
			return x.note(x.bad())
		}
		length, key, flags := int(le.Uint16(e[8:])), int(le.Uint16(e[10:])), le.Uint16(e[12:])
		if length < 16 || length%8 != 0 || length > len(e) || flags&hasNode != 0 && length < 24 {
			return x.note(x.bad())
		}
		if flags&hasNode != 0 {
			if err := x.below(int64(le.Uint64(e[length-8:])), level+1); err != nil {
				return err
			}
		}
		if flags&isLast != 0 {
			return nil
		}
		if 16+key > length {
			return x.note(x.bad())
		}
		if err := x.name(refAt(e), e[16:16+key]); err != nil {
			return err
		}
		e = e[length:]
	}
}

// note remembers an error that does not end the listing, and returns one that does.
func (x *index) note(err error) error {
	if errors.Is(err, volume.ErrLimit) {
		return err
	}
	x.err = cmp.Or(x.err, err)
	return nil
}

// below reads a node and takes its names. Each is read once; who leads to one again, or to one that is not used, is damaged.
func (x *index) below(vcn int64, level int) error {
	if x.nodes == nil || vcn < 0 || vcn > x.nodes.Size()/x.unit || vcn*x.unit%x.block != 0 {
		return x.note(x.bad())
	}
	at := vcn * x.unit
	bit := at / x.block
	if bit/8 >= int64(len(x.used)) || x.used[bit/8]>>(bit%8)&1 == 0 || at > x.nodes.Size()-x.block {
		return x.note(x.bad())
	}
	x.used[bit/8] &^= 1 << (bit % 8)
	var b []byte
	if x.known != nil {
		b = x.known[at : at+x.block : at+x.block]
	} else {
		if err := x.b.Spend(x.block); err != nil {
			return err
		}
		b = make([]byte, x.block)
		if _, err := x.nodes.ReadAt(b, at); err != nil && err != io.EOF {
			return x.note(err)
		}
	}
	const header = 24
	if string(b[:4]) != "INDX" || !format.Fixup(b) || int64(binary.LittleEndian.Uint64(b[16:])) != vcn {
		return x.note(x.bad())
	}
	return x.node(b[header:], level)
}

// name takes one name with what it stands for, a $FILE_NAME.
func (x *index) name(ref format.Ref, b []byte) error {
	const onlyDOS = 2
	if len(b) < nameBytes {
		return x.note(x.bad())
	}
	n := 2 * int(b[64])
	if nameBytes+n > len(b) {
		return x.note(x.bad())
	}
	if b[65] == onlyDOS || ref.Number() < firstUser {
		return nil
	}
	if refAt(b).Number() != x.number {
		return x.note(volume.Damaged("folder %d lists a name of another", x.number))
	}
	units := format.Units(b[nameBytes : nameBytes+n])
	if !isUnicode(units) {
		return nil
	}
	name := format.UTF16(b[nameBytes : nameBytes+n])
	if !volume.ValidName(name) {
		return nil
	}
	if len(x.out) == volume.MaxEntries {
		return fmt.Errorf("%w: more than %d files in a folder", volume.ErrLimit, volume.MaxEntries)
	}
	x.out = append(x.out, entry{name, ref})
	return nil
}

// isUnicode reports whether surrogates come in pairs.
func isUnicode(units []uint16) bool {
	const high, low, end = 0xd800, 0xdc00, 0xe000
	for i := 0; i < len(units); i++ {
		switch u := units[i]; {
		case u < high || u >= end:
		case u >= low || i+1 == len(units) || units[i+1] < low || units[i+1] >= end:
			return false
		default:
			i++
		}
	}
	return true
}
