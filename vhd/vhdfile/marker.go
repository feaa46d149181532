package vhdfile

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"disksync/vhd"
)

// markerAttribute is the extended attribute in which tapdisk's tools keep the marker of a disk without a batmap.
const markerAttribute = "user.com.citrix.xenclient.backend.marker"

// Marker returns tapdisk's marker, a byte that management software uses as it likes: from the batmap, or from an extended
// attribute where there is none. A disk that was never marked has 0.
func Marker(name string) (uint8, error) {
	s, err := Inspect(name)
	if err != nil {
		return 0, err
	}
	if s.Batmap != nil {
		return s.Batmap.Marker, nil
	}
	var b [1]byte
	_, err = unix.Getxattr(name, markerAttribute, b[:])
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("%s: read the marker: %w", name, err)
	}
	return b[0], nil
}

// SetMarker sets the marker. The batmap's header is one sector, so a crash leaves the old marker or the new one.
func SetMarker(name string, marker uint8) error {
	w, err := OpenWritable(name)
	if err != nil {
		return err
	}
	defer w.Close()          // after an error; what it is closed for is told below
	f, err := OpenFile(name) // what does not open is not written
	if err != nil {
		return err
	}
	defer f.Close()
	s, err := Inspect(name)
	if err != nil {
		return err
	}
	if s.Batmap == nil {
		if err := unix.Setxattr(name, markerAttribute, []byte{marker}, 0); err != nil {
			return fmt.Errorf("%s: set the marker: %w", name, err)
		}
		return nil
	}
	if !s.Batmap.Sum.Good() {
		return fmt.Errorf("%s: %w; repair it first; nothing was changed", name, vhd.BatmapDamaged)
	}
	if _, err = w.WriteAt([]byte{marker}, s.Batmap.At+markerAt); err == nil {
		err = w.Sync()
	}
	return errors.Join(err, w.Close())
}
