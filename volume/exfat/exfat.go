// Package exfat reads exFAT.
//
// The source is the exFAT file system specification of Microsoft; sections are of that. Names are found as they are written, so the
// table of letters is not needed, nor is the map of used clusters.
package exfat

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"disksync/volume"
	"disksync/volume/fat"
)

// Volume is an exFAT volume.
type Volume struct {
	d       *volume.Device
	boot    *Boot
	table   *fat.Table
	folders *volume.Folders[node]
	info    volume.Info
	named   bool // the label was seen
}

// node is where a file or folder is.
type node struct {
	first       uint32 // cluster
	size, valid int64  // of the root folder 0: its chain says how long it is
	inOnePiece  bool   // the FAT says nothing about it
}

// Open reads the boot sectors. An error is ErrOther where there are none.
func Open(d *volume.Device) (volume.Volume, error) {
	boot, spare, err := readBoot(d)
	if err != nil {
		return nil, fmt.Errorf("read the boot sectors: %w", err)
	}
	if boot.FATs != 1 || boot.Flags&SecondFAT != 0 {
		return nil, volume.Unsupported("an exFAT with two FATs (TexFAT)")
	}
	v := &Volume{d: d, boot: boot}
	v.table = &fat.Table{
		Kind: fat.ExFAT, Entries: volume.NewPieces(d.Sub(boot.FATAt, boot.FATBytes), fat.TablePiece),
		Clusters: boot.Clusters, Cluster: boot.Cluster, DataAt: boot.DataAt,
	}
	v.info = volume.Info{Type: "exfat", ID: fat.SerialNumber(boot.Serial), BlockSize: int(boot.Cluster)}
	switch {
	case spare:
		v.info.Note = "its boot sectors are damaged; their spare copies were used"
	case boot.Size > d.Size():
		v.info.Note = "the device is smaller than the file system"
	case boot.Flags&Failed != 0:
		v.info.Note = "errors were found in it"
	case boot.Flags&Dirty != 0:
		v.info.Note = "it was not unmounted cleanly"
	}
	v.folders = volume.NewFolders(node{first: boot.Root}, v.readFolder, func(n node) int64 { return int64(n.first) })
	_, _ = v.ReadDir(".") // it has the label; what is wrong with it is told again when it is asked for
	return v, nil
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
	x, err := v.extents(volume.NewBudget(), it.Node)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return volume.NewFile(v.d, x, it.Size, it.Node.valid), nil
}

func (v *Volume) extents(b *volume.Budget, n node) (*volume.Extents, error) {
	if n.inOnePiece {
		return v.table.InOnePiece(n.first, n.size)
	}
	return v.table.File(b, n.first, n.size)
}

// maxFolder is how much of a folder is read: what listed entries can take, and as much again for deleted ones. Larger ones are told.
const maxFolder = 2 * 19 * EntryBytes * volume.MaxEntries

// folderPiece is how much of a folder is read at once.
const folderPiece = 64 << 10

// readFolder lists a folder.
func (v *Volume) readFolder(dir node, add func(volume.Item[node]) error) error {
	b := volume.NewBudget()
	root := dir.first == v.boot.Root
	var x *volume.Extents
	var chainErr error
	if root {
		x, chainErr = v.table.Folder(b, dir.first, maxFolder)
	} else if x, chainErr = v.extents(b, dir); chainErr != nil {
		return chainErr
	}
	size := x.Size()
	if !root {
		size = min(size, dir.size)
	}
	if size > maxFolder {
		size, chainErr = maxFolder, fmt.Errorf("%w: a folder of %d bytes", volume.ErrLimit, size)
	}
	if err := b.Spend(size); err != nil {
		return err
	}
	p := parser{v: v, root: root, add: add}
	p.r = bufio.NewReaderSize(io.NewSectionReader(volume.NewFile(v.d, x, size, size), 0, size), int(max(min(size, folderPiece), 2*EntryBytes)))
	end, err := p.parse()
	switch {
	case err != nil:
		return err
	case !end && chainErr != nil: // behind the end it does not matter
		return chainErr
	}
	return p.damage
}

// parser reads the entries of one folder.
type parser struct {
	v      *Volume
	r      *bufio.Reader
	root   bool
	add    func(volume.Item[node]) error
	damage error // the first that could be left out
	skip   bool  // what belongs to the entry before is nobody's loss
	set    [256 * EntryBytes]byte
}

// parse reads up to the entry that ends a folder, or the end of what there is.
func (p *parser) parse() (end bool, err error) {
	e := p.set[:EntryBytes]
	for {
		if _, err := io.ReadFull(p.r, e); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return false, nil
		} else if err != nil {
			return false, err
		}
		switch kind := e[0]; {
		case kind == TypeEnd:
			return true, nil
		case kind&InUse == 0:
		case kind == TypeFile:
			if err := p.file(); err != nil {
				return false, err
			}
		case kind == TypeLabel:
			p.label(e)
		case kind&Secondary != 0 && p.skip:
		case kind&Secondary != 0:
			p.damaged(volume.Damaged("a folder has a part of an entry alone"))
		case kind&Benign == 0 && kind != TypeBitmap && kind != TypeUpcase:
			// Who does not know it must not use the folder (section 6.2.1.2).
			return false, volume.Unsupported("an entry of the type %#x", kind)
		}
		if kind := e[0]; kind&Secondary == 0 {
			p.skip = kind&InUse != 0 && kind&Benign != 0
		}
	}
}

func (p *parser) damaged(err error) {
	if p.damage == nil {
		p.damage = err
	}
}

func (p *parser) label(e []byte) {
	n := min(int(e[1]), 11)
	if label, ok := volume.UTF16(e[2 : 2+2*n]); p.root && !p.v.named && ok && volume.ValidName(label) {
		p.v.info.Label, p.v.named = label, true
	}
}

// file reads the entries of one file, the first of which has been read. They are taken from the folder one by one: where the set is
// damaged, what comes next is not part of it.
func (p *parser) file() error {
	n := int(p.set[1]) + 1
	for i := 1; i < n; i++ {
		next, err := p.r.Peek(EntryBytes)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(next) < EntryBytes || next[0]&(InUse|Secondary) != InUse|Secondary {
			p.damaged(volume.Damaged("an entry of a folder lacks a part"))
			return nil
		}
		copy(p.set[i*EntryBytes:], next)
		_, _ = p.r.Discard(EntryBytes) // it was there
	}
	set := p.set[:n*EntryBytes]
	if _, ok := SetOK(set); !ok {
		p.damaged(volume.Damaged("the checksum of an entry of a folder is wrong"))
		return nil
	}
	it, ok, err := parseSet(set)
	if err != nil {
		p.damaged(err)
	}
	if err != nil || !ok {
		return nil
	}
	return p.add(it)
}
