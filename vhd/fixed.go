package vhd

import (
	"encoding/binary"
	"fmt"
)

// A fixed disk has its footer at the end and nowhere else, so it grows in four steps: the new footer behind the new end, a
// sync, zeros over the old footer, a sync. In between the old footer is bytes of the disk. So that they read as zeros even
// after a crash there, the new footer says in its reserved bytes where they are until they are gone.
const (
	growthTag    = "old foot"
	growthTagAt  = 0 // within the reserved bytes
	growthTagLen = 16
)

// oldFooter returns where a fixed disk that was being grown still has its old footer.
func (f *Footer) oldFooter() (off int64, there bool) {
	if f.Type != Fixed || string(f.reserved[growthTagAt:growthTagAt+len(growthTag)]) != growthTag {
		return 0, false
	}
	off = int64(binary.BigEndian.Uint64(f.reserved[growthTagAt+len(growthTag):]))
	return off, off > 0 && off%sectorSize == 0 && off <= f.Size-FooterSize
}

func (f *Footer) setOldFooter(off int64) {
	copy(f.reserved[growthTagAt:], growthTag)
	binary.BigEndian.PutUint64(f.reserved[growthTagAt+len(growthTag):], uint64(off))
}

func (f *Footer) clearOldFooter() { clear(f.reserved[growthTagAt : growthTagAt+growthTagLen]) }

// fixedExtent is extent for a disk without blocks.
func (m *Image) fixedExtent(off, limit int64) extent {
	old, there := m.footer.oldFooter()
	switch {
	case !there || off >= old+FooterSize:
		return extent{true, limit, off}
	case off < old:
		return extent{true, min(limit, old-off), off}
	default:
		return extent{length: min(limit, old+FooterSize-off)}
	}
}

// finishGrowth takes the last steps of a growth that was cut short.
func (d *Disk) finishGrowth() error {
	old, there := d.leaf.footer.oldFooter()
	if !there {
		return nil
	}
	if err := d.zero(old, old+FooterSize); err != nil {
		return err
	}
	if err := syncFile(d.f); err != nil {
		return err
	}
	ft := *d.leaf.footer
	ft.clearOldFooter()
	if err := d.write(ft.marshal(), d.leaf.dataEnd); err != nil {
		return err
	}
	d.leaf.footer = &ft
	return syncFile(d.f)
}

// resizeFixed gives a fixed disk its new size. Everything that was written is synced already.
func (d *Disk) resizeFixed(size int64) error {
	m := d.leaf
	ft := *m.footer
	ft.Size, ft.Geometry = size, GeometryFor(size)
	switch {
	case size <= m.dataEnd:
		// The footer stays where it is, so its one sector is all that changes.
		if size > m.footer.Size {
			if err := d.zero(m.footer.Size, size); err != nil {
				return err
			}
			if err := syncFile(d.f); err != nil {
				return err
			}
		}
		if err := d.commitFooter(&ft, m.dataEnd); err != nil {
			return err
		}
		return d.trim(size)
	case d.device:
		return fmt.Errorf("%w: a disk of %d bytes on a device of %d", ErrDeviceFull, size, d.fileEnd)
	}
	old := m.dataEnd
	if err := d.zero(m.footer.Size, old); err != nil {
		return err
	}
	if err := syncFile(d.f); err != nil {
		return err
	}
	ft.setOldFooter(old)
	if err := d.commitFooter(&ft, size); err != nil {
		return err
	}
	d.fileEnd = size + FooterSize
	return d.finishGrowth()
}

// commitFooter makes ft the footer at the end, which is what counts when the disk is opened.
func (d *Disk) commitFooter(ft *Footer, at int64) error {
	if err := d.write(ft.marshal(), at); err != nil {
		return err
	}
	if err := syncFile(d.f); err != nil {
		return err
	}
	d.leaf.footer, d.leaf.dataEnd = ft, at
	return nil
}
