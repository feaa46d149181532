package ext

import (
	"encoding/binary"

	"disksync/volume"
)

// Types of files, in the entries of folders where they are.
const (
	typeUnknown = 0
	typeFile    = 1
	typeFolder  = 2
)

// readFolder lists a folder. The blocks of an index look like free entries to whoever reads all of them in their order ("Directory
// Entries", "Hash Tree Directories").
func (v *Volume) readFolder(dir uint32, add func(volume.Item[uint32]) error) error {
	b := volume.NewBudget()
	n, err := v.inode(b, dir)
	if err != nil {
		return err
	}
	if n.Mode()&modeType != modeFolder {
		return volume.Damaged("inode %d: no folder, though it should be", dir)
	}
	f, err := v.content(b, n)
	if err != nil {
		return err
	}
	l := &lister{v: v, b: b, seed: v.super.InodeSeed(n), add: add}
	if n.flags()&flagInline != 0 {
		return l.inline(f)
	}
	block := make([]byte, v.super.Block)
	for off := int64(0); off < f.Size(); off += int64(len(block)) {
		if err := b.Spend(v.super.Block); err != nil {
			return err
		}
		if f.Place(off) < 0 {
			l.damaged(volume.Damaged("inode %d: a folder with a hole", dir))
			continue
		}
		if _, err := f.ReadAt(block, off); err != nil {
			return err
		}
		if err := l.block(block, off == 0 && n.flags()&flagIndex != 0); err != nil {
			return err
		}
	}
	return l.damage
}

// lister takes the entries of one folder.
type lister struct {
	v      *Volume
	b      *volume.Budget
	seed   uint32
	add    func(volume.Item[uint32]) error
	damage error // the first that could be left out
}

func (l *lister) damaged(err error) {
	if l.damage == nil {
		l.damage = err
	}
}

// inline takes the entries that are in an inode: behind the number of the folder above there are two pieces, each of whole entries.
func (l *lister) inline(f volume.File) error {
	const first, above = 60, 4
	b := make([]byte, f.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		return err
	}
	if len(b) < above {
		return volume.Damaged("a folder of %d bytes", len(b))
	}
	for _, piece := range [][]byte{b[above:min(first, len(b))], b[min(first, len(b)):]} {
		if err := l.entries(piece); err != nil {
			return err
		}
	}
	return l.damage
}

// block takes the entries of a block. One with a checksum ends in what looks like a free entry of its length. Blocks of an index
// have another checksum, and may end in what was there before; besides the root, they are one free entry.
func (l *lister) block(b []byte, indexRoot bool) error {
	const tailBytes, tailType = 12, 0xde
	le := binary.LittleEndian
	isIndex := indexRoot || le.Uint32(b) == 0 && l.length(le.Uint16(b[4:])) == len(b)
	if tail := b[len(b)-tailBytes:]; !isIndex && l.v.super.RO&ROMetadataCsum != 0 && le.Uint32(tail) == 0 && le.Uint32(tail[4:]) == tailType<<24|tailBytes {
		if Castagnoli(l.seed, b[:len(b)-tailBytes]) != le.Uint32(tail[8:]) {
			l.damaged(volume.Damaged("the checksum of a folder is wrong"))
			return nil
		}
	}
	return l.entries(b)
}

func (l *lister) entries(b []byte) error {
	const least = 8
	le := binary.LittleEndian
	for len(b) > 0 {
		if len(b) < least {
			l.damaged(volume.Damaged("a folder ends in the middle of an entry"))
			return nil
		}
		number, length, kind := le.Uint32(b), l.length(le.Uint16(b[4:])), b[7]
		name := int(b[6])
		if l.v.super.Incompat&IncompatFileType == 0 {
			name |= int(kind) << 8
			kind = typeUnknown
		}
		if length < least || length%4 != 0 || length > len(b) || least+name > length {
			l.damaged(volume.Damaged("an entry of a folder makes no sense"))
			return nil
		}
		if number != 0 {
			if err := l.entry(number, string(b[least:least+name]), kind); err != nil {
				return err
			}
		}
		b = b[length:]
	}
	return nil
}

// length decodes the length of an entry, which may be that of a block of 64 KiB.
func (l *lister) length(n uint16) int {
	const block = 64 << 10
	if l.v.super.Block < block {
		return int(n)
	}
	if n == 0 || n == block-1 {
		return block
	}
	return int(n)&^3 | int(n)&3<<16
}

// entry takes one entry. The inode says what it is and how long; that of a folder is looked at when it is gone into.
func (l *lister) entry(number uint32, name string, kind byte) error {
	if kind != typeUnknown && kind != typeFile && kind != typeFolder || !volume.ValidName(name) {
		return nil
	}
	it := volume.Item[uint32]{Entry: volume.Entry{Name: name, Dir: kind == typeFolder}, Node: number}
	if kind != typeFolder {
		n, err := l.v.lookAt(l.b, number)
		if err != nil {
			l.damaged(err)
			return nil
		}
		switch mode := n.Mode() & modeType; {
		case mode == modeFile:
			it.Size = int64(min(n.Size(), volume.MaxFile))
		case kind == typeFile:
			l.damaged(volume.Damaged("inode %d is no regular file, though its folder says so", number))
			return nil
		case mode == modeFolder:
			it.Dir = true
		default:
			return nil
		}
	}
	return l.add(it)
}
