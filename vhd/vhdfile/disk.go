package vhdfile

import (
	"errors"
	"fmt"
	"os"

	"disksync/vhd"
)

// Disk is a vhd.Disk with the files that it uses. It is safe for concurrent use until Close.
type Disk struct {
	*vhd.Disk
	// Paths are the members' files, leaf first.
	Paths []string
	files []*os.File
}

// OpenDisk opens the VHD at name, a regular file or a block device, for writing, and its parents for reading, which are found
// as by [OpenChain]. It takes no lock: the caller sees to it that nothing else writes to the file, and nothing at all to the
// parents.
func OpenDisk(name string, o Options) (*Disk, error) {
	d, err := openDisk(name, o)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return d, nil
}

func openDisk(name string, o Options) (*Disk, error) {
	c, err := OpenChain(name, o)
	if err != nil {
		return nil, err
	}
	d := &Disk{Paths: c.Paths, files: c.files}
	if err := d.openLeaf(c, name); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return d, nil
}

// openLeaf opens the leaf once more, for writing.
func (d *Disk) openLeaf(c *Chain, name string) error {
	f, size, err := regular(func() (*os.File, error) { return os.OpenFile(name, os.O_RDWR, 0) })
	if err != nil {
		return err
	}
	was, err := d.files[0].Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	is, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if !os.SameFile(was, is) {
		return errors.Join(errors.New("the file was replaced just now; try again"), f.Close())
	}
	var opts []vhd.Option
	if !is.Mode().IsRegular() {
		opts = append(opts, vhd.Device())
	}
	if d.Disk, err = vhd.OpenDisk(f, size, c.Members()[1:], opts...); err != nil {
		return errors.Join(err, f.Close())
	}
	readOnly := d.files[0]
	d.files[0] = f
	return readOnly.Close()
}

// Close makes everything written durable, as [vhd.Disk.Sync] does, and closes the files.
func (d *Disk) Close() error {
	err := d.Sync()
	for _, f := range d.files {
		err = errors.Join(err, f.Close())
	}
	return err
}
