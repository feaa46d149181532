package demodisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Places in a directory entry, and values there.
const (
	slotBytes      = 32
	slotAttributes = 11
	slotTenths     = 13 // of the second of creation
	slotMadeTime   = 14
	slotMadeDate   = 16
	slotUsedDate   = 18
	slotHigh       = 20 // upper half of the first cluster
	slotTime       = 22
	slotDate       = 24
	slotLow        = 26 // lower half of the first cluster

	slotUnused    = 0xe5
	attrLongName  = 0x0f
	attrLabel     = 0x08
	attrDirectory = 0x10
)

// Places in the sector that counts free space.
const (
	infoSector = 1
	infoFree   = 488 // number of free clusters, then the first of them
)

// tidy puts right what the library writes wrong in directories, and counts the free space, which it does not.
func (v *volume) tidy(last, now time.Time) error {
	if err := v.tidyDir(rootCluster, last, now); err != nil {
		return err
	}
	count, first := v.table.free()
	info := make([]byte, 0, 8)
	info = binary.LittleEndian.AppendUint32(info, count)
	info = binary.LittleEndian.AppendUint32(info, first)
	if _, err := v.image.WriteAt(info, v.start+infoSector*sectorBytes+infoFree); err != nil {
		return fmt.Errorf("write free space: %w", err)
	}
	return nil
}

// tidyDir does so for the directory that begins at a cluster, and those below. What the library dated by the clock, that
// is later than last, is dated now; and a ".." that names the cluster of the root names 0, as the format wants.
func (v *volume) tidyDir(cluster uint32, last, now time.Time) error {
	b := make([]byte, v.clusterBytes)
	for ; !v.table.IsEOC(cluster); cluster = v.table.ClusterValue(cluster) {
		if cluster < firstCluster || cluster > v.table.MaxCluster() {
			return fmt.Errorf("tidy: cluster %d is outside the volume", cluster)
		}
		at := v.place(cluster)
		if _, err := v.image.ReadAt(b, at); err != nil {
			return fmt.Errorf("tidy: read directory: %w", err)
		}
		below := tidySlots(b, last, now)
		if _, err := v.image.WriteAt(b, at); err != nil {
			return fmt.Errorf("tidy: write directory: %w", err)
		}
		for _, dir := range below {
			if err := v.tidyDir(dir, last, now); err != nil {
				return err
			}
		}
	}
	return nil
}

// tidySlots changes the entries in one cluster of a directory and returns the first clusters of the directories named.
func tidySlots(b []byte, last, now time.Time) (below []uint32) {
	for ; len(b) > 0 && b[0] != 0; b = b[slotBytes:] {
		slot := b[:slotBytes]
		if slot[0] == slotUnused || slot[slotAttributes] == attrLongName {
			continue
		}
		if slot[slotAttributes] == attrLabel || getTime(slot).After(last) {
			setTime(slot, now)
		}
		if slot[slotAttributes]&attrDirectory == 0 {
			continue
		}
		cluster := uint32(binary.LittleEndian.Uint16(slot[slotHigh:]))<<16 | uint32(binary.LittleEndian.Uint16(slot[slotLow:]))
		switch {
		case string(slot[:2]) == "..":
			if cluster == rootCluster {
				binary.LittleEndian.PutUint16(slot[slotLow:], 0)
			}
		case slot[0] != '.':
			below = append(below, cluster)
		}
	}
	return below
}

// getTime returns when an entry was modified.
func getTime(slot []byte) time.Time {
	d, t := binary.LittleEndian.Uint16(slot[slotDate:]), binary.LittleEndian.Uint16(slot[slotTime:])
	return time.Date(1980+int(d>>9), time.Month(d>>5&0xf), int(d&0x1f), int(t>>11), int(t>>5&0x3f), int(t&0x1f)*2, 0, time.UTC)
}

// setTime sets when an entry was made, modified and used.
func setTime(slot []byte, at time.Time) {
	d := uint16(at.Year()-1980)<<9 | uint16(at.Month())<<5 | uint16(at.Day())
	t := uint16(at.Hour())<<11 | uint16(at.Minute())<<5 | uint16(at.Second()/2)
	slot[slotTenths] = 0
	for _, place := range []int{slotMadeTime, slotTime} {
		binary.LittleEndian.PutUint16(slot[place:], t)
	}
	for _, place := range []int{slotMadeDate, slotUsedDate, slotDate} {
		binary.LittleEndian.PutUint16(slot[place:], d)
	}
}

// dated returns when the volume was last finished: the time of its label, which is the first entry of the root.
func (v *volume) dated() (time.Time, error) {
	slot := make([]byte, slotBytes)
	if _, err := v.image.ReadAt(slot, v.data); err != nil {
		return time.Time{}, fmt.Errorf("read volume label: %w", err)
	}
	if slot[slotAttributes] != attrLabel {
		return time.Time{}, errors.New("not an image made by this package: no volume label")
	}
	return getTime(slot), nil
}
