// Package detect finds out which file system a device holds, and where on it.
//
// Readers are tried one after the other; who is more exact about what it takes comes first. A disc that can be read as UDF and as ISO 9660
// is UDF: the other side of it cannot name files of 4 GiB and more.
package detect

import (
	"errors"
	"fmt"

	"disksync/diskmap"
	"disksync/volume"
	"disksync/volume/table"
)

// Reader opens one kind of file system. What is another kind is volume.ErrOther.
type Reader func(*volume.Device) (volume.Volume, error)

// Open opens the file system on a device. When there is none that can be read, the error says what was seen, and is volume.ErrOther;
// when there is one that is damaged, of a kind that is not supported, or that cannot be read, it says so.
func Open(d *volume.Device) (volume.Volume, error) { return open(d, readers()) }

func open(d *volume.Device, readers []Reader) (volume.Volume, error) {
	var failed error
	for _, r := range readers {
		v, err := r(d)
		if err == nil {
			// A kind of which a mark was left may still be opened; its folders are then not there.
			var entries []volume.Entry
			if entries, err = v.ReadDir("."); err == nil || len(entries) > 0 {
				return v, nil
			}
			err = fmt.Errorf("%s: %w", v.Info().Type, err)
		}
		if !errors.Is(err, volume.ErrOther) && failed == nil {
			failed = err
		}
	}
	if failed != nil {
		return nil, failed
	}
	kind, err := diskmap.Identify(d)
	switch {
	case err != nil:
		return nil, err
	case kind == diskmap.Blank:
		return nil, nothing("it is blank")
	case kind == diskmap.Unknown:
		return nil, nothing("nothing is recognised")
	}
	return nil, nothing("it has the marks of " + string(kind))
}

// nothing says what was seen where there is no file system that can be read.
type nothing string

func (n nothing) Error() string { return "no file system that can be read: " + string(n) }
func (n nothing) Unwrap() error { return volume.ErrOther }

// Found is a volume of a device.
type Found struct {
	Partition int // its number; 0: the whole device
	volume.Volume
}

// Name returns the place of the volume for people; "" for the whole device.
func (f Found) Name() string {
	if f.Partition == 0 {
		return ""
	}
	return fmt.Sprintf("partition %d", f.Partition)
}

// Limits of what is looked at on one device.
const (
	maxPartitions = 64
	maxVolumes    = 8
)

// Volumes opens the volumes of a device: those in its partitions, and that which the whole device is. When there is none, the error says
// what was seen where. It is no error when some partitions cannot be read; notes then say why.
func Volumes(d *volume.Device) (found []Found, notes []string, err error) {
	return volumes(d, readers())
}

func volumes(d *volume.Device, readers []Reader) (found []Found, notes []string, err error) {
	whole, wholeErr := open(d, readers)
	if wholeErr == nil {
		found = append(found, Found{0, whole})
	}
	parts, err := table.Partitions(d, d.Size())
	if err != nil && wholeErr != nil {
		return nil, nil, err
	}
	var failed []error
	for i, p := range parts {
		if i == maxPartitions || len(found) == maxVolumes {
			notes = append(notes, fmt.Sprintf("more than %d partitions or %d volumes; the rest was not looked at", maxPartitions, maxVolumes))
			break
		}
		f := Found{Partition: p.Number}
		if f.Volume, err = open(d.Sub(p.Off, p.Size), readers); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", f.Name(), err))
			continue
		}
		found = append(found, f)
	}
	switch {
	case len(found) == 0 && len(failed) > 0:
		return nil, nil, errors.Join(failed...)
	case len(found) == 0:
		return nil, nil, wholeErr
	}
	for _, err := range failed {
		// Of partitions that hold something else nobody expects files.
		if !errors.Is(err, volume.ErrOther) {
			notes = append(notes, err.Error())
		}
	}
	return found, notes, nil
}
