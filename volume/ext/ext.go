// Package ext reads ext2, ext3 and ext4.
//
// The source is the documentation of the kernel, "ext4 Data Structures and Algorithms"; sections are of that.
package ext

import (
	"fmt"
	"strings"

	"disksync/volume"
)

// Volume is a file system of the family of ext2.
type Volume struct {
	d       *volume.Device
	super   *Super
	blocks  *volume.Pieces // of its own structures
	folders *volume.Folders[uint32]
	info    volume.Info
}

// known are the features that change how files are read. Others of that kind are refused: nobody knows what they change.
const known = IncompatFileType | IncompatRecover | IncompatMetaBg | ext4Incompat

const rootInode = 2

// Open reads the superblock. An error is ErrOther where there is none.
func Open(d *volume.Device) (volume.Volume, error) {
	if d.Size() < SuperAt+SuperLen {
		return nil, volume.ErrOther
	}
	b := make([]byte, SuperLen)
	if _, err := d.ReadAt(b, SuperAt); err != nil {
		return nil, fmt.Errorf("read the superblock: %w", err)
	}
	if !IsSuper(b) {
		return nil, volume.ErrOther
	}
	s := NewSuper(b)
	if !s.SumOK() {
		return nil, volume.Damaged("the checksum of the superblock is wrong")
	}
	if strange := s.Incompat &^ known; strange != 0 || s.U32(76) > 1 {
		return nil, volume.Unsupported("features %#x of an ext file system, revision %d", strange, s.U32(76))
	}
	if err := s.Geometry(); err != nil {
		return nil, err
	}
	v := &Volume{d: d, super: s, blocks: volume.NewPieces(d, s.Block)}
	v.info = volume.Info{Type: s.Type(), ID: uuidString(s.UUID()), BlockSize: int(s.Block), Note: v.note()}
	label, _, _ := strings.Cut(string(b[120:136]), "\x00")
	if volume.ValidName(label) {
		v.info.Label = label
	}
	v.folders = volume.NewFolders(uint32(rootInode), v.readFolder, func(n uint32) int64 { return int64(n) })
	return v, nil
}

// note says what is doubtful about the volume.
func (v *Volume) note() string {
	const valid, hasErrors = 1, 2
	switch state := v.super.U16(58); {
	case v.super.Blocks > v.d.Size()/v.super.Block:
		return "the device is smaller than the file system"
	case v.super.Incompat&IncompatRecover != 0:
		return "it was not unmounted cleanly: what its journal holds is not seen, so names and files may be older than they were"
	case state&hasErrors != 0 || v.super.U32(404) != 0:
		return "errors were found in it"
	case state&valid == 0:
		return "it was not unmounted cleanly"
	}
	return ""
}

// Info says what the volume is.
func (v *Volume) Info() volume.Info { return v.info }

// ReadDir implements volume.Tree.
func (v *Volume) ReadDir(dir string) ([]volume.Entry, error) { return v.folders.ReadDir(dir) }

// Open implements volume.Tree.
func (v *Volume) Open(name string) (volume.File, error) {
	it, err := v.folders.File(name)
	if err != nil {
		return nil, err
	}
	f, err := v.open(it.Node)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return f, nil
}

func (v *Volume) open(number uint32) (volume.File, error) {
	b := volume.NewBudget()
	n, err := v.inode(b, number)
	if err != nil {
		return nil, err
	}
	if n.Mode()&modeType != modeFile {
		return nil, volume.Damaged("inode %d: no regular file, though its folder says so", number)
	}
	return v.content(b, n)
}

// inode reads an inode into memory of its own.
func (v *Volume) inode(b *volume.Budget, number uint32) (Inode, error) {
	n, err := v.lookAt(b, number)
	n.Raw = append([]byte(nil), n.Raw...)
	return n, err
}

// lookAt reads an inode, good until something else is read.
func (v *Volume) lookAt(b *volume.Budget, number uint32) (Inode, error) {
	s := v.super
	if number == 0 || int64(number) > s.Groups*s.Inodes {
		return Inode{}, volume.Damaged("there is no inode %d", number)
	}
	g, at := int64(number-1)/s.Inodes, int64(number-1)%s.Inodes
	d, err := v.blocks.View(b, s.DescBlock(g/s.DescsPerBlock())*s.Block+g%s.DescsPerBlock()*s.DescSize, s.DescSize)
	if err != nil {
		return Inode{}, err
	}
	if !s.DescSumOK(g, d) {
		return Inode{}, volume.Damaged("the checksum of group %d is wrong", g)
	}
	table := s.ParseGroup(d).InodeTable
	if table <= s.First || table >= s.Blocks {
		return Inode{}, volume.Damaged("the inodes of group %d are in an impossible place", g)
	}
	raw, err := v.blocks.View(b, table*s.Block+at*s.InodeSize, s.InodeSize)
	if err != nil {
		return Inode{}, err
	}
	n := Inode{number, raw}
	if !s.InodeSumOK(n) {
		return Inode{}, volume.Damaged("inode %d: its checksum is wrong", number)
	}
	return n, nil
}

// content returns what is in a file or a folder.
func (v *Volume) content(b *volume.Budget, n Inode) (volume.File, error) {
	size := int64(min(n.Size(), volume.MaxFile+1))
	if n.Mode()&modeType == modeFolder && v.super.Incompat&IncompatLargeDir == 0 {
		size &= 1<<32 - 1 // the rest was used for something else
	}
	limit := (size + v.super.Block - 1) / v.super.Block
	switch flags := n.flags(); {
	case flags&flagEncrypted != 0:
		return nil, volume.Unsupported("inode %d: it is encrypted", n.Number)
	case flags&flagCompressed != 0:
		return nil, volume.Unsupported("inode %d: it is compressed", n.Number)
	case limit > maxBlocks:
		return nil, volume.Damaged("inode %d: a file of %d bytes", n.Number, size)
	case flags&flagInline != 0:
		return v.inline(n, size)
	}
	x := &volume.Extents{}
	m := &Blocks{
		Super: v.super,
		Node:  func(block int64) ([]byte, error) { return v.blocks.View(b, block*v.super.Block, v.super.Block) },
		Run: func(at, block, n int64, written bool) error {
			if err := x.Append(volume.Hole, at*v.super.Block-x.Size()); err != nil {
				return err
			}
			place := block * v.super.Block
			if !written {
				place = volume.Hole
			}
			return x.Append(place, n*v.super.Block)
		},
	}
	if err := m.Walk(n, limit); err != nil {
		return nil, err
	}
	return volume.NewFile(v.d, x, size, size), nil
}
