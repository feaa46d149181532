package detect

import "disksync/volume"

// OpenWith is Open with these readers.
func OpenWith(d *volume.Device, readers ...Reader) (volume.Volume, error) { return open(d, readers) }

// VolumesWith is Volumes with these readers.
func VolumesWith(d *volume.Device, readers ...Reader) ([]Found, []string, error) {
	return volumes(d, readers)
}
