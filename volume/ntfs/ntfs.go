// Package ntfs reads NTFS volumes, of version 3, as Windows since 2000 and ntfs-3g write them.
//
// A volume's files are records of its master file table, a file itself. What a record has are attributes: names, content, the index of
// a folder. An attribute is in its record or in runs of clusters; when it is in too many pieces for one record, a list of attributes names
// others. Package format has the structures as they are on the disk.
//
// Read are plain, sparse and compressed files (LZNT1, [MS-XCA] 2.5). Refused, with an error that says so, are those that are encrypted
// (EFS), and those whose content is elsewhere or in another form behind a reparse point: compressed by Windows ("CompactOS"),
// deduplicated, in a cloud. Left out are symbolic links, junctions, devices, the file system's own files, the second names that files have for
// DOS, streams besides the content, and names that are no valid Unicode, since nobody could ask for them.
//
// Sequence numbers, fixups and the references between folders and files are checked. The first sector and the first records have copies, which
// are used where the originals are damaged; the volume's Info then has a note.
package ntfs

import (
	"errors"
	"fmt"
	"strings"

	"disksync/volume"
	"disksync/volume/ntfs/format"
)

// vol is an NTFS volume.
type vol struct {
	d     *volume.Device
	boot  format.Boot
	mft   volume.File // the master file table
	count int64       // records in it
	root  *inode
	info  volume.Info
	cache folders
}

// Open opens the volume on a device. It is volume.ErrOther where there is none.
func Open(d *volume.Device) (volume.Volume, error) {
	boot, copied, err := readBoot(d)
	if err != nil {
		return nil, err
	}
	v := &vol{d: d.Sub(0, boot.Sectors*boot.Sector), boot: boot}
	var notes []string
	if copied {
		notes = append(notes, "its boot sector is damaged, and the copy of it was used")
	}
	b := volume.NewBudget()
	if copied, err = v.openMFT(b); err != nil {
		return nil, err
	}
	if copied {
		notes = append(notes, "its master file table is damaged, and the copy of its beginning was used")
	}
	v.root, err = v.inode(b, format.Root)
	if err != nil {
		return nil, fmt.Errorf("root folder: %w", err)
	}
	if v.root.kind != folder {
		return nil, volume.Damaged("its root folder is none")
	}
	v.info = volume.Info{Type: "ntfs", ID: fmt.Sprintf("%016X", boot.Serial), BlockSize: int(boot.Cluster)}
	unclean := v.describe(b) || v.openLog(b)
	if unclean {
		notes = append(notes, "it was not unmounted cleanly: what was written last may be missing")
	}
	if v.asleep(b) {
		notes = append(notes, "a Windows sleeps on it: what it wrote last may be missing")
	}
	v.info.Note = strings.Join(notes, "; ")
	return v, nil
}

func (v *vol) Info() volume.Info { return v.info }

// readBoot reads the boot sector, or its copy behind the end of the volume where that is damaged.
func readBoot(d *volume.Device) (boot format.Boot, copied bool, err error) {
	if d.Size() < format.Sector {
		return boot, false, volume.ErrOther
	}
	b := make([]byte, format.Sector)
	if _, err = d.ReadAt(b, 0); err == nil {
		if !format.IsBoot(b) {
			return boot, false, volume.ErrOther
		}
		if boot, ok := format.ParseBoot(b); ok {
			return boot, false, nil
		}
		err = volume.Damaged("its boot sector makes no sense")
	}
	for size := int64(format.Sector); size <= 4096; size *= 2 {
		at := d.Size()/size*size - size
		if at <= 0 {
			break
		}
		if _, e := d.ReadAt(b, at); e != nil || !format.IsBoot(b) {
			continue
		}
		if boot, ok := format.ParseBoot(b); ok && boot.Sector == size && boot.Sectors == at/size {
			return boot, true, nil
		}
	}
	return boot, false, err
}

// describe takes the label from the record that is about the volume, and reports whether it is marked as not clean. What cannot
// be read there keeps nobody from the files.
func (v *vol) describe(b *volume.Budget) (dirty bool) {
	const isDirty = 0x0001
	rec, err := v.record(b, format.Volume)
	if err != nil || rec == nil {
		if rec, err = v.recordAt(b, format.Volume, v.boot.Mirror*v.boot.Cluster+format.Volume*v.boot.RecordSize); err != nil || rec == nil {
			return true
		}
	}
	err = rec.Each(func(a format.Attribute) error {
		switch {
		case a.Kind == format.AttrVolumeName && a.Resident:
			v.info.Label = format.UTF16(a.Value)
		case a.Kind == format.AttrVolumeInfo && len(a.Value) >= 12:
			dirty = a.Value[10]&isDirty != 0
		}
		return nil
	})
	return dirty || err != nil
}

// openLog reports whether the log says that something has still to be done.
func (v *vol) openLog(b *volume.Budget) bool {
	f, err := v.inode(b, format.Log)
	if err != nil {
		return true
	}
	data, err := v.open(b, f)
	if err != nil || data.Size() < format.MaxLogPage || b.Spend(format.MaxLogPage) != nil {
		return true
	}
	head := make([]byte, format.MaxLogPage)
	_, err = data.ReadAt(head, 0)
	return err != nil || format.ParseLog(head) != format.LogClosed
}

// asleep reports whether the root folder has a file with the memory of a system that sleeps.
func (v *vol) asleep(b *volume.Budget) bool {
	for _, e := range v.list(b, v.root).entries {
		if !strings.EqualFold(e.name, "hiberfil.sys") {
			continue
		}
		f, err := v.inode(b, e.ref)
		if err != nil || f.kind != file {
			return false
		}
		data, err := v.open(b, f)
		if err != nil {
			return false
		}
		head := make([]byte, 4)
		if _, err := data.ReadAt(head, 0); err != nil {
			return false
		}
		// One that was resumed says "wake", one that was never used is zeros.
		return string(head) != "\x00\x00\x00\x00" && !strings.EqualFold(string(head), "wake")
	}
	return false
}

// damaged makes the parser's faults errors of the volume.
func damaged(err error) error {
	if f, ok := errors.AsType[format.Fault](err); ok {
		return volume.Damaged("%v", f)
	}
	return err
}
