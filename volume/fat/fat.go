// Package fat reads FAT12, FAT16 and FAT32, with long names.
//
// The source is the FAT32 File System Specification 1.03, "FAT: General Overview of On-Disk Format" (Microsoft, 2000). Its table of
// clusters is here for exFAT, too.
package fat

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"disksync/volume"
)

// Volume is a FAT volume.
type Volume struct {
	d       *volume.Device
	boot    *Boot
	table   *Table
	folders *volume.Folders[node]
	info    volume.Info
	named   bool // the label is from the root folder
}

// node is where a file or folder is.
type node struct {
	first uint32 // cluster; 0 is the root folder that is not in clusters
	size  uint32 // of a file
}

// Open reads the boot sector. An error is ErrOther where it is none.
func Open(d *volume.Device) (volume.Volume, error) {
	if d.Size() < SectorBytes {
		return nil, volume.ErrOther
	}
	b := make([]byte, SectorBytes)
	if _, err := d.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("read the boot sector: %w", err)
	}
	boot, err := ParseBoot(b)
	if err != nil {
		return nil, err
	}
	v := &Volume{d: d, boot: boot}
	v.table = &Table{
		Kind: boot.Kind, Entries: volume.NewPieces(fats(d, boot), TablePiece),
		Clusters: min(boot.Clusters, boot.FATBytes*8/boot.Kind.EntryBits()-FirstCluster), Cluster: boot.Cluster, DataAt: boot.DataAt,
	}
	v.info = volume.Info{Type: "vfat", BlockSize: int(boot.Cluster)}
	v.describe(b)
	v.folders = volume.NewFolders(node{first: boot.Root}, v.readFolder, func(n node) int64 { return int64(n.first) })
	_, _ = v.ReadDir(".") // it has the label; what is wrong with it is told again when it is asked for
	return v, nil
}

// describe takes from the boot sector what people want to know.
func (v *Volume) describe(b []byte) {
	at := 36 // of the fields that come last
	if v.boot.Kind == FAT32 {
		at = 64
	}
	const signed, signedShort = 0x29, 0x28
	if b[at+2] == signed || b[at+2] == signedShort {
		v.info.ID = SerialNumber(binary.LittleEndian.Uint32(b[at+3:]))
	}
	if label := shortText(b[at+7 : at+18]); b[at+2] == signed && label != "NO NAME" && volume.ValidName(label) {
		v.info.Label = label
	}
	const dirty, failed = 1, 2
	var clean, noError uint32
	switch v.boot.Kind {
	case FAT16:
		clean, noError = 0x8000, 0x4000
	case FAT32:
		clean, noError = 0x08000000, 0x04000000
	}
	marks, err := v.table.Entry(volume.NewBudget(), 1)
	switch {
	case v.boot.Size > v.d.Size():
		v.info.Note = "the device is smaller than the file system"
	case err != nil:
		v.info.Note = "the start of the FAT cannot be read"
	case b[at+1]&failed != 0 || marks&noError != noError:
		v.info.Note = "errors were found in it"
	case b[at+1]&dirty != 0 || marks&clean != clean:
		v.info.Note = "it was not unmounted cleanly"
	}
}

// SerialNumber writes the number of a volume as blkid does.
func SerialNumber(n uint32) string { return fmt.Sprintf("%04X-%04X", n>>16, n&0xffff) }

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
	x, err := v.table.File(volume.NewBudget(), it.Node.first, it.Size)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return volume.NewFile(v.d, x, it.Size, it.Size), nil
}

// fats returns the FAT as a device. What cannot be read of it is taken from the other one.
func fats(d *volume.Device, b *Boot) *volume.Device {
	var copies copies
	for i := range b.FATs {
		if one := d.Sub(b.FATAt+i*b.FATBytes, b.FATBytes); b.Active < 0 || b.Active == int(i) {
			copies = append(copies, one)
		}
	}
	return volume.NewDevice(copies, b.FATBytes)
}

// copies are devices that hold the same.
type copies []*volume.Device

func (c copies) ReadAt(p []byte, off int64) (n int, err error) {
	for _, d := range c {
		if n, e := d.ReadAt(p, off); e == nil {
			return n, nil
		} else if err == nil {
			err = e // of the first: that is where it should be
		}
	}
	return 0, err
}

// Entries of folders ("FAT Directory Structure").
const (
	entryBytes = 32
	// maxFolder is the most that a folder may have.
	maxFolder = 65536 * entryBytes
	deleted   = 0xe5

	attrLabel  = 0x08
	attrFolder = 0x10
	attrLong   = 0x0f
)

// readFolder lists a folder.
func (v *Volume) readFolder(dir node, add func(volume.Item[node]) error) error {
	b := volume.NewBudget()
	x := &volume.Extents{}
	var chainErr error
	root := dir.first == v.boot.Root
	if root && v.boot.Kind != FAT32 {
		chainErr = x.Append(v.boot.RootAt, v.boot.RootLen)
	} else {
		x, chainErr = v.table.Folder(b, dir.first, maxFolder)
	}
	size := min(x.Size(), maxFolder)
	if err := b.Spend(size); err != nil {
		return err
	}
	r := bufio.NewReaderSize(io.NewSectionReader(volume.NewFile(v.d, x, size, size), 0, size), int(min(size, folderPiece)))
	end, err := v.parseFolder(r, root, add)
	if err == nil && !end {
		err = chainErr // behind the end it does not matter
	}
	return err
}

// folderPiece is how much of a folder is read at once.
const folderPiece = 64 << 10

// parseFolder reads entries up to the one that ends a folder, or the end of what there is.
func (v *Volume) parseFolder(r io.Reader, root bool, add func(volume.Item[node]) error) (end bool, err error) {
	var long longName
	e := make([]byte, entryBytes)
	for {
		if _, err := io.ReadFull(r, e); errors.Is(err, io.EOF) {
			return false, nil
		} else if err != nil {
			return false, err
		}
		switch attr := e[11]; {
		case e[0] == 0:
			return true, nil
		case e[0] == deleted:
			long.ok = false
		case attr&0x3f == attrLong:
			long.take(e)
		case attr&attrLabel != 0:
			long.ok = false
			if label := shortText(shortBytes(e)); root && !v.named && attr&attrFolder == 0 && volume.ValidName(label) {
				v.info.Label, v.named = label, true
			}
		default:
			if err := add(v.item(e, &long)); err != nil {
				return false, err
			}
		}
	}
}

// item reads the entry of a file or folder.
func (v *Volume) item(e []byte, long *longName) (it volume.Item[node]) {
	le := binary.LittleEndian
	name, ok := long.name(e)
	if !ok {
		name = shortName(e)
	}
	it.Name, it.Dir = name, e[11]&attrFolder != 0
	it.Node.first = uint32(le.Uint16(e[26:]))
	if v.boot.Kind == FAT32 {
		it.Node.first |= uint32(le.Uint16(e[20:])) << 16
	}
	if !it.Dir {
		it.Node.size = le.Uint32(e[28:])
		it.Size = int64(it.Node.size)
	}
	return it
}
