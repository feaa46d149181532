package ext

import (
	"encoding/binary"
)

// Flags of inodes ("Index Nodes": i_flags).
const (
	flagCompressed = 0x4
	flagEncrypted  = 0x800
	flagIndex      = 0x1000
	flagExtents    = 0x80000
	flagInline     = 0x10000000
)

// Types of files, in the mode of an inode.
const (
	modeType   = 0xf000
	modeFile   = 0x8000
	modeFolder = 0x4000
)

// Inode is the bytes of an inode, at least 128, with its number.
type Inode struct {
	Number uint32
	Raw    []byte
}

// Mode returns the type of the file, and who may do what with it.
func (n Inode) Mode() uint16 { return binary.LittleEndian.Uint16(n.Raw) }

// Size returns the length in bytes; over 1<<62 when the inode makes no sense.
func (n Inode) Size() uint64 {
	le := binary.LittleEndian
	return uint64(le.Uint32(n.Raw[4:])) | uint64(le.Uint32(n.Raw[108:]))<<32
}

func (n Inode) flags() uint32 { return binary.LittleEndian.Uint32(n.Raw[32:]) }

// blockMap returns the 60 bytes that say where the content is, or hold the first of it.
func (n Inode) blockMap() []byte { return n.Raw[40:100] }

// InodeSeed returns what the checksums of an inode, its extents and its folders begin with.
func (s *Super) InodeSeed(n Inode) uint32 {
	return Castagnoli(s.Seed, binary.LittleEndian.AppendUint32(nil, n.Number), n.Raw[100:104])
}

// InodeSumOK checks the checksum of an inode, where there is one.
func (s *Super) InodeSumOK(n Inode) bool {
	if s.RO&ROMetadataCsum == 0 {
		return true
	}
	le := binary.LittleEndian
	b, none := n.Raw, []byte{0, 0}
	sum := uint32(le.Uint16(b[124:]))
	crc := Castagnoli(s.InodeSeed(n), b[:124], none, b[126:128])
	if s.InodeSize == 128 {
		return crc&0xffff == sum
	}
	if le.Uint16(b[128:]) < 4 {
		return Castagnoli(crc, b[128:])&0xffff == sum
	}
	return Castagnoli(crc, b[128:130], none, b[132:]) == sum|uint32(le.Uint16(b[130:]))<<16
}
